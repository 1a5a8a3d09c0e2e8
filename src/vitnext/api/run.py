"""A run from its network to its measured model."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from rich.console import Console
from torch import nn

from vitnext.api.console import Say
from vitnext.api.folder import ARTIFACT, BEGUN, RECIPE, STATE, require_free, require_weights, workers_may_die
from vitnext.card import Card, read_card, versions
from vitnext.data.coco_folder import category_ids
from vitnext.data.dataset import Dataset, held_out
from vitnext.data.mask_split import MaskSplit
from vitnext.errors import InputError, Terminated
from vitnext.evaluation.evaluate import HEADLINES, choose_thresholds, evaluate
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.files import atomic_write, held
from vitnext.inference.multilabel import UNDECIDED
from vitnext.inference.predictor import load
from vitnext.models import catalog, create
from vitnext.preprocess import Preprocess
from vitnext.recipe import AUTO, ENDLESS, Recipe
from vitnext.training import distributed, loop, sharding
from vitnext.training.batch_size import choose_batch_size
from vitnext.training.checkpoint import load_run, newer_than, trained_on
from vitnext.training.compilation import (
    choose_compilation,
    compiled,
    expected_saving,
    failures_named,
    forget,
    with_graphs,
)
from vitnext.training.console import SCORES, ConsoleWatcher
from vitnext.training.curves import draw
from vitnext.training.hardware import Precision, choose_precision, suitable_threads
from vitnext.training.loop import Interrupted, Kept, Metrics, Normalize, Progress
from vitnext.training.range_test import STEPS, range_test
from vitnext.training.schedules import total_steps
from vitnext.training.task import Task, require_statistics, task_name, task_of, things_of
from vitnext.training.trial import Trial
from vitnext.weights.artifact import load_artifact, save_artifact, save_weights
from vitnext.wording import counted

SAMPLE = 64  # images that a batch size is measured on


@dataclass(frozen=True, eq=False)
class Run:
    """All that a run trains with.

    recipe:  with the precision that was decided
    card:    of its model, without metrics
    watched: the split that is looked at after each epoch
    select:  whether that chooses the epoch that is kept; without val images test is watched, and chooses nothing
    macs:    multiply-adds of a batch, or of this process's part of it
    again:   the command that goes on with it
    """

    folder: Path
    recipe: Recipe
    dataset: Dataset[Any]
    network: nn.Module
    task: Task
    precision: Precision
    card: Card
    watched: str
    select: bool
    macs: int
    again: str

    @property
    def artifact(self) -> Path:
        return self.folder / ARTIFACT

    @cached_property
    def data(self) -> dict[str, Any]:
        """By what the run knows its data again."""
        return trained_on(self.dataset)

    @property
    def pending(self) -> Path:
        """Where an epoch is kept until the run's state is saved that knows of it."""
        return self.folder / f"{ARTIFACT}.next"


def prepare(
    recipe: Recipe,
    dataset: Dataset[Any],
    network: nn.Module,
    preprocess: Preprocess,
    licence: str,
    folder: Path,
    data: str | Path,
    say: Say,
) -> Run:
    """All that the network trains with; the first batch is decoded, and on it the precision is chosen. A batch
    size that is "auto" is measured, a learning rate found by a range test; both leave the network as it is.

    data: as the user named it. Raises InputError for a patience without validation images.
    """
    select = "val" in dataset.splits
    if recipe.schedule.patience and not select:
        raise InputError("schedule.patience needs validation images: set data.val_fraction above 0, or give val/")
    if recipe.batch_size == AUTO:
        left_open, processes = recipe, distributed.world()
        recipe = distributed.from_first(
            lambda: _with_batch_size(left_open, dataset, network, preprocess, processes, say)
        )
        require_statistics(network, recipe, len(dataset.splits["train"]))
    watched = "val" if select else held_out(dataset)[0]
    task = task_of(dataset, watched, preprocess, recipe, PanopticQuality)
    say(f"data  {task.batches.description}")
    macs = catalog.count_macs(network, recipe.data.image_size) * recipe.batch_size // distributed.world()
    again = f"{distributed.command()} train {shlex.quote(str(data))} --out {shlex.quote(str(folder))} --resume"
    device = next(network.parameters()).device
    with workers_may_die(folder, again):
        images, truth = (tensor.to(device) for tensor in next(task.batches.epoch(0, part=distributed.part())))
    with suitable_threads(macs):
        sample = (Normalize(preprocess, device)(images), truth)
        asked, objective = recipe.precision, task.objective
        precision = distributed.from_first(lambda: choose_precision(asked, network, objective, sample))
    if recipe.precision == "auto":  # decided once and written down, so that recipe.yaml repeats the run
        recipe = replace(recipe, precision=precision.name)
        say(f"precision {precision.name}: {precision.reason}")
    if recipe.optimizer.learning_rate == AUTO:
        say(f"range test: up to {STEPS} steps on a copy of the network, at learning rates that grow")
        with suitable_threads(macs), workers_may_die(folder, again):
            # The first process passes the whole batch, in parts as large as those that each will pass.
            given = replace(recipe, accumulate=recipe.accumulate * distributed.world())
            found = distributed.from_first(lambda: range_test(network, task, given, preprocess, precision))
        if distributed.main():
            found.write(folder)
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=found.suggestion))
        say(
            f"learning rate {found.suggestion:.1e}: a tenth of the one with the lowest loss in a range test of "
            f"{len(found.rates)} steps, {folder / 'lr_test.png'}"
        )
    distributed.require_same(dataset.fingerprint, recipe.to_dict())
    card = card_of(recipe, dataset, network, preprocess, licence)
    return Run(folder, recipe, dataset, network, task, precision, card, watched, select, macs, again)


def _with_batch_size(
    recipe: Recipe, dataset: Dataset[Any], network: nn.Module, preprocess: Preprocess, processes: int, say: Say
) -> Recipe:
    """Decided by steps on a few images; their classes are not all there, and count alike. Each process then passes as
    many as this one can."""
    train = dataset.splits["train"]
    few = train.subset(np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).astype(int))
    plain = replace(
        recipe,
        batch_size=len(few),
        workers=0,
        data=replace(recipe.data, class_sampling=1.0),
        loss=replace(recipe.loss, balanced=False),
    )
    task = task_of(replace(dataset, splits={"train": few}), "train", preprocess, plain, PanopticQuality)
    precision = Precision(torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    trial = Trial(network, task, plain, preprocess, precision)
    with suitable_threads(catalog.count_macs(network, recipe.data.image_size) * len(few)):
        size, reason = choose_batch_size(trial, next(task.batches.epoch(0)), len(train) // processes)
    of_each = f"{size} in each of {processes} processes; " if processes > 1 else ""
    say(f"batch size {size * processes}: {of_each}{reason}")
    return replace(recipe, batch_size=size * processes)


def with_compilation(run: Run, say: Say) -> Run:
    """``run``, whose recipe says whether the network is compiled. "auto" is decided by steps on a copy of it, where
    they may be faster."""
    recipe, device = run.recipe, next(run.network.parameters()).device
    if recipe.compile != "auto":
        return run
    choice: Literal["on", "off"] = "off"
    if saving := expected_saving(device, recipe, run.macs // recipe.accumulate):
        choice, reason = _measured_compilation(run, saving, say)
        say(f"compile {choice}: {reason}")
    recipe = replace(recipe, compile=choice)
    return replace(run, recipe=recipe, card=replace(run.card, recipe=recipe.to_dict()))


def _measured_compilation(run: Run, saving: float, say: Say) -> tuple[Literal["on", "off"], str]:
    """On or off, and why. The first process measures alone, which tells nothing of a network that is cut to pieces."""
    recipe, batches = run.recipe, run.task.batches
    normed = any(isinstance(module, nn.BatchNorm2d) for module in run.network.modules())
    if distributed.world() > 1 and (recipe.parallel == "fsdp" or normed):
        return "off", "what several processes exchange within this network would cut it into many pieces"
    with workers_may_die(run.folder, run.again):
        sample = next(batches.epoch(0, part=distributed.part()))

    def choose() -> tuple[Literal["on", "off"], str]:
        trial = Trial(run.network, run.task, recipe, run.card.preprocess, run.precision)
        return choose_compilation(trial, sample, total_steps(recipe.schedule, batches.steps_per_epoch), saving, say)

    with suitable_threads(run.macs):
        return distributed.from_first(choose)


def card_of(recipe: Recipe, dataset: Dataset[Any], network: nn.Module, preprocess: Preprocess, licence: str) -> Card:
    """The card of what a network learns of the data, without metrics."""
    learnt = task_name(dataset, recipe.model.name)
    train = dataset.splits["train"]
    segmented: dict[str, Any] = {}
    if isinstance(train, MaskSplit):  # how masks name the classes, so that those that are predicted do too
        segmented = {"category_ids": category_ids(train)}
        if train.values.void:
            segmented["void_id"] = train.values.void[0].id
    return Card(
        task=learnt,
        architecture=recipe.model.name,
        config=create.config_dict(network),
        classes=dataset.classes,
        preprocess=preprocess,
        metrics={},
        data={
            "name": dataset.name,
            "kind": dataset.kind,
            "fingerprint": dataset.fingerprint,
            "split": dataset.split_rule,
            "counts": {name: len(split) for name, split in dataset.splits.items()},
            **segmented,
        },
        recipe=recipe.to_dict(),
        versions=versions(),
        licence=licence,
        colors=train.values.palette if dataset.task == "semantic" else (),
        things=things_of(train) if learnt == "panoptic" else (),
        thresholds=(UNDECIDED,) * len(dataset.classes) if dataset.task == "multilabel" else (),
    )


@contextlib.contextmanager
def claimed(run: Run, resume: bool, accept: bool, say: Say) -> Iterator[dict[str, Any] | None]:
    """Hold the run's folder, with its recipe and card in it; gives the state to go on from, or None for a new run.

    accept: whether a run goes on with other data or another recipe.

    Raises InputError if another training holds it, and if no run can begin, or this one not go on, in it.
    """
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = held(folder / f"{STATE}.lock", f"another training is writing to {folder}: choose another --out")
    with lock if distributed.main() else contextlib.nullcontext():
        state = None
        if resume:  # what was said with it may yet be refused; then the run stays as it is
            per_epoch = run.task.batches.steps_per_epoch
            newer = partial(newer_than, folder / BEGUN, run.dataset)
            state, changes = load_run(folder / STATE, run.recipe, run.data, per_epoch, accept=accept, newer=newer)
            for change in changes:
                say(f"warning: {change}")
            others = state["data"]["fingerprint"] != run.data["fingerprint"]
            if others and run.dataset.split_rule.get("rule") == "stratified":
                say("warning: images were divided anew: some that are held out now may have been trained on")
            distributed.from_first(lambda: settle(run, state["progress"]["kept_epoch"]))
            stopped = state["progress"]
            distributed.from_first(lambda: require_weights(run.artifact, run.card, stopped, run.recipe, run.select))
        else:
            distributed.from_first(lambda: require_free(folder))  # another run may have come and gone since
        distributed.from_first(lambda: _write_down(run, resume))
        yield state


def _write_down(run: Run, resume: bool) -> None:
    with atomic_write(run.folder / RECIPE) as temporary:
        temporary.write_text(yaml.safe_dump(run.recipe.to_dict(), sort_keys=False), encoding="utf-8")
    for left in run.folder.glob(".tmp??????") if resume else ():  # of safetensors, when it was killed
        with contextlib.suppress(OSError):
            left.unlink()
    if not resume:
        run.pending.unlink(missing_ok=True)  # of a run that was killed before its first state was saved
        with atomic_write(run.folder / BEGUN) as temporary:
            temporary.write_text(run.card.to_json() + "\n", encoding="utf-8")


def fit(run: Run, state: dict[str, Any] | None, say: Say) -> Progress:
    """Train, and leave the kept epoch as the run's artifact. Raises KeyboardInterrupt or Terminated after a stop."""
    schedule, score = run.recipe.schedule, run.task.validate.score
    objective, device = run.task.objective, next(run.network.parameters()).device
    if run.recipe.compile == "on":
        objective = compiled(objective, graphs=with_graphs(device, run.recipe), say=say)

    def keep(network: nn.Module, progress: Progress, metrics: Metrics) -> Kept:
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
        card = replace(run.card, metrics={run.watched: metrics, "epoch": progress.epoch})

        def write() -> Callable[[], None]:
            save_weights(run.pending, weights, card)
            return lambda: settle(run, progress.epoch)

        return write

    known = schedule.epochs if schedule.epochs < ENDLESS else None
    watcher = ConsoleWatcher(say.console or Console(quiet=True), known, run.watched, score)
    with watcher, suitable_threads(run.macs), workers_may_die(run.folder, run.again), failures_named():
        if state is not None and not schedule.minutes and device.type == "cpu":  # time itself does not repeat
            before, threads = state["threads"], torch.get_num_threads()
            left = total_steps(schedule, run.task.batches.steps_per_epoch) - state["progress"]["step"]
            if before and before != threads and left:
                say(
                    f"warning: the run had {counted(before, 'thread')} and goes on with {threads}: sums are rounded in "
                    "another order, so it ends with other weights than one that was not stopped"
                )
        try:
            end = loop.fit(
                run.network,
                run.task.batches,
                objective,
                run.task.validate,
                run.recipe,
                run.card.preprocess,
                run.precision,
                folder=run.folder,
                keep=keep,
                watch=watcher,
                data=run.data,
                mix=run.task.mix,
                select=run.select,
                resume=state,
            )
        except KeyboardInterrupt:  # pressed twice, or before the first step
            if not (run.folder / STATE).exists():
                raise
            raise KeyboardInterrupt(f"interrupted; go on from the last checkpoint with: {run.again}") from None
        except Interrupted as stop:
            if stop.signal == signal.SIGTERM:
                raise Terminated(f"terminated and saved; go on with: {run.again}") from None
            raise KeyboardInterrupt(f"stopped and saved; go on with: {run.again}") from None
    if run.recipe.compile == "on":  # what follows is measured as it is
        forget()
    with sharding.whole(run.network) as trained:
        if distributed.main() and not run.artifact.exists():  # the kept epoch is the last one
            keep(trained, end, end.kept(score))()()
    if schedule.patience and end.epoch - end.best_epoch >= schedule.patience and end.epoch < schedule.epochs:
        say(
            f"stopped early: no better validation {SCORES[score]} since epoch {end.best_epoch}; epoch {end.kept_epoch} "
            "is kept, and a higher schedule.patience would train on"
        )
    return end


def settle(run: Run, epoch: int) -> None:
    """Make what was kept of an epoch, which the saved state knows, the run's artifact. What waits of another epoch,
    of which a kill left no state, is dropped: the run may not keep that one again."""
    if not run.pending.exists():
        return
    if read_card(run.pending).metrics["epoch"] == epoch:
        os.replace(run.pending, run.artifact)
    else:
        run.pending.unlink()


def measure(run: Run, end: Progress, say: Say) -> dict[str, Any]:
    """The metrics of the held-out images, with the report and the run's curves in its folder; the artifact's card says
    what they are.

    The measured thing is the served thing: the artifact is read back and predicts.
    """
    card, skip = run.card, run.recipe.data.skip_unreadable
    watched = {run.watched: end.kept(run.task.validate.score)}
    trained, kept = load_artifact(run.artifact)
    if "objects" in kept.metrics.get(run.watched, {}):  # of a panoptic model, how many it found when it was kept
        watched[run.watched]["objects"] = objects = kept.metrics[run.watched]["objects"]
        if not objects:
            say(
                f"warning: the model that is kept, of epoch {end.kept_epoch}, finds no object at all in the "
                f"{run.watched} images: train longer, or start from weights (--pretrained)"
            )
    if card.task == "multilabel" and run.select:  # never on test images
        card = replace(card, thresholds=choose_thresholds(load(run.artifact), run.dataset.splits["val"], skip))
        save_artifact(run.artifact, trained, replace(card, metrics={**watched, "epoch": end.kept_epoch}))
        say("thresholds: of each class the one with the highest F1 on the validation images")
    elif card.task == "multilabel":
        say(f"thresholds: {UNDECIDED} for every class, as there are no validation images")
    name, split = held_out(run.dataset)
    with say.progress(f"measuring on the {name} images") as progress:
        metrics = evaluate(
            load(run.artifact),
            split,
            out=run.folder,
            name=run.dataset.name,
            split_name=name,
            skip_unreadable=skip,
            progress=progress,
        )
    measured = watched | {name: {key: metrics[key] for key in HEADLINES[card.task]}}
    facts = {"epoch": end.kept_epoch, "seconds": end.seconds}
    save_artifact(run.artifact, trained, replace(card, metrics={**measured, **facts}))
    score = run.task.validate.score
    draw(run.folder, run.watched, score, SCORES[score])
    return metrics
