"""Patches as Linears against torch's strided convolution, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models import patches, resnet
from vitnext.models.patches import PatchConv2d, PointwiseConv2d, patches_linear


@pytest.mark.parametrize(("height", "width", "size"), [(4, 6, 2), (5, 7, 2), (8, 9, 4), (3, 3, 3), (2, 2, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_convolution(height, width, size, layout):
    torch.manual_seed(0)
    x = torch.randn(2, 3, height, width, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(5, 3, size, size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    expected, got = F.conv2d(x, weight, bias, stride=size), patches_linear(x, weight, bias)
    torch.testing.assert_close(got, expected)
    gradient = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, [x, weight, bias], gradient),
        torch.autograd.grad(expected, [x, weight, bias], gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_it_is_for_training(monkeypatch):
    calls = []
    monkeypatch.setattr(patches, "patches_linear", lambda *inputs: calls.append(True) or patches_linear(*inputs))
    layer, x = PatchConv2d(3, 4, 2), torch.randn(2, 3, 6, 6)
    trained = layer(x)
    assert calls.pop()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)
    torch.testing.assert_close(layer.eval()(x), trained)
    assert not calls


@pytest.mark.parametrize(("height", "width", "stride"), [(6, 6, 2), (7, 4, 2), (1, 1, 2), (7, 8, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_points_with_a_stride_are_the_convolution(height, width, stride, bias):
    torch.manual_seed(0)
    layer = PointwiseConv2d(3, 5, stride, bias=bias).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    trained, expected = layer(x), F.conv2d(x, layer.weight, layer.bias, stride=stride)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(trained, expected)
    slope = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    for found, exact in zip(
        torch.autograd.grad(trained, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(found, exact)


def test_training_does_not_end_in_torchs_gradient_of_points_with_a_stride(monkeypatch):
    """On some processors the process died there."""
    strides = []
    real = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *x, **more: strides.append(more) or real(*x, **more))
    shortcut = resnet.shortcut(8, 16, 2)
    assert isinstance(shortcut[0], PointwiseConv2d)
    shortcut(torch.randn(4, 8, 48, 48).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert strides == [{}]
