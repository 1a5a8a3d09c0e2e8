"""Labels that the features of a network contradict: confident learning (Northcutt, Jiang and Chuang 2021, "Confident
Learning: Estimating Uncertainty in Dataset Labels", arXiv:1911.00068) on a cross-validated linear probe.

    t_j = mean of p_j(x) over the images labelled j                                     (eq. 2)

An image labelled i is doubted if p_i(x) < t_i and p_j(x) >= t_j for another class j, the most probable of those. The
paper's confident joint counts it if p_j alone is confident; asking for a doubt about i too lists fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitnext.inference.activations import softmax
from vitnext.training.probe import fit_linear

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Doubts:
    """Doubted images, those of the largest difference between the two probabilities first.

    images: int64 (n,), rows of the features; given, other: int64 (n,), classes; p_given, p_other: their probabilities,
    by a probe that did not see the image; looked: how many images were looked at; accuracy: of how many of these, as a
    share, that probe names the given label, or None if none was looked at.
    """

    images: np.ndarray
    given: np.ndarray
    other: np.ndarray
    p_given: np.ndarray
    p_other: np.ndarray
    looked: int
    accuracy: float | None = None


def doubtful(features: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Doubts:
    """Look for wrong labels among features (N, width) and labels (N,).

    Classes of fewer than FOLDS images are left out: a probe without them in training could not name them. The strength
    of each fold's probe is chosen on the fold that it judges: one number, which learns nothing of a single image.
    """
    large = np.flatnonzero(np.bincount(labels) >= FOLDS)
    rows = np.flatnonzero(np.isin(labels, large))
    x, y = features[rows], np.searchsorted(large, labels[rows])
    if len(large) < 2:
        none = np.zeros(0, np.int64)
        return Doubts(none, none, none, np.zeros(0), np.zeros(0), 0)
    fold = _folds(y, seed)
    p = np.zeros((len(y), len(large)))
    for k in range(FOLDS):
        held = fold == k
        p[held] = softmax(fit_linear((x[~held], y[~held]), (x[held], y[held])).logits(x[held]).astype(np.float64))
    at = np.arange(len(y))
    threshold = np.array([p[y == j, j].mean() for j in range(len(large))])
    confident = np.where(p >= threshold, p, -1.0)
    confident[at, y] = -1.0
    other = confident.argmax(1)
    found = np.flatnonzero((p[at, y] < threshold[y]) & (confident[at, other] > 0))
    given, other = y[found], other[found]
    p_given, p_other = p[found, given], p[found, other]
    order = np.argsort(p_given - p_other, kind="stable")
    return Doubts(
        rows[found][order],
        large[given][order],
        large[other][order],
        p_given[order],
        p_other[order],
        len(rows),
        float((p.argmax(1) == y).mean()),
    )


def _folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """A fold for each image, int64 (N,), of every class as many in each as can be."""
    random, fold = np.random.default_rng(seed), np.zeros(len(labels), np.int64)
    for label in range(labels.max() + 1):
        members = random.permutation(np.flatnonzero(labels == label))
        fold[members] = np.arange(len(members)) % FOLDS
    return fold
