"""What was seen of a data set's files, kept in the user's cache, so that the next start reads the changed ones alone.

A file, or an image with its mask, is known by path, size and times of modification and of change of the inode: whoever
writes to it, even with a tool that sets the first time back, makes it unknown. The cache takes about 0.9 kB an image
that was looked at, and may be deleted at any time. No torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from vitnext.data.dataset import Dataset, Split
from vitnext.errors import WorkError
from vitnext.files import atomic_write, cache_folder, stamp

FORMAT = "5"  # to be changed with what is seen of an image, or how
STAMP = 24  # bytes of a key: size and times
WORTH = 200  # images; fewer are read again as quickly
Columns = dict[str, np.ndarray]
Files = Callable[[Any, int], Sequence[str]]


def keys(dataset: Dataset[Any], files: Files | None = None, meaning: bytes = b"") -> np.ndarray | None:
    """bytes (N,), one for each image over the splits in their order, b"" where a file is not there; None for a data set
    that is not worth it, in memory, or made by hand, without the times of its files.

    files: of an image of a split all that it is read from, if that is more than its file, which was asked for its size
    and times when it was listed; meaning: on what else it depends what is seen in them.
    """
    splits = dataset.splits.values()
    if sum(map(len, splits)) < WORTH or any(split.arrays is not None for split in splits):
        return None
    if files is None and any(split.times is None for split in splits):
        return None
    if files is None:
        return np.concatenate([_as_listed(split) for split in splits])
    return np.array([_key(files(split, i), meaning) for split in splits for i in range(len(split))], "S32")


def load(dataset: Dataset[Any]) -> Columns:
    """The columns that were saved for this data set, "keys" among them; none if there are none, or they are damaged."""
    try:
        with open(_path(dataset), "rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = dict(arrays)
    except Exception:  # NumPy and zipfile raise many kinds
        return {}
    fits = str(columns.pop("version", "")) == _version() and len({len(column) for column in columns.values()}) == 1
    return columns if fits and "keys" in columns else {}


def save(dataset: Dataset[Any], columns: Columns) -> None:
    """Keep columns, each of a row an image, with their "keys". Where nothing can be written nothing is kept."""
    path = _path(dataset)
    with suppress(OSError, WorkError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as temporary, open(temporary, "wb") as file:
            np.savez(file, version=np.array(_version()), **columns)  # type: ignore[arg-type]


def names(keys: np.ndarray) -> np.ndarray:
    """bytes (N,): of each key of ``keys`` without ``files`` the name; of b"" none."""
    letters = keys.view(np.uint8).reshape(len(keys), keys.itemsize)[:, STAMP:]
    return np.ascontiguousarray(letters).view(f"S{letters.shape[1]}")[:, 0]


def _as_listed(split: Split) -> np.ndarray:
    """Of each image ``STAMP`` bytes of size and times, and its name, whose width may be another one the next time."""
    assert split.times is not None
    stamps = np.concatenate([split.sizes[:, None], split.times], axis=1).view(np.uint8)
    names = split.names.view(np.uint8).reshape(len(split), split.names.itemsize)
    found = np.concatenate([stamps, names], axis=1)
    return np.where(split.sizes < 0, b"", found.view(f"S{found.shape[1]}")[:, 0])


def _key(paths: Sequence[str], meaning: bytes) -> bytes:
    seen = hashlib.blake2b(meaning, digest_size=16)
    for path in paths:
        size, modified, changed = stamp(partial(os.stat, path))
        if size < 0:
            return b""
        seen.update(os.fsencode(f"{path}\0{size}\0{modified}\0{changed}\0"))
    return seen.hexdigest().encode()


def _path(dataset: Dataset[Any]) -> Path:
    roots = sorted({os.path.abspath(split.root) for split in dataset.splits.values()})
    name = hashlib.sha256(os.fsencode("\0".join([dataset.name, *roots]))).hexdigest()[:32]
    return cache_folder() / "surveys" / f"{name}.npz"


def _version() -> str:
    return f"{FORMAT}, Pillow {PIL.__version__}"
