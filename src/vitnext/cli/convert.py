"""`vitnext convert`"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from vitnext.cli.terminal import progress_console
from vitnext.errors import InputError
from vitnext.files import writable_file


def convert(
    weights: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A .safetensors, .pth, .pt, .bin, .ckpt or .npz, or a name on the hub."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The artifact to write, a .safetensors.")],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model; recognised if not given.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the head's outputs, one a line; else they are numbered."),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Pixels, 384 or HEIGHTxWIDTH; else as published. Learned positions of no square need it.",
        ),
    ] = None,
) -> None:
    """Turn other people's weights into a model file of vitnext, or a model's image size into another.

    The names may be timm's, torchvision's, transformers' or those of the authors' repositories, a segmenter's
    mmsegmentation's too; which they are is recognised and said. No file can run code: a pickle that needs to is
    refused. The licence of published weights goes into the model file.

    \b
    Examples:
      vitnext convert timm/convnext_tiny.fb_in1k --out convnext.safetensors
      vitnext convert dinov2_vits14_pretrain.pth --out dinov2.safetensors
      vitnext convert segformer_b0_ade.pth --out segformer.safetensors
      vitnext convert mine.pth --classes names.txt --out mine.safetensors
      vitnext convert vit.pth --image-size 256x128 --out vit.safetensors
    """
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: give a name that ends in .safetensors")
    writable_file(out)
    from vitnext import api

    out.parent.mkdir(parents=True, exist_ok=True)
    size = _size(image_size) if image_size is not None else None
    print(api.convert(weights, out, model=model, classes=classes, image_size=size, console=progress_console()))


def _size(given: str) -> int | tuple[int, int]:
    """ "384" or "256x128", height before width."""
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", given)
    if found is None:
        raise InputError(f"--image-size {given}: give pixels, a square's side such as 384, or HEIGHTxWIDTH")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
