"""`vitnext bench`"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vitnext.cli.terminal import print_table, progress_console
from vitnext.progress import spinner
from vitnext.wording import counted


def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A name of `vitnext models`; else what suits the data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="What is trained on; without it, the model alone is measured."),
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.01, help="How long each figure is measured.")] = 3.0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the recipe; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure this machine, a model and data on it, and say which is the bottleneck.

    The limit is the fastest product of two matrices. Inference and a training step are given beside it: 2 operations
    for a multiply-add, 3 times those of a forward pass in training. With DATA the model is trained for a few seconds by
    the recipe that `vitnext train --pretrained none` would choose, and the time in which it waits for images is told.

    \b
    Examples:
      vitnext bench convnext_tiny
      vitnext bench --data photos
      vitnext bench vit_small --data photos --set batch_size=64 --set workers=4
      vitnext bench vit_base --set precision=bf16 --set compile=on --json
    """
    console = progress_console()
    with spinner("loading torch", console):
        from vitnext.api.bench import bench as measure
    found = measure(model, data, overrides=overrides or (), seconds=seconds, console=console)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    """Print what ``api.bench`` found as tables."""
    machine, model, data = found["machine"], found["model"], found.get("data")
    threads = f", {counted(machine['threads'], 'thread')}" if "threads" in machine else ""
    peaks = ", ".join(f"{name} {_flops(value)}" for name, value in machine["peak"].items())
    print(f"machine  {machine['device']}{threads}, {counted(machine['cores'], 'core')}, torch {machine['torch']}")
    print(f"peak     of products of matrices: {peaks}")
    compiled = ", training compiled" if model["compiled"] else ""
    print(
        f"model    {model['name']}: {model['parameters']:,} parameters, {model['macs'] / 1e9:.3g} G multiply-adds, "
        f"{model['image_size']} px, batch {model['batch_size']}, {model['precision']}{compiled}"
    )
    print()
    rows = [[name, model[name]["rate"], model[name]["flops"], model[name]["share_of_peak"]] for name in NAMES]
    print_table(
        ["", "images/s", "operations/s", "of the peak"],
        [[NAMES[name], f"{rate:,.1f}", _flops(flops), f"{share:.1%}"] for name, rate, flops, share in rows],
    )
    if data is None:
        return
    print()
    print(f"data     {data['batches']}")
    rows = []
    if "rate_of_a_core" in data:
        rows.append(["decoding, of a core", data["decoding_of_a_core"], ""])
        rows.append(["reading for training, of a core", data["rate_of_a_core"], f"{data['share_of_decoding']:.1%}"])
    rows.append(["batches alone", data["rate"], ""])
    together = found["together"]
    rows.append(["training on them", together["rate"], ""])
    print_table(["", "images/s", "of decoding"], [[name, f"{rate:,.1f}", share] for name, rate, share in rows])
    print()
    print(f"bottleneck: the {found['bottleneck']}; training waits for data {together['waiting']:.1%} of the time")


NAMES = {"inference": "inference", "training": "training step"}


def _flops(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"
