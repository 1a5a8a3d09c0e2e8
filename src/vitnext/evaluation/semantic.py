"""Measure a semantic segmenter on images with masks, in memory that does not grow with their number."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitnext.data.mask_values import VOID
from vitnext.errors import ImageError, InputError
from vitnext.evaluation import semantic_report
from vitnext.evaluation.classification import require_readable, to_json, write
from vitnext.files import writable_folder
from vitnext.types import Failure, Segmentation

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


def evaluate(
    predictor: Predictor,
    split: MaskSplit,
    *,
    out: Path | None = None,
    name: str,
    split_name: str,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Segment every image of a split at its original size and return the metrics; with ``out``, write metrics.json and
    report.html too.

    The keys are those of `SemanticMetrics.result` and: data, split, model, architecture, date, seconds,
    images_per_second, images (best, worst, sure_and_wrong: {file, miou, sure_and_wrong}), skipped (file, error).
    Classes are matched by name. Memory: a few images, however many there are.

    Raises InputError when the model is no segmenter or lacks a class of the data, ``out`` cannot be written, or images
    or masks cannot be read, unless ``skip_unreadable``.
    """
    card = predictor.card
    if card.task != "semantic":
        raise InputError(f"{predictor.path}: this is a {card.task} model; data with masks measures segmenters")
    table = by_name(split.classes, card.classes, name)
    if out is not None:
        writable_folder(out).mkdir(parents=True, exist_ok=True)
    metrics = SemanticMetrics(card.classes)
    galleries = Galleries(SHOWN, "miou")
    skipped: list[dict[str, str]] = []
    start = time.perf_counter()
    total = len(split)
    for index, prediction in enumerate(predictor.predict_many(split.image(i) for i in range(total))):
        try:
            if isinstance(prediction, Failure):
                raise ImageError(prediction.error)
            assert isinstance(prediction, Segmentation)
            truth = table[split.mask(index)]
            if truth.shape != prediction.mask.shape:
                raise ImageError(f"{split.name(index)}: image and mask differ in size")
            own = metrics.update(truth, prediction.mask, prediction.confidence)
            galleries.add({"file": split.name(index), **own}, index, prediction.mask)
        except ImageError as error:
            skipped.append({"file": split.name(index), "error": str(error)})
        if progress is not None:
            progress(index + 1, total)
    seconds = time.perf_counter() - start
    require_readable(skipped, total, skip_unreadable)
    measured = metrics.result()
    chosen = galleries.chosen()
    values = {
        "task": measured.pop("task"),
        "data": name,
        "split": split_name,
        "model": Path(predictor.path).name,
        "architecture": card.architecture,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "images_per_second": round(metrics.images / max(seconds, 1e-9), 1),
        **measured,
        "images": {kind: [facts for facts, _, _ in rows] for kind, rows in chosen.items()},
        "skipped": skipped,
    }
    if out is not None:
        write(out / "metrics.json", to_json(values))
        pictures = {
            kind: [semantic_report.picture(split.image(i), table[split.mask(i)], mask, card) for _, i, mask in rows]
            for kind, rows in chosen.items()
        }
        write(out / "report.html", semantic_report.render(values, card, pictures))
    return values


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
        keys = {"worst": -score, "best": score, "sure_and_wrong": facts["sure_and_wrong"]}
        for kind, key in keys.items():
            heap = self._heaps[kind]
            heapq.heappush(heap, (key, -index, (facts, index, predicted)))
            if len(heap) > self.most:
                heapq.heappop(heap)

    def chosen(self) -> dict[str, list[Row]]:
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
