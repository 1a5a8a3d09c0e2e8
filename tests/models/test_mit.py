from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.macs import count_macs
from vitnext.models.mit import SIZES, EfficientSelfAttention, MiTConfig, MixFFN, MixTransformer

TINY = {
    "channels": 2,
    "classes": 5,
    "stem_stride": 2,
    "depths": (1, 2),
    "widths": (8, 12),
    "heads": (2, 3),
    "reductions": (2, 1),
    "mlp_ratios": (2.0, 3.0),
}

# Table 6: millions of parameters of the encoder alone, and multiply-adds at 224 px in G.
PUBLISHED = {
    "mit_b0": (3.4, 0.6),
    "mit_b1": (13.1, 2.1),
    "mit_b2": (24.2, 4.0),
    "mit_b3": (44.1, 6.9),
    "mit_b4": (60.8, 10.1),
    "mit_b5": (81.4, 11.8),
}


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""
    return lambda **config: randomise(MixTransformer(MiTConfig(**TINY | config))).double().eval()


def images(height=12, width=None, batch=2):
    shape = (batch, 2, height, width or height)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norm(layer, x):
    return F.layer_norm(x, (x.shape[-1],), layer.weight, layer.bias, layer.eps)


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def equations_1_and_2(attention, x):
    """One image, one head, one query at a time: (H, W, C) -> (H, W, C) and the weights (h, N, M)."""
    height, width, channels = x.shape
    keys = x.reshape(-1, channels)
    if attention.reduction is not None:
        r = attention.reduction.stride[0]
        kernel = attention.reduction.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (r * r * C, C)
        windows = [
            x[i : i + r, j : j + r].flatten() for i in range(0, height - r + 1, r) for j in range(0, width - r + 1, r)
        ]
        keys = norm(attention.norm, torch.stack(windows) @ kernel + attention.reduction.bias)  # (M, C)
    q = linear(attention.query, x.reshape(-1, channels))
    k, v = linear(attention.key_value, keys).split(channels, dim=1)
    size = channels // attention.heads
    heads, weights = [], []
    for h in range(attention.heads):
        own = slice(h * size, (h + 1) * size)
        weights.append(torch.stack([(k[:, own] @ query[own] / size**0.5).softmax(dim=0) for query in q]))
        heads.append(weights[-1] @ v[:, own])
    return linear(attention.output, torch.cat(heads, dim=1)).reshape(x.shape), torch.stack(weights)


def equation_3(mlp, x):
    """Without its sum: (B, H, W, C) -> (B, H, W, C)."""
    hidden = linear(mlp.expand, x).permute(0, 3, 1, 2)
    hidden = F.conv2d(hidden, mlp.depthwise.weight, mlp.depthwise.bias, padding=1, groups=hidden.shape[1])
    hidden = hidden.permute(0, 2, 3, 1)
    return linear(mlp.project, hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


@pytest.mark.parametrize("reduction", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 6), (4, 7)])
def test_attention_is_equations_1_and_2(randomise, reduction, size):
    attention = randomise(EfficientSelfAttention(12, 3, reduction, 0.0)).double().eval()
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    out, weights = attention(x, return_weights=True)
    torch.testing.assert_close(attention(x), out)
    keys = (size[0] // reduction) * (size[1] // reduction)
    assert weights.shape == (2, 3, size[0] * size[1], keys)
    for image, its_out, its_weights in zip(x, out, weights, strict=True):
        expected, expected_weights = equations_1_and_2(attention, image)
        torch.testing.assert_close(its_out, expected)
        torch.testing.assert_close(its_weights, expected_weights)
    assert attention.own_macs((x,)) == 2 * 2 * 3 * (size[0] * size[1]) * keys * 4  # images, heads, q, k, d


def test_mix_ffn_is_equation_3(randomise):
    mlp = randomise(MixFFN(6, 10, 0.0)).double().eval()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(mlp(x), equation_3(mlp, x))


def test_forward_is_the_paper(build):
    model = build()
    x = images(14, 12)
    for i, level in enumerate(model.levels):
        patches, stride = level.patch_embedding, (2, 2)[i]
        convolution = patches.projection
        assert convolution.kernel_size == (3, 3)
        x = F.conv2d(x, convolution.weight, convolution.bias, stride=stride, padding=1).permute(0, 2, 3, 1)
        x = norm(patches.norm, x)
        for block in level.blocks:
            x = x + torch.stack([equations_1_and_2(block.attention, image)[0] for image in norm(block.norm1, x)])
            x = x + equation_3(block.mlp, norm(block.norm2, x))
        x = norm(level.norm, x).permute(0, 3, 1, 2)
        torch.testing.assert_close(model.pyramid(images(14, 12))[f"stage{i + 1}"], x)
    feature = x.mean(dim=(2, 3))
    torch.testing.assert_close(model.pooled(images(14, 12)), feature)
    torch.testing.assert_close(model(images(14, 12)), linear(model.head, feature))


def test_shapes_of_b0():
    with torch.device("meta"):
        model, x = MixTransformer(MiTConfig()), torch.empty(2, 3, 224, 200)
    assert [level.patch_embedding.projection.kernel_size for level in model.levels] == [(7, 7), (3, 3), (3, 3), (3, 3)]
    assert [level.patch_embedding.projection.padding for level in model.levels] == [(3, 3), (1, 1), (1, 1), (1, 1)]
    shapes = [(2, 32, 56, 50), (2, 64, 28, 25), (2, 160, 14, 13), (2, 256, 7, 7)]  # sizes are rounded up
    assert [tuple(features.shape) for features in model.pyramid(x).values()] == shapes
    assert model.stages == tuple(
        Stage(f"stage{i + 1}", channels, stride)
        for i, (channels, stride) in enumerate(zip((32, 64, 160, 256), (4, 8, 16, 32), strict=True))
    )
    assert model.config.stride == 32 and model(x).shape == (2, 1000)
    weights = model.attention_weights(x)
    assert list(weights) == [f"levels.{i}.blocks.{j}" for i in range(4) for j in range(2)]
    assert tuple(weights["levels.0.blocks.1"].shape) == (2, 1, 56 * 50, 7 * 6)
    assert tuple(weights["levels.3.blocks.0"].shape) == (2, 8, 49, 49)


def test_attention_weights_are_those_of_the_forward_pass(build):
    model = build()
    weights = model.attention_weights(images())
    assert list(weights) == ["levels.0.blocks.0", "levels.1.blocks.0", "levels.1.blocks.1"]
    x = images()
    for i, level in enumerate(model.levels):
        x = level.patch_embedding(x)
        for j, block in enumerate(level.blocks):
            expected = [equations_1_and_2(block.attention, image)[1] for image in norm(block.norm1, x)]
            torch.testing.assert_close(weights[f"levels.{i}.blocks.{j}"], torch.stack(expected))
            x = block(x)
        x = level.norm(x).permute(0, 3, 1, 2)
    for of_block in weights.values():
        torch.testing.assert_close(of_block.sum(dim=-1), torch.ones(of_block.shape[:-1], dtype=torch.float64))


def test_modules_carry_the_names_of_the_attention_weights(build):
    model = build()
    for name in model.attention_weights(images()):
        assert hasattr(model.get_submodule(name), "attention")


@pytest.mark.parametrize("size", [29, (29, 64), 33, (61, 47)])
def test_any_size_from_the_least_one(build, size):
    config = {"stem_stride": 4, "depths": (1, 1, 1, 1), "widths": (4, 8, 10, 8), "heads": (1, 2, 5, 8)}
    model = build(**config, reductions=(8, 4, 2, 1), mlp_ratios=(4.0,) * 4)
    assert model.config.least_size == 29
    height, width = size if isinstance(size, tuple) else (size, size)
    logits = model(images(height, width))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    message = (
        f"images are ({height}, 28), smaller than the 29 px that reductions (8, 4, 2, 1) need: "
        "lower stem_stride or the reductions"
    )
    for call in (model, model.pooled, model.pyramid, model.attention_weights):
        with pytest.raises(ValueError) as caught:
            call(images(height, 28))
        assert str(caught.value) == message


def test_training_on_small_maps_gives_the_same_as_evaluation(build):
    """The depthwise convolution has a path of its own there."""
    model = build(reductions=(1, 1))
    batch = images(4, batch=16)
    expected = model(batch)
    torch.testing.assert_close(model.train()(batch), expected)


def test_stochastic_depth_rates_grow_over_all_stages():
    model = MixTransformer(MiTConfig(**TINY, stochastic_depth=0.4))
    rates = [block.stochastic_depth.rate for level in model.levels for block in level.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4])


def test_norms_have_the_authors_eps():
    model = MixTransformer(MiTConfig(**TINY))
    eps = {name: module.eps for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    torch_default = {name for name in eps if "patch_embedding" in name or "attention" in name}
    assert len(torch_default) == 3
    assert all(value == (1e-5 if name in torch_default else 1e-6) for name, value in eps.items())


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_macs_are_the_published_ones(name):
    """The parameters are those of the authors' code; table 6 counted the multiply-adds with its own expansions."""
    parameters, macs = PUBLISHED[name]
    expansions = {} if name == "mit_b5" else {"mlp_ratios": (8.0, 8.0, 4.0, 4.0)}
    with torch.device("meta"):
        model = MixTransformer(MiTConfig(**SIZES[name], classes=0))
        of_table_6 = MixTransformer(MiTConfig(**SIZES[name] | expansions))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.1)
    assert count_macs(of_table_6, 224) / 1e9 == pytest.approx(macs, abs=0.1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (1,)}, "depths, widths, heads, reductions, mlp_ratios must have one number for each stage"),
        ({"depths": (1, 0)}, "depths is (1, 0); it must be at least 1"),
        ({"reductions": (0, 1)}, "reductions is (0, 1); it must be at least 1"),
        ({"heads": (2, 5)}, "width 12 is not a multiple of heads 5"),
        ({"stem_stride": 0}, "stem_stride is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"mlp_ratios": (2.0, 0.01)}, "mlp_ratio 0.01 leaves a block without a hidden unit"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0; it must be above 0"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        MiTConfig(**TINY | config)
    assert str(caught.value) == message
