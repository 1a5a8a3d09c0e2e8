"""The average of the weights against its formula, and in a run that is stopped and resumed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitnext.training.ema import WeightAverage
from vitnext.training.loop import Interrupted


def test_it_is_the_formula():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.5)
    means = [p.detach().double().clone() for p in model.parameters()]
    for step in range(1, 25):
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p))
            model[1].running_mean.fill_(step)
            model[1].num_batches_tracked.fill_(step)
        average.update(model, step)
        d = min(0.5, (1 + step) / (10 + step))  # the rising share holds up to step 8
        means = [d * m + (1 - d) * p.detach().double() for m, p in zip(means, model.parameters(), strict=True)]
    for mean, found in zip(means, average.model.parameters(), strict=True):
        torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-6)
        assert not found.requires_grad
    tracked = average.model[1].num_batches_tracked
    assert average.model[1].running_mean.tolist() == [24.0, 24.0]
    assert tracked.item() == 24 and tracked.dtype == torch.int64
    assert not average.model.training and model.training


def test_the_average_is_what_is_validated_kept_and_left(run):
    end = run("averaged", "ema=0.9", "schedule.patience=0", select=False)
    epoch, kept = end.kept[-1]
    assert epoch == 2 and all(torch.equal(kept[name], tensor) for name, tensor in end.weights.items())
    assert end != run("plain")


@pytest.mark.parametrize("place", [("step", 2), ("epoch", 1), ("step", 5), ("epoch", 2)])
def test_resumed_bit_for_bit(place, run):
    whole = run("whole", "ema=0.9")
    with pytest.raises(Interrupted):
        run("stopped", "ema=0.9", press=place)
    resumed = run("stopped", "ema=0.9", resume=True)
    assert resumed == whole
    if resumed.kept:
        assert all(torch.equal(resumed.kept[-1][1][n], t) for n, t in whole.kept[-1][1].items())


def test_resuming_a_finished_run_leaves_the_average_again(run):
    whole = run("run", "ema=0.9")
    again = run("run", "ema=0.9", resume=True)
    assert again == whole and not again.kept
