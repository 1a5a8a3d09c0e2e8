"""Folders of images and masks: images/ with masks/ beside it, or both inside train/, val/ and test/.

instances/ beside masks/ may tell the objects of a class apart: a grey PNG of 8 or 16 bits of each image's name, 0 where
no object is and a number of its own for each. Which classes consist of objects is said in classes.txt; where no line
says it, they are all but the background, which is the class of id 0 or of that name.

A mask has its image's name (a.jpg, a.png; or a_mask.png) and lies at the same place below masks/. Which value of a
pixel is which class stands in classes.txt, one class a line:

    3 road                 an id: of grey masks the value, of palette masks the index
    3 road #804080         and a colour: of RGB masks
    3 car thing            and that it consists of objects, which can be counted; "stuff" says that they cannot
    255 ignore             pixels that are neither trained on nor measured; void, unlabeled, unlabelled mean the same
    road                   without ids on the lines of classes, each line without has the next id, from 0 on

train.txt, val.txt and test.txt beside images/ name the images of each split, one a line, with or without extension.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.data.image_folder import SPLIT_FOLDERS
from vitnext.data.mask_split import MaskSplit, file_sizes
from vitnext.data.mask_values import LARGEST_ID, MOST_CLASSES, MaskClass, MaskValues
from vitnext.errors import InputError
from vitnext.files import IMAGE_EXTENSIONS, files_below, is_image
from vitnext.wording import counted, shortened

MASK_LAYOUTS = (
    "give images/ and masks/ with classes.txt (and train.txt, val.txt, test.txt), or train/images/ and train/masks/ "
    "with val/ and test/ beside train/"
)
VOID_NAMES = ("ignore", "void", "unlabeled", "unlabelled")
VOID_NAME = re.compile(rf"({'|'.join(VOID_NAMES)})( \(.*\))?", re.IGNORECASE)  # "ignore (sky and water)"
# "1: road", "1,road", "(1) road": an id, but not as it is written here. "3d_object", "2-seater" and "2.5d" are names.
OTHER_ID = re.compile(r"""[("'[]?(\d+)["']?(?:\s*[:;,=)\]|]|\.(?!\d)|\s*[-\u2013](?=\s))["'\s]*(.*?)["',;]*""")
ID_BEHIND = re.compile(r"\D.*[:;,=|]\s*\d+")  # "road: 1", "road,128,64,128"
COLUMN = "(?:class|label|category|train)?[ _]?(?:ids?|index|values?|names?|class|label|category|colou?r)"
HEADER = re.compile(rf"{COLUMN}(?:\s*[,;|]\s*(?:{COLUMN}|r|g|b|red|green|blue))+", re.IGNORECASE)  # a table's "id,name"
KINDS = ("thing", "stuff")
OTHER_MASKS = ("annotations", "gt", "label", "labels", "mask", "segmentation", "segmentations")  # folders people have
INNER = ("images", "masks")
UNNUMBERED = -1  # the id of a line without one


@dataclass(frozen=True, eq=False)
class MaskFolder:
    """What a folder holds.

    parts:    its images; the keys are train, val, test as they exist, or only "all"
    unmasked: images without a mask
    orphans:  masks, or instance maps, without an image
    unlisted: images that neither train.txt, val.txt nor test.txt names
    counted:  where there are instance maps and classes.txt says nothing of things: the classes that were taken for them
    """

    values: MaskValues
    parts: dict[str, MaskSplit]
    unmasked: tuple[str, ...]
    orphans: tuple[str, ...]
    unlisted: tuple[str, ...]
    counted: tuple[str, ...] = ()


def has_both(root: Path) -> bool:
    """Whether images/ lies beside masks/, in the folder or in one that is called as a split is."""
    if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        return False
    folders = (root, *(root / name for name in _split_folders(root)))
    return any(all((folder / inner).is_dir() for inner in INNER) for folder in folders)


def has_masks(root: Path) -> bool:
    """Whether the folder is laid out for masks: images/ with masks/ beside it, in it or in its train/.

    Raises InputError where images/ has another folder of masks beside it, or classes.txt but no masks: class folders of
    these names would make no sense.
    """
    if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        return False
    for folder in (root, *(root / name for name in _split_folders(root))):
        if not (folder / "images").is_dir():
            continue
        if (folder / "masks").is_dir():
            return True
        if other := next((name for name in OTHER_MASKS if (folder / name).is_dir()), None):
            raise InputError(f"{folder}: has images/ and {other}/; if these are masks, rename it to masks/")
        if (root / "classes.txt").is_file():
            raise InputError(f"{folder}: has images/ but no masks/; {MASK_LAYOUTS}")
    return False


def read_mask_folder(root: Path) -> MaskFolder:
    """Recognise the layout of ``root``, pair images with masks and read classes.txt; no image is opened.

    Raises InputError for a folder without classes.txt, lists that name images which are not there, no pair at all, or
    instances/ that lacks an image of masks/, or where no class is a thing.
    """
    lists = _lists(root)
    places = _places(root)
    values = read_classes(root / "classes.txt", root)
    mapped = _mapped(root, places)
    counted: tuple[str, ...] = ()
    if mapped:
        values, counted = _with_things(values, root)
    parts, unmasked, orphans = {}, [], []
    for below, part in places.items():
        pairs, without, left = _pairs(root, below)
        unmasked += without
        orphans += left
        if not pairs and not without:
            raise InputError(f"{root}: no image in {below}images/ (wanted: {', '.join(IMAGE_EXTENSIONS)})")
        if not pairs:
            raise InputError(
                f"{root}: no image in {below}images/ has a mask of its name in {below}masks/ (a.jpg needs a.png)"
            )
        maps, unused = _instance_maps(root, below, [image for image, _ in pairs], without) if mapped else (None, [])
        orphans += unused
        parts[part] = _split(root, values, pairs, maps)
    unlisted: list[str] = []
    if lists and "all" not in parts:
        given = next(iter(places)).rstrip("/")
        raise InputError(
            f"{root}: has the folder {given}/ and the list {lists['train']}; keep the folders or the lists"
        )
    if lists:
        parts, unlisted = _listed(root, parts["all"], lists, f"{next(iter(places))}images/", unmasked)
    return MaskFolder(values, parts, tuple(unmasked), tuple(orphans), tuple(unlisted), counted)


def _mapped(root: Path, places: Mapping[str, str]) -> bool:
    """Whether there are instance maps: for all of the places or for none."""
    have = [below for below in places if (root / below / "instances").is_dir()]
    if have and (lacking := next((below for below in places if below not in have), None)):
        raise InputError(
            f"{root}: has {have[0]}instances/ but no {lacking}instances/; add it, or remove instances/ everywhere"
        )
    return bool(have)


def _with_things(values: MaskValues, root: Path) -> tuple[MaskValues, tuple[str, ...]]:
    """The classes with what is a thing said of each, and the names of those that were taken for things."""
    if all(c.thing is None for c in values.known):
        known = tuple(replace(c, thing=c.id != 0 and c.name.lower() != "background") for c in values.known)
        return replace(values, known=known), tuple(c.name for c in known if c.thing)
    if not any(c.thing for c in values.known):
        raise InputError(
            f"{root}: has instances/, but classes.txt calls no class a thing; write 'thing' behind those whose objects "
            "are told apart, as 1 cell thing, or remove instances/"
        )
    return values, ()


def _instance_maps(
    root: Path, below: str, images: Sequence[bytes], unmasked: Sequence[str]
) -> tuple[list[bytes], list[str]]:
    """Of each image its instance map, as a path below the root; and the instance maps without an image."""
    maps = _stems(root, f"{below}instances")
    start = len(os.fsencode(f"{below}images/"))
    stems = [os.path.splitext(image[start:])[0] for image in images]
    if missing := [os.fsdecode(image) for image, stem in zip(images, stems, strict=True) if stem not in maps]:
        raise InputError(
            f"{root}: {counted(missing, 'image')} with a mask but no instance map of their name in {below}instances/: "
            f"{shortened(missing, 3)}; add them (all 0 where no object is), or remove instances/"
        )
    known = {*stems, *(os.path.splitext(os.fsencode(name)[start:])[0] for name in unmasked)}
    return [maps[stem] for stem in stems], [os.fsdecode(path) for stem, path in maps.items() if stem not in known]


def _places(root: Path) -> dict[str, str]:
    """Where images/ and masks/ lie, "" or as "train/" -> split, or "all"."""
    folders = [name for name in _split_folders(root) if any((root / name / inner).is_dir() for inner in INNER)]
    if all((root / inner).is_dir() for inner in INNER):
        if folders:
            raise InputError(f"{root}: has images/ and masks/, and {folders[0]}/ has them too; keep one of the two")
        return {"": "all"}
    places: dict[str, str] = {}
    for name in folders:
        if missing := next((inner for inner in INNER if not (root / name / inner).is_dir()), None):
            raise InputError(f"{root / name}: no {missing}/ in it; {MASK_LAYOUTS}")
        split = SPLIT_FOLDERS[name.lower()]
        if split in places.values():
            raise InputError(f"{root}: two folders are a {split} split; keep one of them")
        places[f"{name}/"] = split
    if "train" not in places.values():
        raise InputError(f"{root}: has {folders[0]}/ but no train/ with images/ and masks/; {MASK_LAYOUTS}")
    return dict.fromkeys(places, "all") if len(places) == 1 else places


def _lists(root: Path) -> dict[str, str]:
    """Split -> name of its list, in the order train, val, test."""
    lists: dict[str, str] = {}
    for name, split in SPLIT_FOLDERS.items():
        if (root / f"{name}.txt").is_file():
            if split in lists:
                raise InputError(f"{root}: {lists[split]} and {name}.txt are both a {split} split; keep one of them")
            lists[split] = f"{name}.txt"
    if lists and "train" not in lists:
        raise InputError(f"{root}: has {next(iter(lists.values()))} but no train.txt; add it, or remove the lists")
    return lists


def read_classes(path: Path, root: Path, *, at_least: int = 2) -> MaskValues:
    """The classes that ``path`` names. Raises InputError for a file that is missing, a line that cannot be read, or
    fewer classes than ``at_least``."""
    if not path.is_file():
        raise InputError(
            f"{root}: no classes.txt, so nothing says which value of a mask is which class; write one with a line for "
            'each value, such as "0 background", "1 road", "255 ignore"'
        )
    classes: list[MaskClass] = []
    void: list[MaskClass] = []
    unnumbered: list[str] = []  # lines without an id
    numbered = ""  # a class's line with one
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        found = _class(line, where)
        is_void = VOID_NAME.fullmatch(found.name) is not None
        if found.id == UNNUMBERED:
            found = replace(found, id=len(unnumbered))
            unnumbered.append(where)
        elif not is_void:
            numbered = where
        (void if is_void else classes).append(found)
    if unnumbered and numbered:
        raise InputError(f"{unnumbered[0]}: has no id, but other lines have one; give all of them an id, or none")
    for group, called in (("id", "id"), ("name", "name"), ("color", "colour")):
        seen = Counter(getattr(c, group) for c in (*classes, *(() if group == "name" else void)))
        twice = [value for value, n in seen.items() if n > 1 and value is not None]
        if twice:
            raise InputError(f"{path}: two lines have the {called} {_shown(twice[0])}; give each one of its own")
    if len(classes) < at_least:
        raise InputError(
            f"{path}: {counted(classes, 'class')} besides the ignored ones; a segmenter needs at least {at_least}"
        )
    if len(classes) > MOST_CLASSES:
        raise InputError(f"{path}: {counted(classes, 'class')}; at most {MOST_CLASSES} can be told apart")
    return MaskValues(tuple(classes), tuple(void), unnumbered=bool(unnumbered))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of the lines that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _class(text: str, where: str) -> MaskClass:
    """A line of classes.txt; its id is -1 where the line has none."""
    words = text.split()
    number = UNNUMBERED
    if HEADER.fullmatch(text):
        raise InputError(f"{where}: '{text}' is the header of a table; remove it and write lines such as 1 road")
    if other := OTHER_ID.fullmatch(text):
        name = re.split(r"[,;]\s*\d", other[2])[0] or "road"  # without a table's further columns
        raise InputError(f"{where}: in '{text}' more than a space stands behind the id; write {other[1]} {name}")
    if ID_BEHIND.fullmatch(text):
        raise InputError(f"{where}: '{text}' ends in numbers; write an id, a space and the name, as 1 road")
    if len(words) == 2 and words[0].lower() in VOID_NAMES and words[1].isdecimal():
        raise InputError(f"{where}: '{text}' has its id behind the name; write {words[1]} {words[0]}")
    if re.fullmatch(r"-\d+", words[0]):
        raise InputError(f"{where}: the id is {words[0]}; a mask's pixel holds 0 to {LARGEST_ID}")
    if words[0].isdecimal():
        number = int(words.pop(0))
        if not words:
            raise InputError(f"{where}: is a number alone, {number}; write the class's name behind its id")
        if number > LARGEST_ID:
            raise InputError(f"{where}: the id is {number}; a mask's pixel holds 0 to {LARGEST_ID}")
    color, thing = None, None
    while len(words) > 1:
        if re.fullmatch("#[0-9a-fA-F]{6}", words[-1]) and color is None:
            color = tuple(bytes.fromhex(words.pop()[1:]))
        elif words[-1] in KINDS and thing is None:
            thing = words.pop() == "thing"
        else:
            break
    if wrong := next((word for word in words if word.startswith("#")), None):
        raise InputError(f"{where}: {wrong} is no colour at the end of a line; write 3 road #804080 (no comments)")
    return MaskClass(number, " ".join(words), color, thing)


def _shown(value: Any) -> str:
    return "#" + bytes(value).hex() if isinstance(value, tuple) else str(value)


def _split_folders(root: Path) -> list[str]:
    """The names of the folders in ``root`` that are called as splits are, in the order train, val, test."""
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and e.name.lower() in SPLIT_FOLDERS)
    return sorted(names, key=lambda name: list(SPLIT_FOLDERS).index(name.lower()))


def _pairs(root: Path, below: str) -> tuple[list[tuple[bytes, bytes]], list[str], list[str]]:
    """(image, mask) paths below the root, in the order of names; images without a mask; masks without an image."""
    images, masks = (_stems(root, f"{below}{folder}") for folder in ("images", "masks"))
    pairs, unmasked, used = [], [], set()
    for stem, image in images.items():
        key = stem if stem in masks or stem + b"_mask" in images else stem + b"_mask"  # which may be an image's own
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
                f"{root}: {os.fsdecode(found[stem])} and {os.fsdecode(path)} have one name; rename or "
                "remove one, because a mask belongs to one image"
            )
        found[stem] = path
    return found


def _split(
    root: Path, values: MaskValues, pairs: Sequence[tuple[bytes, bytes]], maps: Sequence[bytes] | None
) -> MaskSplit:
    images, masks = (np.array(paths, dtype=np.bytes_) for paths in zip(*pairs, strict=True))
    split = MaskSplit(values, images, file_sizes(root, images), masks, file_sizes(root, masks), root=str(root))
    if maps is None:
        return split
    named = np.array(maps, dtype=np.bytes_)
    return replace(split, instance_names=named, instance_sizes=file_sizes(root, named))


def _listed(
    root: Path, whole: MaskSplit, lists: Mapping[str, str], folder: str, unmasked: Sequence[str]
) -> tuple[dict[str, MaskSplit], list[str]]:
    """The splits that the lists name, and the images that none of them names. folder: "images/" or "train/images/"."""
    paths = [os.fsdecode(name).removeprefix(folder) for name in whole.names.tolist()]
    place = {os.path.splitext(path)[0]: i for i, path in enumerate(paths)}
    place |= {path: i for i, path in enumerate(paths)}
    bare = {name.removeprefix(folder) for name in unmasked}
    bare |= {os.path.splitext(name)[0] for name in bare}
    parts: dict[str, MaskSplit] = {}
    owner: dict[int, str] = {}
    for split, listing in lists.items():
        indices = []
        for number, line in _lines(root / listing):
            name, where = line.removeprefix(folder).removeprefix("images/"), f"{root / listing}, line {number}"
            if (i := place.get(name, -1)) < 0:
                why = f"has no mask in {folder.replace('images', 'masks')}" if name in bare else f"is not in {folder}"
                raise InputError(f"{where}: {line} {why}; mend the list, or add the file")
            if i in owner:
                again = f"twice in {listing}" if owner[i] == listing else f"in {owner[i]} and in {listing}"
                raise InputError(f"{where}: {line} stands {again}; an image belongs to one split, once")
            owner[i] = listing
            indices.append(i)
        if not indices:
            raise InputError(f"{root / listing}: names no image; fill or remove it")
        parts[split] = whole.subset(indices)
    unlisted = [whole.name(i) for i in range(len(whole)) if i not in owner]
    return parts, unlisted
