"""From what the user gave (a folder or a built-in name) to named splits of labelled images. No torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitnext.data import builtin
from vitnext.data.image_folder import LAYOUTS, read_image_folder
from vitnext.errors import InputError

SPLITS = ("train", "val", "test")
TREE_FRACTIONS = {"val": 0.1, "test": 0.1}  # of one class-folder tree
DIGITS_FRACTIONS = {"val": 0.08, "test": 0.2}
CARVED_VAL = 0.1  # of a given train/ that has test/ but no val/ beside it
FASHION_VAL = 0.05  # of Fashion-MNIST's 60,000


@dataclass(frozen=True, eq=False)
class Split:
    """N labelled images, as files or as arrays in memory.

    classes: names of all the data set's classes
    labels:  int64 (N,), indices into ``classes``
    names:   bytes (N,); files: the path below ``root``
    sizes:   int64 (N,), bytes of each image
    root:    the folder the files lie in, or ""
    arrays:  uint8 (N, H, W) or (N, H, W, C), or None for files
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    root: str = ""
    arrays: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> str | np.ndarray:
        """What ``preprocess.open_image`` takes: a path, or uint8 (H, W) or (H, W, C)."""
        if self.arrays is not None:
            array: np.ndarray = self.arrays[i]
            return array
        return os.path.join(self.root, os.fsdecode(self.names[i]))

    def name(self, i: int) -> str:
        """How messages and reports call image ``i``: the path below the data folder, or "digits[17]"."""
        return str(self.names[i].decode(errors="replace"))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The images at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        arrays = None if self.arrays is None else self.arrays[at]
        return replace(self, labels=self.labels[at], names=self.names[at], sizes=self.sizes[at], arrays=arrays)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, recognised and split.

    splits:      Split by name, among train, val and test; only "all" for one that is whole
    split_rule:  {"rule": "given" or "stratified", "seed": int, "fractions": {split: share of the images divided}}
    fingerprint: sha256 (hex) over class names and, per split, every file's name, size and label (or the arrays' bytes)
    line:        what was recognised, in one line
    ignored:     how many files in class folders are not images, and up to three of them
    loose:       images beside the class folders: they have no class
    unused:      folders beside train/, val/ and test/
    """

    name: str
    kind: Literal["image_folder", "builtin"]
    classes: tuple[str, ...]
    splits: dict[str, Split]
    split_rule: dict[str, Any]
    fingerprint: str
    line: str
    ignored: int = 0
    ignored_examples: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def open_dataset(
    data: str | Path,
    *,
    seed: int = 0,
    fashion_mnist_dir: Path | None = None,
    val_fraction: float | None = None,
    whole: bool = False,
) -> Dataset:
    """Recognise ``data`` by looking: a folder of images that exists, else the built-in "digits" or "fashion-mnist".

    What comes undivided is split per class (stratified): one class-folder tree into train, val and test 80/10/10,
    digits 72/8/20; a train/ with test/ but no val/ gives 10% to val, Fashion-MNIST's train 5%.
    ``val_fraction`` replaces that share of val; 0 means no val split. ``seed`` decides who goes where.
    ``whole`` divides nothing: the splits are those that were given, or the only one is "all".

    Raises InputError for data that cannot be recognised, and for a ``val_fraction`` when val/ is given.
    """
    if not str(data):
        raise InputError(f"the data set's name is empty; {LAYOUTS}, or one of {', '.join(builtin.NAMES)}")
    path = Path(os.path.expanduser(data))
    exists = os.path.exists(path)  # unlike Path.exists, False instead of an error for a name that cannot be looked up
    if fashion_mnist_dir is not None and (exists or str(data) != "fashion-mnist"):
        raise InputError(f"a folder for fashion-mnist was given, but the data is {data}; leave it out")
    found = _folder(path) if exists else _builtin(str(data), fashion_mnist_dir)
    fractions = found.fractions
    if val_fraction is not None:
        if not 0 <= val_fraction <= 0.5:
            raise InputError(f"val_fraction is {val_fraction}: give a share between 0 and 0.5")
        if "val" in found.parts:
            raise InputError(f"{data}: has a val split of its own, val_fraction cannot change it; leave it out")
        fractions = fractions | {"val": val_fraction}
    splits, split_rule, how = _divide(found, {} if whole else fractions, seed)
    counts = ", ".join(f"{split} {len(splits[split]):,}" for split in splits)
    what = "class folders" if found.kind == "image_folder" else "built-in"
    return Dataset(
        name=found.name,
        kind=found.kind,
        classes=found.classes,
        splits=splits,
        split_rule=split_rule,
        fingerprint=_fingerprint(found.classes, splits),
        line=f"{found.name}: {what}, {len(found.classes)} classes, {counts} images ({how})",
        **found.left_out,
    )


def held_out(dataset: Dataset) -> tuple[str, Split]:
    """Name and images of the split to measure on: test, else val. Raises InputError when there is neither."""
    for name in ("test", "val"):
        if name in dataset.splits:
            return name, dataset.splits[name]
    raise InputError(f"{dataset.name}: has neither a test nor a val split to measure on")


@dataclass(frozen=True, eq=False)
class _Found:
    """A data set before it is divided: ``parts`` has the keys train, val, test as given, or only "all"."""

    name: str
    kind: Literal["image_folder", "builtin"]
    classes: tuple[str, ...]
    parts: dict[str, Split]
    fractions: dict[str, float]
    left_out: dict[str, Any] = field(default_factory=dict)  # the fields of Dataset that say so


def _folder(path: Path) -> _Found:
    if not path.is_dir():
        raise InputError(f"{path}: is a file, not a folder; {LAYOUTS}")
    listed = read_image_folder(path)
    parts = {
        part: Split(listed.classes, files.labels, files.names, files.sizes, root=str(path))
        for part, files in listed.parts.items()
    }
    fractions = TREE_FRACTIONS if "all" in parts else {"val": CARVED_VAL}
    name = path.resolve().name
    left_out = {key: getattr(listed, key) for key in ("ignored", "ignored_examples", "loose", "unused")}
    return _Found(name, "image_folder", listed.classes, parts, fractions, left_out)


def _builtin(name: str, fashion_mnist_dir: Path | None) -> _Found:
    if name == "digits":
        parts = {"all": _in_memory(builtin.DIGITS, name, *builtin.digits())}
        return _Found(name, "builtin", builtin.DIGITS, parts, DIGITS_FRACTIONS)
    if name == "fashion-mnist":
        given = builtin.fashion_mnist(fashion_mnist_dir)
        parts = {split: _in_memory(builtin.GARMENTS, split, *given[split]) for split in given}
        return _Found(name, "builtin", builtin.GARMENTS, parts, {"val": FASHION_VAL})
    path = Path(name)
    neighbours = [p.name for p in path.parent.glob("[!.]*") if os.path.isdir(p)]
    close = [str(path.parent / n) for n in difflib.get_close_matches(path.name, neighbours, n=2)]
    close += difflib.get_close_matches(name.lower(), builtin.NAMES, n=1)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise InputError(f"{name}: no such folder, nor a built-in data set ({', '.join(builtin.NAMES)}){hint}")


def _in_memory(classes: tuple[str, ...], name: str, images: np.ndarray, labels: np.ndarray) -> Split:
    names = np.array([f"{name}[{i}]" for i in range(len(labels))], dtype=np.bytes_)
    sizes = np.full(len(labels), images[0].nbytes, dtype=np.int64)
    return Split(classes, labels, names, sizes, arrays=images)


def _divide(found: _Found, fractions: dict[str, float], seed: int) -> tuple[dict[str, Split], dict[str, Any], str]:
    """The splits in the order train, val, test; the rule for the artifact; and the rule in words."""
    parts = dict(found.parts)
    source = "all" if "all" in parts else "train"
    shares = {split: share for split, share in fractions.items() if split not in parts and share > 0}
    if not shares:
        rule: dict[str, Any] = {"rule": "given", "seed": seed, "fractions": {}}
        given = {split: parts[split] for split in ("all", *SPLITS) if split in parts}
        return given, rule, "split as given" if source == "train" else "not divided"
    whole = parts.pop(source)
    if source == "all":
        counts = np.bincount(whole.labels, minlength=len(found.classes))
        few = [f"{found.classes[i]} ({counts[i]})" for i in np.flatnonzero(counts <= len(shares))]
        if few:
            named = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
            raise InputError(
                f"{whole.root}: {len(few)} class(es) with fewer than {len(shares) + 1} images, too few to split into "
                f"train, {' and '.join(shares)}: {named}; add images, or give train/ and val/ folders"
            )
    parts |= _stratified(whole, shares, seed)
    shares = {"train": round(1 - sum(shares.values()), 6), **shares}
    if source == "all":
        how = f"split {'/'.join(f'{100 * shares[s]:g}' for s in SPLITS if s in shares)} per class, seed {seed}"
    else:
        how = f"val is {100 * shares['val']:g}% of train per class, seed {seed}"
    rule = {"rule": "stratified", "seed": seed, "fractions": {s: shares[s] for s in SPLITS if s in shares}}
    return {split: parts[split] for split in SPLITS if split in parts}, rule, how


def _stratified(whole: Split, shares: Mapping[str, float], seed: int) -> dict[str, Split]:
    """Divide each class alone: ``shares`` of it (rounded, at least one image each), and the rest to "train".

    Who goes where is the order of sha256("seed:name"), so it depends neither on the order of listing nor on a random
    generator's version, and adding images moves few of the others. A class too small to give to each stays in train.
    """
    chosen: dict[str, list[int]] = {"train": [], **{split: [] for split in shares}}
    by_class = np.argsort(whole.labels, kind="stable")
    for members in np.split(by_class, np.cumsum(np.bincount(whole.labels))[:-1]):
        keys = {int(i): hashlib.sha256(b"%d:%b" % (seed, whole.names[i])).digest() for i in members}
        waiting = sorted(keys, key=keys.__getitem__)
        if len(members) > len(shares):
            for served, (split, share) in enumerate(shares.items(), start=1):
                most = len(waiting) - (len(shares) - served) - 1  # leave one for each other split and for train
                n = min(max(1, int(len(members) * share + 0.5)), most)
                chosen[split] += waiting[:n]
                waiting = waiting[n:]
        chosen["train"] += waiting
    return {split: whole.subset(sorted(indices)) for split, indices in chosen.items()}


def _fingerprint(classes: tuple[str, ...], splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for name, split in splits.items():
        digest.update(f"\n{name} {len(split)}\n".encode())
        if split.arrays is not None:
            digest.update(split.labels.astype("<i8").tobytes())
            digest.update(np.ascontiguousarray(split.arrays).tobytes())
        else:
            for entry in zip(split.names.tolist(), split.sizes.tolist(), split.labels.tolist(), strict=True):
                digest.update(b"%b\0%d\0%d\n" % entry)
    return digest.hexdigest()
