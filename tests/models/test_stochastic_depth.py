from __future__ import annotations

import pytest
import torch
from torch import nn

from vitnext.models import catalog, stochastic_depth
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates

RATE = 0.4


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


def drawn(seed, samples, compiled=False):
    """Which samples keep their branch, as the layer draws them after this seed."""
    torch.manual_seed(seed)
    if compiled:
        return StochasticDepth(RATE)._draw_share(torch.empty(samples), int(RATE * samples))[2].float()
    return torch.empty(samples).bernoulli_(1 - RATE)


def test_of_a_compiled_batch_the_same_number_is_computed_and_every_sample_is_dropped_at_the_rate():
    """Of 7 samples 4.2 are kept on average: 5 are computed, of which all or 4 keep their branch."""
    kept = torch.zeros(7)
    torch.manual_seed(0)
    for _ in range(4000):
        index, place, keep = StochasticDepth(RATE)._draw_share(torch.empty(7), 2)
        assert len(index) == 5 and keep.sum() in (4, 5)
        assert torch.equal(index[place][keep], torch.arange(7)[keep])
        kept += keep
    torch.testing.assert_close(kept / 4000, torch.full((7,), 1 - RATE), atol=0.03, rtol=0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])  # of the branch; autocast has it smaller
def test_a_residual_is_the_equation_and_computes_no_branch_that_is_dropped(dtype, scaled, compiled, monkeypatch):
    """x + scale * keep * branch(x, other) / (1 - rate), its gradients, for several draws."""
    monkeypatch.setattr(stochastic_depth, "is_compiling", lambda: compiled)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, 4, generator=random, dtype=torch.float64).requires_grad_()
    other = torch.randn(7, 1, 1, generator=random, dtype=torch.float64).requires_grad_()
    scale = torch.randn(4, generator=random, dtype=torch.float64).requires_grad_() if scaled else None
    slope = torch.randn(7, 3, 4, generator=random, dtype=torch.float64)
    linear = nn.Linear(4, 4).double()
    leaves = [leaf for leaf in (x, other, scale, *linear.parameters()) if leaf is not None]
    seen = []

    def branch(x, other, none):
        assert none is None
        seen.append(len(x))
        return (linear(x) * other).to(dtype)

    for seed in [seed for seed in range(9) if 0 < drawn(seed, 7, compiled).sum() < 7]:
        keep = drawn(seed, 7, compiled)
        expected = branch(x, other, None) * (keep / (1 - RATE)).to(dtype).view(7, 1, 1)
        expected = x + (expected if scale is None else scale * expected)
        wanted = torch.autograd.grad(expected, leaves, slope)
        torch.manual_seed(seed)
        out = StochasticDepth(RATE).residual(x, branch, other, None, scale=scale)
        assert seen[-1] == (5 if compiled else keep.sum())
        found = torch.autograd.grad(out, leaves, slope)
        exact = {} if dtype is torch.float64 else {"rtol": 0.02, "atol": 0.05}
        torch.testing.assert_close(out, expected, **exact)
        torch.testing.assert_close(found, wanted, **exact)


def test_where_all_or_none_are_dropped_every_parameter_has_a_gradient():
    """Processes that train one model together wait for the gradients of all parameters."""
    linear, x = nn.Linear(2, 2), torch.randn(1, 2)
    kept = set()
    for seed in range(8):
        linear.zero_grad()
        torch.manual_seed(seed)
        StochasticDepth(RATE).residual(x, linear).sum().backward()
        kept.add(bool(linear.weight.grad.abs().sum()))
    assert kept == {False, True}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_residual_keeps_the_order_of_the_memory_and_the_wider_type(compiled, monkeypatch):
    monkeypatch.setattr(stochastic_depth, "is_compiling", lambda: compiled)
    x = torch.randn(6, 3, 5, 4).to(memory_format=torch.channels_last)
    torch.manual_seed(next(seed for seed in range(9) if 0 < drawn(seed, 6).sum() < 6))
    out = StochasticDepth(RATE).residual(x.bfloat16(), lambda x: x.float())
    assert out.is_contiguous(memory_format=torch.channels_last) and out.dtype is torch.float32


def test_outside_training_a_residual_is_the_sum():
    x, scale = torch.randn(5, 3), torch.randn(3)
    assert torch.equal(StochasticDepth(0.9).eval().residual(x, torch.sin, scale=scale), x + scale * x.sin())
    assert torch.equal(StochasticDepth(0.0).residual(x, torch.sin), x + x.sin())


class Residual(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.linear, self.stochastic_depth = nn.Linear(4, 4), StochasticDepth(rate)

    def forward(self, x):
        return self.stochastic_depth.residual(x, self.linear)


def test_blocks_of_several_rates_and_batches_of_any_size_are_compiled_and_exported():
    """Where a number is not fixed when it is traced, all samples are computed."""
    torch.compiler.reset()
    for rate in (0.25, 0.5):
        block = Residual(rate)
        block.compile(backend="aot_eager")
        block(torch.randn(8, 4)).sum().backward()
    model = nn.Sequential(Residual(0.25), Residual(0.5))
    of_any_size = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=True)
    for batch in (8, 12):
        of_any_size(torch.randn(batch, 4)).sum().backward()
    batch = torch.export.Dim("batch", min=4, max=64)
    program = torch.export.export(model, (torch.randn(8, 4),), dynamic_shapes=({0: batch},))
    assert program.module()(torch.randn(16, 4)).shape == (16, 4)


TINY = {
    "vit": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 3, "heads": 2, "classes": 3},
    "deit3": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 3, "heads": 2, "classes": 3, "layer_scale": 0.5},
    "dinov3": {"patch_size": 8, "dim": 16, "depth": 3, "heads": 2, "classes": 3},
    "convnext": {"depths": (1, 2), "widths": (8, 16), "classes": 3, "layer_scale": 0.5},
    "convnextv2": {"depths": (1, 2), "widths": (8, 16), "classes": 3},
    "swin": {"dim": 8, "depths": (2, 2), "heads": (1, 2), "window": 4, "classes": 3},
    "swinv2": {"dim": 8, "depths": (2, 2), "heads": (1, 2), "window": 4, "classes": 3},
    "mit": {
        "depths": (1, 2),
        "widths": (8, 16),
        "heads": (1, 2),
        "reductions": (2, 1),
        "mlp_ratios": (4.0, 2.0),
        "classes": 3,
    },
}


def same_draw(layer, x):
    """For ``_draw``: the samples that a compiled step keeps."""
    return layer._draw_share(x, int(len(x) * layer.rate))[2]


@pytest.mark.parametrize("family", TINY)
def test_families_compute_what_multiplying_by_zero_gives(family, monkeypatch):
    torch.manual_seed(0)
    model = catalog.build(family, **TINY[family], stochastic_depth=0.6).double().train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # the norms of SwinV2 start at zero
    images, labels = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])

    def trained():
        model.zero_grad()
        torch.manual_seed(1)
        logits = model(images)
        nn.functional.cross_entropy(logits, labels).backward()
        return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    monkeypatch.setattr(StochasticDepth, "_draw", same_draw)
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.jit, "is_tracing", lambda: True)
        multiplied = trained()
    torch.testing.assert_close(trained(), multiplied)
    monkeypatch.setattr(stochastic_depth, "is_compiling", lambda: True)
    torch.testing.assert_close(trained(), multiplied)
    assert not torch.allclose(model.eval()(images), multiplied[0])  # something was dropped
