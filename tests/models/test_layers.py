from __future__ import annotations

import pytest
import torch
from torch import nn

from vitnext.models.layers import GELU, BatchNorm, LayerNorm, add_scaled


def filled_norms(dtype):
    """Ours and torch's, of 6 channels, with the same random numbers."""
    ours, theirs = BatchNorm(6).eval(), nn.BatchNorm2d(6).eval()
    for norm in (ours, theirs):
        torch.manual_seed(0)
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_()
    return ours.to(dtype), theirs.to(dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_writes_torchs_numbers_over_its_map(dtype, layout):
    ours, theirs = filled_norms(dtype)
    x = torch.randn(2, 6, 9, 7, dtype=dtype).to(memory_format=layout)
    with torch.no_grad():
        expected = theirs(x)
        out = ours(x)
    assert out.data_ptr() == x.data_ptr()
    assert torch.equal(out, expected) and out.is_contiguous(memory_format=layout)


def test_batch_norm_is_torchs_where_something_else_may_need_the_map():
    ours, theirs = filled_norms(torch.float32)
    x = torch.randn(2, 6, 9, 7)
    before = x.clone()
    assert torch.equal(ours(x), theirs(x))  # gradients: to x too
    with torch.no_grad():
        half = x.bfloat16()  # as autocast gives it to a norm in float32
        assert torch.equal(ours(half), theirs(x.bfloat16()))
        assert torch.equal(ours.train()(x), theirs.train()(x))
    assert torch.equal(x, before) and torch.equal(half, before.bfloat16())
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize(("width", "weights"), [(40, torch.float32), (48, torch.float32), (40, torch.bfloat16)])
def test_layer_norm_in_bfloat16_is_torchs_but_for_rounding(width, weights):
    torch.manual_seed(0)
    ours, exact = LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6).double()
    x = torch.randn(5, 3, width).bfloat16().requires_grad_()
    y = x.detach().double().requires_grad_()
    found, expected = ours.to(weights)(x), exact(y)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.01)
    slope = torch.randn(5, 3, width).bfloat16()
    found.backward(slope)
    expected.backward(slope.double())
    assert (x.grad.double() - y.grad).norm() < 0.01 * y.grad.norm()


def test_batch_norm_refuses_what_torch_refuses():
    norm = BatchNorm(4).eval()
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="should contain 64 elements not 4"):
            norm(torch.ones(1, 64, 1, 1))
        with pytest.raises(ValueError, match="expected 4D input"):
            norm(torch.ones(1, 4, 3))


def test_gelu_is_written_over_its_input_only_without_gradients():
    linear, random = nn.Linear(5, 7), torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=random)
    hidden = linear(x)
    expected = nn.GELU()(hidden)
    assert torch.equal(GELU()(hidden), expected) and not torch.equal(hidden, expected)
    expected.square().sum().backward()
    wanted = linear.weight.grad
    linear.zero_grad()
    GELU()(linear(x)).square().sum().backward()
    assert torch.equal(linear.weight.grad, wanted)
    with torch.inference_mode():
        written = linear(x)
        assert GELU()(written) is written and torch.equal(written, expected)
    program = torch.export.export(nn.Sequential(linear, GELU()), (x,))
    assert torch.equal(program.module()(x), expected)
    assert [str(node.target) for node in program.graph.nodes if "gelu" in node.name] == ["aten.gelu.default"]


def test_layer_scale_and_residual_are_the_same_numbers_with_and_without_gradients():
    random = torch.Generator().manual_seed(0)
    x, scale, branch = (torch.randn(shape, generator=random) for shape in ((2, 3, 5), (5,), (2, 3, 5)))
    expected, kept = x + scale * branch, (x.clone(), branch.clone())
    assert torch.equal(add_scaled(x, scale.clone().requires_grad_(), branch), expected)
    assert torch.equal(x, kept[0]) and torch.equal(branch, kept[1])
    with torch.inference_mode():
        mixed = add_scaled(x, scale, branch.bfloat16())  # as under autocast
        assert mixed.dtype is torch.float32 and torch.equal(mixed, x + scale * branch.bfloat16())
        out = add_scaled(x, scale, branch)
        assert out is branch and torch.equal(out, expected) and torch.equal(x, kept[0])
