"""The depthwise convolution against torch's own, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from vitnext.models import depthwise
from vitnext.models.depthwise import DepthwiseConv2d, DepthwiseConvolution


@pytest.mark.parametrize(
    ("height", "width", "kernel"),
    [(3, 3, 7), (6, 6, 7), (7, 7, 7), (1, 1, 7), (2, 5, 7), (4, 3, 5), (2, 1, 3), (9, 8, 7), (2, 2, 5)],
)
@pytest.mark.parametrize("batch", [1, 5])
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
    ("size", "kernel", "taken"),
    [
        (9, 7, "filters_by_convolution"),
        (4, 7, "filters_by_convolution"),
        (3, 7, "filters_by_product"),
        (2, 5, "filters_by_product"),
        (2, 3, "filters_by_convolution"),
        (1, 3, "filters_by_product"),
        (3, 3, None),  # torch is fast
    ],
)
def test_the_filters_gradient_takes_the_fastest_way_in_training(monkeypatch, size, kernel, taken):
    calls = []
    for name in ("filters_by_convolution", "filters_by_product"):
        way = getattr(depthwise, name)
        monkeypatch.setattr(depthwise, name, lambda *x, name=name, way=way: calls.append(name) or way(*x))
    layer, x = DepthwiseConv2d(2, kernel), torch.randn(3, 2, size, size)
    trained = layer(x)
    trained.sum().backward()
    assert calls == ([taken] if taken else [])
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)
    layer.eval()(x).sum().backward()
    assert not calls
