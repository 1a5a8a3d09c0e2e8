"""Which images an epoch takes, where it is not each of them once."""

from __future__ import annotations

import numpy as np
import torch


def class_order(labels: np.ndarray, power: float, generator: torch.Generator) -> np.ndarray:
    """As many indices as there are ``labels``, the class of each drawn with p_c ~ n_c^power (Kang et al. 2020, eq. 1).

    n_c images are in class c; power 1 draws classes as frequent as they are, 0 all alike. Within a class all images
    come once before one comes again.
    """
    counts = np.bincount(labels)
    chances = np.where(counts > 0, counts.astype(np.float64) ** power, 0.0)
    drawn = torch.multinomial(torch.from_numpy(chances), len(labels), replacement=True, generator=generator).numpy()
    order = np.empty(len(labels), np.int64)
    ends = np.cumsum(counts)[:-1]
    members_of = np.split(np.argsort(labels, kind="stable"), ends)
    places_of = np.split(np.argsort(drawn, kind="stable"), np.cumsum(np.bincount(drawn, minlength=len(counts)))[:-1])
    for members, places in zip(members_of, places_of, strict=True):
        if len(places):
            passes = -(-len(places) // len(members))
            shuffled = [members[torch.randperm(len(members), generator=generator).numpy()] for _ in range(passes)]
            order[places] = np.concatenate(shuffled)[: len(places)]
    return order


def occurrences(order: np.ndarray) -> np.ndarray:
    """How often each index of ``order`` has stood in it before: [5, 3, 5, 5] -> [0, 0, 1, 2]."""
    by_index = np.argsort(order, kind="stable")
    _, starts, counts = np.unique(order[by_index], return_index=True, return_counts=True)
    before = np.empty(len(order), np.int64)
    before[by_index] = np.arange(len(order)) - np.repeat(starts, counts)
    return before
