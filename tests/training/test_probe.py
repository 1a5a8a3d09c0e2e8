"""Probes against scikit-learn itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitnext.models import catalog
from vitnext.training.probe import (
    NEIGHBOURS,
    STRENGTHS,
    cross_entropy,
    fit_linear,
    fit_neighbours,
    put_linear,
    scores,
)


def drawn(n, classes, seed, width=16, spread=1.5):
    """Features around one centre a class, of very different scales."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = random.integers(0, classes, n)
    labels[:classes] = np.arange(classes)
    scale = 10.0 ** np.linspace(-2, 2, width)
    features = (centres[labels] + spread * random.normal(size=(n, width)) + 3) * scale
    return features.astype(np.float32), labels


def theirs(strength, features, labels):
    """scikit-learn's own standardisation and regression."""
    regression = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    return make_pipeline(StandardScaler(), regression).fit(features.astype(np.float64), labels)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_folded_weights_give_the_decision_function(classes):
    train, val = drawn(200, classes, 0), drawn(80, classes, 1)
    found = fit_linear(train, val)
    expected = theirs(found.strength, *train).decision_function(val[0])
    logits = found.logits(val[0])
    if classes == 2:
        logits = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert found.loss == pytest.approx(cross_entropy(found.logits(val[0]), val[1]))


def test_the_strength_is_the_best_on_validation_images():
    train, val = drawn(120, 4, 0), drawn(100, 4, 1)
    losses = [log_loss(val[1], theirs(c, *train).predict_proba(val[0])) for c in STRENGTHS]
    found = fit_linear(train, val)
    assert found.strength == STRENGTHS[int(np.argmin(losses))] and found.loss == pytest.approx(min(losses), abs=1e-4)
    assert 0 < np.argmin(losses) < len(STRENGTHS) - 1
    alone = fit_linear(train, None)
    assert alone.strength == 1.0 and np.isnan(alone.loss)


def test_rounding_of_a_feature_that_hardly_varies_moves_nothing():
    features, labels = drawn(100, 3, 0)
    constant = np.full((len(features), 1), 7, np.float32)
    noisy = constant + np.random.default_rng(0).normal(0, 1e-6, constant.shape).astype(np.float32)
    found = fit_linear((np.hstack([features, constant, noisy]), labels), None)
    held = drawn(50, 3, 1)[0]
    one, other = (np.hstack([held, np.full((50, 2), value, np.float32)]) for value in (7, 7.00001))
    np.testing.assert_allclose(found.logits(one), found.logits(other), atol=1e-3)


def test_of_several_labels_each_is_a_regression_of_its_own():
    (features, labels), (held, truth) = drawn(150, 4, 0), drawn(60, 4, 1)
    several, wanted = (np.eye(5, dtype=np.uint8)[given] for given in (labels, truth))
    several[:, 2] |= features[:, 0] > np.median(features[:, 0])
    found = fit_linear((features, several), (held, wanted))
    logits = found.logits(held)
    for c in range(4):
        expected = theirs(found.strength, features, several[:, c]).decision_function(held)
        np.testing.assert_allclose(logits[:, c], expected, atol=1e-4)
    np.testing.assert_allclose(logits[:, 4], -np.log(151), atol=1e-5)  # a class that no image has
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert found.loss == pytest.approx(-np.where(wanted, np.log(p), np.log(1 - p)).mean())


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_it_becomes_the_head_of_a_network(family):
    torch.manual_seed(0)
    network = catalog.build(family, image_size=8, patch_size=4, dim=8, depth=1, heads=2, classes=3).eval()
    width = 16 if family == "deit" else 8
    train = drawn(60, 3, 0, width)
    found = fit_linear(train, None)
    put_linear(network, found)
    np.testing.assert_allclose(scores(network, train[0]), found.logits(train[0]), atol=1e-4, rtol=1e-5)


def test_as_many_neighbours_vote_as_name_the_most_images_right():
    train, val = drawn(200, 4, 0, spread=3.0), drawn(150, 4, 1, spread=3.0)
    unit = train[0] / np.linalg.norm(train[0], axis=1, keepdims=True)
    cosine = val[0] / np.linalg.norm(val[0], axis=1, keepdims=True) @ unit.T
    right = []
    for k in NEIGHBOURS:
        least = -np.sort(-cosine, axis=1)[:, k - 1, None]
        weights = np.exp(cosine / 0.07) * (cosine >= least)
        votes = np.stack([(weights * (train[1] == c)).sum(1) for c in range(4)], 1)
        right.append((votes.argmax(1) == val[1]).sum())
    head = fit_neighbours(train, val, 4)
    assert head.config.neighbours == NEIGHBOURS[int(np.argmax(right))] and len(set(right)) > 1
    assert fit_neighbours(train, None, 4).config.neighbours == 20
    assert fit_neighbours((train[0][:7], train[1][:7]), val, 4).config.neighbours in (5, 7)
