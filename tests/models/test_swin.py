from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from vitnext.models import swin
from vitnext.models import windows as windows_module
from vitnext.models.swin import SIZES, SwinConfig, SwinTransformer, neighbours
from vitnext.models.windows import Windows

TINY = {"channels": 2, "classes": 5, "patch_size": 2, "dim": 8, "depths": (2, 3), "heads": (1, 2), "window": 3}
# Sides of the first stage's map: whole windows, padded ones, one window or less along one side or both.
SIDES = [(6, 9), (7, 10), (5, 5), (3, 7), (2, 8), (7, 1), (3, 3), (2, 2), (1, 1)]


@pytest.fixture
def build(randomise):
    """A tiny model without a zero in it, in float64 and evaluation mode; without gradients: on the fused path."""
    return lambda **config: (
        randomise(SwinTransformer(SwinConfig(**TINY | config))).double().eval().requires_grad_(False)
    )


def images(height=14, width=None):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 2, height, width or height, dtype=torch.float64, generator=generator)


def groups(side, window, shifted):
    """Section 3.2 without the cyclic shift: which window each row (or column) falls into, padding included.

    The shifted partition's lines are moved by M // 2, so that the first window and the last one are cut off.
    """
    window = min(window, side)
    shift = window // 2 if shifted and side > window else 0
    padded = -(-side // window) * window
    return [(place + window - shift) // window if shift else place // window for place in range(padded)]


def norm(layer, x):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def equation_4(attention, x, shifted):
    """(W-MSA or SW-MSA of x (B, H, W, C), weights): every token asks those in its window, one pair after the other."""
    batch, height, width, dim = x.shape
    heads, m = attention.heads, attention.window
    rows, columns = groups(height, m, shifted), groups(width, m, shifted)
    padded = torch.zeros(batch, len(rows), len(columns), dim, dtype=x.dtype)
    padded[:, :height, :width] = x
    q, k, v = (
        part.unflatten(-1, (heads, -1))
        for part in nn.functional.linear(padded, *attention.qkv.parameters()).chunk(3, -1)
    )
    table = attention.bias_table.unflatten(0, (2 * m - 1, 2 * m - 1))  # B-hat: [dy + M - 1, dx + M - 1]
    out, weights = torch.zeros_like(padded), {}
    for y, z in itertools.product(range(len(rows)), range(len(columns))):
        seen = [
            (a, b)
            for a, b in itertools.product(range(len(rows)), range(len(columns)))
            if rows[a] == rows[y] and columns[b] == columns[z]
        ]
        scores = [
            (q[:, y, z] * k[:, a, b]).sum(dim=-1) / (dim // heads) ** 0.5 + table[y - a + m - 1, z - b + m - 1]
            for a, b in seen
        ]
        weight = torch.stack(scores, dim=-1).softmax(dim=-1)  # (B, h, tokens seen)
        weights[y, z] = dict(zip(seen, weight.unbind(-1), strict=True))
        out[:, y, z] = sum(w[..., None] * v[:, a, b] for (a, b), w in weights[y, z].items()).flatten(1)
    return attention.output(out)[:, :height, :width], weights


def equation_3(block, x, shifted):
    x = equation_4(block.attention, norm(block.norm1, x), shifted)[0] + x
    hidden = block.mlp[0](norm(block.norm2, x))
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # the exact GELU
    return block.mlp[3](hidden) + x


def merged(x):
    """Section 3.1: the features of 2 x 2 neighbours, one behind the other: down the left column, down the right one."""
    batch, height, width, dim = x.shape
    out = torch.zeros(batch, -(-height // 2), -(-width // 2), 4 * dim, dtype=x.dtype)
    for y, z in itertools.product(range(height), range(width)):
        place = 2 * (z % 2) + y % 2
        out[:, y // 2, z // 2, place * dim : (place + 1) * dim] = x[:, y, z]
    return out


def test_shapes_of_swin_tiny():
    with torch.device("meta"):
        model, batch = SwinTransformer(SwinConfig(**SIZES["swin_tiny"])), torch.empty(2, 3, 224, 224)
    assert model.embed(batch).shape == (2, 56, 56, 96)
    maps = model.pyramid(batch)
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "stage1": (2, 96, 56, 56),
        "stage2": (2, 192, 28, 28),
        "stage3": (2, 384, 14, 14),
        "stage4": (2, 768, 7, 7),
    }
    assert [(stage.name, stage.channels, stage.stride) for stage in model.stages] == [
        ("stage1", 96, 4),
        ("stage2", 192, 8),
        ("stage3", 384, 16),
        ("stage4", 768, 32),
    ]
    assert model.pooled(batch).shape == (2, 768) and model(batch).shape == (2, 1000)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("sides", SIDES)
def test_attention_is_that_of_the_section_without_a_cyclic_shift(build, sides, shifted):
    block = build().stages[0].blocks[0]
    x = torch.randn(2, *sides, 8, dtype=torch.float64)
    windows = Windows.of(x, 3, shifted)
    expected, pairs = equation_4(block.attention, x, shifted)
    torch.testing.assert_close(windows.join(block.attention(windows.cut(x), windows)), expected)
    out, weights = block.attention(windows.cut(x), windows, return_weights=True)
    torch.testing.assert_close(windows.join(out), expected)
    # The weights by token of the padded map: what each place of the windows asks of each other place.
    height, width = (count * size for count, size in zip(windows.count, windows.size, strict=True))
    whole = Windows((height, width), windows.size, windows.shift)
    tokens = whole.cut(torch.arange(height * width).reshape(1, height, width, 1)).flatten(1)
    weights = weights.unflatten(0, (2, -1))  # (B, windows, h, N, N)
    for w, row, column in itertools.product(range(tokens.shape[0]), *[range(tokens.shape[1])] * 2):
        asking, asked = (divmod(tokens[w, place].item(), width) for place in (row, column))
        weight = pairs[asking].get(asked, torch.zeros(2, 1, dtype=torch.float64))
        torch.testing.assert_close(weights[:, w, :, row, column], weight)


@pytest.mark.parametrize(("side", "windows"), [(6, 3), (7, 4), (3, 1)])
def test_shifted_windows_are_cut_off_at_both_ends(side, windows):
    assert len(set(groups(side, 3, shifted=True))) == windows  # the check of the check


@pytest.mark.parametrize("size", [(12, 18), (14, 14), (13, 9), (3, 20), (1, 1)])
def test_forward_is_the_paper(build, size):
    model = build()
    x = model.embed(images(*size))
    assert x.shape[1:3] == (-(-size[0] // 2), -(-size[1] // 2))
    maps = model.pyramid(images(*size))
    for i, stage in enumerate(model.stages):
        if i:
            x = norm(stage.merging.norm, merged(x)) @ stage.merging.reduction.weight.T
        for j, block in enumerate(stage.blocks):
            x = equation_3(block, x, shifted=j % 2 == 1)
        torch.testing.assert_close(maps[f"stage{i + 1}"], x.permute(0, 3, 1, 2))
    feature = norm(model.norm, x).mean(dim=(1, 2))
    torch.testing.assert_close(model.pooled(images(*size)), feature)
    torch.testing.assert_close(model(images(*size)), feature @ model.head.weight.T + model.head.bias)


def test_embedding_pads_the_last_patches(build):
    model = build(patch_size=4)
    padded = torch.zeros(2, 2, 8, 12, dtype=torch.float64)
    padded[:, :, :7, :9] = images(7, 9)
    torch.testing.assert_close(model.embed(images(7, 9)), model.embed(padded))
    patch = padded[:, :, 4:8, 8:12].flatten(1) @ model.patch_embedding.weight.flatten(1).T + model.patch_embedding.bias
    torch.testing.assert_close(model.embed(images(7, 9))[:, 1, 2], norm(model.embedding_norm, patch))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("sides", SIDES)
def test_join_is_the_reverse_of_cut(sides, shifted):
    x = torch.randn(2, *sides, 4)
    windows = Windows.of(x, 3, shifted)
    cut = windows.cut(x)
    assert cut.shape == (2 * math.prod(windows.count), math.prod(windows.size), 4)
    assert torch.equal(windows.join(cut), x)


def test_windows_are_shifted_by_half_of_them_to_the_top_left():
    x = torch.arange(36.0).reshape(1, 6, 6, 1)
    windows = Windows.of(x, 3, shifted=True)
    assert windows == Windows(map=(6, 6), size=(3, 3), shift=(1, 1))
    assert windows.cut(x)[0, :, 0].tolist() == [7, 8, 9, 13, 14, 15, 19, 20, 21]
    assert windows.cut(x)[1, :, 0].tolist() == [10, 11, 6, 16, 17, 12, 22, 23, 18]
    mask = windows.mask(x)
    assert mask.shape == (4, 1, 9, 9) and not mask[0].any()
    assert mask[1, 0, 0].tolist() == [0, 0, -100] * 3  # from the other end of the rows: 6, 12 and 18
    assert Windows.of(x, 3, shifted=False).mask(x) is None and Windows.of(x, 6, shifted=True).mask(x) is None


def test_neighbours(build):
    x = torch.randn(2, 5, 6, 3)
    assert torch.equal(neighbours(x), merged(x))


def test_a_small_window_takes_the_offsets_that_it_has(build):
    attention = build(window=4).stages[0].blocks[0].attention
    table = attention.bias_table.unflatten(0, (7, 7))
    bias = attention.position_bias(Windows((2, 9), (2, 4), (0, 0)))
    assert bias.shape == (1, 1, 8, 8)
    for (y, z), (a, b) in itertools.product(itertools.product(range(2), range(4)), repeat=2):
        assert bias[0, 0, 4 * y + z, 4 * a + b] == table[y - a + 3, z - b + 3, 0]


def test_attention_weights_by_name(build):
    model = build()
    weights = model.attention_weights(images(12, 18))
    assert {name: tuple(each.shape) for name, each in weights.items()} == {
        "stages.0.blocks.0": (2 * 6, 1, 9, 9),
        "stages.0.blocks.1": (2 * 6, 1, 9, 9),
        "stages.1.blocks.0": (2 * 2, 2, 9, 9),
        "stages.1.blocks.1": (2 * 2, 2, 9, 9),
        "stages.1.blocks.2": (2 * 2, 2, 9, 9),
    }
    x = model.embed(images(12, 18))
    for name, each in weights.items():
        torch.testing.assert_close(each.sum(dim=-1), torch.ones(each.shape[:-1], dtype=torch.float64))
        block = model.get_submodule(name)
        if name == "stages.1.blocks.0":
            x = model.stages[1].merging(x)
        attended, expected = block.attend(x)
        torch.testing.assert_close(each, expected)
        torch.testing.assert_close(attended, block(x))
        x = attended


@pytest.mark.parametrize("option", ["dropout", "stochastic_depth"])  # both: forward draws for fewer samples
def test_attend_drops_as_forward_does(build, option):
    model = build(**{option: 0.6}).train()
    x = model.embed(images())
    for block in model.stages[0].blocks:
        torch.manual_seed(3)
        plain = block(x)
        torch.manual_seed(3)
        torch.testing.assert_close(block.attend(x)[0], plain)


def test_training_takes_the_steps_and_prediction_the_fused_kernel(build):
    model = build()
    assert not any(swin.steps_are_faster(b.attention.bias_table) for stage in model.stages for b in stage.blocks)
    predicted = model(images())
    model.requires_grad_(True)
    assert all(swin.steps_are_faster(b.attention.bias_table) for stage in model.stages for b in stage.blocks)
    torch.testing.assert_close(model(images()), predicted)


@pytest.mark.parametrize("gradients", [False, True])
def test_attention_dropout_acts_on_the_weights_in_training(build, gradients):
    """Half of the weights are dropped and the others doubled, so that the mean over many runs is the same."""
    attention = build(attention_dropout=0.5).stages[0].blocks[1].attention.requires_grad_(gradients)
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64).expand(500, -1, -1, -1)
    windows = Windows.of(x, 3, shifted=True)
    expected = attention(windows.cut(x), windows).unflatten(0, (500, -1))
    assert torch.equal(expected, expected[:1].expand_as(expected))
    found = attention.train()(windows.cut(x), windows).unflatten(0, (500, -1))
    error = found.std(dim=0) / 500**0.5
    assert (error > 0).all()
    assert ((found.mean(dim=0) - expected[0]).abs() <= 6 * error).all()


def test_macs_are_those_of_equation_2():
    """Omega(W-MSA) = 4 h w C^2 + 2 M^2 h w C: projections, and products of queries, keys and values."""
    height, width, dim, window = 56, 56, 96, 7
    with torch.device("meta"):
        block = SwinTransformer(SwinConfig()).stages[0].blocks[0]
        x = torch.empty(1, height, width, dim)
        cut = Windows.of(x, window, shifted=False).cut(x)
    products = block.attention.own_macs((cut, None))
    assert products == 2 * window**2 * height * width * dim
    linears = height * width * (block.attention.qkv.weight.numel() + block.attention.output.weight.numel())
    assert linears == 4 * height * width * dim**2


def test_stochastic_depth_rates_grow_over_all_stages():
    model = SwinTransformer(SwinConfig(**TINY, stochastic_depth=0.4))
    rates = [block.stochastic_depth.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_every_parameter_is_set():
    with torch.device("meta"):
        model = SwinTransformer(SwinConfig(**TINY | {"dim": 64}))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(0)
    model.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    tables = torch.cat([b.attention.bias_table.flatten() for stage in model.stages for b in stage.blocks])
    assert tables.std().item() == pytest.approx(0.02, rel=0.15)


def test_places_masks_and_offsets_are_computed_once_for_a_size(build):
    model = build()
    windows_module._constant.cache_clear()
    computed = []
    for size in (12, 18, 12, 18):
        model(images(size))
        computed.append(windows_module._constant.cache_info().misses)
    assert 0 < computed[0] < computed[1] == computed[2] == computed[3]


def test_prediction_leaves_nothing_behind_that_training_cannot_use():
    windows_module._constant.cache_clear()
    model = SwinTransformer(SwinConfig(**TINY))
    batch = images().float()
    with torch.inference_mode():
        model(batch)
    model(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_bfloat16(build):
    model = build().float()
    batch = images().float()
    with torch.inference_mode():
        expected = model(batch)
        found = model.bfloat16()(batch.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx(build, onnx_agrees):
    windows_module._constant.cache_clear()  # a graph that is traced first must not leave its symbols in the cache
    onnx_agrees(build(depths=(2, 1)).float(), images(13, 18).float())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (2,)}, "depths (2,) and heads (1, 2) must have one number for each stage"),
        ({"depths": (), "heads": ()}, "depths () and heads () must have one number for each stage"),
        ({"heads": (3, 2)}, "dim 8 gives a stage of width 8, no multiple of its 3 heads"),
        ({"heads": (1, 3)}, "dim 8 gives a stage of width 16, no multiple of its 3 heads"),
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"patch_size": 0}, "patch_size is 0; it must be at least 1"),
        ({"depths": (2, 0)}, "depths is (2, 0); it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"mlp_ratio": 0.1}, "mlp_ratio 0.1 leaves the MLP without a hidden unit"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        SwinConfig(**TINY | config)
    assert str(caught.value) == message
