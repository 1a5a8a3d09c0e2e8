"""The full state of a run in one file, written to a temporary name and renamed: a kill leaves the last good one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from vitnext.errors import InputError, WorkError
from vitnext.files import atomic_write


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
