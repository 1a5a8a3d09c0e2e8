"""labelme's JSON files as a data set: one beside each image, which outlines the image's objects.

    street/a.jpg  street/a.json          or both inside train/, val/ and test/; at any depth

A shape is a polygon, a rectangle, a circle or a mask (what labelme's AI tools draw) with a label; shapes of one label
and group_id are one object. The classes are the labels, sorted, or what classes.txt in the folder says; "background"
comes before them and lies where no object is. Of objects that overlap the smaller one lies on top. What is labelled
"ignore" (or void, unlabeled, __ignore__) is neither trained on nor measured. https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from vitnext.data import coco
from vitnext.data.coco_instances import TOLERANCE, polygons_mask
from vitnext.data.image_folder import SPLIT_FOLDERS
from vitnext.data.mask_folder import VOID_NAME, read_classes
from vitnext.data.mask_split import MaskSplit, file_sizes
from vitnext.data.mask_values import MOST_CLASSES, VOID, MaskClass, MaskValues
from vitnext.data.truth import Drawn, lay
from vitnext.decode import MAX_PIXELS, open_encoded, open_image
from vitnext.errors import InputError, require
from vitnext.files import files_below, is_image
from vitnext.wording import counted, shortened

BACKGROUND = "background"
BACKGROUNDS = (BACKGROUND, "_background_")  # the second is labelme's own name for it
IGNORED = "__ignore__"  # labelme's name for void
NAMED = 3  # of many, how many a message names


@dataclass(frozen=True, eq=False)
class LabelmeFolder:
    """What a folder holds.

    parts:    its images; the keys are train, val, test as they exist, or only "all"
    bare:     images without a JSON file of labelme's
    orphans:  JSON files of labelme's without an image
    unlisted: images with one that lie beside train/, val/ and test/
    strange:  JSON files that name another image than the one beside them, as "a.json (b.jpg)"
    """

    values: MaskValues
    parts: dict[str, MaskSplit]
    bare: tuple[str, ...]
    orphans: tuple[str, ...]
    unlisted: tuple[str, ...]
    strange: tuple[str, ...]


def has_labelme(root: Path) -> bool:
    """Whether one of the JSON files that lie beside images, in the first folder that holds images, is labelme's."""
    if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        return False
    images: set[str] = set()
    files: list[str] = []
    folder = None
    for file in files_below(os.fspath(root)):
        here = os.path.dirname(file.path)
        if images and here != folder:
            break
        if is_image(file.name):
            images.add(os.path.splitext(file.path)[0])
            folder = here
        elif file.name.endswith(".json"):
            files.append(file.path)
    return any(_is_labelme(_parsed(_content(Path(path)))) for path in files if path.removesuffix(".json") in images)


def read_labelme_folder(root: Path) -> LabelmeFolder:
    """Pair images with JSON files, of which the labels are read; shapes are looked at when they are asked for.

    Raises InputError for labels that classes.txt lacks, more than 254 of them or none, two images of one name, or
    without pycocotools.
    """
    require("pycocotools.mask", "coco")  # polygons are drawn by its rule
    images, files = _files(root)
    digest = hashlib.sha256()
    labels: dict[str, str] = {}  # of each, the first file that has it
    annotated: list[bytes] = []
    orphans: list[str] = []
    strange: list[str] = []
    for stem, path in files.items():
        content = _content(root / os.fsdecode(path))
        document = _parsed(content)
        if not _is_labelme(document) and (document is not None or stem not in images):
            continue  # of another program; one that cannot be read stays, so that the doctor reports it
        if stem not in images:
            orphans.append(os.fsdecode(path))
            continue
        digest.update(b"%b\0%d\0" % (path, len(content)) + content)
        annotated.append(stem)
        if document is not None and (other := _other_image(document.get("imagePath"), images[stem])):
            strange.append(f"{os.fsdecode(path)} ({other})")
        for shape in document["shapes"] if document is not None else ():
            if isinstance(shape, dict) and coco.is_text(shape.get("label")):
                labels.setdefault(shape["label"], os.fsdecode(path))
    values = _values(root, labels)
    index = {c.name: i for i, c in enumerate(values.known)} | dict.fromkeys(BACKGROUNDS, 0)
    truth = LabelmeTruth(root, index, digest.digest())
    chosen = set(annotated)
    parts, unlisted = _parts(root, annotated)
    return LabelmeFolder(
        values,
        {part: _split(root, values, truth, [(images[s], files[s]) for s in stems]) for part, stems in parts.items()},
        tuple(os.fsdecode(image) for stem, image in images.items() if stem not in chosen),
        tuple(orphans),
        tuple(os.fsdecode(images[stem]) for stem in unlisted),
        tuple(strange),
    )


def _files(root: Path) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Images and JSON files: path below the root without its extension -> path below the root."""
    start = len(os.path.join(os.fsencode(root), b""))
    images: dict[bytes, bytes] = {}
    files: dict[bytes, bytes] = {}
    for file in files_below(os.fsencode(root)):
        path = file.path[start:]
        stem = os.path.splitext(path)[0]
        if file.name.endswith(b".json"):
            files[stem] = path
        elif is_image(file.name):
            if stem in images:
                raise InputError(
                    f"{root}: {os.fsdecode(images[stem])} and {os.fsdecode(path)} have one name; rename or remove one, "
                    "because a JSON file belongs to one image"
                )
            images[stem] = path
    return images, files


def _content(path: Path) -> bytes:
    """What the file holds; nothing if it cannot be read, which is said when its shapes are asked for."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parsed(content: bytes) -> Any:
    """The JSON document, or None if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_labelme(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def _other_image(named: Any, image: bytes) -> str:
    """What imagePath names, if that is another image than the one beside the JSON file; its extension may differ."""
    if not coco.is_text(named):
        return ""
    name = PureWindowsPath(named).name  # which knows both kinds of slashes
    alike = {
        unicodedata.normalize("NFC", os.path.splitext(each)[0]).casefold()
        for each in (name, os.path.basename(os.fsdecode(image)))
    }
    return name if len(alike) > 1 else ""


def _is_void(label: str) -> bool:
    return label == IGNORED or VOID_NAME.fullmatch(label) is not None


def _values(root: Path, labels: Mapping[str, str]) -> MaskValues:
    """The classes, numbered in their order, the background first."""
    used = sorted(label for label in labels if label not in BACKGROUNDS and not _is_void(label))
    path = root / "classes.txt"
    if path.is_file():
        known = read_classes(path, root, at_least=1).known
        background = next((c for c in known if c.name in BACKGROUNDS), None)
        classes = [c for c in known if c is not background]
        if strange := [label for label in used if label not in {c.name for c in classes}]:
            named = shortened([f"{label} in {labels[label]}" for label in strange], NAMED)
            raise InputError(
                f"{root}: {counted(strange, 'label')} that classes.txt does not name: {named}; add lines for "
                "them, or mend the labels"
            )
        said = any(c.thing is not None for c in known)
        color = None if background is None else background.color
        described = [(c.name, c.color, bool(c.thing) if said else True) for c in classes]
    else:
        color, described = None, [(label, None, True) for label in used]
    if not 1 <= len(described) < MOST_CLASSES:
        raise InputError(
            f"{root}: {counted(described, 'class')} beside the background; a segmenter tells 1 to {MOST_CLASSES - 1} "
            "apart: label some shapes, or fewer kinds"
        )
    every = [(BACKGROUND, color, False), *described]
    return MaskValues(tuple(MaskClass(i, *each) for i, each in enumerate(every)))


def _parts(root: Path, stems: Sequence[bytes]) -> tuple[dict[str, list[bytes]], list[bytes]]:
    """The images of each split, by the folder they lie in where there is train/ with another; and those of none."""
    found: dict[str, list[bytes]] = {}
    beside: list[bytes] = []
    folders: dict[str, str] = {}
    for stem in stems:
        first = os.fsdecode(stem).split("/")[0] if b"/" in stem else ""
        split = SPLIT_FOLDERS.get(first.lower())
        if split is None:
            beside.append(stem)
        elif folders.setdefault(split, first) != first:
            raise InputError(f"{root}: both {folders[split]}/ and {first}/ are a {split} split; keep one of them")
        else:
            found.setdefault(split, []).append(stem)
    if "train" not in found or (len(found) == 1 and beside):
        return {"all": list(stems)}, []
    if len(found) == 1:
        return {"all": found["train"]}, []
    return {split: found[split] for split in ("train", "val", "test") if split in found}, beside


def _split(root: Path, values: MaskValues, truth: LabelmeTruth, pairs: Sequence[tuple[bytes, bytes]]) -> MaskSplit:
    images, files = (np.array(paths, np.bytes_) for paths in zip(*pairs, strict=True))
    return MaskSplit(
        values, images, file_sizes(root, images), files, file_sizes(root, files), root=str(root), truth=truth
    )


@dataclass(frozen=True, eq=False)
class LabelmeTruth:
    """index: of each label, among the known classes."""

    root: Path
    index: dict[str, int]
    digest: bytes

    def draw(self, name: bytes) -> Drawn:
        image = self.root / os.fsdecode(name)
        path = image.with_suffix(".json")
        document = coco.read_document(path)
        height, width = _size(document, image, path)
        labels: list[int] = []
        members: list[list[int]] = []  # of each object, its shapes
        place: dict[tuple[str, Any], int] = {}
        shapes = coco.entries(document, "shapes", path)
        for i, shape in enumerate(shapes):
            label = coco.text(shape, "label", f"{path}: shapes[{i}]")
            group = shape.get("group_id")
            key = (label, f"alone {i}" if group is None else json.dumps(group))
            if key not in place:
                if label not in self.index and not _is_void(label):
                    raise InputError(f"{path}: shapes[{i}]: the label {label} was not there before: open the data anew")
                place[key] = len(labels)
                labels.append(VOID if _is_void(label) else self.index[label])
                members.append([])
            members[place[key]].append(i)
        problems: list[str] = []

        def masks() -> Iterator[tuple[int, np.ndarray]]:
            for k, group in enumerate(members):
                mask = np.zeros((height, width), bool)
                for i in group:
                    try:
                        mask |= _mask(shapes[i], height, width)
                    except InputError as error:
                        problems.append(f"shapes[{i}] ({shapes[i]['label']}): {error}")
                yield k, mask

        drawn = lay(height, width, masks(), labels, [False] * len(labels))
        coco.refuse(path, problems)
        return drawn

    def objects(self, name: bytes) -> None:
        return None


def _size(document: dict[str, Any], image: Path, path: Path) -> tuple[int, int]:
    """Height and width that the shapes were drawn at: the JSON's, or where it has none the image's."""
    if document.get("imageHeight") is None or document.get("imageWidth") is None:
        height, width = open_image(image).shape[:2]
        return height, width
    height, width = (coco.whole(document, key, str(path)) for key in ("imageHeight", "imageWidth"))
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(f"{path}: {height} x {width} is not the size of an image")
    return height, width


def _mask(shape: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """bool (H, W), at least one of them set."""
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(type(v) in (int, float) and math.isfinite(v) for v in point)
        for point in points
    ):
        raise InputError("points must be a list of pairs of numbers")
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise InputError(f"a {kind} has two points, and this one has {len(points)}")
    if kind == "circle":
        (x, y), (to_x, to_y) = points
        if not (-TOLERANCE <= x <= width + TOLERANCE and -TOLERANCE <= y <= height + TOLERANCE):
            raise InputError(f"its centre lies outside the image: {x:g}, {y:g} of {width} x {height}")
        across, down = np.arange(width) + 0.5 - x, np.arange(height) + 0.5 - y  # of the pixels' centres
        mask = np.hypot(across, down[:, None]) <= math.hypot(to_x - x, to_y - y)
    elif kind == "rectangle":
        (x, y), (to_x, to_y) = points
        mask = polygons_mask([[x, y, to_x, y, to_x, to_y, x, to_y]], height, width)
    elif kind in ("polygon", "oriented_rectangle"):  # the latter has its four corners
        mask = polygons_mask([[value for point in points for value in point]], height, width)
    elif kind == "mask":
        mask = _stored(shape.get("mask"), points, height, width)
    else:
        raise InputError(
            f"is a {kind}, which covers no pixels here: remove it, or draw a polygon, rectangle, circle or mask"
        )
    if not mask.any():
        raise InputError("has no pixel: remove it")
    return mask


def _stored(encoded: Any, points: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """bool (H, W): a PNG in base64, laid at the first of two corners; both corners' pixels are of the box it fills.

    Corners of a mask that was moved in labelme are no whole numbers: as there, the first is rounded, and the PNG says
    how large the box is. labelme.utils.shapes_to_label
    """
    (x, y), (to_x, to_y) = points
    if not all(
        -TOLERANCE <= value <= size - 1 + TOLERANCE
        for value, size in ((x, width), (to_x, width), (y, height), (to_y, height))
    ):
        raise InputError(f"its mask lies outside the image: {x:g}, {y:g} to {to_x:g}, {to_y:g} of {width} x {height}")
    try:
        content = base64.b64decode(encoded)
        with open_encoded(io.BytesIO(content), len(content)) as image:
            mode, (columns, rows) = image.mode, image.size
            fits = abs(to_x - x + 1 - columns) < 0.5 and abs(to_y - y + 1 - rows) < 0.5
            stored = np.asarray(image) != 0 if fits and mode in ("1", "L") else np.zeros((0, 0), bool)
    except Exception as error:  # as in decode.py: whatever is no image makes Pillow raise nearly anything
        raise InputError("its mask is no PNG in base64, or a damaged one") from error
    if mode not in ("1", "L"):
        raise InputError(f"its mask must be black and white or grey, not {mode}")
    if not fits:
        raise InputError(
            f"its mask has {columns} x {rows} pixels, its points a box of {to_x - x + 1:g} x {to_y - y + 1:g}"
        )
    left, top = round(x), round(y)
    mask = np.zeros((height, width), bool)
    seen = stored[max(0, -top) : height - top, max(0, -left) : width - left]
    mask[max(0, top) : top + rows, max(0, left) : left + columns] = seen
    return mask
