"""From classes, centres and offsets to segments: Panoptic-DeepLab's grouping (Cheng et al. 2020, arXiv:1911.10194,
section 3.1). No torch.

Centres are the peaks of the heat. Every pixel of things belongs to the centre that is nearest to where its offset
points, and an object has the class that most of its pixels have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import IO

import numpy as np

from vitnext.errors import WorkError
from vitnext.inference.activations import softmax
from vitnext.types import Segments

UNIT = 32.0  # pixels: of the network's offsets
PEAK = 0.1  # heat of a centre, at least
AROUND = 7  # pixels: side of the square in which a centre is the highest; this and the last from section 4
MEMORY = 1 << 26  # bytes
CHUNK = 1 << 20  # pixels worked on at a time
GATHERED = 32  # rows, in which peaks are looked for at a time
FARTHEST = 65504.0  # pixels: float16's largest


def activate(answers: np.ndarray) -> np.ndarray:
    """What can be averaged over windows: (B, classes + 3, h, w) with probabilities in place of the classes' logits."""
    done: np.ndarray = np.concatenate([softmax(answers[:, :-3]), answers[:, -3:]], axis=1)
    return done


def segments(bands: Iterable[tuple[int, np.ndarray]], size: tuple[int, int], things: Sequence[bool]) -> Segments:
    """Segments with scores at ``size`` (height, width), from bands as ``windows.bands`` gives them: (first row, float32
    (classes + 3, rows, W)), activated.

    things: of each class. A score is the mean probability of the class inside, and of a thing that times the heat at
    its centre. Which centre is the nearest is known when all are; until then the rest, 8 bytes a pixel, waits in a
    temporary file if it is more than MEMORY. The memory that grows with an image is that of the ids, 4 bytes a pixel.

    Raises WorkError when the temporary file cannot be written.
    """
    kept = SpooledTemporaryFile(MEMORY)  # noqa: SIM115 closing is what may fail
    try:
        centers, peaks = _centers(_heat_alone(bands, kept), size[1])
        return _grouped(partial(_again, kept, size), size, things, centers, peaks)
    finally:
        with suppress(OSError):  # of a full disk, which was said
            kept.close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkError(f"no room for a temporary file ({error.strerror}): name another folder by TMPDIR") from error


def _heat_alone(bands: Iterable[tuple[int, np.ndarray]], kept: IO[bytes]) -> Iterator[np.ndarray]:
    """The heat, of GATHERED rows at a time or more; the rest is written, row by row, float16 (H, 4, W)."""
    heat: list[np.ndarray] = []
    for _, band in bands:
        rest = np.empty((band.shape[1], 4, band.shape[2]), np.float16)
        rest[:, 0], rest[:, 1] = band[:-3].argmax(0), band[:-3].max(0)
        rest[:, 2:] = (band[-2:] * UNIT).clip(-FARTHEST, FARTHEST).swapaxes(0, 1)
        with _room():
            kept.write(rest.data)
        heat.append(band[-3].copy())
        if sum(map(len, heat)) >= GATHERED:
            yield np.concatenate(heat)
            heat = []
    if heat:
        yield np.concatenate(heat)


def _again(kept: IO[bytes], size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """What `_heat_alone` wrote: rows, classes int64 (rows, W), their probability, offsets in pixels (2, rows, W)."""
    with _room():  # what is still in a buffer is written
        kept.seek(0)
    step = max(1, CHUNK // size[1])
    for top in range(0, size[0], step):
        rows = slice(top, min(top + step, size[0]))
        shape = (rows.stop - top, 4, size[1])
        rest = np.frombuffer(kept.read(2 * math.prod(shape)), np.float16).reshape(shape)
        yield rows, rest[:, 0].astype(np.int64), rest[:, 1], rest[:, 2:].swapaxes(0, 1)


def _grouped(
    bands: Callable[[], Iterable[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]],
    size: tuple[int, int],
    things: Sequence[bool],
    centers: np.ndarray,
    peaks: np.ndarray,
) -> Segments:
    from scipy.spatial import cKDTree

    is_thing, count = np.asarray(things, bool), len(things)
    tree = cKDTree(centers) if len(centers) else None
    owner = np.full(size, -1, np.int32)  # of every pixel of things the number of its centre
    votes = np.zeros((len(peaks), count), np.int64)  # of every object those of its pixels for each class of things
    there = np.zeros(count, bool)
    for rows, classes, _, offsets in bands():
        there |= np.bincount(classes.ravel(), minlength=count) > 0
        y, x = np.nonzero(is_thing[classes])
        if tree is None or not len(y):
            continue
        aims = np.stack([y + rows.start + offsets[0, y, x].astype(np.float64), x + offsets[1, y, x]], axis=1)
        nearest = tree.query(aims)[1]
        owner[y + rows.start, x] = nearest
        votes += np.bincount(nearest * count + classes[y, x], minlength=votes.size).reshape(votes.shape)
    objects, stuff = np.flatnonzero(votes.any(axis=1)), np.flatnonzero(there & ~is_thing)
    of_stuff, of_object = np.zeros(count, np.int32), np.zeros(len(peaks) + 1, np.int32)
    of_stuff[stuff] = np.arange(1, len(stuff) + 1)
    of_object[objects] = len(stuff) + np.arange(1, len(objects) + 1)
    labels = np.concatenate([stuff, votes[objects].argmax(1)]).astype(np.int64)
    pixels, certain = np.zeros(len(labels) + 1), np.zeros(len(labels) + 1)
    ids = owner  # its numbers become those of segments, band by band
    for rows, classes, sure, _ in bands():
        ids[rows] = np.where(owner[rows] >= 0, of_object[owner[rows]], of_stuff[classes])
        flat = ids[rows].ravel()
        pixels += np.bincount(flat, minlength=len(pixels))
        certain += np.bincount(flat, sure.ravel(), minlength=len(pixels))
    scores = certain[1:] / pixels[1:].clip(min=1)
    scores[len(stuff) :] *= peaks[objects].clip(0, 1)
    return Segments(ids, labels, np.zeros(len(labels), bool), scores.astype(np.float32))


def _centers(heat: Iterable[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """The peaks of heat that comes as float32 (rows, width) from top to bottom: int64 (n, 2) rows and columns, and
    float32 (n,) their heat. Of those of one height in a square the first alone: what is rounded to bfloat16 is level
    around a peak."""
    from scipy.ndimage import maximum_filter

    margin = AROUND // 2
    border = np.zeros((margin, width), np.float32)
    places, peaks = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    held, start = border, -margin  # rows that the next band decides on or needs beside it, and which is the first
    for band in chain(heat, [border]):
        part = np.concatenate([held, band])
        decided = slice(margin, max(margin, len(part) - margin))
        peak = (part == maximum_filter(part, AROUND, mode="constant")) & (part > PEAK)
        peak[: decided.start] = peak[decided.stop :] = False
        y, x = np.nonzero(peak)
        around, again = np.pad(part, margin), np.zeros(len(y), bool)
        for i, j in np.ndindex(AROUND, AROUND):
            if (i, j) < (margin, margin):
                again |= around[y + i, x + j] == part[y, x]
        places.append(np.stack([y + start, x], axis=1)[~again])
        peaks.append(part[y, x][~again])
        held, start = part[decided.stop - margin :], start + decided.stop - margin
    return np.concatenate(places), np.concatenate(peaks)
