"""`vitnext export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitnext.files import existing_file, writable_file
from vitnext.wording import counted


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="onnx.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; MODEL with the new extension if not given.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="DATA", help="Real images to compare on; generated ones if not given.")
    ] = None,
) -> None:
    """Write a model file that predicts without PyTorch.

    The file is kept only if it gives the same labels as MODEL, and probabilities that differ by at most 0.0001. Of a
    segmenter a window of each image is compared, pixel by pixel.
    Images that cannot be read are passed over and counted.

    \b
    Examples:
      vitnext export runs/photos/model.safetensors --to onnx
      vitnext export runs/photos/model.safetensors --images photos
    """
    existing_file(model)
    if out:
        writable_file(out)
    from vitnext import api

    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    report = api.export(model, to, out=out, images=images)
    compared = counted(report.images, f"{'generated ' if report.synthetic else ''}image")
    if report.unreadable:
        compared += f" ({report.unreadable} could not be read)"
    if report.redecided:
        compared += f" ({report.redecided} by the export's own decisions, see vitnext.exporting.decisions)"
    print(f"{report.path}  same labels on {compared}, largest difference of a probability {report.max_difference:.1e}")
