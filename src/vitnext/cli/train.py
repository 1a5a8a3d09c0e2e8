"""`vitnext train`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vitnext.cli.terminal import progress_console
from vitnext.errors import InputError


def train(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder, a table, or digits, fashion-mnist, digit-scenes.")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A name from `vitnext models`; chosen to suit DATA if not given.")
    ] = None,
    pretrained: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS", help="none, a file, a name on the hub, or auto: published ones for photographs."
        ),
    ] = "auto",
    probe: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="knn or linear: classify frozen features of the model, in one pass."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is kept: runs/ and the name of DATA if not given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="A recipe file (.yaml) or the name of a built-in recipe.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Passes over the training images.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Optimizer steps, instead of epochs.")] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="TIME", help="Time to train for, instead of epochs: 90s, 15m or 2h."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of all that is random: division, start, order, crops.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in DIR where it stopped.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="With --resume: go on with other images, or another recipe.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")
    ] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Suggest a learning rate by a range test, and train nothing.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the recipe; may be repeated."),
    ] = None,
) -> None:
    """Train a classifier, or a segmenter if DATA has masks, and keep it as DIR/model.safetensors.

    DATA has one folder of images per class, either directly or inside train/, val/ and test/; or it has images/, masks/
    and classes.txt; or it is a .csv or .parquet file with a column of image paths and one of labels. Without val/ and
    test/ some images are held out. The model and the recipe are chosen to suit the images and this machine unless you
    name them; the choice is printed. Ctrl-C and SIGTERM save the run; continue it with --resume, which may be given
    more --epochs or another device.

    Each epoch prints a line; "kept" in it means that its model becomes DIR/model.safetensors. All that --set can
    change stands in DIR/recipe.yaml; docs/recipe.md explains the fields and lists the built-in recipes.

    A probe (--probe) trains no network: the features of pretrained weights are computed once, kept for the next time,
    and classified by logistic regression (linear) or by the vote of the most similar training images (knn).

    \b
    Examples:
      vitnext train digits
      vitnext train photos --out runs/photos
      vitnext train photos --pretrained none
      vitnext train photos --model vit_tiny --set optimizer.learning_rate=5e-4
      vitnext train photos --out runs/photos --resume
      vitnext train photos --probe linear --out runs/probe
      vitnext train roads --model convnext_tiny+upernet --time 30m
      vitnext train photos --find-lr
    """
    from vitnext import api

    if find_lr:
        given = {"--probe": probe, "--epochs": epochs, "--steps": steps, "--time": time}
        given |= {"--resume": resume, "--accept-changes": accept_changes}
        if useless := [name for name, value in given.items() if value]:
            raise InputError(f"--find-lr trains nothing: leave {' and '.join(useless)} out")
        rate = api.find_learning_rate(
            data,
            model=model,
            pretrained=pretrained,
            out=out,
            recipe=recipe,
            seed=seed,
            skip_unreadable=skip_unreadable,
            overrides=overrides or (),
            console=progress_console(),
        )
        print(f"train with  --set optimizer.learning_rate={rate:.1e}")
        return
    result = api.train(
        data,
        model=model,
        pretrained=pretrained,
        probe=probe,
        out=out,
        recipe=recipe,
        epochs=epochs,
        steps=steps,
        minutes=minutes(time) if time is not None else None,
        resume=resume,
        accept_changes=accept_changes,
        seed=seed,
        skip_unreadable=skip_unreadable,
        overrides=overrides or (),
        console=progress_console(),
    )
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, the first
        print(f"model  {result.artifact}")


UNITS = {"s": 1 / 60, "m": 1.0, "h": 60.0}


def minutes(text: str) -> float:
    """ "15m" -> 15.0. Raises InputError for what is no length of time."""
    number, unit = text[:-1], text[-1:]
    try:
        length = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        length = 0.0
    if not 0 < length < float("inf"):
        raise InputError(f'--time "{text}": write a number and its unit, s, m or h: 90s, 15m, 1.5h')
    return length
