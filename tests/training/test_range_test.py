"""The learning-rate range test: which rates, what it reads from them, and that it leaves the network alone."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from toy_trial import toy
from vitnext.errors import WorkError
from vitnext.training.range_test import HIGHEST, LOWEST, range_test


def falling(seed, fall, noise=0.1):
    """The toy with losses of 100 steps that fall around the rate 1e-3 (step 50), rise from 1e-2 on, and vary."""
    model, task, *rest = toy("accumulate=1")
    exponent, random = np.log10(np.geomspace(LOWEST, HIGHEST, 100)), np.random.default_rng(seed)
    curve = 2.3 - fall / (1 + np.exp(-(exponent + 3) / 0.3)) + 2 * np.exp(3 * exponent + 4)
    losses = iter(curve + random.normal(0, noise, 100))

    def drawn(model, *_):
        return sum(p.sum() for p in model.parameters()) * 0 + next(losses)

    return model, replace(task, objective=drawn), *rest


def test_the_rates_grow_and_the_suggestion_is_a_tenth_of_that_with_the_lowest_loss(tmp_path):
    found = range_test(*toy())
    np.testing.assert_allclose(found.rates[:2], [LOWEST, LOWEST * (HIGHEST / LOWEST) ** (1 / 99)])
    assert len(found.rates) == len(found.losses) <= 100
    averages = []
    for end in range(1, len(found.losses) + 1):
        weights = 0.9 ** np.arange(end)[::-1]
        averages.append((weights * found.losses[:end]).sum() / weights.sum())
    np.testing.assert_allclose(found.smoothed, averages)
    assert found.suggestion == pytest.approx(found.rates[int(np.argmin(averages))] / 10, rel=0.05)
    assert 1e-4 < found.suggestion <= HIGHEST / 10  # which of the last has the lowest loss, rounding decides
    found.write(tmp_path)
    with open(tmp_path / "lr_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == found.losses.tolist()
    assert (tmp_path / "lr_test.png").read_bytes()[:4] == b"\x89PNG" and len(list(tmp_path.iterdir())) == 2


def test_the_network_is_left_as_it_was_and_the_test_repeats():
    model, *rest = toy()
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = range_test(model, *rest, steps=12), range_test(model, *rest, steps=12)
    assert np.array_equal(first.losses, second.losses)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_where_the_loss_explodes_the_rest_is_left_out():
    model, task, *rest = toy()
    steps = []

    def exploding(model, images, truth, done):
        steps.append(1)
        return task.objective(model, images, truth, done) * (1 if len(steps) <= 120 else float("nan"))

    found = range_test(model, replace(task, objective=exploding), *rest)
    assert len(found.losses) == 60  # of two parts each


def test_a_loss_that_never_falls_suggests_nothing():
    model, task, *rest = toy()
    random = np.random.default_rng(0)

    def noise(model, images, truth, done):
        return sum(p.sum() for p in model.parameters()) * 0 + random.normal(2, 0.1)

    with pytest.raises(WorkError, match="suggests nothing: the loss fell at no rate; set optimizer.learning_rate"):
        range_test(model, replace(task, objective=noise), *rest)


@pytest.mark.parametrize("seed", range(5))
def test_a_lucky_first_loss_is_no_suggestion(seed):
    """Noisy curves; that of one loss alone, the first, may be the lowest of what is smoothed."""
    with pytest.raises(WorkError, match="suggests nothing"):
        range_test(*falling(seed, fall=0))
    assert 1e-4 < range_test(*falling(seed, fall=0.5)).suggestion < 2e-3
