"""UPerNet's fusing convolutions: the same as one convolution of all maps, upsampled and side by side."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models import catalog, segmenter
from vitnext.models.heads.segformer import upsample
from vitnext.models.heads.upernet import FusingConvNormReLU, convolve_upsampled
from vitnext.models.macs import count_macs


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("small", "large"),
    [((4, 6), (8, 12)), ((3, 5), (24, 40)), ((5, 4), (9, 7)), ((1, 1), (5, 3)), ((6, 6), (4, 5)), ((4, 5), (4, 5))],
)
def test_convolving_before_upsampling_is_convolving_after_it(small, large):
    x, weight = randn(2, 3, *small).requires_grad_(), randn(4, 3, 3, 3, seed=1).requires_grad_()
    like = randn(2, 4, *large)
    found = convolve_upsampled(x, weight, like)
    expected = F.conv2d(upsample(x, like), weight, padding=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradient = randn(*expected.shape, seed=2)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight), gradient),
        torch.autograd.grad(expected, (x, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_maps_are_fused_in_their_order():
    maps = [randn(2, 3, 8, 8), randn(2, 5, 4, 4), randn(2, 2, 3, 2)]
    layer = FusingConvNormReLU(10, 6).double().train()
    torch.nn.init.normal_(layer[0].weight, generator=torch.Generator().manual_seed(3))
    convolution, norm, relu = layer
    together = torch.cat([upsample(x, maps[0]) for x in maps], dim=1)
    torch.testing.assert_close(layer(maps), relu(norm(convolution(together))), rtol=0, atol=1e-12)


def test_macs_count_each_map_at_its_own_resolution():
    model = segmenter.build("resnet18+upernet", classes=7, head={"width": 8, "auxiliary_width": 0})
    widths, cells = (64, 128, 256, 512), [(64 // stride) ** 2 for stride in (4, 8, 16, 32)]
    pooling = sum(n * n for n in (1, 2, 3, 6)) * (512 * 8 + 9 * 8 * 8) + cells[3] * 9 * 512 * 8
    pyramid = sum(n * (width * 8 + 9 * 8 * 8) for n, width in zip(cells[:3], widths, strict=False))
    fusing = sum(cells) * 9 * 8 * 8 + cells[0] * 8 * 7
    assert count_macs(model, 64) == pooling + pyramid + fusing + count_macs(catalog.build("resnet18", classes=0), 64)
