from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.models.vit import VisionTransformer, ViTConfig, sides

TINY = {"image_size": 12, "patch_size": 4, "channels": 2, "classes": 5, "dim": 24, "depth": 3, "heads": 2}


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode."""
    return lambda **config: randomise(VisionTransformer(ViTConfig(**TINY | config))).double().eval()


def images(size=12):
    return torch.randn(2, 2, *sides(size), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def equation_1(model, images):
    """z_0 patch by patch: x_p E, row by row from the top left, after the class token, plus E_pos."""
    size, stride = model.config.patch_size, model.config.stride
    weight, bias = model.patch_embedding.weight.flatten(1), model.patch_embedding.bias
    rows = [] if model.class_token is None else [model.class_token[0].expand(len(images), -1)]
    for top in range(0, images.shape[2] - size + 1, stride):
        for left in range(0, images.shape[3] - size + 1, stride):
            rows.append(images[:, :, top : top + size, left : left + size].flatten(1) @ weight.T + bias)
    return torch.stack(rows, dim=1) + model.position_embedding


def norm(layer, z):
    centred = z - z.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


def equations_2_and_3(block, z):
    """One block, with the attention weights (B, h, N, N) that equation 6 gives."""
    batch, number, dim = z.shape
    heads = block.attention.heads
    q, k, v = F.linear(norm(block.norm1, z), block.attention.qkv.weight, block.attention.qkv.bias).chunk(3, dim=-1)
    split = (batch, number, heads, dim // heads)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.view(split), k.view(split)) / (dim // heads) ** 0.5
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    z = block.attention.output(torch.einsum("bhqk,bkhd->bqhd", weights, v.view(split)).flatten(2)) + z
    hidden = block.mlp[0](norm(block.norm2, z))
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # the exact GELU
    return block.mlp[3](hidden) + z, weights


def test_shapes_of_vit_base():
    with torch.device("meta"):
        model, batch = VisionTransformer(ViTConfig()), torch.empty(2, 3, 224, 224)
        without = VisionTransformer(ViTConfig(class_token=False, pool="mean"))
    assert model.patch_embedding(batch).shape == (2, 768, 14, 14)
    assert without.embed(batch).shape == (2, 196, 768)
    z = model.embed(batch)
    assert z.shape == (2, 197, 768)
    for block in model.encoder:
        z = block(z)
        assert z.shape == (2, 197, 768)
    assert model.pool(z).shape == (2, 768)
    assert model(batch).shape == (2, 1000)


@pytest.mark.parametrize("config", [{}, {"patch_stride": 2}, {"class_token": False, "pool": "mean"}, {"patch_size": 6}])
def test_embedding_is_equation_1(build, config):
    model = build(**config)
    torch.testing.assert_close(model.embed(images()), equation_1(model, images()))


def test_tokens_follow_each_other_in_memory(build):
    """A sum keeps the layout of its parts: in another one every norm of every block would copy first."""
    model = build(class_token=False, pool="mean")
    z = model.embed(images())
    assert z.is_contiguous() and model.encoder[0](z).is_contiguous()


def test_overlapping_patches_are_more_tokens(build):
    model = build(patch_stride=2)
    assert model.config.grid == (5, 5)
    assert model.embed(images()).shape == (2, 1 + 25, 24)
    assert build().config.grid == (3, 3)


@pytest.mark.parametrize("pool", ["token", "mean", "mean_norm"])
def test_forward_is_the_paper(build, pool):
    model = build(pool=pool)
    z = equation_1(model, images())
    for block in model.encoder:
        z, _ = equations_2_and_3(block, z)
    y = {
        "token": norm(model.norm, z[:, 0]),
        "mean": norm(model.norm, z[:, 1:]).mean(dim=1),
        "mean_norm": norm(model.norm, z[:, 1:].mean(dim=1)),
    }[pool]
    torch.testing.assert_close(model.pooled(images()), y)
    torch.testing.assert_close(model(images()), y @ model.head.weight.T + model.head.bias)


def test_mean_without_a_class_token_is_over_all_tokens(build):
    model = build(class_token=False, pool="mean")
    z = torch.randn(2, 9, 24, dtype=torch.float64)
    torch.testing.assert_close(model.pool(z), norm(model.norm, z).mean(dim=1))


@pytest.mark.parametrize("config", [{}, {"class_token": False, "pool": "mean"}, {"pool": "mean_norm"}], ids=str)
def test_pyramid_is_the_patches_where_they_are(build, config):
    model = build(**config, patch_stride=2)
    first = int(model.config.class_token)
    z = model.encode(images())[:, first:]
    z = z if model.config.pool == "mean_norm" else norm(model.norm, z)  # what the head sees before it is pooled
    [(name, grid)] = model.pyramid(images()).items()
    assert (
        [(stage.name, stage.channels, stage.stride) for stage in model.stages] == [(name, 24, 2)] == [("grid", 24, 2)]
    )
    assert grid.shape == (2, 24, 5, 5)
    for row in range(5):
        for column in range(5):
            torch.testing.assert_close(grid[:, :, row, column], z[:, row * 5 + column])


@pytest.mark.parametrize("config", [{}, {"representation": 7}, {"pool": "mean"}, {"classes": 0}], ids=str)
def test_forward_is_the_head_of_the_pooled_feature(build, config):
    model = build(**config)
    assert model.pooled(images()).shape == (2, 24)
    assert torch.equal(model(images()), model.head(model.pooled(images())))


def test_representation_is_a_tanh_layer_in_the_head(build):
    model, plain = build(representation=7), build(classes=0)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("head.")})
    y = plain(images())
    hidden = torch.tanh(y @ model.head[0].weight.T + model.head[0].bias)
    assert hidden.shape == (2, 7)
    torch.testing.assert_close(model(images()), hidden @ model.head[2].weight.T + model.head[2].bias)


def test_attention_weights_are_those_of_the_forward_pass(build):
    model = build()
    z, expected = equation_1(model, images()), []
    for block in model.encoder:
        attended, weights = block.attend(z)
        torch.testing.assert_close(attended, block(z))
        z, by_equation = equations_2_and_3(block, z)
        torch.testing.assert_close(attended, z)
        expected.append(by_equation)
    found = model.attention_weights(images())
    assert list(found) == ["encoder.0", "encoder.1", "encoder.2"]
    for weights, by_equation in zip(found.values(), expected, strict=True):
        assert weights.shape == (2, 2, 10, 10)
        torch.testing.assert_close(weights, by_equation)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 10, dtype=torch.float64))


@pytest.mark.parametrize("option", ["dropout", "stochastic_depth"])  # both: forward draws for fewer samples
def test_attend_drops_as_forward_does(build, option):
    model = build(**{option: 0.6}).train()
    z = model.embed(images())
    torch.manual_seed(3)
    plain = model.encoder[-1](z)
    torch.manual_seed(3)
    torch.testing.assert_close(model.encoder[-1].attend(z)[0], plain)


def test_stochastic_depth_rates_grow_over_the_blocks():
    model = VisionTransformer(ViTConfig(**TINY, stochastic_depth=0.4))
    assert [block.stochastic_depth.rate for block in model.encoder] == pytest.approx([0.0, 0.2, 0.4])


def test_tokens_and_positions_start_as_documented():
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(**TINY | {"dim": 192, "image_size": 32}))
    assert model.position_embedding.std().item() == pytest.approx(0.02, rel=0.05)
    assert 0 < model.class_token.abs().max() < 1e-5
    assert VisionTransformer(ViTConfig(**TINY, class_token=False, pool="mean")).class_token is None


def test_another_image_size_is_an_error_that_names_both(build):
    with pytest.raises(ValueError, match=r"images are \(16, 16\), the model was built for 12 px"):
        build()(images(16))
    with pytest.raises(ValueError, match=r"images are \(20, 12\), the model was built for 12 x 20 px"):
        build(image_size=(12, 20))(images((20, 12)))


@pytest.mark.parametrize(("size", "stride", "grid"), [((12, 20), 0, (3, 5)), ((20, 12), 2, (9, 5))])
def test_images_that_are_no_squares(build, size, stride, grid):
    model = build(image_size=size, patch_stride=stride)
    batch = images(size)
    assert model.config.grid == grid
    torch.testing.assert_close(model.embed(batch), equation_1(model, batch))
    tokens = model.norm(model.encode(batch)[:, 1:])
    [found] = model.pyramid(batch).values()
    assert found.shape == (2, 24, *grid)
    assert torch.equal(found[:, :, 2, 4], tokens[:, 2 * grid[1] + 4])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pool": "max"}, 'pool is "max"; it must be "token", "mean" or "mean_norm"'),
        ({"class_token": False}, 'pool "token" needs class_token: true'),
        ({"patch_size": 16}, "patch_size 16 is larger than image_size 12"),
        ({"patch_size": 5}, "image_size 12 is not a whole number of patches of 5 px"),
        ({"patch_stride": 3}, "image_size 12 is not a whole number of patches of 4 px every 3 px (patch_stride)"),
        ({"image_size": (12, 14)}, "image_size (12, 14) is not a whole number of patches of 4 px"),
        ({"image_size": (12, 2)}, "patch_size 4 is larger than image_size (12, 2)"),
        ({"image_size": (12, 0)}, "image_size is (12, 0); it must be at least 1"),
        ({"patch_stride": -4}, "patch_stride is -4; it must be at least 0"),
        ({"patch_size": 0}, "patch_size is 0; it must be at least 1"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 leaves the MLP without a hidden unit"),
        ({"classes": 0, "representation": 8}, "representation is a layer of the head, and classes: 0 means no head"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in [0, 1)"),
        ({"attention_dropout": 2.0}, "attention_dropout is 2.0; it must be in [0, 1)"),
        ({"stochastic_depth": float("nan")}, "stochastic_depth is nan; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        ViTConfig(**TINY | config)
    assert str(caught.value) == message
