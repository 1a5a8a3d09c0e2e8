"""Truth that annotations describe: drawn image by image as it is asked for, so that nothing of pixels is held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vitnext.data.mask_values import VOID
from vitnext.data.segments import combined
from vitnext.types import Instances, Segments


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What the annotations of one image say.

    segments:     labels are indices into ``MaskValues.known``
    only_objects: whether the annotations say of objects alone: all else is background, and crowds, which they outline
                  roughly, are void in the mask of classes
    claimed:      pixels that objects claim
    covered:      those that more than one claims
    hidden:       objects of which nothing is seen, because others lie over them
    """

    segments: Segments
    only_objects: bool = False
    claimed: int = 0
    covered: int = 0
    hidden: int = 0

    @property
    def mask(self) -> np.ndarray:
        """uint8 (H, W): indices into ``MaskValues.known``, 255 where void."""
        table = np.full(len(self.segments.labels) + 1, VOID, np.uint8)
        seen = ~self.segments.crowd if self.only_objects else np.ones_like(self.segments.crowd)
        table[1:][seen] = self.segments.labels[seen]
        mask: np.ndarray = table[self.segments.ids]
        return mask


class Truth(Protocol):
    """Where the truth of images comes from, when it is not a mask file of each."""

    @property
    def digest(self) -> bytes:
        """sha256 of what it is read from."""

    def draw(self, name: bytes) -> Drawn:
        """Of the image that a split calls ``name``. Raises InputError for annotations that cannot be drawn."""

    def objects(self, name: bytes) -> Instances | None:
        """The objects whole, where annotations say so of objects that overlap; labels as in ``Drawn.segments``."""


def lay(
    height: int,
    width: int,
    masks: Iterable[tuple[int, np.ndarray]],
    labels: Sequence[int],
    crowd: Sequence[bool],
) -> Drawn:
    """Objects laid over each other, a smaller one on top, over a background of label 0; crowds lie below all objects.

    Outlines overlap where one object stands before another or lies in a hole of it, and formats like COCO's say of
    neither. Of equal ones the later lies on top.

    masks:  (k, bool (H, W)): the pixels of object k, once for each
    labels: of each object; 255 makes its pixels void
    crowd:  of each object
    """
    ground = height * width + 2
    owner = np.full((height, width), len(labels), np.int32)  # the background comes last
    size = np.full((height, width), ground, np.int32)  # of what owns a pixel
    claimed, covered = (np.zeros((height, width), bool) for _ in range(2))
    for k, mask in masks:
        box = _box(mask)
        pixels, top = mask[box], size[box]
        if not crowd[k] and labels[k] != VOID:
            covered[box] |= claimed[box] & pixels
            claimed[box] |= pixels
        area = ground - 1 if crowd[k] else int(pixels.sum())
        seen = pixels & (top >= area)
        owner[box][seen] = k
        top[seen] = area
    every = np.array([*labels, 0], np.int64)
    flags = np.array([*crowd, False], bool)
    areas = np.bincount(owner.reshape(-1), minlength=len(every))[:-1]
    hidden = int(((areas == 0) & (every[:-1] != VOID)).sum())
    segments = combined(Segments(owner + 1, every, flags), every, [False] + [True] * int(every.max()))
    return Drawn(segments, True, int(claimed.sum()), int(covered.sum()), hidden)


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that hold all of a mask: an object is small beside its image, and what follows fast."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return slice(0), slice(0)
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
