from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.models import swin
from vitnext.models.swin import SwinTransformer
from vitnext.models.swinv2 import SwinTransformerV2, SwinV2Config
from vitnext.models.windows import Windows

TINY = {"channels": 2, "classes": 5, "patch_size": 2, "dim": 8, "depths": (2, 3), "heads": (1, 2), "window": 3}


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode; without gradients: on the fused path."""
    return lambda **config: (
        randomise(SwinTransformerV2(SwinV2Config(**TINY | config))).double().eval().requires_grad_(False)
    )


def images(height=14, width=None):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 2, height, width or height, dtype=torch.float64, generator=generator)


def norm(layer, x):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def position_bias(attention, dy, dx, size, pretrained=0):
    """Eq. 3 and 4 for one offset, of each head."""
    offset = []
    for d, side in zip((dy, dx), size, strict=True):
        d = 8 * d / max((pretrained or side) - 1, 1)
        offset.append(math.copysign(math.log(1 + abs(d), 8), d))
    hidden = torch.relu(attention.bias_network[0](torch.tensor(offset, dtype=torch.float64)))
    return 16 * torch.sigmoid(attention.bias_network[2](hidden))


def equation_2(attention, windows, size, mask, pretrained=0):
    """Scaled cosine attention in windows (number, N, C), one pair of tokens after the other: (result, weights)."""
    q, k, v = (
        part.unflatten(-1, (attention.heads, -1)) for part in (windows @ attention.qkv.weight.T).chunk(3, dim=-1)
    )
    if attention.qv_bias is not None:
        q_bias, v_bias = (bias.unflatten(0, (attention.heads, -1)) for bias in attention.qv_bias.chunk(2))
        q, v = q + q_bias, v + v_bias
    scores = torch.empty(len(windows), attention.heads, windows.shape[1], windows.shape[1], dtype=torch.float64)
    places = list(itertools.product(range(size[0]), range(size[1])))
    for (i, (y, x)), (j, (a, b)) in itertools.product(enumerate(places), repeat=2):
        lengths = q[:, i].norm(dim=-1) * k[:, j].norm(dim=-1)
        cosine = (q[:, i] * k[:, j]).sum(dim=-1) / lengths.clamp(min=1e-24)  # 0 for the padding, whose k is 0
        tau = torch.exp(-attention.logit_scale.flatten()).clamp(min=0.01)
        scores[:, :, i, j] = cosine / tau + position_bias(attention, y - a, x - b, size, pretrained)
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask).flatten(0, 1)
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    return attention.output(torch.einsum("whij,wjhd->wihd", weights, v).flatten(2)), weights


def res_post_norm(block, x):
    windows = Windows.of(x, block.window, block.shifted)
    branch, weights = equation_2(
        block.attention, windows.cut(x), windows.size, windows.mask(x), block.attention.pretrained
    )
    x = norm(block.norm1, windows.join(branch)) + x
    hidden = F.gelu(block.mlp[0](x))
    return norm(block.norm2, block.mlp[3](hidden)) + x, weights


@pytest.mark.parametrize(
    "config", [{}, {"pretrained_windows": (5, 2)}, {"pretrained_windows": (2,)}, {"qkv_bias": False}]
)
@pytest.mark.parametrize("size", [(12, 18), (13, 9), (3, 20), (1, 1)])
def test_forward_is_the_paper(build, size, config):
    model = build(**config)
    x = model.embed(images(*size))
    maps = model.pyramid(images(*size))
    weights = model.attention_weights(images(*size))
    for i, stage in enumerate(model.stages):
        if i:
            x = norm(stage.merging.norm, swin.neighbours(x) @ stage.merging.reduction.weight.T)
        for j, block in enumerate(stage.blocks):
            x, expected = res_post_norm(block, x)
            torch.testing.assert_close(weights[f"stages.{i}.blocks.{j}"], expected)
        torch.testing.assert_close(maps[f"stage{i + 1}"], x.permute(0, 3, 1, 2))
    feature = norm(model.norm, x).mean(dim=(1, 2))
    torch.testing.assert_close(model.pooled(images(*size)), feature)
    torch.testing.assert_close(model(images(*size)), feature @ model.head.weight.T + model.head.bias)


def test_what_a_network_was_trained_with_is_given_by_stage(build):
    pretrained = [stage.blocks[0].attention.pretrained for stage in build(pretrained_windows=(5, 2)).stages]
    assert pretrained == [5, 2]
    assert [stage.blocks[0].attention.pretrained for stage in build(pretrained_windows=(4,)).stages] == [4, 4]
    assert [stage.blocks[0].attention.pretrained for stage in build().stages] == [0, 0]


def test_heads_are_no_sharper_than_the_limit(build):
    model = build()
    for stage in model.stages:
        for block in stage.blocks:
            block.attention.logit_scale.fill_(math.log(100))
    at_the_limit = model(images())
    for stage in model.stages:
        for block in stage.blocks:
            block.attention.logit_scale.fill_(9.0)
    torch.testing.assert_close(model(images()), at_the_limit)


def test_training_takes_the_steps_and_prediction_the_fused_kernel(build, monkeypatch):
    model = build()
    predicted = model(images())
    monkeypatch.setattr("vitnext.models.swinv2.attend_fused", None)
    with pytest.raises(TypeError):
        model(images())
    torch.testing.assert_close(model.requires_grad_(True)(images()), predicted)


@pytest.mark.parametrize("option", ["dropout", "stochastic_depth"])  # both: forward draws for fewer samples
def test_attend_drops_as_forward_does(build, option):
    model = build(**{option: 0.6}).train()
    x = model.embed(images())
    for block in model.stages[0].blocks:
        torch.manual_seed(3)
        plain = block(x)
        torch.manual_seed(3)
        torch.testing.assert_close(block.attend(x)[0], plain)


@pytest.mark.parametrize("gradients", [False, True])
def test_attention_dropout_acts_in_training(build, gradients):
    model = build(attention_dropout=0.5).requires_grad_(gradients)
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_every_parameter_is_set():
    with torch.device("meta"):
        model = SwinTransformerV2(SwinV2Config(**TINY))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(0)
    model.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    for stage in model.stages:
        for block in stage.blocks:
            assert torch.allclose(block.attention.logit_scale.exp(), torch.tensor(10.0))
            assert not block.attention.qv_bias.any() and not block.norm1.weight.any() and not block.norm2.weight.any()
            assert block.attention.bias_network[0].weight.any() and block.mlp[0].weight.any()
    assert (model.norm.weight == 1).all() and (model.stages[1].merging.norm.weight == 1).all()


def test_a_fresh_network_learns_through_its_zero_norms():
    torch.manual_seed(0)
    model = SwinTransformerV2(SwinV2Config(**TINY))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):  # the norms, then what is behind them
        optimizer.zero_grad()
        model(images().float()).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_bfloat16(build):
    model = build().float()
    batch = images().float()
    expected = model(batch)
    found = model.bfloat16()(batch.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.2, atol=0.2)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx(build, onnx_agrees):
    onnx_agrees(build(depths=(2, 1)).float(), images(13, 18).float())


def test_it_is_v1_with_other_blocks():
    model = SwinTransformerV2(SwinV2Config(**TINY))
    assert isinstance(model, SwinTransformer)
    assert not any(isinstance(module, swin.WindowAttention | swin.SwinBlock) for module in model.modules())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (2,)}, "depths (2,) and heads (1, 2) must have one number for each stage"),
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"pretrained_windows": (-1,)}, "pretrained_windows is (-1,); it must be at least 0"),
        ({"pretrained_windows": ()}, "pretrained_windows () must have one number, or one for each stage"),
        ({"pretrained_windows": (1, 2, 3)}, "pretrained_windows (1, 2, 3) must have one number, or one for each stage"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        SwinV2Config(**TINY | config)
    assert str(caught.value) == message
