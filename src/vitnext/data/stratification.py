"""Dividing images of several labels each, so that every label is divided in the same proportion."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np


def divide(labels: np.ndarray, names: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label Data", algorithm 1).

    The label with the fewest images left is divided first; each of its images goes where that label is wanted most, of
    equals where images are wanted most. The paper breaks the ties that are left by chance; here the order of images is
    that of sha256("seed:name") and the first subset wins, so the same names are always divided in the same way.

    labels: bool or uint8 (N, C); names: bytes (N,); shares: of each subset, summing to 1.
    Returns the indices of each subset, ascending.
    """
    keys = [hashlib.sha256(b"%d:%b" % (seed, name)).digest() for name in names.tolist()]
    waiting = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    held = labels[waiting].astype(bool)  # (N, C), in that order
    parts = np.array(list(shares.values()))
    wanted = len(waiting) * parts  # (subsets,)
    wanted_of = parts[:, None] * held.sum(0)  # (subsets, C)
    place = np.full(len(waiting), -1)
    left = held.sum(0)
    while left.any():
        label = int(np.where(left > 0, left, len(waiting) + 1).argmin())
        for i in np.flatnonzero(held[:, label] & (place < 0)):
            subset = _most(wanted_of[:, label], wanted)
            place[i] = subset
            wanted_of[subset] -= held[i]
            wanted[subset] -= 1
            left = left - held[i]
    for i in np.flatnonzero(place < 0):  # images without a label
        subset = int(wanted.argmax())
        place[i] = subset
        wanted[subset] -= 1
    for subset in range(len(parts)):  # of few images a small share may have got none
        if not (place == subset).any():
            largest = int(np.bincount(place).argmax())
            place[np.flatnonzero(place == largest)[-1]] = subset
    return {name: sorted(waiting[place == subset].tolist()) for subset, name in enumerate(shares)}


def _most(wanted_of: np.ndarray, wanted: np.ndarray) -> int:
    best = np.flatnonzero(wanted_of >= wanted_of.max() - 1e-9)  # sums of shares are equal but for rounding
    return int(best[wanted[best].argmax()])
