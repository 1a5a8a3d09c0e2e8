"""`vitnext train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitnext.cli.terminal import progress_console


def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, or a built-in name: digits, fashion-mnist.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A name from `vitnext models`; chosen to suit DATA if not given.")
    ] = None,
    pretrained: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS", help="none, a file, a name on the hub, or auto: published ones for photographs."
        ),
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is kept: runs/ and the name of DATA if not given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="A recipe file (.yaml) or the name of a built-in recipe.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Same seed, same machine: same model.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in DIR where it stopped.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the recipe; may be repeated."),
    ] = None,
) -> None:
    """Train a classifier and keep it as DIR/model.safetensors.

    DATA has one folder of images per class, either directly or inside train/, val/ and test/. Without val/ and test/
    some images of every class are held out. The model and the recipe are chosen to suit the images and this machine
    unless you name them; the choice is printed. Ctrl-C saves the run; continue it with --resume.

    Each epoch prints a line; "kept" in it means that its model was written to DIR/model.safetensors. All that --set can
    change stands in DIR/recipe.yaml; docs/recipe.md explains the fields and lists the built-in recipes.

    \b
    Examples:
      vitnext train digits
      vitnext train photos --out runs/photos
      vitnext train photos --pretrained none
      vitnext train photos --model vit_tiny --set optimizer.learning_rate=5e-4
      vitnext train photos --out runs/photos --resume
    """
    from vitnext import api

    result = api.train(
        data,
        model=model,
        pretrained=pretrained,
        out=out,
        recipe=recipe,
        epochs=epochs,
        resume=resume,
        seed=seed,
        skip_unreadable=skip_unreadable,
        overrides=overrides or (),
        console=progress_console(),
    )
    print(f"model  {result.artifact}")
