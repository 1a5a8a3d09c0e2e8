"""Wrong labels that were put in are found, by the rule of the paper."""

from __future__ import annotations

import numpy as np
import pytest

from vitnext.inference.activations import softmax
from vitnext.training import label_noise
from vitnext.training.label_noise import FOLDS, doubtful
from vitnext.training.probe import fit_linear


def drawn(n=200, classes=4, wrong=12, seed=0):
    """Features around one centre a class; of ``wrong`` images the label is another one."""
    random = np.random.default_rng(seed)
    truth = np.arange(n) % classes
    features = 4 * random.normal(size=(classes, 8))[truth] + random.normal(size=(n, 8))
    labels = truth.copy()
    flipped = random.choice(n, wrong, replace=False)
    labels[flipped] = (truth[flipped] + random.integers(1, classes, wrong)) % classes
    return features.astype(np.float32), labels, truth, set(flipped.tolist())


def test_wrong_labels_are_found_and_the_right_ones_proposed():
    features, labels, truth, flipped = drawn()
    found = doubtful(features, labels)
    assert len(found.images) >= 8 and set(found.images.tolist()) <= flipped and found.looked == 200
    assert (found.other == truth[found.images]).all()
    assert (found.given == labels[found.images]).all() and (found.p_given < found.p_other).all()
    assert (np.diff(found.p_given - found.p_other) >= 0).all()


def test_the_rule_is_the_papers(monkeypatch):
    features, labels, _, _ = drawn(90, 3, 9, seed=3)
    fold = np.arange(90) // 3 % FOLDS
    monkeypatch.setattr(label_noise, "_folds", lambda labels, seed: fold)
    p = np.zeros((90, 3))
    for k in range(FOLDS):
        out = fold == k
        probe = fit_linear((features[~out], labels[~out]), (features[out], labels[out]))
        p[out] = softmax(probe.logits(features[out]).astype(np.float64))
    t = [np.mean([p[i, j] for i in range(90) if labels[i] == j]) for j in range(3)]
    expected = {}
    for i in range(90):
        confident = [j for j in range(3) if j != labels[i] and p[i, j] >= t[j]]
        if p[i, labels[i]] < t[labels[i]] and confident:
            expected[i] = max(confident, key=lambda j: p[i, j])
    found = doubtful(features, labels)
    assert found.accuracy == (p.argmax(1) == labels).mean() < 1
    assert dict(zip(found.images.tolist(), found.other.tolist(), strict=True)) == expected and len(expected) > 4


def test_classes_of_few_images_are_left_out():
    features, labels, _, _ = drawn()
    labels = np.where(labels == 1, 5, labels)  # 1 and 4 are of no image
    labels[:3] = 4
    found = doubtful(features, labels)
    assert found.looked == 197 and 4 not in {*found.other.tolist(), *found.given.tolist()}
    assert 5 in found.other and not {0, 1, 2} & set(found.images.tolist())
    assert doubtful(features[:4], labels[:4]).looked == 0


@pytest.mark.parametrize("sizes", [(5, 7), (23, 12)])
def test_every_class_is_spread_over_the_folds(sizes):
    labels = np.repeat(np.arange(2), sizes)
    fold = label_noise._folds(labels, 0)
    for label in range(2):
        counts = np.bincount(fold[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
