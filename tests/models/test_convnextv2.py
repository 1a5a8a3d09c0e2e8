from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models.convnextv2 import (
    ConvNeXtV2,
    ConvNeXtV2Block,
    ConvNeXtV2Config,
    GlobalResponseNorm,
    norm_of_channels,
)

TINY = {"channels": 2, "classes": 5, "stem_stride": 2, "depths": (1, 2), "widths": (8, 16)}


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""
    return lambda **config: randomise(ConvNeXtV2(ConvNeXtV2Config(**TINY | config))).double().eval()


def images(height=12, width=None):
    shape = (2, 2, height, width or height)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norm(layer, x):
    """Layer norm over the channels of (B, C, ...)."""
    return F.layer_norm(x.movedim(1, -1), (x.shape[1],), layer.weight, layer.bias, 1e-6).movedim(-1, 1)


def grn(layer, x):
    """Equations 1 to 3 and algorithm 1 for (B, C, H, W), one channel at a time."""
    strengths = [x[:, c].square().sum(dim=(1, 2)).sqrt() for c in range(x.shape[1])]  # each (B,)
    mean = sum(strengths) / len(strengths)
    channels = [
        layer.gamma[c] * x[:, c] * (strengths[c] / (mean + 1e-6))[:, None, None] + layer.beta[c] + x[:, c]
        for c in range(x.shape[1])
    ]
    return torch.stack(channels, dim=1)


def block_of_figure_5(block, x):
    """x + W_2 GRN(GELU(W_1 LN(DWConv(x)))), channels first throughout."""
    size = block.depthwise.kernel_size[0]
    branch = F.conv2d(x, block.depthwise.weight, block.depthwise.bias, padding=size // 2, groups=x.shape[1])
    branch = norm(block.norm, branch)
    branch = torch.einsum("oc,bchw->bohw", block.expand.weight, branch) + block.expand.bias.view(-1, 1, 1)
    branch = grn(block.response_norm, branch * (1 + torch.erf(branch / 2**0.5)) / 2)
    return x + torch.einsum("oc,bchw->bohw", block.project.weight, branch) + block.project.bias.view(-1, 1, 1)


@pytest.mark.parametrize("config", [{}, {"kernel_size": 3}, {"mlp_ratio": 2.0}])
def test_forward_is_the_paper(build, config):
    model = build(**config)
    stem, stem_norm = model.stem
    x = norm(stem_norm, F.conv2d(images(), stem.weight, stem.bias, stride=2))
    for i, stage in enumerate(model.stages):
        if i:
            before, convolution = stage.downsample
            x = F.conv2d(norm(before, x), convolution.weight, convolution.bias, stride=2)
        else:
            assert len(stage.downsample) == 0
        for block in stage.blocks:
            torch.testing.assert_close(block(x), block_of_figure_5(block, x))
            x = block_of_figure_5(block, x)
    feature = norm(model.norm, x.mean(dim=(2, 3)))  # pool, then norm
    torch.testing.assert_close(model(images()), feature @ model.head.weight.T + model.head.bias)


def test_grn_starts_as_the_identity():
    model = ConvNeXtV2(ConvNeXtV2Config(**TINY))
    norms = [module for module in model.modules() if isinstance(module, GlobalResponseNorm)]
    assert len(norms) == 3
    for module in norms:
        x = torch.randn(2, 4, 5, len(module.gamma))
        assert torch.equal(module(x), x)


def test_grn_of_an_empty_image_has_finite_values_and_gradients(randomise):
    layer, x = randomise(GlobalResponseNorm(4)), torch.zeros(1, 2, 2, 4, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    torch.testing.assert_close(out, layer.beta.expand_as(out))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norm_of_channels_in_every_precision(dtype):
    x = 4 * torch.randn(2, 80, 80, 3, generator=torch.Generator().manual_seed(0))
    x[..., 1] = 0.0
    x = x.to(dtype).requires_grad_()
    norms = norm_of_channels(x)  # 320: its square is beyond float16
    expected = x.detach().double().square().sum(dim=(1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(norms.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-9)
    [gradient] = torch.autograd.grad(norms.sum(), x)
    slope = x.detach().double() / expected.clamp_min(1e-9)
    torch.testing.assert_close(gradient.double(), slope, rtol=8 * torch.finfo(dtype).eps, atol=1e-7)


def test_there_is_no_layer_scale():
    names = {name.partition(".")[0] for name, _ in ConvNeXtV2Block(8, ConvNeXtV2Config(), 0.0).named_parameters()}
    assert names == {"depthwise", "norm", "expand", "response_norm", "project"}


def test_head_pooled_pyramid_and_stages(build):
    model = build(stem_stride=2, depths=(1, 2, 1), widths=(8, 16, 12))
    maps = model.pyramid(images(26, 17))
    described = [(stage.name, stage.channels, stage.stride) for stage in model.stages]
    assert described == [("stage1", 8, 2), ("stage2", 16, 4), ("stage3", 12, 8)]
    assert list(maps) == ["stage1", "stage2", "stage3"]
    assert [tuple(x.shape) for x in maps.values()] == [(2, 8, 13, 8), (2, 16, 6, 4), (2, 12, 3, 2)]
    x = model.stem(images(26, 17))
    for stage in model.stages:
        x = stage(x)
        torch.testing.assert_close(maps[stage.name], x)
    pooled = model.pooled(images(26, 17))
    torch.testing.assert_close(pooled, norm(model.norm, x.mean(dim=(2, 3))))
    torch.testing.assert_close(model.head(pooled), model(images(26, 17)))
    assert isinstance(ConvNeXtV2(ConvNeXtV2Config(**TINY | {"classes": 0})).head, torch.nn.Identity)


@pytest.mark.parametrize(("stem_stride", "stages", "size"), [(1, 3, 8), (2, 3, 28), (2, 2, (9, 14)), (4, 4, 33)])
def test_small_and_odd_images(build, stem_stride, stages, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    model = build(stem_stride=stem_stride, depths=(1,) * stages, widths=(4, 8, 12, 16)[:stages])
    stride = model.config.stride
    assert list(model.pyramid(images(height, width)).values())[-1].shape[2:] == (height // stride, width // stride)
    logits = model(images(height, width))
    assert logits.shape == (2, 5) and logits.isfinite().all()


def test_images_below_the_stride_are_an_error_that_says_what_to_lower(build):
    message = r"images are \(3, 40\), smaller than the network's stride of 4 px: lower stem_stride or use fewer stages"
    with pytest.raises(ValueError, match=message):
        build()(images(3, 40))


def test_stochastic_depth_rates_grow_over_all_stages():
    model = ConvNeXtV2(ConvNeXtV2Config(**TINY, stochastic_depth=0.4))
    rates = [block.stochastic_depth.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (1,)}, "depths (1,) and widths (8, 16) must have one number for each stage"),
        ({"depths": (), "widths": ()}, "depths () and widths () must have one number for each stage"),
        ({"depths": (1, 0)}, "depths is (1, 0); it must be at least 1"),
        ({"kernel_size": 4}, "kernel_size 4 is even; the padding needs an odd one"),
        ({"stem_stride": 0}, "stem_stride is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"mlp_ratio": 0.1}, "mlp_ratio 0.1 leaves a block without a hidden unit"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in [0, 1)"),
        ({"stochastic_depth": -0.1}, "stochastic_depth is -0.1; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        ConvNeXtV2Config(**TINY | config)
    assert str(caught.value) == message
