"""The full state of a run in one file, written to a temporary name and renamed: a kill leaves the last good one."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vitnext.data.dataset import Dataset
from vitnext.errors import InputError
from vitnext.files import atomic_write, stamp, unwritten
from vitnext.recipe import Recipe, from_dict
from vitnext.training.schedules import total_steps
from vitnext.wording import counted, shortened

STATE = {
    "model",
    "average",
    "optimizers",
    "progress",
    "epoch_losses",
    "journal",
    "recipe",
    "data",
    "steps_per_epoch",
    "threads",
}  # of a checkpoint
ANEW = "start anew with another --out"
ACCEPT = "add --accept-changes to go on all the same"
CHANGEABLE = (  # when a run goes on: where it ends, where it runs, and what it leaves beside the weights
    *("schedule.epochs", "schedule.steps", "schedule.minutes", "schedule.patience"),
    *("device", "parallel", "precision", "compile", "workers", "save_minutes", "save_steps", "track"),
)
ACCEPTABLE = (  # with --accept-changes, too: fields, and sections, of which weights and optimizer keep their shapes
    *("augment.", "schedule.", "loss.", "label_smoothing", "batch_size", "accumulate"),
    *("optimizer.learning_rate", "optimizer.weight_decay", "optimizer.betas", "optimizer.clip_norm"),
    *("data.class_sampling", "data.skip_unreadable"),
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values). Raises DiskError if the disk does not take it, WorkError if torch
    fails."""
    with atomic_write(path, durable=True) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # torch says of it that the file is not whole
                raise KeyboardInterrupt from None
            raise unwritten(path, error) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code. Raises InputError if it cannot be read or is damaged."""
    try:
        with open(path, "rb") as file:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file, and may look for a part before its start
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise InputError(f"the checkpoint {path} cannot be read ({error.strerror or error})") from error
        raise InputError(f"the checkpoint {path} is damaged: put back a copy of it, or {ANEW}") from error
    return state


def load_run(
    path: Path,
    recipe: Recipe,
    data: dict[str, Any],
    steps_per_epoch: int,
    *,
    accept: bool = False,
    newer: Callable[[], Sequence[str]] = tuple,
) -> tuple[dict[str, Any], list[str]]:
    """The state of the run at ``path``, to go on from by ``recipe``; and how data and recipe differ from the run's,
    where ``accept`` lets them. Other data leave no epoch the best: what was measured before does not compare.

    data: what ``trained_on`` says of them; newer: names of those that changed, for where their number does not tell.

    Raises InputError if it cannot be read or is damaged, for other data or another recipe (in more than the
    ``CHANGEABLE`` fields) that are not to be accepted or cannot be, with the difference, and for a run that has come
    further than the recipe goes.
    """
    saved = load_checkpoint(path)
    if set(saved) != STATE:
        raise InputError(f"the checkpoint {path} is not one of this version of vitnext: {ANEW}")
    since, progress, changes = "changed since the run was stopped", saved["progress"], []
    before = from_dict(saved["recipe"]).to_dict()  # fields it did not know: defaults
    changed = {name: line for name, line in _differences(before, recipe.to_dict()) if name not in CHANGEABLE}
    recipes = f"the recipe has {since} ({'; '.join(changed.values())})"
    if fixed := [name for name in changed if not name.startswith(ACCEPTABLE)]:
        raise InputError(f"{recipes}: a run that goes on cannot change {', '.join(fixed)}; {ANEW}")
    if any(old and new and old != new for old, new in ((saved["data"].get(key), data[key]) for key in data)):
        what = f"the images or labels have {since} ({'; '.join(_other_data(saved['data'], data, newer))})"
        if data["classes"] != saved["data"]["classes"]:
            raise InputError(f"{what}: {ANEW}")
        if not accept:
            raise InputError(f"{what}: {ACCEPT}, or {ANEW}")
        changes.append(what)
        progress |= {"best_score": -1.0, "best_epoch": progress["epoch"]}
    elif not (saved["data"]["contents"] and data["contents"]) and (names := newer()):
        unseen = "not all images were looked at, so that other contents go unnoticed"
        changes.append(f"files are newer than the run: {shortened(names)}; {unseen}")
    if changed:
        if not accept:
            fields = ", ".join(CHANGEABLE)
            raise InputError(f"{recipes}: {ACCEPT}, or {ANEW}; without that a run that goes on may change {fields}")
        changes.append(recipes)
    if (per_epoch := saved["steps_per_epoch"]) != steps_per_epoch and recipe.schedule.steps:
        raise InputError(
            f"an epoch had {per_epoch:,} steps and has {steps_per_epoch:,}, but the run ends after a number of steps: "
            "let it end by --epochs"
        )
    progress["step"] = round(progress["step"] * steps_per_epoch / per_epoch)  # as far in its epoch
    if (step := progress["step"]) > (steps := total_steps(recipe.schedule, steps_per_epoch)):
        epoch, last = (math.ceil(count / steps_per_epoch) for count in (step, steps))
        raise InputError(
            f"the run has come to step {step:,} (epoch {epoch:,}), and the schedule now ends at step {steps:,} (epoch "
            f"{last:,}): let it end later, by --epochs {epoch} or more"
        )
    return saved, changes


def trained_on(dataset: Dataset[Any]) -> dict[str, Any]:
    """By what a run that goes on knows its data again: the images that are used, their labels and classes."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    for name, split in dataset.splits.items():  # without those that are skipped
        digest.update(b"\n".join([b"", name.encode(), *split.names.tolist()]))
    counts = {name: len(split) for name, split in dataset.splits.items()}
    known = {"fingerprint": digest.hexdigest(), "contents": dataset.contents}  # the latter if all were looked at
    return {**known, "classes": list(dataset.classes), "counts": counts}


def newer_than(file: Path, dataset: Dataset[Any]) -> list[str]:
    """The files of a data set, below its folder, that were written or put where they are after ``file`` was."""
    size, *times = stamp(file.stat)
    paths: dict[str, str] = {}  # and what they are called
    for split in dataset.splits.values() if size >= 0 else ():
        of_all = {"table": [dataset.name], "mask_folder": ["classes.txt"]}.get(dataset.kind, [])
        for i in range(len(split)):
            of_all += [os.path.relpath(path, split.root) for path in split.files(i)]
        paths |= {os.path.join(split.root, name): name for name in of_all}
    return [name for path, name in paths.items() if max(stamp(partial(os.stat, path))[1:]) > max(times)]


def _other_data(old: dict[str, Any], new: dict[str, Any], newer: Callable[[], Sequence[str]]) -> list[str]:
    """In words how data differ."""
    lines = [f"class {name} is gone" for name in old["classes"] if name not in new["classes"]]
    lines += [f"class {name} is new" for name in new["classes"] if name not in old["classes"]]
    for name in dict.fromkeys([*old["counts"], *new["counts"]]):
        before, now = (data["counts"].get(name, 0) for data in (old, new))
        if before != now:
            lines.append(f"{name} had {counted(before, 'image')}, has {now:,}")
    if not lines:
        lines = ["as many as before"]
        if names := newer():
            lines.append(f"files are newer than the run: {shortened(names)}")
    return lines


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Each field that differs, and in words how."""
    found: list[tuple[str, str]] = []
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((prefix + key, f"{prefix}{key} was {a}, is {b}"))
    return sorted(found)
