"""From what the user gave (a folder, a table, a built-in name) to named splits of images with their truth. No torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from vitnext.data import builtin, scenes, stratification, table
from vitnext.data.coco_folder import CocoFolder, read_coco_file, read_coco_folder
from vitnext.data.image_folder import LAYOUTS, Files, read_image_folder
from vitnext.data.labelme import has_labelme, read_labelme_folder
from vitnext.data.mask_folder import has_both, has_masks, read_mask_folder
from vitnext.data.mask_split import MaskSplit, fingerprint_parts
from vitnext.errors import InputError
from vitnext.wording import counted, shortened

Kind = Literal["image_folder", "mask_folder", "table", "coco", "labelme", "builtin"]
SPLITS = ("train", "val", "test")
TREE_FRACTIONS = {"val": 0.1, "test": 0.1}  # of one class-folder tree
DIGITS_FRACTIONS = {"val": 0.08, "test": 0.2}
CARVED_VAL = 0.1  # of a given train/ that has test/ but no val/ beside it
FASHION_VAL = 0.05  # of Fashion-MNIST's 60,000
BUILTIN = (*builtin.NAMES, scenes.NAME)


@dataclass(frozen=True, eq=False)
class Split:
    """N labelled images, as files or as arrays in memory.

    classes: names of all the data set's classes
    labels:  int64 (N,), indices into ``classes``; of multi-label data uint8 (N, C), 1 for each class of an image
    names:   bytes (N,); files: the path below ``root``
    sizes:   int64 (N,), bytes of each image
    root:    the folder the files lie in, or ""
    arrays:  uint8 (N, H, W) or (N, H, W, C), or None for files
    times:   int64 (N, 2), of files that were listed: of modification and of the inode's change, in ns
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    root: str = ""
    arrays: np.ndarray | None = None
    times: np.ndarray | None = None

    @classmethod
    def of_files(cls, classes: tuple[str, ...], files: Files, root: str) -> Split:
        return cls(classes, files.labels, files.names, files.stamps[:, 0], root=root, times=files.stamps[:, 1:])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> np.ndarray:
        """int64 (N,), or of multi-label data uint8 (N, C): what is divided evenly between splits."""
        return self.labels

    def image(self, i: int) -> str | np.ndarray:
        """What ``preprocess.open_image`` takes: a path, or uint8 (H, W) or (H, W, C)."""
        if self.arrays is not None:
            array: np.ndarray = self.arrays[i]
            return array
        return os.path.join(self.root, os.fsdecode(self.names[i]))

    def files(self, i: int) -> list[str]:
        """What image ``i`` is read from."""
        return [] if self.arrays is not None else [str(self.image(i))]

    def name(self, i: int) -> str:
        """How messages and reports call image ``i``: the path below the data folder, or "digits[17]"."""
        return str(self.names[i].decode(errors="replace"))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The images at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        arrays, times = (None if whole is None else whole[at] for whole in (self.arrays, self.times))
        labels, names, sizes = self.labels[at], self.names[at], self.sizes[at]
        return replace(self, labels=labels, names=names, sizes=sizes, arrays=arrays, times=times)


AnySplit = TypeVar("AnySplit", Split, MaskSplit)


@dataclass(frozen=True, eq=False)
class Dataset(Generic[AnySplit]):
    """A data set, recognised and split: labelled images, or images with masks.

    task:        what its truth is good for
    splits:      Split by name, among train, val and test; only "all" for one that is whole
    split_rule:  {"rule": "given" or "stratified", "seed": int, "fractions": {split: share of the images divided}}
    fingerprint: sha256 (hex) over class names and, per split, every file's name, size and label (or the arrays' bytes);
                 of masks and instance maps their names and sizes, and what classes.txt says of their values; of JSON
                 files what they hold
    line:        what was recognised, in one line
    ignored:     how many files in class folders are not images, and up to three of them
    loose:       images beside the class folders: they have no class; or images without a mask
    unused:      folders beside train/, val/ and test/; or masks (or instance maps) without an image; or columns of a
                 table
    unlisted:    images with masks that no split's list names; or images that a table has no row for
    strange:     JSON files of labelme's that name another image than the one beside them
    nested:      folders in class folders that hold no image themselves
    contents:    sha256 of the contents of all images, if all were looked at (``doctor.check``), else ""
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    splits: dict[str, AnySplit]
    split_rule: dict[str, Any]
    fingerprint: str
    line: str
    ignored: int = 0
    ignored_examples: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    contents: str = ""

    @property
    def has_instances(self) -> bool:
        """Whether the truth tells the objects of a class apart."""
        splits: list[Any] = list(self.splits.values())
        return any(isinstance(split, MaskSplit) and split.has_instances for split in splits)

    @property
    def task(self) -> Literal["classification", "multilabel", "semantic"]:
        first = next(iter(self.splits.values()))
        if isinstance(first, MaskSplit):
            return "semantic"
        return "multilabel" if first.labels.ndim == 2 else "classification"


def open_dataset(
    data: str | Path,
    *,
    seed: int = 0,
    fashion_mnist_dir: Path | None = None,
    val_fraction: float | None = None,
    whole: bool = False,
) -> Dataset[Any]:
    """Recognise ``data`` by looking: a folder, a table or a COCO JSON file that exists, else a built-in: "digits",
    "fashion-mnist", "digit-scenes". A folder with images/ and masks/, with COCO's JSON or with labelme's is for
    segmentation, one of class folders for classification; a table (.csv, .tsv, .parquet) for classification, with one
    label an image or several.

    What comes undivided is split per class (stratified): one class-folder tree, a table, or images with masks, into
    train, val and test 80/10/10, digits 72/8/20; a train/ with test/ but no val/ gives 10% to val, Fashion-MNIST's
    train 5%. A class of fewer images than there are splits is all in train.
    ``val_fraction`` replaces that share of val; 0 means no val split. ``seed`` decides who goes where.
    ``whole`` divides nothing: the splits are those that were given, or the only one is "all".

    Raises InputError for data that cannot be recognised, and for a ``val_fraction`` when val/ is given.
    """
    if not str(data):
        raise InputError(f"the data set's name is empty; {LAYOUTS}, or one of {', '.join(BUILTIN)}")
    path = Path(os.path.expanduser(data))
    exists = os.path.exists(path)  # unlike Path.exists, False instead of an error for a name that cannot be looked up
    if fashion_mnist_dir is not None and (exists or str(data) != "fashion-mnist"):
        raise InputError(f"a folder for fashion-mnist was given, but the data is {data}; leave it out")
    if exists:
        found = _table(path) if path.suffix.lower() in table.EXTENSIONS and path.is_file() else _folder(path)
    else:
        found = _builtin(str(data), fashion_mnist_dir)
    fractions = found.fractions
    if val_fraction is not None:
        if not 0 <= val_fraction <= 0.5:
            raise InputError(f"val_fraction is {val_fraction}: give a share between 0 and 0.5")
        if "val" in found.parts:
            raise InputError(f"{data}: has a val split of its own, val_fraction cannot change it; leave it out")
        fractions = fractions | {"val": val_fraction}
    splits, split_rule, how = _divide(found, {} if whole else fractions, seed)
    counts = ", ".join(f"{split} {len(splits[split]):,}" for split in splits)
    images = "image" if [len(split) for split in splits.values()] == [1] else "images"
    return Dataset(
        name=found.name,
        kind=found.kind,
        classes=found.classes,
        splits=splits,
        split_rule=split_rule,
        fingerprint=_fingerprint(found.classes, splits),
        line=f"{found.name}: {found.what}, {counted(found.classes, 'class')}, {counts} {images} ({how}){found.note}",
        **found.left_out,
    )


def held_out(dataset: Dataset[AnySplit]) -> tuple[str, AnySplit]:
    """Name and images of the split to measure on: test, else val. Raises InputError when there is neither."""
    for name in ("test", "val"):
        if name in dataset.splits:
            return name, dataset.splits[name]
    raise InputError(f"{dataset.name}: has neither a test nor a val split to measure on")


def regroup(dataset: Dataset[Any], merge: Mapping[str, Sequence[str]], ignore: Sequence[str]) -> Dataset[Any]:
    """The data set with classes of its masks merged under new names and others made void; its fingerprint stays.

    Raises InputError for a name that is no class, and for images that have labels instead of masks.
    """
    if not merge and not ignore:
        return dataset
    if dataset.task != "semantic":
        raise InputError(f"{dataset.name}: data.merge and data.ignore are for classes of masks; leave them out")
    splits = {name: split.regrouped(merge, ignore) for name, split in dataset.splits.items()}
    classes = next(iter(splits.values())).classes
    return replace(dataset, splits=splits, classes=classes)


@dataclass(frozen=True, eq=False)
class _Found:
    """A data set before it is divided: ``parts`` has the keys train, val, test as given, or only "all"."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    parts: dict[str, Any]
    fractions: dict[str, float]
    what: str  # that was recognised
    note: str = ""  # what was decided, for the end of the line
    left_out: dict[str, Any] = field(default_factory=dict)  # the fields of Dataset that say so


def _folder(path: Path) -> _Found:
    if path.is_file() and path.suffix.lower() == ".json":
        return _coco(path.name, read_coco_file(path))
    if not path.is_dir():
        raise InputError(f"{path}: is a file, not a folder; {LAYOUTS}, or a table: {', '.join(table.EXTENSIONS)}")
    if not has_both(path):
        if (listed := read_coco_folder(path)) is not None:
            return _coco(path.resolve().name, listed)
        if has_labelme(path):
            shapes = read_labelme_folder(path)
            fractions = TREE_FRACTIONS if "all" in shapes.parts else {"val": CARVED_VAL}
            left = {key: getattr(shapes, key) for key in ("unlisted", "strange")}
            left |= {"loose": shapes.bare, "unused": shapes.orphans}
            name, classes = path.resolve().name, shapes.values.classes
            return _Found(name, "labelme", classes, shapes.parts, fractions, "labelme JSON", left_out=left)
    if has_masks(path):
        masks = read_mask_folder(path)
        fractions = TREE_FRACTIONS if "all" in masks.parts else {"val": CARVED_VAL}
        left = {"loose": masks.unmasked, "unused": masks.orphans, "unlisted": masks.unlisted}
        mapped = next(iter(masks.parts.values())).has_instances
        note = f"; ignored: {shortened([f'{c.id} {c.name}' for c in masks.values.void])}" if masks.values.void else ""
        note += f"; things: {', '.join(masks.counted)} (classes.txt says of none)" if masks.counted else ""
        return _Found(
            path.resolve().name,
            "mask_folder",
            masks.values.classes,
            masks.parts,
            fractions,
            "images, masks and instance maps" if mapped else "images and masks",
            note,
            left,
        )
    images = read_image_folder(path)
    parts = {part: Split.of_files(images.classes, files, str(path)) for part, files in images.parts.items()}
    fractions = TREE_FRACTIONS if "all" in parts else {"val": CARVED_VAL}
    name = path.resolve().name
    left_out = {key: getattr(images, key) for key in ("ignored", "ignored_examples", "loose", "unused", "nested")}
    return _Found(name, "image_folder", images.classes, parts, fractions, "class folders", left_out=left_out)


def _coco(name: str, found: CocoFolder) -> _Found:
    fractions = TREE_FRACTIONS if "all" in found.parts else {"val": CARVED_VAL}
    note = f"; passed over: {', '.join(found.passed)}" if found.passed else ""
    what = f"COCO {found.kind} JSON"
    return _Found(name, "coco", found.values.classes, found.parts, fractions, what, note)


def _table(path: Path) -> _Found:
    listed = table.read_table(path)
    parts = {part: Split.of_files(listed.classes, files, str(path.parent)) for part, files in listed.parts.items()}
    fractions = TREE_FRACTIONS if "all" in parts else {"val": CARVED_VAL}
    left_out = {"unused": listed.unused, "unlisted": listed.unlisted}
    name, what = path.resolve().name, listed.description
    return _Found(name, "table", listed.classes, parts, fractions, what, left_out=left_out)


def _builtin(name: str, fashion_mnist_dir: Path | None) -> _Found:
    if name == "digits":
        parts = {"all": _in_memory(builtin.DIGITS, name, *builtin.digits())}
        return _Found(name, "builtin", builtin.DIGITS, parts, DIGITS_FRACTIONS, "built-in")
    if name == "fashion-mnist":
        given = builtin.fashion_mnist(fashion_mnist_dir)
        parts = {split: _in_memory(builtin.GARMENTS, split, *given[split]) for split in given}
        return _Found(name, "builtin", builtin.GARMENTS, parts, {"val": FASHION_VAL}, "built-in")
    if name == scenes.NAME:
        drawn = scenes.splits()
        return _Found(name, "builtin", drawn["train"].classes, dict(drawn), {}, "built-in")
    path = Path(name)
    if path.suffix.lower() in table.EXTENSIONS:
        raise InputError(f"{name}: no such file")
    neighbours = [p.name for p in path.parent.glob("[!.]*") if os.path.isdir(p)]
    close = [str(path.parent / n) for n in difflib.get_close_matches(path.name, neighbours, n=2)]
    close += difflib.get_close_matches(name.lower(), BUILTIN, n=1)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise InputError(f"{name}: no such folder, nor a built-in data set ({', '.join(BUILTIN)}){hint}")


def _in_memory(classes: tuple[str, ...], name: str, images: np.ndarray, labels: np.ndarray) -> Split:
    names = np.array([f"{name}[{i}]" for i in range(len(labels))], dtype=np.bytes_)
    sizes = np.full(len(labels), images[0].nbytes, dtype=np.int64)
    return Split(classes, labels, names, sizes, arrays=images)


def _divide(found: _Found, fractions: dict[str, float], seed: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The splits in the order train, val, test; the rule for the artifact; and the rule in words."""
    parts = dict(found.parts)
    source = "all" if "all" in parts else "train"
    shares = {split: share for split, share in fractions.items() if split not in parts and share > 0}
    if not shares:
        rule: dict[str, Any] = {"rule": "given", "seed": seed, "fractions": {}}
        given = {split: parts[split] for split in ("all", *SPLITS) if split in parts}
        return given, rule, "split as given" if source == "train" else "not divided"
    whole = parts.pop(source)
    masks = isinstance(whole, MaskSplit)
    several = masks or whole.strata.ndim == 2  # classes an image
    if several and len(whole) <= len(shares):
        what, where = ("with a mask", "train.txt, val.txt and test.txt") if masks else ("in it", "a column split")
        raise InputError(
            f"{whole.root}: {counted(whole, 'image')} {what}, too few to split into train, {' and '.join(shares)}: "
            f"add some, or name those of each split in {where}"
        )
    if source == "all" and not several and np.bincount(whole.strata).max() <= len(shares):
        raise InputError(
            f"{whole.root}: no class has {len(shares) + 1} images, too few to split into train, "
            f"{' and '.join(shares)}: add images, or give train/ and val/"
        )
    parts |= _stratified(whole, shares, seed)
    shares = {"train": round(1 - sum(shares.values()), 6), **shares}
    per = "" if masks else " per class"
    if source == "all":
        how = f"split {'/'.join(f'{100 * shares[s]:g}' for s in SPLITS if s in shares)}{per}, seed {seed}"
    else:
        how = f"val is {100 * shares['val']:g}% of train{per}, seed {seed}"
    rule = {"rule": "stratified", "seed": seed, "fractions": {s: shares[s] for s in SPLITS if s in shares}}
    return {split: parts[split] for split in SPLITS if split in parts}, rule, how


def _stratified(whole: AnySplit, shares: Mapping[str, float], seed: int) -> dict[str, AnySplit]:
    """Divide each class alone: ``shares`` of it (rounded, at least one image each), and the rest to "train".

    Who goes where is the order of sha256("seed:name"), so it depends neither on the order of listing nor on a random
    generator's version, and adding images moves few of the others. A class too small to give to each stays in train.
    Images of several labels are divided so that each label is: ``stratification.divide``.
    """
    if whole.strata.ndim == 2:
        divided = stratification.divide(whole.strata, whole.names, {"train": 1 - sum(shares.values()), **shares}, seed)
        return {split: whole.subset(indices) for split, indices in divided.items()}
    chosen: dict[str, list[int]] = {"train": [], **{split: [] for split in shares}}
    by_class = np.argsort(whole.strata, kind="stable")
    for members in np.split(by_class, np.cumsum(np.bincount(whole.strata))[:-1]):
        digests = [hashlib.sha256(b"%d:%b" % (seed, name)).digest() for name in whole.names[members].tolist()]
        waiting = [i for _, i in sorted(zip(digests, members.tolist(), strict=True))]
        if len(members) > len(shares):
            for served, (split, share) in enumerate(shares.items(), start=1):
                most = len(waiting) - (len(shares) - served) - 1  # leave one for each other split and for train
                n = min(max(1, int(len(members) * share + 0.5)), most)
                chosen[split] += waiting[:n]
                waiting = waiting[n:]
        chosen["train"] += waiting
    return {split: whole.subset(sorted(indices)) for split, indices in chosen.items()}


def _fingerprint(classes: tuple[str, ...], splits: Mapping[str, Split | MaskSplit]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for name, split in splits.items():
        digest.update(f"\n{name} {len(split)}\n".encode())
        if isinstance(split, MaskSplit):
            for part in fingerprint_parts(split):
                digest.update(part)
        elif split.arrays is not None:
            digest.update(split.labels.astype("<i8").tobytes())
            digest.update(np.ascontiguousarray(split.arrays).tobytes())
        elif split.labels.ndim == 2:
            for file, size, row in zip(split.names.tolist(), split.sizes.tolist(), split.labels, strict=True):
                digest.update(b"%b\0%d\0%b\n" % (file, size, row.astype("u1").tobytes()))
        else:
            entries = zip(split.names.tolist(), split.sizes.tolist(), split.labels.tolist(), strict=True)
            digest.update(b"".join([b"%b\0%d\0%d\n" % entry for entry in entries]))
    return digest.hexdigest()
