"""From the masks and classes of queries to the segments of an image, as "Per-Pixel Classification is Not All You Need"
(Cheng et al. 2021, arXiv:2107.06278, section 3.4) has it. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vitnext.data import rle
from vitnext.inference.activations import softmax
from vitnext.types import Detections, Segments

SURE = 0.8  # a query's probability of its class, at least
WHOLE = 0.8  # share of a mask that must be left when every pixel has gone to its most probable query


def segments(
    masks: np.ndarray,
    classes: np.ndarray,
    things: Sequence[bool],
    size: tuple[int, int],
    *,
    part: tuple[float, float] = (1.0, 1.0),
    sure: float = SURE,
) -> Segments:
    """Segments that exclude each other, at ``size`` (height, width).

    masks: logits (K, h, w); classes: logits (K, C + 1), the last "no object"; things: of each class, whether its
    instances are kept apart (segments of one class of stuff become one); part: shares of the masks' height and width,
    from the top left, that show the image. scores: probability of the class times the
    mean probability of the mask inside.
    """
    probabilities = softmax(classes)
    labels, scores = probabilities.argmax(1), probabilities.max(1)
    kept = np.flatnonzero((labels < classes.shape[1] - 1) & (scores >= sure))
    ids = np.zeros(size, np.int32)
    best = np.zeros(size, np.float32)
    owner = np.full(size, -1, np.int32)
    inside: dict[int, np.ndarray] = {}
    certainty: dict[int, float] = {}
    for query in kept.tolist():
        mask = resized(masks[query], size, part)
        weighed = scores[query] * mask
        better = weighed > best
        owner[better], best[better] = query, weighed[better]
        inside[query] = mask >= 0.5
        certainty[query] = float(scores[query] * mask[inside[query]].mean()) if inside[query].any() else 0.0
    found: list[int] = []
    certain: list[float] = []
    stuff: dict[int, int] = {}
    for query, mask in inside.items():
        left = (owner == query) & mask
        if not mask.any() or left.sum() < WHOLE * mask.sum():
            continue
        label = int(labels[query])
        if not things[label] and label in stuff:
            ids[left] = stuff[label]
            continue
        found.append(label)
        certain.append(certainty[query])
        ids[left] = len(found)
        if not things[label]:
            stuff[label] = len(found)
    count = len(found)
    return Segments(ids, np.array(found, np.int64), np.zeros(count, bool), np.array(certain, np.float32))


def detections(
    masks: np.ndarray,
    classes: np.ndarray,
    things: Sequence[bool],
    size: tuple[int, int],
    *,
    part: tuple[float, float] = (1.0, 1.0),
    most: int = 100,
) -> Detections:
    """The ``most`` most probable things, whose masks may overlap: for average precision. Arguments as of `segments`.

    A query may answer with several classes; scores: probability of the class times the mean of the mask inside. One
    mask is held at full size, the others as run lengths.
    """
    probabilities = softmax(classes)[:, :-1] * np.asarray(things, np.float32)
    order = np.argsort(-probabilities, axis=None, kind="stable")[:most]
    drawn: dict[int, tuple[np.ndarray, float]] = {}  # of each query the run lengths, and the mean inside
    runs, labels, scores = [], [], []
    for place in order:
        query, label = divmod(int(place), probabilities.shape[1])
        if probabilities[query, label] <= 0:
            break
        if query not in drawn:
            mask = resized(masks[query], size, part)
            inside = mask >= 0.5
            drawn[query] = rle.encode(inside), float(mask[inside].mean()) if inside.any() else 0.0
        counts, certainty = drawn[query]
        if certainty:
            runs.append(counts)
            labels.append(label)
            scores.append(float(probabilities[query, label]) * certainty)
    return Detections(size, tuple(runs), np.array(labels, np.int64), np.array(scores, np.float32))


def semantic(masks: np.ndarray, classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scores of each class at each pixel, float32 (B, C, height, width): the sum over queries of the class's
    probability times the mask's. masks: logits (B, K, h, w); classes: logits (B, K, C + 1)."""
    planes = np.stack([[resized(mask, size) for mask in image] for image in masks])  # (B, K, height, width)
    return np.einsum("bqc,bqhw->bchw", softmax(classes, axis=-1)[..., :-1], planes, optimize=True).astype(np.float32)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Scores (B, C, H, W) of `semantic` -> shares of their sum over the classes."""
    shares: np.ndarray = scores / scores.sum(axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
    return shares


def resized(mask: np.ndarray, size: tuple[int, int], part: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Logits (h, w), or this part of them, -> probabilities float32 at ``size``, interpolated before the sigmoid."""
    box = (0.0, 0.0, part[1] * mask.shape[1], part[0] * mask.shape[0])
    plane = Image.fromarray(mask.astype(np.float32))
    logits = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR, box=box))
    probabilities: np.ndarray = 1 / (1 + np.exp(-logits.clip(-80, 80)))
    return probabilities
