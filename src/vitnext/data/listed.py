"""The list of a large folder of images, kept in the user's cache: the next start has its data set at once. Beside what
comes first, such as importing torch, the files are listed again, so that none is trained on that has changed.

To list a file takes 8 microseconds where the disk is near (benchmarks/many_files.py). No torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.data.dataset import Dataset, Split, open_dataset
from vitnext.errors import WorkError
from vitnext.files import atomic_write, cache_folder, stamp

FORMAT = "1"  # to be changed with what is listed of a folder, or how it is divided
WORTH = 50_000  # images; fewer are listed as soon as another process has started
ARRAYS = ("labels", "names", "sizes", "times")  # of a split
FOLDERS = "folders"


def opener(data: str | Path, *, seed: int = 0, val_fraction: float | None = None) -> Callable[[], Dataset[Any]]:
    """What gives the data set, as ``open_dataset`` does: one of ``WORTH`` images or more in class folders from the list
    that an earlier start kept, if since then no file was added to a folder, removed or renamed.

    A file may have been written to nevertheless: ``Dataset.current``, which waits until all are listed again, tells.
    """
    how: dict[str, Any] = {"data": str(data), "seed": seed, "val_fraction": val_fraction}
    path = Path(os.path.expanduser(data))
    place = cache_folder() / "listings" / f"{_name(path, seed, val_fraction)}.npz"
    listed = _load(place, path) if str(data) else None
    if listed is None:
        return lambda: _opened(how, place, path)
    beside, digest = _list_again(how), _digest(listed)

    def current() -> bool:
        now = "" if beside is None else beside.communicate()[0].strip()
        same = (now or _digest(open_dataset(**how))) == digest
        if not same:
            place.unlink(missing_ok=True)
        return same

    return lambda: replace(listed, current=current)


def _opened(how: dict[str, Any], place: Path, path: Path) -> Dataset[Any]:
    dataset = open_dataset(**how)
    if dataset.kind == "image_folder" and sum(map(len, dataset.splits.values())) >= WORTH:
        _save(place, path, dataset)
    return dataset


def _list_again(how: dict[str, Any]) -> subprocess.Popen[str] | None:
    """A process that says the digest of the data set as it is now: a thread would make the others wait."""
    code = (
        "import json, sys; how, sys.path[:] = json.loads(sys.argv[1]); from vitnext.data import listed; "
        "print(listed._digest(listed.open_dataset(**how)))"
    )
    command = [sys.executable, "-c", code, json.dumps([how, sys.path])]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return None


def _digest(dataset: Dataset[Split]) -> str:
    """Of the names, sizes, labels and times of all files."""
    times = [split.times.tobytes() for split in dataset.splits.values() if split.times is not None]
    return hashlib.sha256(b"".join([dataset.fingerprint.encode(), *times])).hexdigest()


def _name(path: Path, seed: int, val_fraction: float | None) -> str:
    return hashlib.sha256(os.fsencode(f"{FORMAT}\0{os.path.abspath(path)}\0{seed}\0{val_fraction}")).hexdigest()[:32]


def _save(place: Path, path: Path, dataset: Dataset[Split]) -> None:
    """Where nothing can be written nothing is kept, nor of links that lead nowhere and may tomorrow lead somewhere."""
    if not all((split.sizes > 0).all() for split in dataset.splits.values()):
        return
    folders = sorted(_folders(name for split in dataset.splits.values() for name in split.names.tolist()))
    columns = {f"{name}/{key}": getattr(split, key) for name, split in dataset.splits.items() for key in ARRAYS}
    said = {f.name: getattr(dataset, f.name) for f in fields(dataset) if f.name not in ("splits", "current")}
    columns |= {"dataset": np.array(json.dumps(said)), FOLDERS: np.array(folders), "stamps": _stamps(path, folders)}
    with suppress(OSError, WorkError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place, shared=True) as temporary, open(temporary, "wb") as file:
            np.savez(file, **columns)


def _load(place: Path, path: Path) -> Dataset[Split] | None:
    """None where there is no list, or a folder is no longer as it was."""
    try:
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as columns:
            if not np.array_equal(_stamps(path, columns[FOLDERS].tolist()), columns["stamps"]):
                return None
            said = json.loads(str(columns["dataset"]))
            said = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
            names = dict.fromkeys(key.rpartition("/")[0] for key in columns if "/" in key)
            arrays = {name: {key: columns[f"{name}/{key}"] for key in ARRAYS} for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return Dataset(**said, splits={name: Split(said["classes"], **of, root=str(path)) for name, of in arrays.items()})


def _folders(names: Iterable[bytes]) -> set[bytes]:
    """Those that the images lie in, at any depth, below the root, which is b"."."""
    found = set(map(os.path.dirname, names))
    for folder in tuple(found):
        while folder := os.path.dirname(folder):
            found.add(folder)
    return found | {b"."}


def _stamps(path: Path, folders: Iterable[bytes]) -> np.ndarray:
    """int64 (N, 3)"""
    root = os.fsencode(path)
    return np.array([stamp(partial(os.stat, os.path.join(root, folder))) for folder in folders], np.int64)
