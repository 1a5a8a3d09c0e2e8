"""Dividing images of several labels each."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from vitnext.data.stratification import divide

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def random_labels(n, c, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random((n, c)) < random.uniform(0.02, 0.4, c)).astype(np.uint8)
    return labels, np.array([f"{i}.jpg" for i in range(n)], np.bytes_)


def naive(labels, names, shares, seed):
    """Sechidis et al. 2011, algorithm 1, line by line."""
    key = {i: hashlib.sha256(f"{seed}:".encode() + names[i]).digest() for i in range(len(names))}
    examples = sorted(range(len(names)), key=key.get)
    desired = {s: len(examples) * r for s, r in shares.items()}
    desired_of = {s: [labels[:, j].sum() * r for j in range(labels.shape[1])] for s, r in shares.items()}
    subsets = {s: [] for s in shares}

    def add(example, subset):
        subsets[subset].append(example)
        examples.remove(example)
        desired[subset] -= 1
        for j in range(labels.shape[1]):
            desired_of[subset][j] -= labels[example, j]

    while any(labels[e].any() for e in examples):
        count = {j: sum(int(labels[e, j]) for e in examples) for j in range(labels.shape[1])}
        label = min((j for j in count if count[j]), key=count.get)
        for example in [e for e in examples if labels[e, label]]:
            best = max(desired_of[s][label] for s in subsets)
            first = [s for s in subsets if desired_of[s][label] > best - 1e-9]
            add(example, max(first, key=desired.get))
    for example in list(examples):
        add(example, max(subsets, key=desired.get))
    return {s: sorted(held) for s, held in subsets.items()}


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_papers_algorithm(seed):
    labels, names = random_labels(120, 5, seed)
    assert divide(labels, names, SHARES, seed) == naive(labels, names, SHARES, seed)


def test_every_label_is_divided_as_wanted():
    labels, names = random_labels(3000, 12)
    parts = divide(labels, names, SHARES, 0)
    assert sorted(i for held in parts.values() for i in held) == list(range(3000))
    for name, share in SHARES.items():
        counts = labels[parts[name]].sum(0)
        assert np.abs(counts - share * labels.sum(0)).max() <= 3  # by chance: a standard deviation of 10
        assert abs(len(parts[name]) - share * 3000) <= 40


def test_it_depends_on_names_and_seed_alone():
    labels, names = random_labels(200, 4)
    parts = divide(labels, names, SHARES, 0)
    order = np.random.default_rng(1).permutation(200)
    again = divide(labels[order], names[order], SHARES, 0)
    named = {split: {names[i] for i in held} for split, held in parts.items()}
    assert named == {split: {names[order][i] for i in held} for split, held in again.items()}
    assert divide(labels, names, SHARES, 1) != parts


def test_few_images_still_give_each_split_one():
    labels, names = random_labels(3, 2)
    assert sorted(map(len, divide(labels, names, SHARES, 0).values())) == [1, 1, 1]
