"""What is measured of a model that gives an image several labels: how it ranks, and what it says at its thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitnext.errors import InputError
from vitnext.evaluation import multilabel_report
from vitnext.evaluation.classification import MISTAKES, Scores, reliability
from vitnext.inference.multilabel import average_precision, weighted_average_precision

RESAMPLES = 500  # of the bootstrap


def multilabel_metrics(
    scores: np.ndarray, truth: np.ndarray, thresholds: Sequence[float], classes: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Score N predictions over C classes against the truth.

    ``scores`` (N, C) are probabilities, ``truth`` (N, C) is 1 for each label of an image, ``thresholds`` (C,) decide.
    Returns what JSON holds; an undefined number is None:

    - ``task``, ``n``
    - ``map``: mean average precision, over the classes that at least one image has; the others are left out
    - ``map_interval``: 95% percentile bootstrap over images, 500 resamples
    - ``micro_f1``: 2 TP / (2 TP + FP + FN) of all decisions together; ``macro_f1``: mean of the classes' F1, of those
      that at least one image has
    - ``exact``: share of images of which every label is right and none is missing
    - ``labels_per_image``: {truth, predicted}, mean numbers
    - ``ece``, ``reliability``: calibration of all N x C probabilities, as in `classification_metrics`; accuracy is the
      share that are true
    - ``nll``: mean binary cross-entropy in nats; a probability of 0 counts as float32's smallest
    - ``per_class``: {class, n, ap, threshold, precision, recall, f1}; precision is None for a class never predicted,
      ap, recall and F1 are None for a class that no image has

    Raises InputError when shapes disagree, nothing is given, or a score is no probability.
    """
    scores, truth, limits = np.asarray(scores), np.asarray(truth).astype(bool), np.asarray(thresholds, np.float64)
    count = (len(classes),)
    if scores.ndim != 2 or scores.shape != truth.shape or scores.shape[1:] != count or limits.shape != count:
        raise InputError(
            f"scores {scores.shape}, truth {truth.shape}, {len(limits)} thresholds: {len(classes)} classes"
        )
    if not len(scores):
        raise InputError("there is no image to measure: the split is empty")
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise InputError("scores must be probabilities, the sigmoid of the logits")
    precisions = average_precision(scores, truth)
    predicted = scores >= limits
    hits, guesses, truths = (predicted & truth).sum(0), predicted.sum(0), truth.sum(0)
    per_class = [
        {
            "class": name,
            "n": int(truths[c]),
            "ap": float(precisions[c]) if truths[c] else None,
            "threshold": float(limits[c]),
            "precision": float(hits[c] / guesses[c]) if guesses[c] else None,
            "recall": float(hits[c] / truths[c]) if truths[c] else None,
            "f1": float(2 * hits[c] / (truths[c] + guesses[c])) if truths[c] else None,
        }
        for c, name in enumerate(classes)
    ]
    shown = [row for row in per_class if row["n"]]
    bins = reliability(scores.reshape(-1).astype(np.float64), truth.reshape(-1))
    gaps = [b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins if b["count"]]
    right = np.where(truth, scores, 1 - scores.astype(np.float64))
    return {
        "task": "multilabel",
        "n": len(scores),
        "map": float(np.mean([row["ap"] for row in shown])) if shown else None,
        "map_interval": _bootstrap_interval(scores, truth, seed) if shown else None,
        "micro_f1": float(2 * hits.sum() / max(1, truths.sum() + guesses.sum())) if shown else None,
        "macro_f1": float(np.mean([row["f1"] for row in shown])) if shown else None,
        "exact": float((predicted == truth).all(axis=1).mean()),
        "labels_per_image": {
            "truth": float(truths.sum() / len(scores)),
            "predicted": float(guesses.sum() / len(scores)),
        },
        "ece": float(sum(gaps) / scores.size),
        "nll": float(np.log(1 / np.maximum(right, np.finfo(np.float32).tiny)).mean()),
        "per_class": per_class,
        "reliability": bins,
    }


class MultiLabelCounts(Scores):
    """What ``evaluate`` counts of a model that gives an image several labels."""

    def result(self) -> dict[str, Any]:
        """As `multilabel_metrics`, tta, and mistakes: 24 images, the most confident (file, class, truth, score, labels,
        predicted)."""
        scores, truth, classes = self.rows, self.truth, self.card.classes
        measured = {**multilabel_metrics(scores, truth, self.card.thresholds, classes), "tta": self.tta}
        predicted = scores >= np.asarray(self.card.thresholds)
        worst = _confident_mistakes(scores, truth, predicted)
        self._wrong = [row for row, _ in worst]
        measured["mistakes"] = [
            {
                "file": self.split.name(self.kept[row]),
                "class": classes[c],
                "truth": bool(truth[row, c]),
                "score": float(scores[row, c]),
                "labels": [classes[i] for i in np.flatnonzero(truth[row])],
                "predicted": [classes[i] for i in np.flatnonzero(predicted[row])],
            }
            for row, c in worst
        ]
        return measured

    def report(self, metrics: dict[str, Any]) -> str:
        return multilabel_report.render(metrics, self.card, self.thumbnails(self._wrong))


def _confident_mistakes(scores: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> list[tuple[int, int]]:
    """(row, class) of each image's wrong decision furthest from the truth, the furthest first, at most MISTAKES."""
    distance = np.where(predicted != truth.astype(bool), np.abs(scores - truth), -1.0)
    worst = distance.argmax(axis=1)
    furthest = distance.max(axis=1)
    order = np.argsort(-furthest, kind="stable")[:MISTAKES]
    return [(int(row), int(worst[row])) for row in order if furthest[row] >= 0]


def _bootstrap_interval(scores: np.ndarray, truth: np.ndarray, seed: int) -> list[float]:
    """95% percentile bootstrap interval of the mean average precision (Efron 1979)."""
    random, n = np.random.default_rng(seed), len(scores)
    drawn = (np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(RESAMPLES))
    precisions = weighted_average_precision(scores, truth, drawn)  # (RESAMPLES, C)
    values = [row[shown].mean() for row, shown in zip(precisions, ~np.isnan(precisions), strict=True) if shown.any()]
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])] if values else [0.0, 1.0]
