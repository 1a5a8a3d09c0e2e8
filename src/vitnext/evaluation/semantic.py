"""What is measured of a semantic segmenter on images with masks, in memory that does not grow with their number."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vitnext.data.mask_values import VOID
from vitnext.errors import ImageError, InputError
from vitnext.evaluation import semantic_report
from vitnext.types import Segmentation

if TYPE_CHECKING:
    from vitnext.data.mask_folder import MaskSplit
    from vitnext.inference.predictor import Predictor

BINS = 15  # of confidence, as in classification
BOUNDARY = 0.02  # of the image's diagonal: Cheng et al. 2021 (Boundary IoU), section 5
SHOWN = 8  # images in each gallery of the report


class SemanticMetrics:
    """Counts over images, one at a time: ``update`` with truth and prediction, then ``result``."""

    def __init__(self, classes: Sequence[str]) -> None:
        count = len(classes)
        self.classes = tuple(classes)
        self.images = 0
        self.confusion = np.zeros((count, count), np.int64)  # rows: truth, columns: predicted
        self.boundary = np.zeros((2, count), np.int64)  # pixels in both boundaries, in either
        self.bins = np.zeros((3, BINS))  # pixels, their confidence summed, how many are right

    def update(self, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> dict[str, float | None]:
        """Count one image; returns its own ``miou`` and the mean confidence of its wrong pixels.

        truth and predicted: uint8 (H, W), class indices, 255 in the truth where void; confidence: uint8 (H, W), shares
        of 255. Raises InputError for shapes that differ.
        """
        if truth.shape != predicted.shape:
            raise InputError(f"the mask has {truth.shape} pixels, the prediction {predicted.shape}")
        count = len(self.classes)
        seen = truth != VOID
        pairs = truth[seen].astype(np.int64) * count + predicted[seen]
        here = np.bincount(pairs, minlength=count * count).reshape(count, count)
        self.images += 1
        self.confusion += here
        for index in np.flatnonzero(here.sum(0) + here.sum(1)):
            band, other = (boundary(mask == index) for mask in (truth, predicted))
            self.boundary[0, index] += (band & other & seen).sum()
            self.boundary[1, index] += ((band | other) & seen).sum()
        sure, right = confidence[seen], (truth == predicted)[seen]
        levels = np.bincount(sure, minlength=256)
        correct = np.bincount(sure[right], minlength=256)
        values = np.arange(256) / 255
        bin_of = np.maximum(-(-np.arange(256) * BINS // 255) - 1, 0)  # (lower, upper], in whole numbers
        for row, amounts in enumerate((levels, levels * values, correct)):
            self.bins[row] += np.bincount(bin_of, amounts, BINS)
        ious = iou(here)
        known = ious[~np.isnan(ious)]
        return {
            "miou": float(known.mean()) if len(known) else None,
            "sure_and_wrong": float(sure[~right].sum() / 255 / max(1, seen.sum())),
        }

    def result(self) -> dict[str, Any]:
        """What JSON holds; an undefined number is None.

        - ``task``, ``n`` (images), ``pixels`` (labelled ones)
        - ``miou``: mean over the classes that the truth or a prediction has of TP / (TP + FP + FN), counted over all
          images together; classes that neither has are left out, not counted as 0, and listed as ``absent``
        - ``per_class``: {class, pixels, iou, dice, precision, recall, boundary_iou}
        - ``pixel_accuracy``, ``mean_accuracy`` (mean recall of the classes in the truth)
        - ``boundary_iou``: the same mean of the IoU of what lies within 2% of the diagonal of a boundary (Cheng et al.
          2021, eq. 3)
        - ``ece``, ``reliability``: calibration over pixels, 15 bins of equal width
        - ``confusion``: C x C pixels, rows = truth, columns = predicted
        """
        confusion = self.confusion
        hits, truths, guesses = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        total = int(confusion.sum())
        if not total:
            raise InputError("there is no labelled pixel to measure on")
        ious = iou(confusion)
        with np.errstate(invalid="ignore"):
            edges = self.boundary[0] / self.boundary[1]
            dices, precisions, recalls = 2 * hits / (truths + guesses), hits / guesses, hits / truths
        count, sure, right = self.bins
        filled = count > 0
        return {
            "task": "semantic",
            "n": self.images,
            "pixels": total,
            "miou": _mean(ious),
            "pixel_accuracy": float(hits.sum() / total),
            "mean_accuracy": _mean(recalls),
            "boundary_iou": _mean(edges),
            "ece": float(np.abs(right - sure)[filled].sum() / total),
            "absent": [name for name, value in zip(self.classes, ious, strict=True) if np.isnan(value)],
            "per_class": [
                {
                    "class": name,
                    "pixels": int(truths[i]),
                    "iou": _number(ious[i]),
                    "dice": _number(dices[i]),
                    "precision": _number(precisions[i]),
                    "recall": _number(recalls[i]),
                    "boundary_iou": _number(edges[i]),
                }
                for i, name in enumerate(self.classes)
            ],
            "reliability": [
                {
                    "lower": m / BINS,
                    "upper": (m + 1) / BINS,
                    "count": int(count[m]),
                    "confidence": float(sure[m] / count[m]) if count[m] else None,
                    "accuracy": float(right[m] / count[m]) if count[m] else None,
                }
                for m in range(BINS)
            ],
            "confusion": confusion.tolist(),
        }


def iou(confusion: np.ndarray) -> np.ndarray:
    """(C, C) counts -> (C,): TP / (TP + FP + FN), NaN for a class that neither truth nor prediction has."""
    hits = confusion.diagonal()
    with np.errstate(invalid="ignore"):
        shares: np.ndarray = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    return shares


def boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels of a bool (H, W) mask that lie within 2% of the image's diagonal of its outline (Cheng et al. 2021,
    section 5), by a square; the edge of the image is part of the outline."""
    height, width = mask.shape
    distance = max(1, round(BOUNDARY * float(np.hypot(height, width))))
    return mask & ~_eroded(_eroded(mask, distance).T, distance).T


def _eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """Whether all of the 2 d + 1 pixels around each in its column are in the mask; beyond the image none is."""
    height = len(mask)
    sums = np.zeros((height + 2 * distance + 1, mask.shape[1]), np.int32)
    np.cumsum(mask, axis=0, out=sums[distance + 1 : distance + 1 + height])
    sums[distance + 1 + height :] = sums[distance + height]
    side = 2 * distance + 1
    whole: np.ndarray = sums[side:] - sums[:height] == side
    return whole


class SemanticCounts:
    """What ``evaluate`` counts of a semantic segmenter, at the images' original size. Memory: a few images.

    Raises InputError when the model lacks a class of the data.
    """

    def __init__(self, predictor: Predictor, split: MaskSplit, name: str) -> None:
        self.card, self.tta, self.split = predictor.card, predictor.tta, split
        self._table = by_name(split.classes, self.card.classes, name)
        self._metrics = SemanticMetrics(self.card.classes)
        self._galleries = Galleries(SHOWN, "miou")

    def add(self, index: int, prediction: Segmentation) -> None:
        """Raises ImageError for a mask that cannot be read or is of another size than its image."""
        truth, name = self._truth(index), self.split.name(index)
        if truth.shape != prediction.mask.shape:
            raise ImageError(f"{name}: image and mask differ in size")
        own = self._metrics.update(truth, prediction.mask, prediction.confidence)
        self._galleries.add({"file": name, **own}, index, prediction.mask)

    def result(self) -> dict[str, Any]:
        """As `SemanticMetrics.result`, tta, and images (best, worst, sure_and_wrong: {file, miou, sure_and_wrong})."""
        return {**self._metrics.result(), "tta": self.tta, "images": self._galleries.facts()}

    def report(self, metrics: dict[str, Any]) -> str:
        pictures = self._galleries.drawn(
            lambda i, mask: semantic_report.picture(self.split.image(i), self._truth(i), mask, self.card)
        )
        return semantic_report.render(metrics, self.card, pictures)

    def _truth(self, index: int) -> np.ndarray:
        mask: np.ndarray = self._table[self.split.mask(index)]
        return mask


Row = tuple[dict[str, Any], int, Any]  # facts, place in the split, what was predicted


class Galleries:
    """The ``most`` best images, the worst, and those with the most confidence in wrong pixels; no others are kept."""

    def __init__(self, most: int, score: str) -> None:
        """score: which of the facts tells how good an image is."""
        self.most, self.score = most, score
        self._heaps: dict[str, list[tuple[float, int, Row]]] = {"worst": [], "best": [], "sure_and_wrong": []}

    def add(self, facts: dict[str, Any], index: int, predicted: Any) -> None:
        score = facts[self.score]
        if score is None:  # nothing but void
            return
        keys = {"worst": -score, "best": score}
        if facts["sure_and_wrong"]:  # an image without a mistake is none of the wrong
            keys["sure_and_wrong"] = facts["sure_and_wrong"]
        for kind, key in keys.items():
            heap = self._heaps[kind]
            heapq.heappush(heap, (key, -index, (facts, index, predicted)))
            if len(heap) > self.most:
                heapq.heappop(heap)

    def facts(self) -> dict[str, list[dict[str, Any]]]:
        """Of each kind what is said of its images."""
        return {kind: [facts for facts, _, _ in rows] for kind, rows in self._chosen().items()}

    def drawn(self, picture: Callable[[int, Any], dict[str, str]]) -> dict[str, list[dict[str, str]]]:
        """Of each kind ``picture(place, predicted)`` of its images."""
        return {kind: [picture(i, predicted) for _, i, predicted in rows] for kind, rows in self._chosen().items()}

    def _chosen(self) -> dict[str, list[Row]]:
        """Of each kind the images, most of that kind first."""
        return {
            kind: [row for _, _, row in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
            for kind, heap in self._heaps.items()
        }


def by_name(theirs: Sequence[str], ours: Sequence[str], name: str) -> np.ndarray:
    """uint8 (256,): the data's class indices -> the model's; void stays void."""
    missing = [label for label in theirs if label not in ours]
    if missing:
        raise InputError(
            f"{name}: the model does not know the class {missing[0]!r}; its classes are {', '.join(ours[:8])}"
            f"{', ...' * (len(ours) > 8)}; evaluate data with its classes, or merge them as the training did"
        )
    table = np.full(256, VOID, np.uint8)
    table[: len(theirs)] = [ours.index(label) for label in theirs]
    return table


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
