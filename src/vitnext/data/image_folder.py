"""Folders of images, one folder per class: with train/, val/ and test/ above them, or without.

Images may lie at any depth inside a class folder. Hidden files and folders are passed over; what else is left out is
noted, so that the dataset doctor can mention it. Classes are sorted by name ("10" before "2"), and it
is the name that an artifact stores.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitnext.errors import InputError
from vitnext.files import IMAGE_EXTENSIONS, files_below, is_heic, is_image, passed_over, stamp
from vitnext.wording import counted, shortened

SPLIT_FOLDERS = {  # in the order train, val, test
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
SELDOM = ("dev", "holdout")  # names that mean a split only where no other folder does
LAYOUTS = "give train/CLASS/*.jpg with val/ and test/ beside train/, or one folder per class: CLASS/*.jpg"


@dataclass(frozen=True, eq=False)
class Files:
    """The images of one split, or of a whole tree; arrays, because hundreds of thousands of objects would not do.

    names:  bytes (N,), paths below the root with "/" between their parts, sorted within each class
    stamps: int64 (N, 3), of each its ``files.stamp``: size in bytes, -1 for a link that leads nowhere, and times
    labels: int64 (N,), indices into the classes
    """

    names: np.ndarray
    stamps: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """What a folder holds.

    parts:   its images; the keys are train, val, test as they exist, or only "all" for one tree
    ignored: how many files in class folders are not images, and up to three of them, HEIC first
    loose:   images beside the class folders: they have no class
    unused:  folders beside train/, val/ and test/
    nested:  folders in the class folders, if no image lies in a class folder itself: perhaps they were meant as classes
    """

    classes: tuple[str, ...]
    parts: dict[str, Files]
    ignored: int
    ignored_examples: tuple[str, ...]
    loose: tuple[str, ...]
    unused: tuple[str, ...]
    nested: tuple[str, ...]


def read_image_folder(root: Path) -> ImageFolder:
    """Recognise the layout of ``root`` and list its images; no file is opened.

    train/ with val/ or test/ beside it, under any of the names in SPLIT_FOLDERS, or with no other folder, holds class
    folders; otherwise every folder in ``root`` is a class ("train" too, next to "bus" and "car").

    Raises InputError, with the layouts that are accepted, for a folder that has neither.
    """
    folders = _subfolders(root)
    splits: dict[str, str] = {}
    for folder in folders:
        split = SPLIT_FOLDERS.get(folder.lower())
        if split is not None and folder.lower() not in SELDOM:
            if split in splits:
                raise InputError(f"{root}: both {splits[split]}/ and {folder}/ are a {split} split; keep one of them")
            splits[split] = folder
    for folder in folders:  # beside test/ it is something else
        if folder.lower() in SELDOM:
            splits.setdefault(SPLIT_FOLDERS[folder.lower()], folder)
    if splits and "train" not in splits and len(splits) == len(folders):
        only = next(iter(splits.values()))
        raise InputError(f"{root}: has {only}/ but no train/; add train/, or give {root / only} itself")
    ignored: list[str] = []
    loose, unused = _loose_images(root, ""), []
    divided = "train" in splits and (len(splits) > 1 or len(folders) == 1)
    if divided:
        classes = _class_names(root / splits["train"])
        for folder in splits.values():
            unknown = [name for name in _class_names(root / folder) if name not in classes]
            if unknown:
                raise InputError(
                    f"{root / folder}: {counted(unknown, 'class folder')} that {splits['train']}/ lacks: "
                    f"{shortened(unknown)}; rename or remove them, or add them to it"
                )
        # train/ alone is one tree to be split
        names = {"train": "all"} if len(splits) == 1 else {split: split for split in splits}
        parts = {names[split]: _list(root, folder, classes, ignored) for split, folder in splits.items()}
        loose += [name for folder in splits.values() for name in _loose_images(root, f"{folder}/")]
        unused = [folder for folder in folders if folder not in splits.values()]
    else:
        classes = _class_names(root)
        parts = {"all": _list(root, "", classes, ignored)}
    if len(classes) < 2:
        inner = root / (classes[0] if "all" in parts else splits["train"])
        deeper = "all" in parts and bool(_subfolders(inner))
        hint = f"did you mean {inner}?" if deeper else "a classifier needs at least two"
        raise InputError(f"{root}: only one class folder, '{classes[0]}': {hint}")
    examples = tuple(sorted(ignored, key=lambda name: (not is_heic(name), name))[:3])
    nested = _nested(parts, depth=2 if divided else 1)
    return ImageFolder(classes, parts, len(ignored), examples, tuple(loose), tuple(unused), nested)


def _subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in ``folder``, sorted. Archives made on macOS carry a __MACOSX with no images."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name != "__MACOSX")
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error


def _loose_images(root: Path, below: str) -> list[str]:
    """The images that lie in ``root/below`` itself."""
    with os.scandir(root / below) as entries:
        return sorted(f"{below}{e.name}" for e in entries if is_image(e.name) and not e.is_dir())


def _class_names(folder: Path) -> tuple[str, ...]:
    names = _subfolders(folder)
    if not names:
        raise InputError(f"{folder}: no class folders in it; {LAYOUTS}")
    for name in names:
        if "\n" in name or (not name.isascii() and name != name.encode(errors="replace").decode()):
            raise InputError(f"{folder}: the class folder {name!a} has a name that is not UTF-8 text; rename it")
    return tuple(names)


def _list(root: Path, folder: str, classes: tuple[str, ...], ignored: list[str]) -> Files:
    """All images of the class folders in ``root/folder``; what is not an image goes to ``ignored``."""
    below = f"{folder}/" if folder else ""
    names, stamps, labels = [], [], []
    for label, name in enumerate(classes):
        if (root / folder / name).is_dir():
            found, stamped = _images(root, f"{below}{name}", ignored)
            names.append(found)
            stamps.append(stamped)
            labels.append(np.full(len(found), label, dtype=np.int64))
    if not any(map(len, names)):
        others = f"; {passed_over(len(ignored), ignored)}" if ignored else ""
        raise InputError(
            f"{root / folder}: no image in any of its {len(classes)} class folders "
            f"(wanted: {', '.join(IMAGE_EXTENSIONS)}){others}"
        )
    return Files(np.concatenate(names), np.concatenate(stamps), np.concatenate(labels))


def _nested(parts: Mapping[str, Files], depth: int) -> tuple[str, ...]:
    """As in ``ImageFolder``. depth: how many folders an image in a class folder lies in below the root."""
    if any((np.char.count(files.names, b"/") <= depth).any() for files in parts.values()):
        return ()
    names = (name for files in parts.values() for name in files.names.tolist())
    return tuple(sorted({os.fsdecode(b"/".join(name.split(b"/")[: depth + 1])) for name in names}))


def _images(root: Path, folder: str, ignored: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Names and stamps of the images in ``folder``, at any depth, as in ``Files``; other files go to ``ignored``."""
    names, stamps = [], array("q")  # a tuple for each would keep the garbage collector busy
    start = len(os.fsencode(root / folder)) - len(os.fsencode(folder))
    for file in files_below(os.fsencode(root / folder)):
        if is_image(file.name):
            names.append(file.path[start:])
            stamps.extend(stamp(file.stat))
        else:
            ignored.append(os.fsdecode(file.path[start:]))
    listed = np.array(names, dtype=np.bytes_)
    order = np.argsort(listed, kind="stable")
    return listed[order], np.array(stamps, np.int64).reshape(-1, 3)[order]
