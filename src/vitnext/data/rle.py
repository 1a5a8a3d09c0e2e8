"""COCO's run-length encoding of masks (Lin et al. 2014, "Microsoft COCO"), and its polygons.

A mask is read column by column. Its counts are the lengths of the runs, zeros and ones in turn, beginning with zeros: a
mask whose first pixel is set begins with a run of no zeros. JSON holds counts as a list of numbers or as a string.

The string writes every count, from the fourth one on as the difference to the count two before it, in groups of five
bits, lowest first. A group is one character: chr(48 + group), plus 32 if another follows. The fifth bit of the last
group is the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vitnext.errors import InputError, require

FIRST_CHARACTER = 48  # "0"
BITS = 5
MORE = 1 << BITS  # this group is not the last one of its number
SIGN = 1 << (BITS - 1)
MOST_GROUPS = 12  # 60 bits, more than any image needs; a longer number would overflow int64


def encode(mask: np.ndarray) -> np.ndarray:
    """The counts, int64 (runs,), of a bool mask (H, W)."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=pixels.size)
    return np.concatenate([[0], counts]) if pixels[0] else counts


def encode_segments(ids: np.ndarray, n: int) -> list[np.ndarray]:
    """The counts of the masks ``ids == 1`` to ``ids == n``, from int (H, W) ids in 0..n, in one pass."""
    pixels = ids.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    ends = np.append(starts[1:], pixels.size)
    owner = pixels[starts]
    order = np.argsort(owner, kind="stable")  # the runs of each segment together, still in the order of pixels
    bounds = np.searchsorted(owner[order], np.arange(1, n + 2))
    encoded = []
    for first, last in pairwise(bounds):
        runs = order[first:last]
        edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()  # 0 to 1, 1 to 0, 0 to 1, ...
        counts = np.diff(edges, prepend=0, append=pixels.size)
        # COCO writes no run of zeros at the end, unless the mask is empty.
        encoded.append(counts[:-1] if len(edges) and edges[-1] == pixels.size else counts)
    return encoded


def decode(counts: np.ndarray | Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask, bool (H, W), of counts. Raises InputError if they are no runs of exactly H x W pixels."""
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise InputError("run lengths must be whole numbers of at least 0")
    if runs.max(initial=0) > height * width or runs.sum() != height * width:  # the first keeps the sum from overflowing
        raise InputError(f"the runs do not add up to the {height} x {width} pixels of the image")
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def area(counts: np.ndarray) -> int:
    """Number of pixels in the mask."""
    return int(counts[1::2].sum())


def compress(counts: np.ndarray) -> str:
    """Counts as COCO's string."""
    numbers = counts.astype(np.int64)
    numbers[3:] -= counts[1:-2]
    groups = np.zeros((len(numbers), MOST_GROUPS), dtype=np.uint8)
    used = np.zeros(groups.shape, dtype=bool)
    open_ = np.ones(len(numbers), dtype=bool)
    for place in range(MOST_GROUPS):
        low = numbers & (MORE - 1)
        numbers >>= BITS  # keeps the sign
        used[:, place] = open_
        open_ = open_ & (numbers != np.where(low & SIGN, -1, 0))
        groups[:, place] = low | np.where(open_, MORE, 0)
        if not open_.any():
            break
    return (groups[used] + FIRST_CHARACTER).astype(np.uint8).tobytes().decode("ascii")


def expand(text: str) -> np.ndarray:
    """The counts, int64 (runs,), of COCO's string. Raises InputError if it is none."""
    groups = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(groups):
        return groups
    if groups.min() < 0 or groups.max() >= 2 * MORE:
        raise InputError("compressed run lengths hold characters outside '0' to 'o'")
    last = groups < MORE
    if not last[-1]:
        raise InputError("compressed run lengths end within a number: the string is cut off")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MOST_GROUPS:
        raise InputError("compressed run lengths hold a number that is too large for an image")
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & (MORE - 1)) << (BITS * place), starts)
    numbers -= np.where(groups[ends] & SIGN, 1 << (BITS * lengths), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def polygon_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The mask, bool (H, W), of the pixels inside any of the polygons [x1, y1, x2, y2, ...], which pycocotools decides.

    Every polygon must have three points at least, with finite coordinates in or near the image: pycocotools takes four
    numbers for a box, and reserves memory for every pixel that an outline passes.

    Raises InputError without pycocotools.
    """
    coco = require("pycocotools.mask", "coco")
    outlines = [[float(number) for number in polygon] for polygon in polygons]
    merged = coco.merge(coco.frPyObjects(outlines, height, width))
    return decode(expand(merged["counts"].decode("ascii")), height, width)
