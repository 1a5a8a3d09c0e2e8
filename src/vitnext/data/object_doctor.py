"""What the doctor looks for where the truth tells objects apart: what is left out of them, and what is not counted.

warnings  of instance maps: objects that lie in several classes or reach into void, pixels of things without a number;
          of annotations: objects that overlap or hide others, images without an object
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitnext.data.doctor import Finding, finding
from vitnext.data.mask_values import VOID
from vitnext.data.truth import Drawn
from vitnext.types import Segments
from vitnext.wording import counted, percent


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image.

    counts:  int64 (classes,): how many there are of each class of things
    several: how many lie in several classes
    in_void: how many reach into void
    bare:    pixels of classes of things that belong to none
    pixels:  of classes of things, or that annotated objects claim
    covered: those that more than one object claims
    hidden:  how many objects are all covered
    empty:   whether there is none, though all that is labelled are objects
    """

    counts: np.ndarray
    several: int = 0
    in_void: int = 0
    bare: int = 0
    pixels: int = 0
    covered: int = 0
    hidden: int = 0
    empty: bool = False


def of_map(mask: np.ndarray, numbers: np.ndarray, things: Sequence[bool]) -> Objects:
    """Of class indices, (H, W), 255 where void and below 0 where unknown, and an instance map of the same size."""
    known = mask >= 0
    is_thing = np.zeros(VOID + 1, bool)
    is_thing[: len(things)] = things
    classes = np.where(known, mask, VOID).astype(np.int64)
    thing = is_thing[classes]
    numbered = known & (numbers > 0)
    pairs = np.unique(numbers[numbered].astype(np.int64) * (VOID + 1) + classes[numbered])  # (number, class), once each
    number, label = pairs // (VOID + 1), pairs % (VOID + 1)
    _, classes_of_each = np.unique(number[label != VOID], return_counts=True)
    return Objects(
        np.bincount(label[is_thing[label]], minlength=len(things))[: len(things)],
        int((classes_of_each > 1).sum()),
        int((label == VOID).sum()),
        int((thing & (numbers == 0)).sum()),
        int(thing.sum()),
    )


def of_drawn(drawn: Drawn, segments: Segments, things: Sequence[bool]) -> Objects:
    """Of what annotations say, and the segments that it gives once classes are merged."""
    labels = segments.labels[np.array(things, bool)[segments.labels] & ~segments.crowd]
    counts = np.bincount(labels, minlength=len(things))
    empty = drawn.only_objects and not drawn.claimed and not segments.crowd.any()
    return Objects(counts, pixels=drawn.claimed, covered=drawn.covered, hidden=drawn.hidden, empty=empty)


def findings(images: Sequence[tuple[str, Objects]]) -> Iterator[Finding]:
    """What is odd about the objects of images, of which each has a name."""
    pixels = sum(found.pixels for _, found in images)

    def having(fact: str) -> tuple[list[str], int, str]:
        """Names of the images that have it, with how much, the most first; how much in all; and its share of pixels."""
        counts = sorted(((name, getattr(found, fact)) for name, found in images), key=lambda item: -item[1])
        total = sum(n for _, n in counts)
        return [f"{name} ({n:,})" for name, n in counts if n], total, percent(total, pixels)

    names, total, _ = having("several")
    if names:
        what = (
            f"{counted(total, 'object')} in several classes: each class counts its part as an object, "
            "unless data.merge makes one class of them"
        )
        yield finding("warning", "several_classes", what, names)
    names, total, _ = having("in_void")
    if names:
        what = f"{counted(total, 'object')} with pixels in void, which are left out"
        yield finding("warning", "objects_in_void", what, names)
    names, total, share = having("bare")
    if names:
        what = (
            f"{counted(total, 'pixel')} of things without a number, {share} of theirs: in each "
            "image those of a class count as one object"
        )
        yield finding("warning", "unnumbered", what, names)
    names, _, share = having("covered")
    if names:
        what = f"objects overlap in {counted(names, 'image')}, in {share} of their pixels, which go to the smaller one"
        yield finding("warning", "overlap", what, names)
    names, total, _ = having("hidden")
    if names:
        what = f"{counted(total, 'object')} of which nothing is seen, because smaller ones lie over them"
        yield finding("warning", "hidden", what, names)
    empty = [name for name, found in images if found.empty]
    if empty:
        yield finding("warning", "empty", f"{counted(empty, 'image')} without an object, all background", empty)
