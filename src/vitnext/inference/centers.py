"""From classes, centres and offsets to segments: Panoptic-DeepLab's grouping (Cheng et al. 2020, arXiv:1911.10194,
section 3.1). No torch.

Centres are the peaks of the heat. Every pixel of things belongs to the centre that is nearest to where its offset
points, and an object has the class that most of its pixels have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vitnext.types import Segments

UNIT = 32.0  # pixels: of the network's offsets
PEAK = 0.1  # heat of a centre, at least
AROUND = 7  # pixels: side of the square in which a centre is the highest; this and the last from section 4
CHUNK = 1 << 20  # pixels grouped at a time


def activate(answers: np.ndarray) -> np.ndarray:
    """What can be averaged over windows: (B, classes + 3, h, w) with probabilities in place of the classes' logits."""
    from vitnext.inference.windows import softmax

    done: np.ndarray = np.concatenate([softmax(answers[:, :-3]), answers[:, -3:]], axis=1)
    return done


def segments(bands: Iterable[tuple[int, np.ndarray]], size: tuple[int, int], things: Sequence[bool]) -> Segments:
    """Segments with scores at ``size`` (height, width), from bands as ``windows.bands`` gives them: (first row, float32
    (classes + 3, rows, W)), activated.

    things: of each class. A score is the mean probability of the class inside, and of a thing that times the heat at
    its centre. Memory: about 20 bytes a pixel.
    """
    classes, sure = np.zeros(size, np.uint8), np.zeros(size, np.float16)
    heat, offsets = np.zeros(size, np.float32), np.zeros((2, *size), np.float16)
    for top, band in bands:
        rows = slice(top, top + band.shape[1])
        classes[rows], sure[rows] = band[:-3].argmax(0), band[:-3].max(0)
        heat[rows], offsets[:, rows] = band[-3], band[-2:] * UNIT
    is_thing = np.asarray(things, bool)
    owner, peaks = _owners(is_thing[classes], heat, offsets)
    count = len(things)
    # Of every object the votes of its pixels for each class of things.
    inside = owner >= 0
    votes = np.bincount(owner[inside].astype(np.int64) * count + classes[inside], minlength=len(peaks) * count)
    voted = votes.reshape(len(peaks), count).argmax(1) if len(peaks) else np.zeros(0, np.int64)
    there = np.flatnonzero(votes.reshape(len(peaks), count).sum(1)) if len(peaks) else voted
    stuff = np.setdiff1d(np.flatnonzero(np.bincount(classes.ravel(), minlength=count)), np.flatnonzero(is_thing))
    ids = np.zeros(size, np.int32)
    table = np.zeros(count, np.int32)
    table[stuff] = np.arange(1, len(stuff) + 1)
    ids[:] = table[classes]
    numbers = np.zeros(len(peaks), np.int32)
    numbers[there] = len(stuff) + np.arange(1, len(there) + 1)
    ids[inside] = numbers[owner[inside]]
    labels = np.concatenate([stuff, voted[there]]).astype(np.int64)
    pixels = np.bincount(ids.ravel(), minlength=len(labels) + 1)[1:]
    certain = np.bincount(ids.ravel(), sure.ravel(), minlength=len(labels) + 1)[1:] / pixels.clip(min=1)
    certain[len(stuff) :] *= peaks[there].clip(0, 1)
    return Segments(ids, labels, np.zeros(len(labels), bool), certain.astype(np.float32))


def _owners(thing: np.ndarray, heat: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32 (H, W): of every pixel of things the number of its centre, else -1; and the heat of each centre."""
    from scipy.ndimage import maximum_filter
    from scipy.spatial import cKDTree

    owner = np.full(thing.shape, -1, np.int32)
    peak = (heat == maximum_filter(heat, AROUND, mode="constant")) & (heat > PEAK)
    centers = np.argwhere(peak)
    if not len(centers):
        return owner, np.zeros(0, np.float32)
    tree = cKDTree(centers)
    step = max(1, CHUNK // thing.shape[1])
    for top in range(0, len(thing), step):
        y, x = np.nonzero(thing[top : top + step])
        y += top
        aims = np.stack([y + offsets[0, y, x].astype(np.float64), x + offsets[1, y, x].astype(np.float64)], axis=1)
        if len(aims):
            owner[y, x] = tree.query(aims)[1]
    return owner, heat[peak]
