"""From classes, centres and offsets to segments: Panoptic-DeepLab's grouping (Cheng et al. 2020, arXiv:1911.10194,
section 3.1). No torch.

Centres are the peaks of the heat. Every pixel of things belongs to the centre that is nearest to where its offset
points, and an object has the class that most of its pixels have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vitnext.inference.activations import softmax
from vitnext.types import Segments

UNIT = 32.0  # pixels: of the network's offsets
PEAK = 0.1  # heat of a centre, at least
AROUND = 7  # pixels: side of the square in which a centre is the highest; this and the last from section 4
CHUNK = 1 << 20  # pixels worked on at a time


def activate(answers: np.ndarray) -> np.ndarray:
    """What can be averaged over windows: (B, classes + 3, h, w) with probabilities in place of the classes' logits."""
    done: np.ndarray = np.concatenate([softmax(answers[:, :-3]), answers[:, -3:]], axis=1)
    return done


def segments(bands: Iterable[tuple[int, np.ndarray]], size: tuple[int, int], things: Sequence[bool]) -> Segments:
    """Segments with scores at ``size`` (height, width), from bands as ``windows.bands`` gives them: (first row, float32
    (classes + 3, rows, W)), activated.

    things: of each class. A score is the mean probability of the class inside, and of a thing that times the heat at
    its centre. Memory: 11 bytes a pixel.
    """
    classes, sure = np.zeros(size, np.uint8), np.zeros(size, np.float16)
    heat, offsets = np.zeros(size, np.float32), np.zeros((2, *size), np.float16)
    for top, band in bands:
        rows = slice(top, top + band.shape[1])
        classes[rows], sure[rows] = band[:-3].argmax(0), band[:-3].max(0)
        heat[rows], offsets[:, rows] = band[-3], band[-2:] * UNIT
    is_thing, count = np.asarray(things, bool), len(things)
    centers = _centers(heat)
    peaks = heat[tuple(centers.T)]
    del heat
    owner = _owners(is_thing[classes], centers, offsets)
    del offsets
    # Of every object the votes of its pixels for each class of things.
    votes = np.zeros((len(peaks), count), np.int64)
    for rows in _chunks(size):
        inside = owner[rows] >= 0
        pairs = owner[rows][inside].astype(np.int64) * count + classes[rows][inside]
        votes += np.bincount(pairs, minlength=votes.size).reshape(votes.shape)
    there = np.flatnonzero(votes.any(axis=1))
    stuff = np.setdiff1d(np.flatnonzero(np.bincount(classes.ravel(), minlength=count)), np.flatnonzero(is_thing))
    of_stuff, of_object = np.zeros(count, np.int32), np.zeros(len(peaks) + 1, np.int32)
    of_stuff[stuff] = np.arange(1, len(stuff) + 1)
    of_object[there] = len(stuff) + np.arange(1, len(there) + 1)
    labels = np.concatenate([stuff, votes[there].argmax(1)]).astype(np.int64)
    pixels, certain = np.zeros(len(labels) + 1), np.zeros(len(labels) + 1)
    ids = owner  # its numbers become those of segments, row by row
    for rows in _chunks(size):
        ids[rows] = np.where(owner[rows] >= 0, of_object[owner[rows]], of_stuff[classes[rows]])
        flat = ids[rows].ravel()
        pixels += np.bincount(flat, minlength=len(pixels))
        certain += np.bincount(flat, sure[rows].ravel(), minlength=len(pixels))
    scores = certain[1:] / pixels[1:].clip(min=1)
    scores[len(stuff) :] *= peaks[there].clip(0, 1)
    return Segments(ids, labels, np.zeros(len(labels), bool), scores.astype(np.float32))


def _centers(heat: np.ndarray) -> np.ndarray:
    """int64 (n, 2): row and column of the peaks; of those of one height in a square the first alone, since what is
    rounded to bfloat16 is level around a peak."""
    from scipy.ndimage import maximum_filter

    found, margin = [], AROUND // 2
    for rows in _chunks(heat.shape):
        first = max(0, rows.start - margin)
        part = heat[first : rows.stop + margin]
        peak = (part == maximum_filter(part, AROUND, mode="constant")) & (part > PEAK)
        peak[: rows.start - first] = peak[rows.stop - first :] = False
        y, x = np.nonzero(peak)
        around, again = np.pad(part, margin), np.zeros(len(y), bool)
        for i, j in np.ndindex(AROUND, AROUND):
            if (i, j) < (margin, margin):
                again |= around[y + i, x + j] == part[y, x]
        found.append(np.stack([y + first, x], axis=1)[~again])
    return np.concatenate(found)


def _owners(thing: np.ndarray, centers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int32 (H, W): of every pixel of things the number of its centre, else -1."""
    from scipy.spatial import cKDTree

    owner = np.full(thing.shape, -1, np.int32)
    if not len(centers):
        return owner
    tree = cKDTree(centers)
    for rows in _chunks(thing.shape):
        y, x = np.nonzero(thing[rows])
        y += rows.start
        aims = np.stack([y + offsets[0, y, x].astype(np.float64), x + offsets[1, y, x].astype(np.float64)], axis=1)
        if len(aims):
            owner[y, x] = tree.query(aims)[1]
    return owner


def _chunks(size: tuple[int, ...]) -> list[slice]:
    """Rows, about CHUNK pixels at a time."""
    step = max(1, CHUNK // size[1])
    return [slice(top, min(size[0], top + step)) for top in range(0, size[0], step)]
