"""The full state of a run in one file, written to a temporary name and renamed: a kill leaves the last good one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from vitnext.errors import InputError, WorkError
from vitnext.files import atomic_write
from vitnext.recipe import Recipe, from_dict
from vitnext.training.schedules import total_steps

STATE = {
    "model",
    "average",
    "optimizers",
    "progress",
    "epoch_losses",
    "journal",
    "recipe",
    "fingerprint",
}  # of a checkpoint
ANEW = "start anew with another --out"
CHANGEABLE = (  # when a run goes on: where it ends, where it runs, and what it leaves beside the weights
    *("schedule.epochs", "schedule.steps", "schedule.minutes", "schedule.patience"),
    *("device", "parallel", "precision", "workers", "save_minutes", "save_steps", "track"),
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values). Raises WorkError if the disk does not take it."""
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # a WorkError, or what torch makes of a full disk
        reason = error.__cause__ or error
        raise WorkError(f"the checkpoint {path} could not be written ({reason}); the last good one is kept") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code. Raises InputError if there is none or it is damaged."""
    if not path.is_file():
        raise InputError(f"there is nothing to resume: {path} does not exist; start without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(
            f"the checkpoint {path} is damaged ({type(error).__name__}): start anew with another --out"
        ) from error
    return state


def load_run(path: Path, recipe: Recipe, fingerprint: str, steps_per_epoch: int) -> dict[str, Any]:
    """The state of the run at ``path``, to go on from by ``recipe``.

    Raises InputError if there is none or it is damaged, and for a run on other data, of another recipe (in more than
    the ``CHANGEABLE`` fields; the difference is shown), or that has come further than the recipe goes.
    """
    saved = load_checkpoint(path)
    if set(saved) != STATE:
        raise InputError(f"the checkpoint {path} is not one of this version of vitnext: {ANEW}")
    if saved["fingerprint"] != fingerprint:
        raise InputError(f"the images or labels have changed since the run was stopped: {ANEW}")
    before = from_dict(saved["recipe"]).to_dict()  # fields it did not know: defaults
    changed = [line for name, line in _differences(before, recipe.to_dict()) if name not in CHANGEABLE]
    if changed:
        raise InputError(
            f"the recipe has changed since the run was stopped ({'; '.join(changed)}): {ANEW}; a run that goes on may "
            f"change {', '.join(CHANGEABLE)}"
        )
    if (step := saved["progress"]["step"]) > (steps := total_steps(recipe.schedule, steps_per_epoch)):
        raise InputError(f"the run has come to step {step:,}, and the schedule now ends at {steps:,}: let it end later")
    return saved


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
