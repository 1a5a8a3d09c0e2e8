"""The depthwise convolution against torch's own, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from vitnext.models import depthwise
from vitnext.models.depthwise import DepthwiseConv2d, DepthwiseConvolution


@pytest.mark.parametrize(
    ("height", "width", "kernel"),
    [(3, 3, 7), (6, 6, 7), (7, 7, 7), (1, 1, 7), (2, 5, 7), (4, 3, 5), (2, 1, 3), (9, 8, 7)],
)
@pytest.mark.parametrize("batch", [5, 16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_convolution(height, width, kernel, batch, bias, layout):
    torch.manual_seed(0)
    x = torch.randn(batch, 4, height, width, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [x, weight] + ([b] if b is not None else [])
    expected = torch.nn.functional.conv2d(x, weight, b, padding=kernel // 2, groups=4)
    got = DepthwiseConvolution.apply(x, weight, b)
    torch.testing.assert_close(got, expected)
    out_gradient = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, out_gradient), torch.autograd.grad(expected, inputs, out_gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [5, 9])
def test_it_trains_in_bfloat16(size):
    layer, x = DepthwiseConv2d(4, 7), torch.randn(16, 4, size, size, requires_grad=True)
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            out = layer(x)
        assert out.dtype is precision
        gradients.append(torch.autograd.grad(out.float().square().sum(), [x, layer.weight, layer.bias]))
    for exact, rounded in zip(*gradients, strict=True):
        assert rounded.dtype is torch.float32
        assert (rounded - exact).abs().max() <= 0.03 * exact.abs().max()


@pytest.mark.parametrize(
    ("size", "kernel", "batch", "taken"),
    [
        (7, 7, 16, True),
        (8, 7, 16, False),
        (3, 7, 15, False),
        (1, 7, 1, True),
        (5, 5, 16, True),
        (3, 3, 16, False),
        (2, 3, 16, True),
    ],
)
def test_products_are_for_training_on_maps_no_larger_than_the_kernel(monkeypatch, size, kernel, batch, taken):
    calls = []

    def spy(*arguments):
        calls.append(True)
        return by_product(*arguments)

    by_product = depthwise.filters_by_product
    monkeypatch.setattr(depthwise, "filters_by_product", spy)
    layer, x = DepthwiseConv2d(2, kernel), torch.randn(batch, 2, size, size)
    trained = layer(x)
    trained.sum().backward()
    assert bool(calls) is taken
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)
    layer.eval()(x).sum().backward()
    assert not calls
