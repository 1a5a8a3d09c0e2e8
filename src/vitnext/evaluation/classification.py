"""What is measured of a classifier on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from vitnext.errors import InputError, WorkError
from vitnext.evaluation import report
from vitnext.types import Classification, MultiLabel

if TYPE_CHECKING:
    from vitnext.data.dataset import Split
    from vitnext.inference.predictor import Predictor

RELIABILITY_BINS = 15  # Guo et al. 2017, section 5
Z95 = 1.959963984540054  # standard deviations: 95% of a normal distribution lies within
MATRIX_CLASSES = 1000  # up to which the confusion matrix is written whole: 3 MB of zeros, 25 times that of 5000
MISTAKES = 24  # the most confident ones, listed in the metrics and shown in the report


def classification_metrics(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Score N predictions over C classes against the truth.

    ``scores`` (N, C) are probabilities, ``labels`` (N,) the true class indices. Returns what JSON holds; an undefined
    number is None, never NaN:

    - ``task``, ``n``
    - ``top1``, ``top5``: share of images whose truth is first, or among the first min(5, C). Equal scores rank by class
      index.
    - ``top1_interval``: Wilson's 95% score interval of top1.
    - ``macro_f1``: mean F1 of the classes that have at least one true image; the others are left out, not counted as 0.
    - ``ece``: expected calibration error over 15 equal-width bins (Guo et al. 2017, "On Calibration of Modern Neural
      Networks", equation 3).
    - ``reliability``: those bins, {lower, upper, count, confidence, accuracy}, lower < confidence <= upper.
    - ``nll``: mean negative log likelihood in nats; a probability of 0 counts as float32's smallest, 87.3 nats.
    - ``per_class``: {class, n, precision, recall, f1}; precision is None for a class never predicted, recall and F1
      are None for a class without images.
    - ``confusion``: C x C counts, rows = truth, columns = predicted. Of more than 1000 classes in its place
      ``confusion_cells``: its cells off the diagonal that are not 0, [truth, predicted, count], two indices of
      ``per_class`` and a number.

    Raises InputError when shapes disagree, nothing is given, a label is no class, or a row does not hold probabilities.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    _require_probabilities(scores, labels, len(classes))
    n, count = scores.shape
    rows = np.arange(n)

    of_truth = scores[rows, labels][:, None]  # (N, 1)
    ahead = (scores > of_truth) | ((scores == of_truth) & (np.arange(count) < labels[:, None]))  # (N, C)
    rank = ahead.sum(axis=1)  # (N,), 0 = the model's first answer
    predicted = scores.argmax(axis=1)
    correct = rank == 0

    per_class = _per_class(labels, predicted, classes)
    bins = reliability(scores[rows, predicted].astype(np.float64), correct)
    gaps = [b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins if b["count"]]
    probability = np.clip(of_truth[:, 0].astype(np.float64), np.finfo(np.float32).tiny, 1)  # 1 may be exceeded, too
    return {
        "task": "classification",
        "n": n,
        "top1": float(correct.mean()),
        "top1_interval": wilson_interval(int(correct.sum()), n),
        "top5": float((rank < min(5, count)).mean()),
        "macro_f1": float(np.mean([row["f1"] for row in per_class if row["n"]])),
        "ece": float(sum(gaps) / n),
        "nll": float(np.log(1 / probability).mean()),
        "per_class": per_class,
        "reliability": bins,
        **_confusion(labels, predicted, count),
    }


class Scores:
    """Collects what a model says of a split's images, and their truth by the model's classes.

    Memory: a float32 row of scores an image. Raises InputError when the model lacks a class of the data.
    """

    def __init__(self, predictor: Predictor, split: Split, name: str) -> None:
        """name: of the data, for messages."""
        self.card, self.tta, self.split = predictor.card, predictor.tta, split
        self.kept: list[int] = []  # indices of the images that could be read
        self._truth = labels_by_name(split, self.card.classes, name)
        self._scores = np.empty((len(split), len(self.card.classes)), dtype=np.float32)

    def add(self, index: int, prediction: Classification | MultiLabel) -> None:
        """Raises WorkError for a score that is not finite."""
        if not np.isfinite(prediction.scores).all():
            raise WorkError(
                f"{self.split.name(index)}: the model gives a score that is not finite; its weights may be broken"
            )
        self._scores[len(self.kept)] = prediction.scores
        self.kept.append(index)

    @property
    def rows(self) -> np.ndarray:
        """float32 (n, C), of the images that could be read."""
        return self._scores[: len(self.kept)]

    @property
    def truth(self) -> np.ndarray:
        """Of the same images the labels (n,), or (n, C) where there are several an image."""
        labels: np.ndarray = self._truth[self.kept]
        return labels

    def thumbnails(self, rows: Sequence[int]) -> list[str]:
        images = (self.split.image(self.kept[row]) for row in rows)
        return [report.thumbnail(image, exif=self.card.preprocess.exif) for image in images]


class ClassificationCounts(Scores):
    """What ``evaluate`` counts of a classifier."""

    def result(self) -> dict[str, Any]:
        """As `classification_metrics`, tta, and mistakes: the 24 most confident (file, truth, predicted,
        confidence)."""
        scores, truth, classes = self.rows, self.truth, self.card.classes
        measured = {**classification_metrics(scores, truth, classes), "tta": self.tta}
        self._wrong = _confident_mistakes(scores, truth)
        measured["mistakes"] = [
            {
                "file": self.split.name(self.kept[row]),
                "truth": classes[truth[row]],
                "predicted": classes[scores[row].argmax()],
                "confidence": float(scores[row].max()),
            }
            for row in self._wrong
        ]
        return measured

    def report(self, metrics: dict[str, Any]) -> str:
        return report.render(metrics, self.card, self.thumbnails(self._wrong))


def _require_probabilities(scores: np.ndarray, labels: np.ndarray, count: int) -> None:
    if scores.ndim != 2 or scores.shape[1] != count or labels.shape != scores.shape[:1]:
        raise InputError(
            f"scores {scores.shape} and labels {labels.shape} do not fit {count} classes: give (N, {count}) and (N,)"
        )
    if not len(labels):
        raise InputError("there is no image to measure: the split is empty")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= count:
        raise InputError(f"labels must be whole numbers from 0 to {count - 1}")
    sums = scores.sum(axis=1, dtype=np.float64)
    # A row of half-precision probabilities sums to 1 within 1e-3; logits do not. NaN fails both comparisons.
    bad = ~((np.abs(sums - 1) < 1e-2) & (scores.min(axis=1) >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"scores of image {row} sum to {sums[row]:.4g}, not 1: give probabilities, the softmax of the logits"
        )


def _confusion(labels: np.ndarray, predicted: np.ndarray, count: int) -> dict[str, Any]:
    """``confusion`` or ``confusion_cells``, as `classification_metrics` says."""
    if count <= MATRIX_CLASSES:
        cells = np.bincount(labels * count + predicted, minlength=count * count)
        return {"confusion": cells.reshape(count, count).tolist()}
    wrong = predicted != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True)
    return {"confusion_cells": np.column_stack([pairs, counts]).tolist()}


def _per_class(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class; F1 = 2 TP / (2 TP + FP + FN)."""
    right, truths, predictions = (
        np.bincount(chosen, minlength=len(classes)) for chosen in (labels[labels == predicted], labels, predicted)
    )
    return [
        {
            "class": name,
            "n": int(n),
            "precision": float(hit / guessed) if guessed else None,
            "recall": float(hit / n) if n else None,
            "f1": float(2 * hit / (n + guessed)) if n else None,
        }
        for name, hit, n, guessed in zip(classes, right, truths, predictions, strict=True)
    ]


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """Mean confidence and accuracy in the confidence bins ((m - 1) / 15, m / 15] (Guo et al. 2017, section 2)."""
    edges = np.arange(RELIABILITY_BINS + 1) / RELIABILITY_BINS
    # A confidence may exceed 1 by a rounding error.
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, RELIABILITY_BINS - 1)
    bins = []
    for m in range(RELIABILITY_BINS):
        inside = bin_of == m
        filled = bool(inside.any())
        bins.append(
            {
                "lower": float(edges[m]),
                "upper": float(edges[m + 1]),
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()) if filled else None,
                "accuracy": float(correct[inside].mean()) if filled else None,
            }
        )
    return bins


def wilson_interval(right: int, n: int) -> list[float]:
    """95% score interval of right / n (Wilson 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference"): the shares p with abs(right / n - p) <= z sqrt(p (1 - p) / n).

    Where all are right, a bootstrap would draw nothing else and give [1, 1]; this one's lower bound is n / (n + z^2).
    """
    share, c = right / n, Z95**2 / n
    middle = share + c / 2
    half = sqrt(c * share * (1 - share) + c * c / 4)
    # Of 0 and of n right a bound is the share itself, which rounding may miss on either side.
    return [min(max((middle - half) / (1 + c), 0.0), share), max(min((middle + half) / (1 + c), 1.0), share)]


def _confident_mistakes(scores: np.ndarray, truth: np.ndarray) -> list[int]:
    """Rows that are wrong, the most confident first, at most MISTAKES of them."""
    wrong = np.flatnonzero(scores.argmax(axis=1) != truth)
    order = np.argsort(-scores[wrong].max(axis=1), kind="stable") if len(wrong) else wrong
    return [int(row) for row in wrong[order[:MISTAKES]]]


def labels_by_name(split: Split, classes: Sequence[str], name: str) -> np.ndarray:
    """The split's labels, (N,) as indices into the model's classes, or (N, C) in their order."""
    index = {label: i for i, label in enumerate(classes)}
    missing = [label for label in split.classes if label not in index]
    if missing:
        raise InputError(
            f"{name}: the model does not know {_some(missing)}; its classes are {_some(classes)}; "
            "rename the data's classes, or evaluate a model trained on them"
        )
    position = np.array([index[label] for label in split.classes], dtype=np.int64)
    if split.labels.ndim == 1:
        labels: np.ndarray = position[split.labels]
        return labels
    several = np.zeros((len(split), len(classes)), split.labels.dtype)
    several[:, position] = split.labels
    return several


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
