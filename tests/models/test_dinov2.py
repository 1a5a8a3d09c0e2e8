from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models.dinov2 import DINOv2, DINOv2Config, FeedForward, SwiGLU

TINY = {"image_size": 12, "patch_size": 4, "channels": 2, "classes": 5, "dim": 24, "depth": 3, "heads": 2}
KINDS = pytest.mark.parametrize("kind", [{}, {"registers": 3}, {"swiglu": True}, {"pool": "token_mean"}], ids=str)


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""
    return lambda **config: randomise(DINOv2(DINOv2Config(**TINY | config))).double().eval()


def images(batch=2, size=12):
    return torch.randn(batch, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def start(model):
    """z_0: patches row by row from the top left; registers have no position."""
    weight, bias = model.patch_embedding.weight.flatten(1), model.patch_embedding.bias
    corners = [(top, left) for top in (0, 4, 8) for left in (0, 4, 8)]
    position = model.position_embedding[0]
    rows = [(model.class_token[0, 0] + position[0]).expand(2, -1)]
    rows += [row.expand(2, -1) for row in (() if model.registers is None else model.registers[0])]
    rows += [
        images()[:, :, y : y + 4, x : x + 4].flatten(1) @ weight.T + bias + position[1 + i]
        for i, (y, x) in enumerate(corners)
    ]
    return torch.stack(rows, dim=1)


def norm(layer, z):
    return F.layer_norm(z, (z.shape[-1],), layer.weight, layer.bias, 1e-6)


def attend(block, z):
    """MSA by its equations."""
    q, k, v = (x.unflatten(2, (2, -1)) for x in block.attention.qkv(z).chunk(3, dim=-1))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 12**0.5).softmax(dim=-1)
    return block.attention.output(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)), weights


def mlp(block, z, swiglu):
    weight, bias = block.mlp.expand.weight, block.mlp.expand.bias
    if not swiglu:
        return block.mlp.project(F.gelu(z @ weight.T + bias))
    half = len(weight) // 2
    gate, value = z @ weight[:half].T + bias[:half], z @ weight[half:].T + bias[half:]
    return block.mlp.project(gate / (1 + (-gate).exp()) * value)


@KINDS
def test_forward_is_the_paper(kind, build):
    model = build(**kind)
    z = start(model)
    torch.testing.assert_close(model.embed(images()), z)
    for block, weights in zip(model.encoder, model.attention_weights(images()).values(), strict=True):
        branch, by_equation = attend(block, norm(block.norm1, z))
        torch.testing.assert_close(weights, by_equation)
        expected = z + block.layer_scale1 * branch
        expected = expected + block.layer_scale2 * mlp(block, norm(block.norm2, expected), "swiglu" in kind)
        torch.testing.assert_close(block(z), expected)
        torch.testing.assert_close(block.attend(z)[0], expected)
        z = expected
    z = norm(model.norm, z)
    patches = z[:, 1 + kind.get("registers", 0) :]
    feature = torch.cat([z[:, 0], patches.mean(dim=1)], dim=1) if "pool" in kind else z[:, 0]
    torch.testing.assert_close(model.pooled(images()), feature)
    torch.testing.assert_close(model(images()), feature @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(model.pyramid(images())["grid"], patches.transpose(1, 2).reshape(2, 24, 3, 3))


@KINDS
def test_the_parts_of_a_backbone(kind, build):
    model = build(**kind)
    assert model.pooled(images()).shape == (2, 48 if "pool" in kind else 24)
    assert torch.equal(model(images()), model.head(model.pooled(images())))
    assert [(stage.name, stage.channels, stage.stride) for stage in model.stages] == [("grid", 24, 4)]
    assert list(model.attention_weights(images())) == ["encoder.0", "encoder.1", "encoder.2"]
    body = build(**kind, classes=0)
    body.load_state_dict({key: t for key, t in model.state_dict().items() if not key.startswith("head.")})
    assert torch.equal(body(images()), model.pooled(images()))


def test_stochastic_depth_has_one_rate_and_acts_in_training_only(build):
    model = build(stochastic_depth=0.4)
    assert [block.stochastic_depth.rate for block in model.encoder] == [0.4] * 3
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_parameters_of_its_own_start_as_documented():
    state = DINOv2(DINOv2Config(**TINY, registers=2, layer_scale=0.5)).state_dict()
    assert all((tensor == 0.5).all() for name, tensor in state.items() if "layer_scale" in name)
    assert 0 < state["class_token"].abs().max() < 1e-5 and 0 < state["registers"].abs().max() < 1e-5


@pytest.mark.parametrize(("dim", "hidden", "width"), [(1536, 6144, 4096), (24, 96, 64), (24, 97, 64), (24, 100, 72)])
def test_width_of_a_swiglu(dim, hidden, width):
    """2/3 of the MLP's, up to a multiple of 8; 4096 in the giant network."""
    with torch.device("meta"):
        mlp = SwiGLU(dim, hidden)
    assert mlp.expand.weight.shape == (2 * width, dim) and mlp.project.weight.shape == (dim, width)


def test_a_swiglu_costs_what_the_mlp_costs():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in kind(384, 1536).parameters() if p.ndim == 2) for kind in (SwiGLU, FeedForward)]
    assert counts[0] == counts[1]


def test_another_image_size_is_an_error_that_names_both(build):
    with pytest.raises(ValueError, match=r"images are \(16, 16\), the model was built for 12 px"):
        build()(images(size=16))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pool": "mean"}, 'pool is "mean"; it must be "token" or "token_mean"'),
        ({"patch_size": 16}, "patch_size 16 is larger than image_size 12"),
        ({"patch_size": 5}, "image_size 12 is not a whole number of patches of 5 px"),
        ({"registers": -1}, "registers is -1; it must be at least 0"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 leaves the MLP without a hidden unit"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        DINOv2Config(**TINY | config)
    assert str(caught.value) == message
