from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.models.dinov3 import DINOv3, DINOv3Config, KeylessBiasLinear, periods, rotate, rotations
from vitnext.models.macs import count_macs

TINY = {"patch_size": 4, "channels": 2, "classes": 5, "dim": 24, "depth": 3, "heads": 2, "registers": 2}
KINDS = pytest.mark.parametrize(
    "kind", [{}, {"registers": 0}, {"swiglu": True}, {"qkv_bias": False}, {"heads": 1}, {"rope_base": 7.0}], ids=str
)


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""
    return lambda **config: randomise(DINOv3(DINOv3Config(**TINY | config))).double().eval()


def images(height=8, width=12, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, height, width, dtype=torch.float64, generator=generator)


def norm(layer, z):
    return F.layer_norm(z, (z.shape[-1],), layer.weight, layer.bias, 1e-5)


def turned(x, base, rows, columns, upright):
    """x (B, h, N, d): every pair (a_i, b_i) of a patch as the complex number a + b i, times e^(i angle)."""
    quarter = x.shape[-1] // 4
    factors = []
    for row in range(rows):
        for column in range(columns):
            places = ((2 * row + 1) / rows - 1, (2 * column + 1) / columns - 1)  # of the centre, from -1 to 1
            angles = [2 * math.pi * place / base ** (j / quarter) for place in places for j in range(quarter)]
            factors.append([cmath.exp(1j * angle) for angle in angles])
    factors = torch.tensor([[1.0] * 2 * quarter] * upright + factors, dtype=torch.complex128)
    pairs = torch.complex(*x.double().chunk(2, dim=-1)) * factors
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def attend(block, z, config):
    """MSA by its equations, with turned q and k and no bias for k; the images are 2 x 3 patches."""
    weight = block.attention.qkv.weight.chunk(3)
    q, k, v = ((z @ w.T).unflatten(2, (config.heads, -1)).transpose(1, 2) for w in weight)
    if config.qkv_bias:
        of_q, of_v = block.attention.qkv.query_value_bias.unflatten(0, (2, config.heads, 1, -1))
        q, v = q + of_q, v + of_v
    q, k = (turned(x, config.rope_base, 2, 3, 1 + config.registers) for x in (q, k))
    weights = (q @ k.transpose(2, 3) / (config.dim / config.heads) ** 0.5).softmax(dim=-1)
    return block.attention.output((weights @ v).transpose(1, 2).flatten(2)), weights


# The model computes angles in float32.
def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@KINDS
def test_forward_is_the_paper(kind, build):
    model = build(**kind)
    registers = model.config.registers
    z, cos, sin = model.embed(images())
    weight = model.patch_embedding.weight.flatten(1)
    corners = [(top, left) for top in (0, 4) for left in (0, 4, 8)]
    rows = [model.class_token[0, 0].expand(2, -1)]
    rows += [row.expand(2, -1) for row in (model.registers[0] if registers else ())]
    rows += [
        images()[:, :, y : y + 4, x : x + 4].flatten(1) @ weight.T + model.patch_embedding.bias for y, x in corners
    ]
    torch.testing.assert_close(z, torch.stack(rows, dim=1))
    for block, weights in zip(model.encoder, model.attention_weights(images()).values(), strict=True):
        branch, by_equation = attend(block, norm(block.norm1, z), model.config)
        close(weights, by_equation)
        expected = z + block.layer_scale1 * branch
        expected = expected + block.layer_scale2 * block.mlp(norm(block.norm2, expected))
        close(block(z, cos, sin), expected)
        close(block.attend(z, cos, sin)[0], expected)
        z = expected
    z = norm(model.norm, z)
    close(model.pooled(images()), z[:, 0])
    close(model(images()), z[:, 0] @ model.head.weight.T + model.head.bias)
    close(model.pyramid(images())["grid"], z[:, 1 + registers :].transpose(1, 2).reshape(2, 24, 2, 3))


def test_periods():
    """From 1 to nearly the base, evenly in their logarithm."""
    found = periods(64, 100.0)
    assert found.shape == (16,) and found.dtype == torch.float32
    assert found[0] == 1 and found[8].item() == pytest.approx(10.0)
    ratios = found[1:] / found[:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 100 ** (1 / 16)))


def test_turning_keeps_lengths_and_sees_distances_alone():
    """q . k of two patches depends on how far they are from each other: (0, 0) to (1, 2) as (2, 1) to (3, 3)."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 16, dtype=torch.float64)
    cos, sin = rotations(4, 4, periods(16, 100.0), 0)
    q, k = (rotate(x.expand(16, -1), cos, sin).reshape(4, 4, 16) for x in (q, k))
    torch.testing.assert_close(q.norm(dim=-1), q[0, 0].norm().expand(4, 4))
    assert (q[0, 0] - q[3, 3]).abs().max() > 0.1
    torch.testing.assert_close(q[0, 0] @ k[1, 2], q[2, 1] @ k[3, 3], rtol=0, atol=1e-5)
    assert (q[0, 0] @ k[1, 2] - q[0, 0] @ k[2, 1]).abs() > 1e-3


def test_class_token_and_registers_are_not_turned():
    cos, sin = rotations(2, 3, periods(8, 100.0), 3)
    assert cos.shape == sin.shape == (9, 8)
    assert torch.equal(cos[:3], torch.ones(3, 8)) and torch.equal(sin[:3], torch.zeros(3, 8))


def test_the_larger_image_has_the_same_edges():
    """Places are from edge to edge of the image, whatever its size: one patch is in the middle, at angle 0."""
    _, one = rotations(1, 1, periods(8, 100.0), 0)
    assert torch.equal(one, torch.zeros(1, 8))
    _, wide = rotations(1, 5, periods(8, 100.0), 0)
    assert torch.equal(wide[:, :2], torch.zeros(5, 2))  # of the only row
    torch.testing.assert_close(wide[0, 6], torch.tensor(-0.8 * 2 * math.pi).sin())
    torch.testing.assert_close(wide, -wide.flip(0))


def test_rotate_keeps_the_precision_of_its_input():
    cos, sin = rotations(2, 2, periods(8, 100.0), 0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert rotate(torch.randn(4, 8, dtype=dtype), cos, sin).dtype == dtype


def test_k_has_no_bias():
    linear = KeylessBiasLinear(4)
    nn.init.normal_(linear.query_value_bias)
    z = torch.randn(3, 4)
    bias = linear(z) - z @ linear.weight.T
    expected = torch.cat([linear.query_value_bias[:4], torch.zeros(4), linear.query_value_bias[4:]])
    torch.testing.assert_close(bias, expected.expand(3, -1), rtol=0, atol=1e-6)


@KINDS
def test_the_parts_of_a_backbone(kind, build):
    model = build(**kind)
    assert model.pooled(images()).shape == (2, 24)
    assert torch.equal(model(images()), model.head(model.pooled(images())))
    assert [(stage.name, stage.channels, stage.stride) for stage in model.stages] == [("grid", 24, 4)]
    assert list(model.attention_weights(images())) == ["encoder.0", "encoder.1", "encoder.2"]
    body = build(**kind, classes=0)
    body.load_state_dict({key: t for key, t in model.state_dict().items() if not key.startswith("head.")})
    assert torch.equal(body(images()), model.pooled(images()))


@pytest.mark.parametrize("size", [(4, 4), (8, 20), (16, 16)])
def test_any_whole_number_of_patches_is_taken(size, build):
    model = build()
    assert model(images(*size)).shape == (2, 5)
    assert model.pyramid(images(*size))["grid"].shape == (2, 24, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("size", [(8, 10), (9, 8), (0, 4)])
def test_other_images_are_an_error(size, build):
    with pytest.raises(ValueError) as caught:
        build()(images(*size))
    assert str(caught.value) == f"images are {size}, no whole number of patches of 4 px"


def test_stochastic_depth_has_one_rate_and_acts_in_training_only(build):
    model = build(stochastic_depth=0.4)
    assert [block.stochastic_depth.rate for block in model.encoder] == [0.4] * 3
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_macs_count_every_product(build):
    """Patches, then for each of 3 blocks: W_qkv, W^O, the MLP and the two products of attention; the head."""
    tokens, dim = 9 + 3, 24
    block = tokens * dim * (3 * dim + dim + 4 * dim + 4 * dim) + 2 * tokens * tokens * dim
    expected = 9 * 32 * dim + 3 * block + dim * 5
    assert count_macs(build().float(), 12) == count_macs(build(qkv_bias=False).float(), 12) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"heads": 4}, "dim 24 is no multiple of 4 x heads 4: pairs for rows and for columns"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"registers": -1}, "registers is -1; it must be at least 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 leaves the MLP without a hidden unit"),
        ({"rope_base": 0.0}, "rope_base is 0.0; it must be above 0"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        DINOv3Config(**TINY | config)
    assert str(caught.value) == message
