"""From ResNet to ConvNeXt on the user's own images: every step of the paper's table, trained alike and compared.

Each step is an ordinary run in a folder of its own, so that an interrupted roadmap goes on where it stopped and every
model can be evaluated, exported and used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitnext import api
from vitnext.errors import InputError, require
from vitnext.files import atomic_write, writable_folder

if TYPE_CHECKING:
    from rich.console import Console

    from vitnext.data.facts import Facts
    from vitnext.models.roadmap import Design

# The first line of the table is the second's network without the modern recipe: only flips, no smoothing.
PLAIN = (
    *("label_smoothing=0", "augment.trivial_augment=false", "augment.erasing=0", "augment.color_jitter=0"),
    "model.config.stochastic_depth=0",
)


@dataclass(frozen=True)
class Point:
    """One step: its cost at the paper's 224 px, 1000 classes and at the user's size, and what was measured."""

    model: str  # the catalog's name
    name: str
    change: str
    kept: bool  # False: a kernel that the paper tries without going on from it
    parameters: int
    macs: int
    paper_gmacs: float  # as printed
    paper_top1: float
    own_parameters: int | None = None  # of the network that was trained
    own_macs: int | None = None
    own_top1: float | None = None  # on the held-out images, 0 to 1
    own_interval: tuple[float, float] | None = None
    seconds: float | None = None


def steps(column: str = "r50") -> list[Point]:
    """The table of the paper with our counts, nothing trained. Raises InputError for a column it does not have."""
    require("torch", "train")
    from vitnext.models import listing
    from vitnext.models.roadmap import STEPS

    if column not in STEPS:
        raise InputError(f'the roadmap has no column "{column}": give {" or ".join(STEPS)}')
    rows = {row["name"]: row for row in listing.rows()}
    points = []
    for i, step in enumerate(STEPS[column]):
        row = rows[name := f"roadmap_{column}_{i:02d}"]
        points.append(
            Point(name, step.name, step.change, step.kept, row["parameters"], row["macs"], step.gmacs, step.top1)
        )
    return points


def train(
    data: str | Path,
    *,
    column: str = "r50",
    out: str | Path | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> list[Point]:
    """Train every step on ``data`` with one recipe; leave roadmap.json, roadmap.svg and roadmap.png in ``out``.

    Small images get narrower and shallower variants of the same steps (``variant``). Steps that ``out`` holds already
    are read back, the one that was interrupted goes on. Raises what ``api.train`` raises.
    """
    from vitnext.data.dataset import open_dataset
    from vitnext.data.facts import look_at
    from vitnext.data.loaders import on_gpu
    from vitnext.models.roadmap import STEPS
    from vitnext.recipe import from_dict, override
    from vitnext.training import distributed

    points = steps(column)
    distributed.require_alone("the roadmap")
    folder = Path(out) if out is not None else Path("runs") / f"roadmap-{Path(data).resolve().name}"
    dataset = open_dataset(data, seed=seed or 0)
    if dataset.task == "multilabel":
        raise InputError(f"{dataset.name}: has several labels an image, the roadmap compares top-1: give data with one")
    facts = look_at(dataset.splits["train"])
    _same_question(
        folder,
        {
            "column": column,
            "data": dataset.fingerprint,
            "epochs": epochs,
            "seed": seed,
            "set": sorted(overrides),
        },
    )
    gpu = on_gpu(override(from_dict({"model": {"name": points[0].model}}), overrides))
    measured = []
    for point, step in zip(points, STEPS[column], strict=True):
        design = variant(step.design, facts, gpu)
        config = {key: getattr(design, key) for key in ("widths", "depths", "stem_stride")}
        sets = [f"model.config.{key}={_literal(value)}" for key, value in config.items()]
        # The paper's layer scale of 1e-6 is for hundreds of epochs; without it short runs learn in every block.
        sets += ["model.config.layer_scale=0"] + (list(PLAIN) if point is points[0] else [])
        at = folder / point.model
        if console is not None:
            console.print(f"{point.model}  {point.name}: {point.change}", style="bold", markup=False, highlight=False)
        measured.append(_measure(point, data, at, epochs, seed, [*sets, *overrides], console))
        _write(folder, measured, str(data))
    return measured


def variant(design: Design, facts: Facts, gpu: bool) -> Design:
    """The step for these images: as published for photographs on a GPU, else narrower and shallower.

    The stages and the stem's stride follow the size of the images, as the default recipes do.
    """
    from vitnext.models.roadmap import scaled
    from vitnext.training.defaults import SMALL, TINY, stem_for

    if facts.short_side > SMALL and gpu:
        return design
    stages = 2 if facts.short_side <= TINY else 3 if facts.short_side <= SMALL else 4
    return scaled(design, width=0.25, depth=1 / 3, stages=stages, stem_stride=stem_for(facts.short_side))


def _measure(
    point: Point,
    data: str | Path,
    folder: Path,
    epochs: int | None,
    seed: int | None,
    overrides: Sequence[str],
    console: Console | None,
) -> Point:
    """Train a step, or read back what its folder holds."""
    from vitnext.card import read_card
    from vitnext.models import catalog
    from vitnext.models.macs import count_macs
    from vitnext.weights.artifact import load_artifact

    metrics_file, artifact = folder / "metrics.json", folder / "model.safetensors"
    if not api.finished(folder):
        resume = (folder / "last.pt").is_file()
        api.train(
            data,
            model=None if resume else point.model,
            out=folder,
            epochs=None if resume else epochs,
            seed=None if resume else seed,
            resume=resume,
            overrides=() if resume else overrides,
            console=console,
        )
    metrics: dict[str, Any] = json.loads(metrics_file.read_text(encoding="utf-8"))
    network, card = load_artifact(artifact)
    if catalog.family_of(card.architecture) != "roadmap" or card.architecture != point.model:
        raise InputError(
            f"{artifact} is a {card.architecture}, not the {point.model} of this roadmap: choose another --out"
        )
    return Point(
        **{
            **asdict(point),
            "own_parameters": sum(p.numel() for p in network.parameters()),
            "own_macs": count_macs(network, card.preprocess.image_size[0]),
            "own_top1": metrics["top1"],
            "own_interval": tuple(metrics["top1_interval"]),
            "seconds": read_card(artifact).metrics["seconds"],
        }
    )


def _same_question(folder: Path, asked: dict[str, Any]) -> None:
    """Write down what was asked of ``folder``. Raises InputError if its steps were trained for something else."""
    writable_folder(folder).mkdir(parents=True, exist_ok=True)
    path = folder / "asked.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := [f"{key} {before.get(key)!r}" for key in asked if before.get(key) != asked[key]]:
            raise InputError(f"{folder} holds steps trained with {', '.join(changed)}: choose another --out")
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


def _literal(value: Any) -> str:
    return json.dumps(value)


def _write(folder: Path, points: Sequence[Point], data: str) -> None:
    """The table as JSON and the figure as SVG and PNG, after every step."""
    with atomic_write(folder / "roadmap.json") as path:
        path.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n", encoding="utf-8")
    draw(points, folder / "roadmap.svg", data)
    draw(points, folder / "roadmap.png", data)


def draw(points: Sequence[Point], path: Path, data: str) -> None:
    """Figure 2 of the paper for these images: top-1 of each step, and the road that the steps take over MACs.

    Steps that the paper does not go on from are hollow; the whiskers are Wilson's 95% intervals.
    """
    import numpy as np
    from matplotlib.figure import Figure

    rows = np.arange(len(points))
    top1 = np.array([100 * (point.own_top1 or 0.0) for point in points])
    interval = np.array([point.own_interval or (0.0, 0.0) for point in points]) * 100  # (steps, 2)
    macs = np.array([(point.own_macs or 0) / 1e6 for point in points])
    kept = np.array([point.kept for point in points])
    face = ["#4c78a8" if point.kept else "#ffffff" for point in points]
    whiskers = abs(interval.T - top1)  # (2, steps)

    figure = Figure(figsize=(11, 0.34 * len(points) + 1.6), layout="constrained")
    bars, road = figure.subplots(1, 2, width_ratios=(3, 2))
    bars.barh(rows, top1, color=face, edgecolor="#4c78a8", height=0.7)
    bars.errorbar(top1, rows, xerr=whiskers, color="#333333", capsize=2, linewidth=1, linestyle="none")
    bars.set_yticks(rows, [f"{point.name}  {i}" for i, point in enumerate(points)])
    bars.invert_yaxis()
    bars.set_xlim(max(0.0, interval[:, 0].min() - 2), min(100.5, interval[:, 1].max() + 2))
    bars.set_xlabel(f"top-1 on held-out images of {Path(data).name}, %")
    bars.set_title("From ResNet to ConvNeXt", loc="left")

    road.plot(macs[kept], top1[kept], color="#bbbbbb", linewidth=1, zorder=1)
    road.scatter(macs, top1, c=face, edgecolors="#4c78a8", s=36, zorder=2)
    places = np.stack([macs, top1], axis=1)
    near = np.ptp(places, axis=0) * (0.05, 0.02)  # the size of a label, which such points share
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        group = next((group for group in groups if (abs(places[group] - place) <= near).all(axis=1).any()), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    for group in groups:
        place = max(places[group], key=lambda place: place[0])
        road.annotate(", ".join(map(str, group)), place, xytext=(5, 3), textcoords="offset points", fontsize=8)
    road.set_xlabel("million multiply-adds an image")
    road.set_ylabel("top-1, %")
    for axes in (bars, road):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=144)
