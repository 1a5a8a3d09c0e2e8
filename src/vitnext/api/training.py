"""``train``: from a folder of images to a measured model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitnext.api.console import Say
from vitnext.api.folder import ARTIFACT, STATE, disk_may_be_full, require_run, run_name
from vitnext.data.dataset import BUILTIN, Dataset, open_dataset
from vitnext.data.listed import opener
from vitnext.errors import InputError, require
from vitnext.evaluation.evaluate import headline
from vitnext.progress import spinner
from vitnext.recipe import ENDLESS, Recipe, override, read
from vitnext.training.trackers import require_tracker

if TYPE_CHECKING:
    from rich.console import Console

    from vitnext.api.run import Run


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
    probe: str | None = None,
    out: str | Path | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    accept_changes: bool = False,
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
    ``training.checkpoint.CHANGEABLE`` in it; with ``accept_changes`` it goes on with other images or labels of the same
    classes too, and with other values of the fields that are ``ACCEPTABLE``. ``probe``, "knn" or "linear", trains no
    network: the frozen features of one are classified, and the result is an artifact like any other. Mistakes in the
    arguments are found first, then those in the layout of the data, then in ``out``; only then is every image read.

    Under torchrun every process calls this with the same arguments and gets the same result; the first alone writes and
    speaks, and a run that torchrun restarts goes on.

    Raises InputError for wrong input, WorkError for a run that fails, and, after the run was saved, KeyboardInterrupt
    for Ctrl-C and Terminated, a SystemExit, for SIGTERM.
    """
    folder, said, opened = _folder(data, out), _said(overrides, seed, skip_unreadable), None
    if probe is None:
        said += _length(epochs, steps, minutes, overrides, resume)
        asked = _require_sense(data, folder, model, recipe, said, resume)
        # In time, if torch has yet to be imported; the processes of torchrun would each start another.
        if not resume and "torch" not in sys.modules and "WORLD_SIZE" not in os.environ:
            opened = opener(data, seed=asked.seed, val_fraction=asked.data.val_fraction)
    with _loading(console):
        require("torch", "train")
        from vitnext.api import probe as probes
        from vitnext.api import run
        from vitnext.training import distributed

    if accept_changes and not resume:
        raise InputError("--accept-changes is for a run that goes on: add --resume, or leave it out")
    if probe is not None:
        distributed.require_alone("--probe")
        given = {"recipe": recipe, "epochs": epochs, "steps": steps, "time": minutes, "resume": resume or None}
        if unused := next((option for option, value in given.items() if value is not None), None):
            raise InputError(f"--{unused} is for training, and --probe trains no network: leave one of them out")
        say = Say(console)
        metrics = probes.probe(data, probe, folder, model=model, weights=str(pretrained), overrides=said, say=say)
        say(f"{metrics['split']} {headline(metrics)}; report {folder / 'report.html'}")
        return TrainResult(folder / ARTIFACT, metrics, folder)

    with distributed.joined():
        say = Say(console if distributed.main() else None)
        if distributed.restarted() and (folder / STATE).exists():  # after one of its processes ended: goes on
            said = said if resume else _settled(said)
            resume, model, recipe, pretrained = True, None, None, "auto"
        ready = _prepared(data, folder, model, str(pretrained), recipe, said, resume, say, opened=opened)
        if accept_changes:  # until a state is saved that has them
            ready = replace(ready, again=f"{ready.again} --accept-changes")
        ready = run.with_compilation(ready, say)

        # Fit, and measure what is left.
        full = disk_may_be_full(folder, ready.again)
        with run.claimed(ready, resume, accept_changes, say) as state, full:
            end = run.fit(ready, state, say)
            metrics = distributed.from_first(lambda: run.measure(ready, end, say))
        say(f"{metrics['split']} {headline(metrics)}")
        say(f"trained in {end.seconds:,.0f} s; report {folder / 'report.html'}")
        return TrainResult(ready.artifact, metrics, folder)


def find_learning_rate(
    data: str | Path,
    *,
    model: str | None = None,
    pretrained: str | Path = "auto",
    out: str | Path | None = None,
    recipe: str | None = None,
    seed: int | None = None,
    skip_unreadable: bool = False,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> float:
    """The learning rate that a range test suggests (see ``training.range_test``) for what `train` would train, to which
    the arguments are the same. Its curve is written to ``out``: lr_test.csv and lr_test.png. Nothing is trained:
    `train` with the override ``optimizer.learning_rate=auto`` tests, and goes on with what it suggests.

    Raises InputError for wrong input and under torchrun, and WorkError if the loss falls at no rate.
    """
    folder, say = _folder(data, out), Say(console)
    said = _said([*overrides, "optimizer.learning_rate=auto"], seed, skip_unreadable)
    _require_sense(data, folder, model, recipe, said, False)
    with _loading(console):
        require("torch", "train")
        from vitnext.training import distributed

    distributed.require_alone("--find-lr")
    ready = _prepared(data, folder, model, str(pretrained), recipe, said, False, say, keeps=False)
    return ready.recipe.optimizer.learning_rate


def _loading(console: Console | None) -> AbstractContextManager[None]:
    """Shows that torch is imported, which takes seconds; of the processes that torchrun started the first does."""
    return spinner("loading torch", console if os.environ.get("RANK", "0") == "0" else None)


def _folder(data: str | Path, out: str | Path | None) -> Path:
    return Path(out) if out is not None else Path("runs") / run_name(data)


def _require_sense(
    data: str | Path, folder: Path, model: str | None, recipe: str | None, said: Sequence[str], resume: bool
) -> Recipe:
    """What is asked for. Raises InputError for mistakes that are seen without torch, which takes seconds to import."""
    asked = override(read(recipe) if recipe is not None else Recipe(), said)
    if resume:
        require_run(folder)
    require_tracker(asked.track)
    there = str(data) in BUILTIN or os.path.exists(os.path.expanduser(data))
    if not there and model is None:  # whether there is such a model is said first, and needs torch
        open_dataset(data)
    return asked


def _length(
    epochs: int | None, steps: int | None, minutes: float | None, overrides: Sequence[str], resume: bool
) -> list[str]:
    """What the lengths that are asked for change in the recipe. Raises InputError for epochs beside another one."""
    ends = {"schedule.steps": steps, "schedule.minutes": minutes}
    said = [f"{field}={value}" for field, value in ends.items() if value is not None]
    if said and (epochs is not None or any(assignment.startswith("schedule.epochs=") for assignment in overrides)):
        raise InputError("--epochs and --steps or --time both say how long to train: leave one of them out")
    if not said and epochs is None:
        return []
    fields = {assignment.partition("=")[0] for assignment in (*overrides, *said)}
    gone = [f"{field}=0" for field in ends if resume and field not in fields]  # what ended the run before gives way
    return [f"schedule.epochs={ENDLESS if epochs is None else epochs}", *said, *gone]


def _said(overrides: Sequence[str], seed: int | None, skip_unreadable: bool) -> list[str]:
    """What the arguments change in the recipe, as overrides."""
    said = [*overrides, *([f"seed={seed}"] if seed is not None else [])]
    return said + (["data.skip_unreadable=true"] if skip_unreadable else [])


def _settled(overrides: Sequence[str]) -> list[str]:
    """Those that say a value; what the others leave to the run, its own recipe says now."""
    last = {field: value for field, _, value in (assignment.partition("=") for assignment in overrides)}
    settled = {field: value for field, value in last.items() if value not in ("auto", "null")}
    return [f"{field}={value}" for field, value in settled.items() if field != "model.pretrained"]


def _prepared(
    data: str | Path,
    folder: Path,
    model: str | None,
    pretrained: str,
    recipe: str | None,
    overrides: Sequence[str],
    resume: bool,
    say: Say,
    keeps: bool = True,
    opened: Callable[[], Dataset[Any]] | None = None,
) -> Run:
    """All that a run needs to begin or to go on; ``keeps`` says whether it is to be kept, ``opened`` gives the data set
    of one that begins, if it is not to be opened here."""
    from vitnext.api import network, plan, run

    # Choose the recipe, open and check the data.
    choose = plan.go_on if resume else partial(plan.begin, keeps=keeps, opened=opened)
    chosen, dataset, known = choose(
        data, folder, model=model, pretrained=pretrained, recipe=recipe, overrides=overrides, say=say
    )
    require_tracker(chosen.track)  # of a run that goes on

    # Build the network, and all that it trains with.
    built = network.build(chosen, dataset, known, say)
    return run.prepare(chosen, dataset, *built, folder, data, say)
