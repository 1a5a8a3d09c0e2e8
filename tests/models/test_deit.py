from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models.deit import PLAIN_SIZES, SIZES, DeiT, DeiT3, DeiT3Config, DeiTConfig, TwoHeads
from vitnext.models.macs import count_macs

TINY = {"image_size": 12, "patch_size": 4, "channels": 2, "classes": 5, "dim": 24, "depth": 3, "heads": 2}
KINDS = {"deit": (DeiT, DeiTConfig), "deit3": (DeiT3, DeiT3Config)}
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""

    def build(kind, **config):
        module, configuration = KINDS[kind]
        return randomise(module(configuration(**TINY | config))).double().eval()

    return build


def images(batch=2, size=12):
    return torch.randn(batch, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def patches(model):
    """x_p E, row by row from the top left."""
    weight, bias = model.patch_embedding.weight.flatten(1), model.patch_embedding.bias
    corners = [(top, left) for top in (0, 4, 8) for left in (0, 4, 8)]
    rows = [images()[:, :, y : y + 4, x : x + 4].flatten(1) @ weight.T + bias for y, x in corners]
    return torch.stack(rows, dim=1)


def norm(layer, z):
    return F.layer_norm(z, (z.shape[-1],), layer.weight, layer.bias, 1e-6)


def attend(block, z):
    """MSA by its equations."""
    q, k, v = (x.unflatten(2, (2, -1)) for x in block.attention.qkv(z).chunk(3, dim=-1))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 12**0.5).softmax(dim=-1)
    return block.attention.output(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)), weights


def mlp(block, z):
    return block.mlp[3](F.gelu(block.mlp[0](z)))


def start(kind, model):
    """z_0."""
    of_class = model.class_token.expand(2, -1, -1)
    if kind == "deit3":  # the class token has no position
        return torch.cat([of_class, patches(model) + model.position_embedding], dim=1)
    of_distillation = model.distillation_token.expand(2, -1, -1)
    return torch.cat([of_class, of_distillation, patches(model)], dim=1) + model.position_embedding


def step(kind, block, z):
    scales = (block.layer_scale1, block.layer_scale2) if kind == "deit3" else (1.0, 1.0)
    z = z + scales[0] * attend(block, norm(block.norm1, z))[0]
    return z + scales[1] * mlp(block, norm(block.norm2, z))


@EACH
def test_forward_is_the_paper(kind, build):
    model = build(kind)
    z = start(kind, model)
    torch.testing.assert_close(model.embed(images()), z)
    for block, weights in zip(model.encoder, model.attention_weights(images()).values(), strict=True):
        torch.testing.assert_close(weights, attend(block, norm(block.norm1, z))[1])
        expected = step(kind, block, z)
        torch.testing.assert_close(block(z), expected)
        torch.testing.assert_close(block.attend(z)[0], expected)
        z = expected
    z = norm(model.norm, z)
    if kind == "deit3":
        logits = z[:, 0] @ model.head.weight.T + model.head.bias
    else:
        label = z[:, 0] @ model.head.label.weight.T + model.head.label.bias
        teacher = z[:, 1] @ model.head.teacher.weight.T + model.head.teacher.bias
        logits = (label + teacher) / 2
        for found, expected in zip(model.head.both(model.pooled(images())), (label, teacher), strict=True):
            torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model(images()), logits)
    torch.testing.assert_close(model.train()(images()), logits)  # no dropout is set: training answers the same
    first = 1 if kind == "deit3" else 2
    torch.testing.assert_close(model.pyramid(images())["grid"], z[:, first:].transpose(1, 2).reshape(2, 24, 3, 3))


@EACH
def test_the_parts_of_a_backbone(kind, build):
    model = build(kind)
    width = 24 if kind == "deit3" else 48
    assert model.pooled(images()).shape == (2, width) and model.head.in_features == width
    assert torch.equal(model(images()), model.head(model.pooled(images())))
    assert [(stage.name, stage.channels, stage.stride) for stage in model.stages] == [("grid", 24, 4)]
    assert list(model.attention_weights(images())) == ["encoder.0", "encoder.1", "encoder.2"]
    body = KINDS[kind][0](KINDS[kind][1](**TINY | {"classes": 0})).double().eval()
    body.load_state_dict({key: t for key, t in model.state_dict().items() if not key.startswith("head.")})
    assert torch.equal(body(images()), model.pooled(images()))


@EACH
def test_stochastic_depth(kind):
    module, config = KINDS[kind]
    model = module(config(**TINY, stochastic_depth=0.4))
    rates = [block.stochastic_depth.rate for block in model.encoder]
    assert rates == pytest.approx([0.0, 0.2, 0.4] if kind == "deit" else [0.4, 0.4, 0.4])


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "stochastic_depth"])
def test_dropout_acts_in_training_only(field, build):
    model = build("deit", **{field: 0.5})
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("start", [1e-4, 0.5])
def test_layer_scale_starts_where_the_config_says(start):
    model = DeiT3(DeiT3Config(**TINY, layer_scale=start))
    for block in model.encoder:
        assert torch.equal(torch.stack([block.layer_scale1, block.layer_scale2]), torch.full((2, 24), start))


def test_macs_count_every_product(build):
    """Patches, then for each of 3 blocks: W_qkv, W^O, the MLP and the two products of attention; two heads."""
    tokens, dim = 9 + 2, 24
    block = tokens * dim * (3 * dim + dim + 4 * dim + 4 * dim) + 2 * tokens * tokens * dim
    assert count_macs(build("deit").float(), 12) == 9 * 32 * dim + 3 * block + 2 * dim * 5


def test_plain_sizes_have_the_distilled_ones_widths():
    assert {f"{name}_distilled": size for name, size in PLAIN_SIZES.items()} == SIZES


def test_two_heads_see_a_half_each():
    heads = TwoHeads(3, 4)
    feature = torch.randn(2, 6)
    torch.testing.assert_close(heads(feature), (heads.label(feature[:, :3]) + heads.teacher(feature[:, 3:])) / 2)


@EACH
def test_another_image_size_is_an_error_that_names_both(kind, build):
    with pytest.raises(ValueError, match=r"images are \(16, 16\), the model was built for 12 px"):
        build(kind)(images(size=16))


@EACH
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": 16}, "patch_size 16 is larger than image_size 12"),
        ({"patch_size": 5}, "image_size 12 is not a whole number of patches of 5 px"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 leaves the MLP without a hidden unit"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(kind, config, message):
    with pytest.raises(ValueError) as caught:
        KINDS[kind][1](**TINY | config)
    assert str(caught.value) == message
