from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models.convnext import SIZES, ConvNeXt, ConvNeXtConfig
from vitnext.models.layers import ChannelLayerNorm

TINY = {"channels": 2, "classes": 5, "stem_stride": 2, "depths": (1, 2), "widths": (8, 16)}


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""
    return lambda **config: randomise(ConvNeXt(ConvNeXtConfig(**TINY | config))).double().eval()


def images(height=12, width=None):
    shape = (2, 2, height, width or height)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norm(layer, x, dim):
    """Normalise over one dimension; the layer's weight and bias stand along it."""
    centred = x - x.mean(dim=dim, keepdim=True)
    shape = [-1 if i == dim else 1 for i in range(x.ndim)]
    scaled = centred / (centred.square().mean(dim=dim, keepdim=True) + 1e-6).sqrt()
    return scaled * layer.weight.view(shape) + layer.bias.view(shape)


def block_of_figure_4(block, x):
    """x + gamma * W_2 GELU(W_1 LN(DWConv(x))), channels first throughout, the convolution one channel at a time."""
    pad = block.depthwise.kernel_size[0] // 2
    kernels, biases = block.depthwise.weight, block.depthwise.bias
    channels = [
        F.conv2d(x[:, c : c + 1], kernels[c : c + 1], biases[c : c + 1], padding=pad) for c in range(x.shape[1])
    ]
    branch = norm(block.norm, torch.cat(channels, dim=1), dim=1)
    branch = torch.einsum("oc,bchw->bohw", block.expand.weight, branch) + block.expand.bias.view(-1, 1, 1)
    branch = branch * (1 + torch.erf(branch / 2**0.5)) / 2  # the exact GELU
    branch = torch.einsum("oc,bchw->bohw", block.project.weight, branch) + block.project.bias.view(-1, 1, 1)
    return x + branch if block.layer_scale is None else x + block.layer_scale.view(-1, 1, 1) * branch


def test_shapes_of_convnext_tiny():
    with torch.device("meta"):
        model, x = ConvNeXt(ConvNeXtConfig()), torch.empty(2, 3, 224, 224)
    assert model.config.stride == 32
    assert model(x).shape == (2, 1000)
    x = model.stem(x)
    assert x.shape == (2, 96, 56, 56)
    for stage, shape in zip(model.stages, [(96, 56), (192, 28), (384, 14), (768, 7)], strict=True):
        x = stage(x)
        assert x.shape == (2, shape[0], shape[1], shape[1])


@pytest.mark.parametrize("config", [{}, {"kernel_size": 3}, {"layer_scale": 0.0}, {"mlp_ratio": 2.0}])
def test_forward_is_the_paper(build, config):
    model = build(**config)
    stem, stem_norm = model.stem
    x = norm(stem_norm, F.conv2d(images(), stem.weight, stem.bias, stride=2), dim=1)
    for i, stage in enumerate(model.stages):
        if i:
            before, convolution = stage.downsample
            x = F.conv2d(norm(before, x, dim=1), convolution.weight, convolution.bias, stride=2)
        else:
            assert len(stage.downsample) == 0
        for block in stage.blocks:
            torch.testing.assert_close(block(x), block_of_figure_4(block, x))
            x = block_of_figure_4(block, x)
    feature = norm(model.norm, x.mean(dim=(2, 3)), dim=1)  # pool, then norm
    torch.testing.assert_close(model(images()), feature @ model.head.weight.T + model.head.bias)


def test_training_has_the_gradients_of_the_paper(build):
    """There gamma scales W_2 and b_2 instead of what they give."""
    block = build().train().requires_grad_().stages[1].blocks[0]
    x = torch.randn(2, block.norm.normalized_shape[0], 5, 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, *block.parameters()]
    out, expected = block(x), block_of_figure_4(block, x)
    torch.testing.assert_close(out, expected)
    slope = torch.randn_like(out)
    for found, exact in zip(
        torch.autograd.grad(out, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(found, exact)


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
    torch.testing.assert_close(pooled, norm(model.norm, x.mean(dim=(2, 3)), dim=1))
    torch.testing.assert_close(model.head(pooled), model(images(26, 17)))


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_dinov3_is_convnext_without_a_head(size):
    assert SIZES[f"convnext_{size}_dinov3"] == SIZES[f"convnext_{size}"] | {"classes": 0}


def test_channel_norm_does_not_mix_positions():
    x = torch.randn(2, 6, 4, 5) * torch.arange(1, 6)
    layer = ChannelLayerNorm(6, eps=1e-6)
    out = layer(x)
    torch.testing.assert_close(out, norm(layer, x, dim=1))
    torch.testing.assert_close(out[:, :, 1:3, 2:4], layer(x[:, :, 1:3, 2:4]))
    assert not torch.allclose(out, F.group_norm(x, 1), atol=0.1)


@pytest.mark.parametrize(
    ("stem_stride", "stages", "size"),
    [(1, 2, 8), (1, 3, 8), (2, 3, 28), (1, 3, 28), (4, 3, 28), (2, 4, 33), (4, 4, 33), (2, 2, (9, 14)), (4, 4, 32)],
)
def test_small_and_odd_images(build, stem_stride, stages, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    model = build(stem_stride=stem_stride, depths=(1,) * stages, widths=(4, 8, 12, 16)[:stages])
    x = model.stem(images(height, width))
    assert x.shape[2:] == (height // stem_stride, width // stem_stride)
    for stage in model.stages:
        x = stage(x)
    assert x.shape[2:] == (height // model.config.stride, width // model.config.stride)
    logits = model(images(height, width))
    assert logits.shape == (2, 5) and logits.isfinite().all()


@pytest.mark.parametrize("size", [(3, 3), (3, 40), (40, 3)])
def test_images_below_the_stride_are_an_error_that_says_what_to_lower(build, size):
    message = f"images are {size}, smaller than the network's stride of 4 px: lower stem_stride or use fewer stages"
    with pytest.raises(ValueError) as caught:
        build()(images(*size))
    assert str(caught.value) == message


def test_stochastic_depth_rates_grow_over_all_stages():
    model = ConvNeXt(ConvNeXtConfig(**TINY, stochastic_depth=0.4))
    rates = [block.stochastic_depth.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4])


def test_layer_scale_starts_as_configured():
    blocks = [block for stage in ConvNeXt(ConvNeXtConfig(**TINY)).stages for block in stage.blocks]
    assert all((block.layer_scale == 1e-6).all() for block in blocks)
    blocks = [block for stage in ConvNeXt(ConvNeXtConfig(**TINY, layer_scale=0.0)).stages for block in stage.blocks]
    assert all(block.layer_scale is None for block in blocks)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (1,)}, "depths (1,) and widths (8, 16) must have one number for each stage"),
        ({"depths": (), "widths": ()}, "depths () and widths () must have one number for each stage"),
        ({"depths": (1, 0)}, "depths is (1, 0); it must be at least 1"),
        ({"widths": (8, -1)}, "widths is (8, -1); it must be at least 1"),
        ({"kernel_size": 4}, "kernel_size 4 is even; the padding needs an odd one"),
        ({"kernel_size": -7}, "kernel_size is -7; it must be at least 1"),
        ({"stem_stride": 0}, "stem_stride is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"mlp_ratio": 0.1}, "mlp_ratio 0.1 leaves a block without a hidden unit"),
        ({"dropout": -0.1}, "dropout is -0.1; it must be in [0, 1)"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        ConvNeXtConfig(**TINY | config)
    assert str(caught.value) == message
