"""Several labels an image: how well scores rank images, and the thresholds that decide."""

from __future__ import annotations

import numpy as np

UNDECIDED = 0.5  # the threshold of a class of which the validation images show nothing


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each class, float64 (C,); NaN for a class without a positive.

    The sum over thresholds of (R_n - R_(n-1)) P_n, without interpolation (Buckley and Voorhees 2000), images of equal
    scores passing together; as scikit-learn's ``average_precision_score``.

    scores: (N, C); truth: bool or 0/1 (N, C); weights: how often each image counts (N,), or None for once.
    """
    counts = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, axis=0, kind="stable")
    sorted_scores = np.take_along_axis(scores, order, 0)
    taken = counts[order]  # (N, C)
    hits = np.cumsum(taken * np.take_along_axis(truth, order, 0), axis=0)
    seen = np.cumsum(taken, axis=0)
    last = np.ones(scores.shape, bool)  # of equal scores
    last[:-1] = sorted_scores[1:] != sorted_scores[:-1]
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    found = np.where(last, hits, 0.0)  # positives down to here, where a threshold can lie
    step = np.diff(np.maximum.accumulate(found, axis=0), axis=0, prepend=0.0)
    total = hits[-1]
    area = (step * precision).sum(0)
    return np.divide(area, total, out=np.full(len(total), np.nan), where=total > 0)


def best_thresholds(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each class the threshold with the highest F1, float64 (C,): an image has the label if its score reaches it.

    It lies midway between two scores, so that rounding in another engine decides nothing; of equally good ones the
    highest is taken. A class without a positive gets 0.5. scores: (N, C); truth: bool or 0/1 (N, C).
    """
    thresholds = np.full(scores.shape[1], UNDECIDED)
    for c in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-scores[:, c], kind="stable")
        ranked = scores[order, c].astype(np.float64)
        hits = np.cumsum(truth[order, c])
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
        below = np.append(ranked[1:], 0.0)
        f1[ranked == below] = -1.0  # no threshold divides equal scores
        best = int(f1.argmax())
        thresholds[c] = (ranked[best] + below[best]) / 2
    return thresholds
