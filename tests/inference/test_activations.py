"""From logits to probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from vitnext.inference.activations import sigmoid, softmax


def test_softmax_of_large_logits():
    scores = softmax(np.float32([[1000, 0, -1000], [3e38, 3e38, -3e38], [np.log(1), np.log(2), np.log(5)]]))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [[1, 0, 0], [0.5, 0.5, 0], [1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)


def test_softmax_along_another_axis():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax(logits, axis=-1), expected, rtol=1e-5)


def test_sigmoid():
    logits = np.float32([[-1000, -3, 0, 3, 1000]])
    assert sigmoid(logits)[0].tolist() == pytest.approx([0, 0.0474259, 0.5, 0.9525741, 1])
