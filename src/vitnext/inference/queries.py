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
STRIP = 1 << 20  # pixels at which masks are drawn at a time


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
    from the top left, that show the image. scores: probability of the class times the mean
    probability of the mask inside. Memory: 4 bytes a pixel and a strip, of however many queries.
    """
    probabilities = softmax(classes)
    labels, scores = probabilities.argmax(1), probabilities.max(1)
    kept = np.flatnonzero((labels < classes.shape[1] - 1) & (scores >= sure)).tolist()
    count = len(masks)
    ids = np.empty(size, np.int32)  # first the query that has won a pixel of its mask, ``count`` where none has
    area, won, certain = np.zeros(count, np.int64), np.zeros(count + 1, np.int64), np.zeros(count)
    for columns in _strips(size):
        owner = np.full((size[0], columns.stop - columns.start), count, np.int32)
        best = np.zeros(owner.shape, np.float32)
        for query in kept:
            mask = resized(masks[query], size, part, columns)
            inside = mask >= 0.5
            area[query] += np.count_nonzero(inside)
            certain[query] += mask[inside].sum(dtype=np.float64)
            mask *= scores[query]
            better = mask > best
            best[better] = mask[better]
            owner[better] = np.where(inside[better], query, count)
        won += np.bincount(owner.ravel(), minlength=count + 1)
        ids[:, columns] = owner
    number = np.zeros(count + 1, np.int32)  # of each query's segment
    chosen: list[int] = []
    stuff: dict[int, int] = {}
    for query in kept:
        if not area[query] or won[query] < WHOLE * area[query]:
            continue
        label = int(labels[query])
        if not things[label] and label in stuff:
            number[query] = stuff[label]
            continue
        chosen.append(query)
        number[query] = len(chosen)
        if not things[label]:
            stuff[label] = len(chosen)
    for columns in _strips(size):
        ids[:, columns] = number[ids[:, columns]]
    certainty = scores[chosen] * certain[chosen] / area[chosen]
    return Segments(ids, labels[chosen], np.zeros(len(chosen), bool), certainty.astype(np.float32))


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

    A query may answer with several classes; scores: probability of the class times the mean of the mask inside. So does
    Mask2Former's code (Cheng et al. 2022, arXiv:2112.01527), except that of a panoptic model it takes its 100 from
    stuff as well, and then leaves stuff out. One mask is held at full size, the others as run lengths.
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
            inside, total = np.empty(size, bool), 0.0
            for columns in _strips(size):
                mask = resized(masks[query], size, part, columns)
                inside[:, columns] = mask >= 0.5
                total += float(mask[inside[:, columns]].sum(dtype=np.float64))
            drawn[query] = rle.encode(inside), total / max(1, int(np.count_nonzero(inside)))
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


def resized(
    mask: np.ndarray, size: tuple[int, int], part: tuple[float, float] = (1.0, 1.0), columns: slice | None = None
) -> np.ndarray:
    """Logits (h, w), or this part of them, -> probabilities float32 at ``size``, interpolated before the sigmoid; or
    these columns of the whole, bit for bit."""
    height, width = mask.shape
    columns = columns or slice(0, size[1])
    # Pillow interpolates along rows first and then along columns. Asked for one after the other it gives the same, and
    # the second can be done for some columns alone; a box around the pixels of a strip would be rounded to float32.
    plane = Image.fromarray(mask.astype(np.float32))
    wide = plane.resize((size[1], height), Image.Resampling.BILINEAR, box=(0.0, 0.0, part[1] * width, height))
    wide = wide.crop((columns.start, 0, columns.stop, height))
    box = (0.0, 0.0, wide.width, part[0] * height)
    logits = np.asarray(wide.resize((wide.width, size[0]), Image.Resampling.BILINEAR, box=box)).clip(-80, 80)
    np.negative(logits, out=logits)
    np.exp(logits, out=logits)
    logits += 1
    probabilities: np.ndarray = np.divide(1, logits, out=logits)
    return probabilities


def _strips(size: tuple[int, int]) -> list[slice]:
    """Columns, about STRIP pixels at a time."""
    step = max(1, STRIP // size[0])
    return [slice(left, min(size[1], left + step)) for left in range(0, size[1], step)]
