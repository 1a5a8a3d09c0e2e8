"""`vitnext roadmap`"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitnext.cli.terminal import print_table, progress_console
from vitnext.errors import InputError

if TYPE_CHECKING:
    from vitnext.roadmap import Point


def roadmap(
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Train every step on this data; without it, the table alone.")
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="Where the road starts: r50 (ResNet-50) or r200 (ResNet-200).")
    ] = "r50",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the runs are kept; a second call goes on with them.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Passes for each step.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Of every step's run.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one field of every step's recipe; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """From ResNet to ConvNeXt, step by step: what changes, what it costs, what it scores.

    The figures are those of Liu et al. 2022, tables 10 and 11, beside our own counts. With DATA every step is trained
    on it with the same recipe and compared: DIR/roadmap.json, roadmap.svg and roadmap.png. Small images get small
    variants of the same steps. Ctrl-C keeps what is done, and the same command goes on.

    \b
    Examples:
      vitnext roadmap
      vitnext roadmap --column r200 --json
      vitnext roadmap digits --out runs/roadmap --epochs 10
    """
    from vitnext import roadmap as runner

    if data is None:
        given = {"--out": out, "--epochs": epochs, "--seed": seed, "--set": overrides}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} is for training: name the DATA to train on as well")
        points = runner.steps(column)
    else:
        points = runner.train(
            data,
            column=column,
            out=out,
            epochs=epochs,
            seed=seed,
            overrides=overrides or (),
            console=progress_console(),
        )
    if as_json:
        import json

        print(json.dumps([dataclasses.asdict(point) for point in points], indent=2))
    else:
        header = ["step", "what changes"] if data is None else ["step"]
        header += ["parameters", "MACs", "paper's MACs", "paper's top-1"]
        header += ["parameters here", "MACs here", "top-1 here"] if data else []
        print_table(header, map(_cells, points), texts=1 if data else 2)
        if data is None:
            print("MACs: convolutions and linear layers at 224 px; top-1: ImageNet-1k, as the paper prints it.")


def _cells(point: Point) -> list[str]:
    """A line of the table; steps that the paper does not go on from stand indented."""
    cells = [point.name if point.kept else f"  {point.name}"]
    if point.own_top1 is None:
        cells.append(point.change)
    cells += [
        f"{point.parameters / 1e6:.2f} M",
        f"{point.macs / 1e9:.3f} G",
        f"{point.paper_gmacs:.2f} G",
        f"{point.paper_top1:.2f}%",
    ]
    if point.own_top1 is not None and point.own_macs is not None and point.own_parameters is not None:
        cells += [f"{point.own_parameters:,}", f"{point.own_macs / 1e6:.2f} M", f"{100 * point.own_top1:.2f}%"]
    return cells
