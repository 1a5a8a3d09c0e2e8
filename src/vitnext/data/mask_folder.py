"""Folders of images and masks: images/ with masks/ beside it, or both inside train/, val/ and test/.

A mask has its image's name (a.jpg, a.png; or a_mask.png) and lies at the same place below masks/. Which value of a
pixel is which class stands in classes.txt, one class a line:

    sky                    the next id, from 0 on
    3 road                 an id: of grey masks the value, of palette masks the index
    3 road #804080         a colour: of RGB masks
    255 ignore             pixels that are neither trained on nor measured; void and unlabeled mean the same

train.txt, val.txt and test.txt beside images/ name the images of each split, one a line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.data.image_folder import SPLIT_FOLDERS
from vitnext.data.mask_values import MOST_CLASSES, MaskClass, MaskValues, read_mask
from vitnext.errors import InputError
from vitnext.files import files_below, is_image

MASK_LAYOUTS = (
    "give images/ and masks/ with classes.txt (and train.txt, val.txt, test.txt), or train/images/ and train/masks/ "
    "with val/ and test/ beside train/"
)
VOID_NAMES = ("ignore", "void", "unlabeled", "unlabelled")
KINDS = ("thing", "stuff")  # may end a line of classes.txt


@dataclass(frozen=True, eq=False)
class MaskSplit:
    """N images with their masks, as files or as arrays in memory.

    values:     which value of a mask's pixel is which class
    names:      bytes (N,); files: the path below ``root``
    sizes:      int64 (N,), bytes of each image
    mask_names: bytes (N,), as ``names``
    mask_sizes: int64 (N,)
    root:       the folder the files lie in, or ""
    arrays:     uint8 (N, H, W) or (N, H, W, C), or None for files
    masks:      uint8 (N, H, W) with arrays: class indices, 255 where void
    instances:  uint16 (N, H, W) with arrays: which thing of the image a pixel is of, from 1; or None
    """

    values: MaskValues
    names: np.ndarray
    sizes: np.ndarray
    mask_names: np.ndarray
    mask_sizes: np.ndarray
    root: str = ""
    arrays: np.ndarray | None = None
    masks: np.ndarray | None = None
    instances: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.values.classes

    @property
    def strata(self) -> np.ndarray:
        """int64 (N,): what is divided evenly between splits; an image holds many classes, so all are alike."""
        return np.zeros(len(self), np.int64)

    def image(self, i: int) -> str | np.ndarray:
        """What ``preprocess.open_image`` takes: a path, or uint8 (H, W) or (H, W, C)."""
        if self.arrays is not None:
            array: np.ndarray = self.arrays[i]
            return array
        return os.path.join(self.root, os.fsdecode(self.names[i]))

    def mask(self, i: int) -> np.ndarray:
        """uint8 (H, W): class indices, 255 where void. Raises ImageError when it cannot be read or holds other ids."""
        if self.masks is not None:
            return self.values.merged(self.masks[i])
        return read_mask(self.mask_path(i), self.values)

    def mask_path(self, i: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.mask_names[i]))

    def name(self, i: int) -> str:
        """How messages and reports call image ``i``."""
        return str(self.names[i].decode(errors="replace"))

    def regrouped(self, merge: Mapping[str, Sequence[str]], ignore: Sequence[str]) -> MaskSplit:
        """With classes merged under new names and others made void. Raises InputError for a name that is no class."""
        return replace(self, values=self.values.regrouped(merge, ignore))

    def subset(self, indices: Sequence[int] | np.ndarray) -> MaskSplit:
        """The images at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        fields = ("names", "sizes", "mask_names", "mask_sizes", "arrays", "masks", "instances")
        taken: dict[str, Any] = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return replace(self, **{name: array[at] for name, array in taken.items()})


@dataclass(frozen=True, eq=False)
class MaskFolder:
    """What a folder holds.

    parts:    its images; the keys are train, val, test as they exist, or only "all"
    unmasked: images without a mask
    orphans:  masks without an image
    unlisted: images that neither train.txt, val.txt nor test.txt names
    """

    values: MaskValues
    parts: dict[str, MaskSplit]
    unmasked: tuple[str, ...]
    orphans: tuple[str, ...]
    unlisted: tuple[str, ...]


def has_masks(root: Path) -> bool:
    """Whether the folder has images/ and masks/, or its train/ has."""
    return any((folder / "images").is_dir() and (folder / "masks").is_dir() for folder in (root, root / "train"))


def read_mask_folder(root: Path) -> MaskFolder:
    """Recognise the layout of ``root``, pair images with masks and read classes.txt; no image is opened.

    Raises InputError for a folder without classes.txt, lists that name images which are not there, or no pair at all.
    """
    if (root / "images").is_dir():
        places = {"": "all"}
    else:
        places = {f"{name}/": SPLIT_FOLDERS[name.lower()] for name in _split_folders(root)}
        if list(places.values()) == ["train"]:
            places = dict.fromkeys(places, "all")
    values = read_classes(root / "classes.txt", root)
    parts, unmasked, orphans = {}, [], []
    for below, part in places.items():
        pairs, without, left = _pairs(root, below)
        unmasked += without
        orphans += left
        if not pairs:
            raise InputError(
                f"{root}: no image in {below}images/ has a mask of its name in {below}masks/ (a.jpg needs a.png)"
            )
        parts[part] = _split(root, values, pairs)
    unlisted: list[str] = []
    if "all" in parts and (lists := [f for f in ("train", "val", "test") if (root / f"{f}.txt").is_file()]):
        parts, unlisted = _listed(root, parts["all"], lists, unmasked)
    return MaskFolder(values, parts, tuple(unmasked), tuple(orphans), tuple(unlisted))


def read_classes(path: Path, root: Path) -> MaskValues:
    """The classes that ``path`` names. Raises InputError for a file that is missing, or a line that cannot be read."""
    if not path.is_file():
        raise InputError(
            f"{root}: no classes.txt, so nothing says which value of a mask is which class; write one with a line for "
            'each value, such as "0 background", "1 road", "255 ignore"'
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    classes: list[MaskClass] = []
    void: list[MaskClass] = []
    for number, line in enumerate(lines, start=1):
        if not (text := line.strip()):
            continue
        found = _class(text, len(classes) + len(void), f"{path}, line {number}")
        (void if found.name.split()[0].lower() in VOID_NAMES else classes).append(found)
    for group in ("id", "name", "color"):
        seen = [getattr(c, group) for c in (*classes, *void) if getattr(c, group) is not None]
        if group == "name":
            seen = [c.name for c in classes]
        if twice := next((value for value in seen if seen.count(value) > 1), None):
            raise InputError(f"{path}: two lines have the {group} {_shown(twice)}; give each one of its own")
    if len(classes) < 2:
        raise InputError(f"{path}: {len(classes)} class(es) that are not ignored; a segmenter needs at least two")
    if len(classes) > MOST_CLASSES:
        raise InputError(f"{path}: {len(classes)} classes; at most {MOST_CLASSES} can be told apart")
    return MaskValues(tuple(classes), tuple(void))


def _class(text: str, place: int, where: str) -> MaskClass:
    words = text.split()
    number = int(words.pop(0)) if words[0].isdecimal() and len(words) > 1 else place
    if number > 65_535:
        raise InputError(f"{where}: the id is {number}; a mask's pixel holds 0 to 65535")
    color = None
    if len(words) > 1 and words[-1].startswith("#"):
        if not re.fullmatch("#[0-9a-fA-F]{6}", words[-1]):
            raise InputError(f"{where}: {words[-1]} is no colour; write #804080")
        color = tuple(bytes.fromhex(words.pop()[1:]))
    thing = None
    if len(words) > 1 and words[-1] in KINDS:
        thing = words.pop() == "thing"
    return MaskClass(number, " ".join(words), color, thing)


def _shown(value: Any) -> str:
    return "#" + bytes(value).hex() if isinstance(value, tuple) else str(value)


def _split_folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and e.name.lower() in SPLIT_FOLDERS)
    order = list(SPLIT_FOLDERS)
    names.sort(key=lambda name: order.index(name.lower()))
    for name in names:
        for inner in ("images", "masks"):
            if not (root / name / inner).is_dir():
                raise InputError(f"{root / name}: no {inner}/ in it; {MASK_LAYOUTS}")
    splits = [SPLIT_FOLDERS[name.lower()] for name in names]
    if twice := next((split for split in splits if splits.count(split) > 1), None):
        raise InputError(f"{root}: two folders are a {twice} split; keep one of them")
    return names


def _pairs(root: Path, below: str) -> tuple[list[tuple[bytes, bytes]], list[str], list[str]]:
    """(image, mask) paths below the root, in the order of names; images without a mask; masks without an image."""
    images, masks = (_stems(root, f"{below}{folder}") for folder in ("images", "masks"))
    pairs, unmasked, used = [], [], set()
    for stem, image in images.items():
        key = stem if stem in masks else stem + b"_mask"
        if key in masks:
            pairs.append((image, masks[key]))
            used.add(key)
        else:
            unmasked.append(os.fsdecode(image))
    return pairs, unmasked, [os.fsdecode(path) for key, path in masks.items() if key not in used]


def _stems(root: Path, folder: str) -> dict[bytes, bytes]:
    """Path below ``folder`` without its extension -> path below the root, of every image."""
    start = len(os.fsencode(root / folder)) + 1
    found: dict[bytes, bytes] = {}
    for file in files_below(os.fsencode(root / folder)):
        if not is_image(file.name):
            continue
        below = file.path[start:]
        stem = os.path.splitext(below)[0]
        path = os.fsencode(folder) + b"/" + below
        if stem in found:
            raise InputError(
                f"{root}: {os.fsdecode(found[stem])} and {os.fsdecode(path)} have one name; a mask belongs to one image"
            )
        found[stem] = path
    return found


def _split(root: Path, values: MaskValues, pairs: Sequence[tuple[bytes, bytes]]) -> MaskSplit:
    images, masks = (np.array(paths, dtype=np.bytes_) for paths in zip(*pairs, strict=True))
    return MaskSplit(values, images, _sizes(root, images), masks, _sizes(root, masks), root=str(root))


def _sizes(root: Path, names: np.ndarray) -> np.ndarray:
    def size(name: bytes) -> int:
        try:
            return os.path.getsize(os.path.join(os.fsencode(root), name))
        except OSError:
            return -1  # a link that leads nowhere: the doctor reports it

    return np.array([size(name) for name in names.tolist()], np.int64)


def _listed(
    root: Path, whole: MaskSplit, lists: Sequence[str], unmasked: Sequence[str]
) -> tuple[dict[str, MaskSplit], list[str]]:
    """The splits that the lists name, and the images that none of them names."""
    place: dict[str, int] = {}
    for i, name in enumerate(whole.names.tolist()):
        path = os.fsdecode(name).removeprefix("images/")
        place |= dict.fromkeys((path, os.path.splitext(path)[0]), i)
    parts: dict[str, MaskSplit] = {}
    owner: dict[int, str] = {}
    for split in lists:
        listing = root / f"{split}.txt"
        lines = [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        indices = []
        for line in lines:
            if (i := place.get(line.removeprefix("images/"), -1)) < 0:
                bare = {os.path.splitext(name.removeprefix("images/"))[0] for name in unmasked}
                why = "has no mask" if os.path.splitext(line)[0] in bare else "is not in images/"
                raise InputError(f"{listing}: {line} {why}; mend the list, or add the file")
            if i in owner:
                again = f"twice in {split}.txt" if owner[i] == split else f"in {owner[i]}.txt and in {split}.txt"
                raise InputError(f"{listing}: {line} stands {again}; an image belongs to one split, once")
            owner[i] = split
            indices.append(i)
        if not indices:
            raise InputError(f"{listing}: names no image; fill or remove it")
        parts[split] = whole.subset(indices)
    if "train" not in parts:
        raise InputError(f"{root}: has {lists[0]}.txt but no train.txt; add it, or remove the lists")
    unlisted = [whole.name(i) for i in range(len(whole)) if i not in owner]
    return parts, unlisted
