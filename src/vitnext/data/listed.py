"""A large folder of images is listed by another process while torch is imported, which takes longer than to list some
hundred thousand files (benchmarks/many_files.py). No torch.

The list is handed over in a file in the user's cache; that there is one tells the next start that the folder is large.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.data.dataset import Dataset, Split, open_dataset
from vitnext.errors import DiskError
from vitnext.files import atomic_write, cache_folder, stamp

WORTH = 50_000  # images; fewer are listed as soon as another process has started
ARRAYS = ("labels", "names", "sizes", "times")  # of a split


def opener(data: str | Path, *, seed: int = 0, val_fraction: float | None = None) -> Callable[[], Dataset[Any]]:
    """What gives the data set, as ``open_dataset`` does. If an earlier start found it large, another process lists its
    files from now on."""
    said = (str(data), str(seed), "" if val_fraction is None else str(val_fraction))
    try:
        name = hashlib.sha256(os.fsencode("\0".join((os.path.abspath(os.path.expanduser(data)), *said)))).hexdigest()
        place = cache_folder() / "listings" / f"{name[:32]}.npz"
        before = stamp(place.stat)  # of the list of an earlier start, which is not to be taken for the one now
        beside = _list_beside(place, said) if before[0] >= 0 else None
    except (OSError, RuntimeError):  # there is no home
        return partial(open_dataset, data, seed=seed, val_fraction=val_fraction)

    def opened() -> Dataset[Any]:
        if beside is not None and beside.wait() == 0 and stamp(place.stat) != before:
            listed = _load(place)
            if listed is not None:
                return listed
        dataset = open_dataset(data, seed=seed, val_fraction=val_fraction)
        with suppress(OSError, DiskError):
            _save(place, dataset)
        return dataset

    return opened


def _list_beside(place: Path, said: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    """A process that ends well when it has listed the files and saved the list."""
    if not sys.executable or getattr(sys, "frozen", False):  # another program than Python would start
        return None
    command = [sys.executable, "-P", "-m", __name__, str(place), *said]  # -P: no modules of the folder one is in
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)


def _save(place: Path, dataset: Dataset[Split]) -> bool:
    """Whether the data set is large, and its list now at ``place``; that of one that is not is removed."""
    if dataset.kind != "image_folder" or sum(map(len, dataset.splits.values())) < WORTH:
        place.unlink(missing_ok=True)
        return False
    columns = {f"{name}/{key}": getattr(split, key) for name, split in dataset.splits.items() for key in ARRAYS}
    rest = {f.name: getattr(dataset, f.name) for f in fields(dataset) if f.name != "splits"}
    rest |= {"roots": {name: split.root for name, split in dataset.splits.items()}}
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(place, shared=True) as temporary, open(temporary, "wb") as file:
        np.savez(file, dataset=np.array(json.dumps(rest)), **columns)
    return True


def _load(place: Path) -> Dataset[Split] | None:
    """What was saved; None if it cannot be read."""
    try:
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as columns:
            rest = json.loads(str(columns["dataset"]))
            rest = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
            splits = {
                name: Split(rest["classes"], root=root, **{key: columns[f"{name}/{key}"] for key in ARRAYS})
                for name, root in rest.pop("roots").items()
            }
            return Dataset(splits=splits, **rest)
    except Exception:  # NumPy and zipfile raise many kinds
        return None


def _main(place: str, data: str, seed: str, val_fraction: str) -> bool:
    dataset = open_dataset(data, seed=int(seed), val_fraction=float(val_fraction) if val_fraction else None)
    return _save(Path(place), dataset)


if __name__ == "__main__":
    sys.exit(0 if _main(*sys.argv[1:]) else 1)
