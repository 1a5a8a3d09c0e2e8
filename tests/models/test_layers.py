from __future__ import annotations

import pytest
import torch

from vitnext.models.layers import StochasticDepth, stochastic_depth_rates


@pytest.mark.parametrize("shape", [(4000, 3, 5), (4000, 2, 3, 3)])
def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation(shape):
    torch.manual_seed(0)
    branch = torch.randn(shape)
    out = StochasticDepth(0.2)(branch)
    dropped = (out == 0).flatten(1).all(dim=1)
    assert dropped.double().mean().item() == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(out[~dropped], branch[~dropped] / 0.8)
    assert (out[~dropped] != 0).any(dim=-1).all()


def test_stochastic_depth_is_the_identity_outside_training_and_at_rate_zero():
    branch = torch.randn(8, 2)
    assert StochasticDepth(0.9).eval()(branch) is branch
    assert StochasticDepth(0.0)(branch) is branch
    assert "rate=0.900" in repr(StochasticDepth(0.9))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan")])
def test_stochastic_depth_needs_a_probability_below_one(rate):
    with pytest.raises(ValueError, match=r"rate is .*; it must be in \[0, 1\)"):
        StochasticDepth(rate)


def test_rates_grow_linearly_to_the_last_block():
    assert stochastic_depth_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert stochastic_depth_rates(0.3, 1) == [0.3]
    assert stochastic_depth_rates(0.3, 0) == []
