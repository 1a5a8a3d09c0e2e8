"""COCO's panoptic format: a JSON file, and a PNG for each image whose pixels hold R + 256 G + 65536 B, a segment's id.

Read and written here, and turned into two other formats: COCO's detection format, and PNGs of two channels, the class
and the number within the class. https://cocodataset.org/#format-data, section 4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from vitnext.data import coco, rle
from vitnext.data.coco import Category, CocoImage
from vitnext.data.label_maps import read_stored_pixels
from vitnext.errors import InputError
from vitnext.files import atomic_write, writable_folder
from vitnext.types import Segments, areas_and_boxes

LARGEST_ID = 256**3 - 1
CROWD = 255  # the number of a crowd in the two-channel format


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the JSON says about one image. png: its name; the rest has an entry for each segment, in the JSON's order.

    ids: in the PNG; labels: indices into the categories; scores: empty unless every segment has one
    """

    image: CocoImage
    png: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    crowd: tuple[bool, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class CocoPanoptic:
    """A data set in the panoptic format; the PNGs are read as they are asked for.

    path:        the JSON file
    folder:      where the PNGs lie
    categories:  C of them, in the order of class indices
    annotations: one an image
    header:      the JSON as it is, without its annotations
    """

    path: Path
    folder: Path
    categories: tuple[Category, ...]
    annotations: tuple[Annotation, ...]
    header: dict[str, Any]

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def classes(self) -> tuple[str, ...]:
        """C names."""
        return tuple(category.name for category in self.categories)

    @property
    def things(self) -> tuple[bool, ...]:
        """Whether each of the C classes is one of things (as opposed to stuff)."""
        return tuple(category.isthing for category in self.categories)

    def segments(self, index: int) -> Segments:
        """The segments of an image, in the order of the JSON.

        Raises ImageError when the PNG cannot be read, InputError when it and the JSON do not fit together.
        """
        segments, problems = self._compare(index)
        coco.refuse(self.folder / self.annotations[index].png, problems)
        return segments

    def findings(self) -> Iterator[str]:
        """A line for everything in which a PNG and the JSON disagree; every PNG is read."""
        for index, annotation in enumerate(self.annotations):
            png = self.folder / annotation.png
            try:
                _, problems = self._compare(index)
            except InputError as error:
                yield str(error)
            else:
                yield from (f"{png}: {problem}" for problem in problems)

    def _compare(self, index: int) -> tuple[Segments, list[str]]:
        """The segments of an image as far as they are known, and what is wrong with them."""
        annotation = self.annotations[index]
        png = self.folder / annotation.png
        pixels = read_stored_pixels(png)
        if pixels.ndim != 3:
            raise InputError(f"{png}: a panoptic PNG is RGB, and this one is grey or has a palette")
        height, width = annotation.image.height, annotation.image.width
        if pixels.shape[:2] != (height, width):
            stored = f"{pixels.shape[0]} x {pixels.shape[1]}"
            raise InputError(f"{png}: is {stored} pixels, but {self.path.name} says {height} x {width}")
        red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
        coded = red + 256 * green + 65536 * blue  # (H, W)
        known = np.array([0, *annotation.ids], dtype=np.int32)  # at [k], the id of segment k
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known, coded, sorter=order), len(known) - 1)
        ids = order[place].astype(np.int32)
        stray = known[ids] != coded
        problems = [
            f"segment {id} is in the PNG but not in {self.path.name}" for id in np.unique(coded[stray]).tolist()
        ]
        ids[stray] = 0
        absent = np.flatnonzero(np.bincount(ids.ravel(), minlength=len(known))[1:] == 0)
        problems += [f"segment {annotation.ids[k]} is in {self.path.name} but not in the PNG" for k in absent]
        segments = Segments(
            ids,
            labels=np.array(annotation.labels, dtype=np.int64),
            crowd=np.array(annotation.crowd, dtype=bool),
            scores=np.array(annotation.scores, dtype=np.float32) if annotation.scores else None,
        )
        return segments, problems


def read_panoptic(path: Path, folder: Path | None = None, document: dict[str, Any] | None = None) -> CocoPanoptic:
    """Read the JSON file ``path``, or take its ``document``. The PNGs lie in ``folder``: panoptic_val/ beside
    panoptic_val.json if none is given.

    Raises InputError for a file that is no such JSON, and for annotations of unknown images or categories, images with
    two annotations or none, and segments whose ids are 0, too large or not unique: the first three and how many.
    """
    document = coco.read_document(path) if document is None else document
    categories = coco.categories(document, path, panoptic=True)
    images = {image.id: image for image in coco.images(document, path)}
    index = {category.id: i for i, category in enumerate(categories)}
    annotations: dict[int | str, Annotation] = {}
    problems: list[str] = []
    for position, entry in enumerate(coco.entries(document, "annotations", path)):
        where = f"{path}: annotations[{position}]"
        id = coco.image_id(entry, "image_id", where)
        if id not in images:
            problems.append(f"annotations[{position}] is about image {id!r}, which is not among the images")
        elif id in annotations:
            problems.append(f"image {id!r} has two annotations")
        else:
            annotations[id] = _annotation(entry, images[id], index, where, problems)
    problems += [f"image {id!r} has no annotation" for id in images if id not in annotations]
    coco.refuse(path, problems)
    if not annotations:
        raise InputError(f"{path}: has no annotated image")
    folder = path.with_suffix("") if folder is None else folder
    header = {key: value for key, value in document.items() if key != "annotations"}
    return CocoPanoptic(path, folder, categories, tuple(annotations.values()), header)


def _annotation(
    entry: dict[str, Any], image: CocoImage, index: dict[int, int], where: str, problems: list[str]
) -> Annotation:
    """One entry of the JSON; what is wrong with its segments is added to ``problems``, and they are left out."""
    labels: dict[int, int] = {}
    crowd: list[bool] = []
    scores: list[float] = []
    for position, segment in enumerate(coco.entries(entry, "segments_info", Path(where))):
        here = f"{where}.segments_info[{position}]"
        id, category = coco.whole(segment, "id", here), coco.whole(segment, "category_id", here)
        score = segment.get("score")
        if score is not None and type(score) not in (int, float):
            raise InputError(f"{here}: score must be a number, not {score!r:.40}")
        if not 0 < id <= LARGEST_ID:
            problems.append(f"image {image.id!r} has a segment {id}, but ids go from 1 to {LARGEST_ID}")
        elif id in labels:
            problems.append(f"image {image.id!r} has two segments {id}")
        elif category not in index:
            problems.append(f"segment {id} of image {image.id!r} has category {category}, which is not listed")
        else:
            labels[id] = index[category]
            crowd.append(coco.flag(segment, "iscrowd", here))
            scores += [] if score is None else [float(score)]
    complete = len(scores) == len(labels)
    png = coco.file_name(entry, where)
    return Annotation(
        image, png, tuple(labels), tuple(labels.values()), tuple(crowd), tuple(scores) if complete else ()
    )


@contextmanager
def panoptic_writer(
    path: Path, folder: Path, categories: Sequence[Category]
) -> Iterator[Callable[[CocoImage, Segments], None]]:
    """Write a data set or a model's predictions: each call of what this gives writes an image's PNG into ``folder``,
    and the JSON file ``path`` is written at the end, unless the block fails.

    A PNG has its image's path and name with .png; segment k gets the id k. Memory: the JSON's entries and one image.

    Raises InputError when two images would have the same PNG, a size or a label does not fit, or a segment has no
    pixel; WorkError when the disk does not take it.
    """
    writable_folder(folder)
    writable_folder(path.parent)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    written: dict[str, str] = {}

    def write(image: CocoImage, segments: Segments) -> None:
        png = PurePosixPath(image.file_name).with_suffix(".png").as_posix()
        if png in written:
            raise InputError(f"{written[png]} and {image.file_name} would both be written as {folder / png}")
        if segments.ids.shape != (image.height, image.width):
            raise InputError(
                f"{image.file_name}: the segments are {_size(segments)}, the image is {image.height} x {image.width}"
            )
        written[png] = image.file_name
        entry = {"image_id": image.id, "file_name": png, "segments_info": _infos(image, segments, categories)}
        records.append(image.to_dict())
        annotations.append(entry)
        ids = segments.ids[..., None] >> np.array([0, 8, 16], dtype=np.int32)  # (H, W, 3)
        _write_png(folder / png, (ids & 255).astype(np.uint8))

    yield write
    document = {"images": records, "annotations": annotations, "categories": [c.to_dict() for c in categories]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        text = json.dumps(document, ensure_ascii=False)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names that are not Unicode


def write_panoptic(
    path: Path, folder: Path, categories: Sequence[Category], images: Iterable[tuple[CocoImage, Segments]]
) -> None:
    """`panoptic_writer` for ``images`` that come one after the other."""
    with panoptic_writer(path, folder, categories) as write:
        for image, segments in images:
            write(image, segments)


def _infos(image: CocoImage, segments: Segments, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """The entries of ``segments_info``."""
    if len(segments.labels) > LARGEST_ID:
        raise InputError(f"{image.file_name}: {len(segments.labels)} segments do not fit into three bytes")
    areas, boxes = areas_and_boxes(segments)
    infos = []
    for k, (label, crowd) in enumerate(zip(segments.labels.tolist(), segments.crowd.tolist(), strict=True)):
        if not 0 <= label < len(categories):
            raise InputError(f"{image.file_name}: segment {k + 1} has label {label} of {len(categories)} categories")
        if not areas[k]:
            raise InputError(f"{image.file_name}: segment {k + 1} has no pixel: leave it out")
        info = {"id": k + 1, "category_id": categories[label].id, "iscrowd": int(crowd)}
        info |= {"area": int(areas[k]), "bbox": boxes[k].tolist()}
        infos.append(info if segments.scores is None else info | {"score": float(segments.scores[k])})
    return infos


def two_channel(segments: Segments, categories: Sequence[Category]) -> np.ndarray:
    """Class and number as pixels, uint8 (H, W, 3): R the category's id, G the number within the class, B 0.

    Numbers count from 0 in the order of segments; a crowd has 255. Void is 0, 0.

    Raises InputError when a category's id is not in 1..255, or a class has more than 255 segments.
    """
    colors = np.zeros((len(segments.labels) + 1, 3), dtype=np.uint8)
    counts = [0] * len(categories)
    for k, (label, crowd) in enumerate(zip(segments.labels.tolist(), segments.crowd.tolist(), strict=True), start=1):
        category = categories[label]
        if not 0 < category.id <= 255:
            raise InputError(f"category {category.name!r} has the id {category.id}: two channels hold 1 to 255 only")
        if not crowd and counts[label] == CROWD:
            raise InputError(f"more than {CROWD} segments of {category.name!r} in an image: two channels hold no more")
        colors[k, :2] = category.id, CROWD if crowd else counts[label]
        counts[label] += not crowd
    pixels: np.ndarray = colors[segments.ids]
    return pixels


def write_two_channel(panoptic: CocoPanoptic, folder: Path) -> None:
    """Write every image's `two_channel` pixels into ``folder``, under the names that the panoptic PNGs have."""
    writable_folder(folder)
    for index, annotation in enumerate(panoptic.annotations):
        try:
            pixels = two_channel(panoptic.segments(index), panoptic.categories)
        except InputError as error:
            raise InputError(f"{annotation.png}: {error}") from error
        _write_png(folder / annotation.png, pixels)


def detection_document(panoptic: CocoPanoptic, *, things_only: bool = False, first_id: int = 1) -> dict[str, Any]:
    """The data set in COCO's detection format, as the JSON document: an annotation a segment, its mask compressed RLE.

    Annotations have the ids ``first_id`` and up. The 2018 COCO converter begins at 0, which COCO's own evaluation takes
    for "not matched". ``things_only`` leaves out stuff, segments and categories.
    """
    annotations: list[dict[str, Any]] = []
    for index, annotation in enumerate(panoptic.annotations):
        segments = panoptic.segments(index)
        areas, boxes = areas_and_boxes(segments)
        masks = rle.encode_segments(segments.ids, len(segments.labels))
        for k, label in enumerate(annotation.labels):
            category = panoptic.categories[label]
            if things_only and not category.isthing:
                continue
            entry: dict[str, Any] = {
                "id": first_id + len(annotations),
                "image_id": annotation.image.id,
                "category_id": category.id,
            }
            entry |= {"iscrowd": int(annotation.crowd[k]), "area": int(areas[k]), "bbox": boxes[k].tolist()}
            entry["segmentation"] = {"size": list(segments.ids.shape), "counts": rle.compress(masks[k])}
            annotations.append(entry)
    kept = [
        {key: value for key, value in category.items() if key != "isthing"}  # which this format does not know
        for category in panoptic.header["categories"]
        if category["isthing"] or not things_only
    ]
    return panoptic.header | {"annotations": annotations, "categories": kept}


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _size(segments: Segments) -> str:
    return " x ".join(map(str, segments.ids.shape))
