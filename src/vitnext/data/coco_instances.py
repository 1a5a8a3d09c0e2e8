"""COCO's detection format: a JSON file that gives every object of an image a class and a mask.

A mask is a list of polygons or run lengths, as numbers or as a string; a crowd is one annotation.
https://cocodataset.org/#format-data, section 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.data import coco, rle
from vitnext.data.coco import Category, CocoImage
from vitnext.errors import InputError
from vitnext.types import Instances

# Outlines drawn along an edge may leave the image by a rounding; what goes further belongs to another image or size.
TOLERANCE = 1.0  # pixels


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object. name: what errors call it; label: index into the categories; segmentation: its piece of JSON, which
    takes a fourth of the memory of the lists it describes."""

    name: str
    label: int
    crowd: bool
    segmentation: bytes


@dataclass(frozen=True, eq=False)
class CocoInstances:
    """A data set in the detection format; masks are drawn as they are asked for.

    path:        the JSON file
    categories:  C of them, in the order of class indices
    images:      in the order of the JSON, those without an object too
    annotations: for each image, its objects
    """

    path: Path
    categories: tuple[Category, ...]
    images: tuple[CocoImage, ...]
    annotations: tuple[tuple[Annotation, ...], ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """C names."""
        return tuple(category.name for category in self.categories)

    def instances(self, index: int) -> Instances:
        """The objects of an image, in the order of the JSON.

        Raises InputError for an object whose mask cannot be drawn in this image: polygons with fewer than three points,
        outside the image or without a pixel, run lengths of another size; and if polygons need pycocotools, which is
        not installed.
        """
        image, annotations = self.images[index], self.annotations[index]
        masks = np.empty((len(annotations), image.height, image.width), dtype=bool)
        for mask, annotation in zip(masks, annotations, strict=True):
            mask[:] = self.mask(annotation, image)
        return Instances(
            masks,
            labels=np.array([annotation.label for annotation in annotations], dtype=np.int64),
            crowd=np.array([annotation.crowd for annotation in annotations], dtype=bool),
        )

    def findings(self, folder: Path | None = None) -> Iterator[str]:
        """A line for every mask that cannot be drawn and, with the ``folder`` of the images, every missing image."""
        for image, objects in zip(self.images, self.annotations, strict=True):
            if folder is not None and not (folder / image.file_name).is_file():
                yield f"{folder / image.file_name}: no such file, but {self.path.name} lists it"
            for annotation in objects:
                try:
                    self.mask(annotation, image)
                except InputError as error:
                    yield str(error)

    def mask(self, annotation: Annotation, image: CocoImage) -> np.ndarray:
        """bool (H, W), at least one of them set. Raises InputError as ``instances`` does."""
        try:
            segmentation = json.loads(annotation.segmentation)
            if isinstance(segmentation, dict):
                mask = _from_runs(segmentation, image)
            else:
                mask = polygons_mask(segmentation, image.height, image.width)
            if not mask.any():
                raise InputError("its mask has no pixel: remove it")
        except InputError as error:
            raise InputError(f"{self.path}: {annotation.name} of image {image.file_name}: {error}") from error
        return mask


def read_instances(path: Path, document: dict[str, Any] | None = None) -> CocoInstances:
    """Read the JSON file ``path``, or take its ``document``; masks are looked at when they are asked for.

    Raises InputError for a file that is no such JSON, and for annotations of unknown images or categories: the first
    three and how many.
    """
    document = coco.read_document(path) if document is None else document
    categories = coco.categories(document, path, panoptic=False)
    images = coco.images(document, path)
    index = {category.id: i for i, category in enumerate(categories)}
    found: dict[int | str, list[Annotation]] = {image.id: [] for image in images}
    problems: list[str] = []
    for position, entry in enumerate(coco.entries(document, "annotations", path)):
        where = f"{path}: annotations[{position}]"
        id, category = coco.image_id(entry, "image_id", where), coco.whole(entry, "category_id", where)
        if id not in found:
            problems.append(f"annotations[{position}] is about image {id!r}, which is not among the images")
        elif category not in index:
            problems.append(f"annotations[{position}] has category {category}, which is not listed")
        else:
            crowd = coco.flag(entry, "iscrowd", where)
            segmentation = json.dumps(entry.get("segmentation"), separators=(",", ":")).encode()
            found[id].append(Annotation(f"annotations[{position}]", index[category], crowd, segmentation))
    coco.refuse(path, problems)
    if not images:
        raise InputError(f"{path}: has no images")
    return CocoInstances(path, categories, images, tuple(map(tuple, found.values())))


def _from_runs(segmentation: dict[str, Any], image: CocoImage) -> np.ndarray:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [image.height, image.width]:
        raise InputError(f"its run lengths are for the size {size!r:.40}, the image has {image.height} x {image.width}")
    if isinstance(counts, str):
        return rle.decode(rle.expand(counts), image.height, image.width)
    if not isinstance(counts, list) or not all(type(count) is int and 0 <= count < 2**31 for count in counts):
        raise InputError("counts must be a list of whole numbers of at least 0, or a string")
    return rle.decode(np.array(counts, dtype=np.int64), image.height, image.width)


def polygons_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """bool (H, W): the pixels inside any of the polygons [x1, y1, x2, y2, ...].

    Raises InputError for what is no list of polygons, for one of fewer than three points or outside the image, and
    without pycocotools.
    """
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError("segmentation must be a list of polygons, or an object with size and counts")
    for number, polygon in enumerate(segmentation, start=1):
        if not isinstance(polygon, list) or not all(type(value) in (int, float) for value in polygon):
            raise InputError(f"polygon {number} must be a list of numbers x1, y1, x2, y2, ...")
        if len(polygon) < 6 or len(polygon) % 2:
            raise InputError(
                f"polygon {number} has {len(polygon)} numbers, but three points or more, x and y, are needed"
            )
        for axis, values, size in (("x", polygon[0::2], width), ("y", polygon[1::2], height)):
            for value in values:
                if not math.isfinite(value) or not -TOLERANCE <= value <= size + TOLERANCE:
                    raise InputError(
                        f"polygon {number} lies outside the image: {axis} = {value:g}, which is 0 to {size}"
                    )
    return rle.polygon_mask(segmentation, height, width)
