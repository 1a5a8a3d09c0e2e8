from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.weights import adapt as steps
from vitnext.weights.adapt import adapt, misfits
from vitnext.weights.rename import rename
from vitnext.weights.tables import TABLES

TINY = {"dim": 16, "depth": 1, "heads": 2, "image_size": 32, "patch_size": 8, "classes": 5}


def vit(**config):
    torch.manual_seed(0)
    model = catalog.build("vit", **TINY | config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def adapted(model, **config):
    """The model's weights in another configuration, and the lines."""
    other = catalog.build("vit", **TINY | config)
    state, lines = adapt(model.state_dict(), other)
    other.load_state_dict(state, strict=True)
    return other.eval(), lines


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), [((7, 7), (3, 3)), ((7, 7), (12, 12)), ((7, 7), (5, 9)), ((4, 9), (6, 6))])
def test_positions_are_resized_as_timm_does(prefix, old, new):
    positions = torch.randn(1, prefix + math.prod(old), 6)
    state, line = steps.resize_positions({steps.POSITIONS: positions, "x": positions}, new, prefix, old=old)
    expected = resample_abs_pos_embed(positions, new, old, num_prefix_tokens=prefix)
    torch.testing.assert_close(state[steps.POSITIONS], expected, rtol=0, atol=0)
    assert state["x"] is positions
    assert line == f"position embedding: {old[0]}x{old[1]} -> {new[0]}x{new[1]} patches, bicubic, antialiased"


@pytest.mark.parametrize("grid", [(16, 16), (37, 37), (50, 50), (16, 41)])
def test_positions_are_resized_as_dinov2_does(grid):
    positions = torch.randn(1, 1 + 37**2, 4)
    state, line = steps.resize_positions({steps.POSITIONS: positions}, grid, 1, "offset")
    # dinov2/models/vision_transformer.py, interpolate_pos_encoding, in its own steps
    patches = positions[:, 1:].reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    scale = [float(side + 0.1) / 37 for side in grid]
    patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", antialias=False)
    assert patches.shape[-2:] == grid
    expected = torch.cat([positions[:, :1], patches.permute(0, 2, 3, 1).reshape(1, -1, 4)], dim=1)
    assert torch.equal(state[steps.POSITIONS], expected)
    assert line == f"position embedding: 37x37 -> {grid[0]}x{grid[1]} patches, bicubic, offset 0.1"


def test_the_ways_to_resize_differ_and_each_keeps_a_constant():
    torch.manual_seed(0)
    ways = [
        steps.resize_positions({steps.POSITIONS: torch.randn(1, 50, 4)}, (4, 4), 1, way)[0][steps.POSITIONS]
        for way in steps.RESIZES
    ]
    assert all((ways[i] - ways[j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    for way in steps.RESIZES:
        state, _ = steps.resize_positions({steps.POSITIONS: torch.ones(1, 50, 4)}, (9, 9), 1, way)
        torch.testing.assert_close(state[steps.POSITIONS], torch.ones(1, 82, 4))


def test_positions_that_are_no_square():
    with pytest.raises(InputError, match="has 48 tokens, which are no square of patches and 1 more"):
        steps.resize_positions({steps.POSITIONS: torch.randn(1, 48, 4)}, (5, 5), 1)
    with pytest.raises(InputError, match="has 48 tokens, which are no 6x8 of patches and 1 more"):
        steps.resize_positions({steps.POSITIONS: torch.randn(1, 48, 4)}, (5, 5), 1, old=(6, 8))
    with pytest.raises(InputError, match='in the way "nearest": give antialias, offset, plain'):
        steps.resize_positions({steps.POSITIONS: torch.randn(1, 50, 4)}, (5, 5), 1, "nearest")


@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 8), (14, 16), (32, 7)])
def test_patches_are_resized_as_timm_does(old, new):
    weight = torch.randn(6, 3, old, old)
    state, line = steps.resize_patches({steps.PATCHES: weight}, new)
    expected = resample_patch_embed(weight, [new, new])
    assert state[steps.PATCHES].dtype == torch.float32
    torch.testing.assert_close(state[steps.PATCHES], expected, rtol=1e-3, atol=1e-4)
    assert line == f"patch embedding: {old} -> {new} px, resized by pseudo-inverse"


def test_tokens_of_larger_patches_are_those_of_the_resized_image():
    """Beyer et al. 2023, section 3.4: <x, w> = <Bx, w'> if the patch grows."""
    weight, patch = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    state, _ = steps.resize_patches({steps.PATCHES: weight}, 12)
    resized = F.interpolate(patch, size=(12, 12), mode="bicubic", antialias=True)
    torch.testing.assert_close(F.conv2d(resized, state[steps.PATCHES]), F.conv2d(patch, weight), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8])
def test_channels_are_changed_as_timm_does(channels):
    weight = torch.randn(6, 3, 4, 4)
    state, line = steps.change_channels({"stem.0.weight": weight}, "stem.0.weight", channels)
    torch.testing.assert_close(state["stem.0.weight"], adapt_input_conv(channels, weight), rtol=0, atol=1e-6)
    assert line.startswith("stem.0.weight: ")


def test_a_grey_picture_is_seen_as_before():
    model, grey = vit(), torch.randn(2, 1, 32, 32)
    one, lines = adapted(model, channels=1)
    assert lines == ["patch_embedding.weight: summed over its 3 channels"]
    torch.testing.assert_close(one(grey), model(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    four, lines = adapted(model, channels=4)
    assert lines == ["patch_embedding.weight: 3 channels repeated for 4, times 3/4"]
    assert four(grey.expand(-1, 4, -1, -1)).shape == (2, 5)
    back, _ = adapted(one, channels=3)
    torch.testing.assert_close(back(grey.expand(-1, 3, -1, -1)), one(grey), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [4, 7, 12])
def test_window_bias(window):
    table = torch.randn(13**2, 3)
    rows = (2 * window - 1) ** 2
    names = {f"levels.{i}.attention.bias_table": rows for i in (0, 1)}
    state, line = steps.resize_window_bias(dict.fromkeys(names, table), names)
    # Swin-Transformer/utils.py, load_pretrained, in its own steps
    expected = F.interpolate(
        table.permute(1, 0).view(1, 3, 13, 13), size=(2 * window - 1, 2 * window - 1), mode="bicubic"
    )
    expected = expected.view(3, rows).permute(1, 0)
    assert all(torch.equal(state[name], expected) for name in names)
    assert line == f"relative position bias: windows of 7x7 -> {window}x{window}, bicubic"


def test_a_table_that_is_no_window():
    with pytest.raises(InputError, match=r"t.bias_table has 168 rows, 49 are needed: these are no windows"):
        steps.resize_window_bias({"t.bias_table": torch.randn(168, 3)}, {"t.bias_table": 49})


def test_the_head_is_replaced_kept_or_removed():
    model = vit()
    same, lines = adapted(model)
    assert lines == [] and torch.equal(same.head.weight, model.head.weight)
    other, lines = adapted(model, classes=3)
    assert lines == ["head: new, for 3 classes; that of 5 classes is left out"]
    assert other.head.weight.shape == (3, 16) and torch.equal(other.norm.weight, model.norm.weight)
    none, lines = adapted(model, classes=0)
    assert lines == ["head: none; that of 5 classes is left out"]
    again, lines = adapted(none, classes=4)
    assert lines == ["head: new, for 4 classes; the weights have none"]
    assert again.head.weight.std() < 0.1  # freshly initialised


def test_a_head_of_two_layers_is_replaced_whole():
    model = vit(representation=8)
    other, lines = adapted(model, classes=3)
    assert lines == ["head: new, for 3 classes; that of 5 classes is left out"]
    assert set(steps.head_of(other.state_dict())) == {"head.weight", "head.bias"}


def test_all_at_once_in_order():
    model = vit()
    other, lines = adapted(model, channels=1, image_size=60, patch_size=12, classes=2)
    assert [line.partition(":")[0] for line in lines] == [
        "patch_embedding.weight",
        "patch embedding",
        "position embedding",
        "head",
    ]
    assert other(torch.randn(1, 1, 60, 60)).shape == (1, 2)


def test_what_no_step_can_mend_is_named():
    model = vit()
    wanted = vit(dim=24, depth=2, qkv_bias=False).state_dict()
    state, lines = adapt(model.state_dict(), vit(dim=24, depth=2, qkv_bias=False))
    assert lines == ["head: new, for 5 classes; that of 5 classes is left out"]
    problems = misfits(state, wanted, "vit")
    assert problems[0] == "left over: encoder.0.attention.qkv.bias"
    assert problems[1].startswith("missing: encoder.1.attention.output.bias, ")
    assert "norm.weight is (16,), vit has (24,)" in problems
    assert misfits(wanted, wanted, "vit") == []


def test_resized_networks_agree_with_timms():
    """Positions and patches together, through both networks."""
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5, img_size=96).eval()
    state = rename(theirs.state_dict(), TABLES["vit"]["timm"][0].table)
    ours = catalog.build("vit_tiny", depth=1, classes=5, image_size=160)
    adapted_state, _ = adapt(state, ours)
    ours.load_state_dict(adapted_state, strict=True)
    theirs.set_input_size(img_size=160)
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert (ours.eval()(images) - theirs(images)).abs().max() <= 1e-5
