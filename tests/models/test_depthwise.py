"""The dense path of the depthwise convolution against torch's own convolution, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from vitnext.models.depthwise import DepthwiseConv2d, dense_depthwise


@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(3, 3, 7), (6, 6, 7), (1, 1, 7), (2, 5, 7), (4, 3, 5), (9, 8, 3)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_dense_path_is_the_convolution(height: int, width: int, kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [x, weight] + ([b] if b is not None else [])
    expected = torch.nn.functional.conv2d(x, weight, b, padding=kernel // 2, groups=4)
    got = dense_depthwise(x, weight, b)
    torch.testing.assert_close(got, expected)
    out_gradient = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, out_gradient), torch.autograd.grad(expected, inputs, out_gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("size", "batch", "dense"), [(3, 16, True), (3, 15, False), (7, 16, False)])
def test_the_dense_path_is_for_training_on_maps_smaller_than_the_kernel(
    monkeypatch: pytest.MonkeyPatch, size: int, batch: int, dense: bool
) -> None:
    taken = []

    def spy(*arguments: torch.Tensor) -> torch.Tensor:
        taken.append(True)
        return dense_depthwise(*arguments)

    monkeypatch.setattr("vitnext.models.depthwise.dense_depthwise", spy)
    layer, x = DepthwiseConv2d(2, 7), torch.randn(batch, 2, size, size)
    trained = layer(x)
    assert bool(taken) is dense
    taken.clear()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)
    torch.testing.assert_close(layer.eval()(x), trained)
    assert not taken
