"""The segments of an image from its masks: things one by one, stuff a class at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitnext.data.mask_values import VOID
from vitnext.types import Segments


def segments_of(classes: np.ndarray, instances: np.ndarray | None, things: Sequence[bool]) -> Segments:
    """Segments of a mask of classes, uint8 (H, W), 255 where void, and one of instances, integers (H, W).

    Pixels of a class of things with the same instance number are one segment, number 0 among them: what no instance is
    said of stays together. All pixels of a class of stuff are one. Without ``instances`` every class is one segment.
    """
    kind = classes.astype(np.int64)
    number = np.zeros_like(kind)
    if instances is not None:
        is_thing = np.zeros(VOID + 1, bool)
        is_thing[: len(things)] = things
        number = np.where(is_thing[classes], instances.astype(np.int64), 0)
    seen = classes != VOID
    pairs, place = np.unique(kind[seen] * (1 << 32) + number[seen], return_inverse=True)
    ids = np.zeros(classes.shape, np.int32)
    ids[seen] = place + 1
    return Segments(ids, pairs >> 32, np.zeros(len(pairs), bool))


def combined(segments: Segments, labels: np.ndarray, things: Sequence[bool]) -> Segments:
    """The segments under other labels, int64 (n,), of classes that are ``things`` or not.

    A segment of label 255 becomes void, those of one class of stuff become one, unless they are crowds, and those
    without a pixel are left out.
    """
    present = np.bincount(segments.ids.reshape(-1), minlength=len(labels) + 1)[1:] > 0
    place = np.zeros(len(labels) + 1, np.int32)  # at [k], the segment that segment k becomes or joins
    kept: list[int] = []
    stuff: dict[int, int] = {}
    for k in np.flatnonzero(present & (labels != VOID)).tolist():
        label = int(labels[k])
        alone = things[label] or segments.crowd[k]
        if alone or label not in stuff:
            kept.append(k)
            place[k + 1] = len(kept)
            if not alone:
                stuff[label] = len(kept)
        else:
            place[k + 1] = stuff[label]
    return Segments(place[segments.ids], labels[kept], segments.crowd[kept])
