"""Several labels an image: how well scores rank images, and the thresholds that decide."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

UNDECIDED = 0.5  # the threshold of a class of which the validation images show nothing


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of each class, float64 (C,); NaN for a class without a positive.

    The sum over thresholds of (R_n - R_(n-1)) P_n, without interpolation (Buckley and Voorhees 2000), images of equal
    scores passing together; as scikit-learn's ``average_precision_score``.

    scores: (N, C); truth: bool or 0/1 (N, C).
    """
    return weighted_average_precision(scores, truth, [np.ones(len(scores))])[0]


def weighted_average_precision(scores: np.ndarray, truth: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
    """`average_precision` for each of R ``weights``, float64 (R, C), from one ranking of the images.

    weights: how often each image counts, float64 (N,) each.
    """
    n, classes = scores.shape
    order = np.ascontiguousarray(np.argsort(-scores, axis=0, kind="stable").T)  # (C, N)
    ranked = np.take_along_axis(scores.T, order, 1)
    last = np.ones((classes, n), bool)  # of equal scores, where a threshold can lie
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    # Recall grows only where a positive passes: of all thresholds, places in the flat (C * N), those T are looked at.
    positives = np.flatnonzero(np.take_along_axis(truth.T, order, 1))
    places = np.flatnonzero(last)
    places, threshold_of = np.unique(places[np.searchsorted(places, positives)], return_inverse=True)
    class_of = places // n
    found = []
    for counts in weights:
        taken = counts[order]  # (C, N)
        gained = np.bincount(threshold_of, taken.ravel()[positives], len(places))  # (T,)
        total = np.bincount(class_of, gained, classes)
        hits = np.cumsum(gained) - (np.cumsum(total) - total)[class_of]  # of the same class
        seen = np.cumsum(taken, axis=1).ravel()[places]
        precision = np.divide(hits, seen, out=np.zeros(len(places)), where=seen > 0)
        area = np.bincount(class_of, gained * precision, classes)
        found.append(np.divide(area, total, out=np.full(classes, np.nan), where=total > 0))
    return np.array(found)


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
