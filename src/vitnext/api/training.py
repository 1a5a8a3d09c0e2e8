"""``train``: from a folder of images to a measured model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitnext.api.console import speaker
from vitnext.api.folder import card_of_run, run_name
from vitnext.errors import require
from vitnext.evaluation.evaluate import headline

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class TrainResult:
    """artifact: the model file; metrics: of the held-out images, as ``evaluate`` gives them; out: the run's folder."""

    artifact: Path
    metrics: dict[str, Any]
    out: Path


def train(
    data: str | Path,
    *,
    model: str | None = None,
    pretrained: str | Path = "auto",
    out: str | Path | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    seed: int | None = None,
    skip_unreadable: bool = False,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> TrainResult:
    """Train a classifier, or on data with masks a segmenter, and leave model, recipe, journal, metrics and report in
    ``out``.

    What is not given is chosen from the images and the machine, and said on ``console``. ``pretrained`` is "none", a
    file of weights or a name on the hub; "auto" takes, for photographs and without a ``recipe``, published weights of
    the model that allow any use, if they are in the cache or can be fetched, else none. With ``resume`` the run in
    ``out`` goes on where it was stopped; its own recipe is used, and what is said may change the fields of
    ``training.checkpoint.CHANGEABLE`` in it. Mistakes in the arguments are found first, then those in the layout of the
    data, then in ``out``; only then is every image read.

    Raises InputError for wrong input, WorkError for a run that fails, and, after the run was saved, KeyboardInterrupt
    for Ctrl-C and Terminated, a SystemExit, for SIGTERM.
    """
    require("torch", "train")
    from vitnext.api import network, plan, run

    say = speaker(console)
    folder = Path(out) if out is not None else Path("runs") / run_name(data)
    said = [*overrides, *plan.length(epochs, steps, minutes, overrides)]
    said += [f"seed={seed}"] if seed is not None else []
    said += ["data.skip_unreadable=true"] if skip_unreadable else []

    # Choose the recipe, open and check the data.
    choose = plan.go_on if resume else plan.begin
    chosen, dataset = choose(
        data, folder, model=model, pretrained=str(pretrained), recipe=recipe, overrides=said, say=say
    )

    # Build the network, and all that it trains with.
    begun = card_of_run(folder) if resume and chosen.model.pretrained != "none" else None
    built = network.build(chosen, dataset, begun, say)
    ready = run.prepare(chosen, dataset, *built, folder, data, say)

    # Fit, and measure what is left.
    with run.claimed(ready, resume) as state:
        end = run.fit(ready, state, console, say)
        metrics = run.measure(ready, end, say)
    say(f"{metrics['split']} {headline(metrics)}")
    say(f"trained in {end.seconds:,.0f} s; report {folder / 'report.html'}")
    return TrainResult(ready.artifact, metrics, folder)
