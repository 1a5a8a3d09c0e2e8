"""From logits to probabilities."""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray, axis: int = 1) -> np.ndarray:
    """Over the classes, which lie along ``axis``: (B, classes, ...) -> the same shape and precision."""
    with np.errstate(over="ignore"):  # of a difference, to minus infinity: a probability of 0
        powers: np.ndarray = logits - logits.max(axis=axis, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=axis, keepdims=True)
    return powers


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Of each class by itself: (B, classes) -> float32, computed in float64 so that no value overflows."""
    return (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)
