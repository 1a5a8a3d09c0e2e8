"""COCO's JSON files as a data set: found in a folder or given, with their images, and with the PNGs of panoptic ones.

JSON files lie in the folder itself, in its annotations/, train/, val/ or test/. Names tell the splits apart
(panoptic_train.json, instances_val2017.json, train/_annotations.coco.json). Images are looked for beside the JSON, in
images/, and in folders called as the split (train2017/, train/images/); PNGs also in a folder called as the JSON.
If there are JSON files of both kinds, the panoptic ones are taken.

Panoptic JSON gives every class. Instances JSON gives things; "background" comes before them, is stuff and lies where no
object is. Of objects that overlap, the smaller one lies on top; crowds lie below all, and are void in masks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.data import coco
from vitnext.data.coco_instances import CocoInstances, read_instances
from vitnext.data.coco_panoptic import CocoPanoptic, read_panoptic
from vitnext.data.image_folder import SPLIT_FOLDERS
from vitnext.data.mask_split import MaskSplit, file_sizes
from vitnext.data.mask_values import MOST_CLASSES, MaskClass, MaskValues
from vitnext.data.truth import Drawn, lay
from vitnext.errors import InputError, require
from vitnext.files import IMAGE_EXTENSIONS
from vitnext.types import Instances, Segments
from vitnext.wording import counted

BACKGROUND = "background"
KINDS = ("panoptic", "instances")  # the first goes before the second
SAMPLE = 100  # files that are looked for to find the folder they are in
SEEN = 100  # annotations that are looked at to tell the kind


@dataclass(frozen=True, eq=False)
class CocoFolder:
    """What was found. parts: its images; the keys are train, val, test as they exist, or only "all".

    kind: "panoptic" or "instances"; passed: JSON files that were passed over, below the root
    """

    kind: str
    values: MaskValues
    parts: dict[str, MaskSplit]
    passed: tuple[str, ...]


@dataclass(frozen=True)
class _Json:
    """A file and what it says. split: train, val, test, or "all" where no name tells."""

    path: Path
    split: str
    kind: str
    document: dict[str, Any]


def read_coco_file(path: Path) -> CocoFolder:
    """A JSON file by itself. Raises InputError when it is not COCO's, or neither images nor PNGs are found."""
    document = coco.read_document(path)
    kind = _kind(document)
    if kind is None:
        raise InputError(
            f"{path}: is no COCO file of masks: it needs images, categories, and annotations with segmentation or "
            "segments_info"
        )
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return _read(root, [_Json(path, "all", kind, document)], ())


def read_coco_folder(root: Path) -> CocoFolder | None:
    """The COCO JSON files in a folder and their images; None where there are none.

    Raises InputError for files that are, but cannot be used: damaged, two for one split, val without train, other
    classes than train's, images or PNGs that are not found.
    """
    paths = list(_paths(root))
    named = {kind: [path for path in paths if kind in _words(path)] for kind in KINDS}
    found: list[_Json] = []
    for kind in KINDS:
        files = [file for path in named[kind] if (file := _open(path, root)) and file.kind == kind]
        whole = any(file.split in ("train", "all") for file in files)
        if files and (whole or not found):
            found = files
        if whole:
            break
    if not found:
        others = [path for path in paths if not any(path in group for group in named.values())]
        files = [file for path in others if not _beside_image(path) and (file := _open(path, root, strict=False))]
        first = min((KINDS.index(file.kind) for file in files), default=0)
        found = [file for file in files if file.kind == KINDS[first]]
    if not found:
        return None
    taken = {file.path for file in found}
    rest = [path for kind in KINDS for path in named[kind] if path not in taken]
    return _read(root, _one_each(root, found), tuple(str(path.relative_to(root)) for path in rest))


def _paths(root: Path) -> Iterator[Path]:
    """The JSON files that may be COCO's, in the order of names."""
    if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        return
    folders = [root]
    with os.scandir(root) as entries:
        inner = sorted(e.name for e in entries if e.is_dir())
    folders += [root / name for name in inner if name == "annotations" or name.lower() in SPLIT_FOLDERS]
    for folder in folders:
        if not os.access(folder, os.R_OK | os.X_OK):
            continue
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.endswith(".json") and not e.name.startswith("."))
        yield from (folder / name for name in names)


def _words(path: Path) -> list[str]:
    """instances_train2017.json: ["instances", "train2017"]"""
    return [word for word in re.split(r"[^a-z0-9]+", path.stem.lower()) if word]


def _tags(path: Path) -> list[str]:
    """What folders of the split that the name tells of may be called: of train2017, that and "train"."""
    found = [word for word in _words(path) if word.rstrip("0123456789") in SPLIT_FOLDERS]
    splits = {SPLIT_FOLDERS[word.rstrip("0123456789")] for word in found}
    return list(dict.fromkeys([*found, *(name for name, split in SPLIT_FOLDERS.items() if split in splits)]))


def _beside_image(path: Path) -> bool:
    """Whether the JSON file is about the image beside it, as labelme's are."""
    return any(path.with_suffix(extension).is_file() for extension in IMAGE_EXTENSIONS)


def _open(path: Path, root: Path, *, strict: bool = True) -> _Json | None:
    """The file if it is COCO's; a damaged one is an error if ``strict``, because its name says that it is COCO's."""
    try:
        document = coco.read_document(path)
    except InputError:
        if strict and not _holds_list(path):
            raise
        return None
    kind = _kind(document)
    if kind is None:
        return None
    tags = _tags(path) or ([path.parent.name.lower()] if path.parent != root else [])
    splits = {SPLIT_FOLDERS[word.rstrip("0123456789")] for word in tags if word.rstrip("0123456789") in SPLIT_FOLDERS}
    if len(splits) > 1:
        raise InputError(f"{path}: its name tells of {' and '.join(sorted(splits))}; name it after one of them")
    return _Json(path, next(iter(splits), "all"), kind, document)


def _holds_list(path: Path) -> bool:
    """COCO keeps lists of categories in such files too."""
    try:
        return isinstance(json.loads(path.read_bytes()), list)
    except (OSError, ValueError, RecursionError):
        return False


def _kind(document: Mapping[str, Any]) -> str | None:
    annotations = document.get("annotations")
    if not isinstance(annotations, list) or not all(
        isinstance(document.get(k), list) for k in ("images", "categories")
    ):
        return None
    some = [entry for entry in annotations[:SEEN] if isinstance(entry, dict)]
    if any("segments_info" in entry for entry in some):
        return "panoptic"
    return "instances" if any("segmentation" in entry or "bbox" in entry for entry in some) else None


def _one_each(root: Path, found: Sequence[_Json]) -> list[_Json]:
    """The files, one a split, in the order train, val, test; InputError where that is not so."""
    by_split: dict[str, _Json] = {}
    for file in found:
        if file.split in by_split:
            which = "name no split" if file.split == "all" else f"are about {file.split}"
            raise InputError(
                f"{root}: {by_split[file.split].path.name} and {file.path.name} {which}; give one of them instead of "
                "the folder, or name them train.json and val.json"
            )
        by_split[file.split] = file
    if len(by_split) > 1 and "train" not in by_split:
        names = " and ".join(file.path.name for file in by_split.values())
        raise InputError(f"{root}: has {names}, but none whose name tells of train; name one of them so")
    if "all" in by_split and len(by_split) > 1:
        raise InputError(f"{root}: the name of {by_split['all'].path.name} tells of no split; rename or remove it")
    return [by_split[split] for split in ("all", "train", "val", "test") if split in by_split]


def _read(root: Path, files: Sequence[_Json], passed: tuple[str, ...]) -> CocoFolder:
    parts: dict[str, MaskSplit] = {}
    values, first = None, files[0]
    for file in files:
        bases = list(dict.fromkeys([file.path.parent, root]))
        read: CocoPanoptic | CocoInstances
        if file.kind == "panoptic":
            read = read_panoptic(file.path, document=file.document)
            images = [annotation.image for annotation in read.annotations]
            pngs = [annotation.png for annotation in read.annotations]
        else:
            read = read_instances(file.path, file.document)
            images, pngs = list(read.images), []
            if any(a.segmentation.startswith(b"[") for group in read.annotations for a in group):
                require("pycocotools.mask", "coco")
        if values is None:
            values = _values(read)
        labels = _labels(read, values, first.path)
        names = [image.file_name for image in images]
        coco.refuse(file.path, [f"two images have the file_name {name!r}" for name in _repeated(names)])
        below = _below(root, _folder(file.path, names, _image_folders(bases, _tags(file.path)), "images"))
        keys = [os.fsencode(below + name) for name in names]
        place = {key: i for i, key in enumerate(keys)}
        digest = hashlib.sha256(file.path.read_bytes()).digest()
        truth: PanopticTruth | InstancesTruth
        if isinstance(read, CocoPanoptic):
            folder = _folder(file.path, pngs, _png_folders(bases, file.path), "PNGs")
            read = CocoPanoptic(read.path, folder, read.categories, read.annotations, read.header)
            stored = [os.fsencode(_below(root, folder) + png) for png in pngs]
            truth = PanopticTruth(read, labels, place, digest)
        else:
            stored = [os.fsencode(_below(root, file.path))] * len(keys)
            truth = InstancesTruth(read, labels, place, digest)
        image_names, truth_names = np.array(keys, np.bytes_), np.array(stored, np.bytes_)
        sizes, truth_sizes = file_sizes(root, image_names), file_sizes(root, truth_names)
        split = "all" if len(files) == 1 else file.split
        parts[split] = MaskSplit(values, image_names, sizes, truth_names, truth_sizes, root=str(root), truth=truth)
    assert values is not None
    return CocoFolder(first.kind, values, parts, passed)


def _values(read: CocoPanoptic | CocoInstances) -> MaskValues:
    """The classes, numbered in their order."""
    if isinstance(read, CocoPanoptic):
        described = [(c.name, c.color, c.isthing) for c in read.categories]
    else:
        things = [(c.name, c.color, True) for c in read.categories if c.name != BACKGROUND]
        described = [(BACKGROUND, None, False), *things]
    if not 2 <= len(described) <= MOST_CLASSES:
        count = counted(described, "class") + (", background among them" if isinstance(read, CocoInstances) else "")
        raise InputError(f"{read.path}: {count}; a segmenter tells 2 to {MOST_CLASSES} apart: remove some categories")
    return MaskValues(tuple(MaskClass(i, *each) for i, each in enumerate(described)))


def _labels(read: CocoPanoptic | CocoInstances, values: MaskValues, first: Path) -> np.ndarray:
    """int64 (categories,): the class of each category, by its name."""
    place = {(c.name, c.thing): i for i, c in enumerate(values.known)}
    labels = []
    for category in read.categories:
        thing = category.isthing and (isinstance(read, CocoPanoptic) or category.name != BACKGROUND)
        if (category.name, thing) not in place:
            kind = "thing" if thing else "stuff"
            raise InputError(f"{read.path}: has the category {category.name!r} ({kind}), which {first.name} has not")
        labels.append(place[category.name, thing])
    return np.array(labels, np.int64)


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _image_folders(bases: Sequence[Path], tags: Sequence[str]) -> list[Path]:
    below = [
        "",
        "images",
        *(f"{tag}{inner}" for tag in tags for inner in ("", "/images")),
        *(f"images/{t}" for t in tags),
    ]
    return [base / name for base in bases for name in below]


def _png_folders(bases: Sequence[Path], path: Path) -> list[Path]:
    tags = _tags(path)
    below = [path.stem, *(name for tag in tags for name in (f"{tag}/panoptic", f"panoptic/{tag}", f"panoptic_{tag}"))]
    return [base / name for base in bases for name in (*below, "panoptic", "annotations/" + path.stem)]


def _folder(path: Path, names: Sequence[str], folders: Sequence[Path], what: str) -> Path:
    """The first of the folders that hold most of the files. Raises InputError if none holds any."""
    some = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, SAMPLE).astype(int))]
    held = [sum((folder / name).is_file() for name in some) if folder.is_dir() else 0 for folder in folders]
    if not any(held):
        raise InputError(f"{path}: none of its {what}, as {some[0]}, is there; looked in {_listed(path, folders)}")
    return folders[held.index(max(held))]


def _listed(path: Path, folders: Sequence[Path]) -> str:
    return ", ".join(dict.fromkeys(os.path.relpath(folder, path.parent) for folder in folders)) + f" of {path.parent}"


def _below(root: Path, path: Path) -> str:
    """What stands before the names of files in the folder, or the file's own, below the root: "" or "train/images/"."""
    relative = path.relative_to(root).as_posix()
    return "" if relative == "." else relative if path.is_file() else f"{relative}/"


@dataclass(frozen=True, eq=False)
class PanopticTruth:
    """labels: int64 (categories,), indices into the known classes; place: of each image, by the split's name of it."""

    read: CocoPanoptic
    labels: np.ndarray
    place: dict[bytes, int]
    digest: bytes

    def draw(self, name: bytes) -> Drawn:
        segments = self.read.segments(self.place[name])
        return Drawn(Segments(segments.ids, self.labels[segments.labels], segments.crowd))

    def objects(self, name: bytes) -> None:
        return None


@dataclass(frozen=True, eq=False)
class InstancesTruth:
    """labels: int64 (categories,), indices into the known classes; place: of each image, by the split's name of it."""

    read: CocoInstances
    labels: np.ndarray
    place: dict[bytes, int]
    digest: bytes

    def draw(self, name: bytes) -> Drawn:
        index = self.place[name]
        image = self.read.images[index]
        annotations = self.read.annotations[index]
        problems: list[str] = []

        def masks() -> Iterator[tuple[int, np.ndarray]]:
            for k, annotation in enumerate(annotations):
                try:
                    yield k, self.read.mask(annotation, image)
                except InputError as error:
                    problems.append(str(error).removeprefix(f"{self.read.path}: "))

        labels = [int(self.labels[annotation.label]) for annotation in annotations]
        drawn = lay(image.height, image.width, masks(), labels, [annotation.crowd for annotation in annotations])
        coco.refuse(self.read.path, problems)
        return drawn

    def objects(self, name: bytes) -> Instances:
        found = self.read.instances(self.place[name])
        return replace(found, labels=self.labels[found.labels])


def category_ids(split: MaskSplit) -> list[int]:
    """The ids that the split's classes have in its masks or in COCO's file, in their order.

    A class that is no category of the file, such as the background or several merged ones, has the next free id.
    """
    if not isinstance(split.truth, PanopticTruth | InstancesTruth):
        return list(split.values.ids)
    given = {category.name: category.id for category in split.truth.read.categories}
    free = itertools.count(max(given.values()) + 1)
    return [given[name] if name in given else next(free) for name in split.classes]
