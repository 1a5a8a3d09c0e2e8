from __future__ import annotations

import pytest
import timm
import torch

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.weights.recognise import recognise
from vitnext.weights.rename import rename
from vitnext.weights.tables import TABLES
from vitnext.weights.tables.vit import ORIGINAL_REPRESENTATION
from vitnext.weights.tables.vit import TRANSFORMERS as VIT_TRANSFORMERS


def of_timm(name, **options):
    """Names and shapes of timm's model, without memory."""
    with torch.device("meta"):
        return timm.create_model(name, **options).state_dict()


def message(state, *arguments):
    with pytest.raises(InputError) as caught:
        recognise(state, "FILE", *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BOTH = "timm's and the authors' layout of"


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("vit_small_patch16_224", {}, f"{BOTH} vit_small, 1,000 classes"),
        ("vit_base_patch32_224", {"num_classes": 0}, f"{BOTH} vit_base_patch32, no head"),
        ("vit_small_patch16_384", {"in_chans": 1}, f"{BOTH} vit_small, 1,000 classes, 384 px, 1 channel"),
        ("vit_base_patch16_224.mae", {"global_pool": "avg"}, f"{BOTH} vit_base, no head"),
        ("vit_small_patch14_dinov2", {}, f"{BOTH} vit_small_patch14_dinov2, no head"),
        (
            "vit_small_patch14_dinov2",
            {"num_classes": 3, "img_size": 224},
            "timm's layout of vit_small_patch14_dinov2, 3 classes, 224 px",
        ),
        ("convnext_tiny", {"num_classes": 21841}, "timm's layout of convnext_tiny, 21,841 classes"),
        ("convnext_tiny.dinov3_lvd1689m", {}, "timm's layout of convnext_tiny_dinov3, no head"),
        ("convnext_nano", {}, "timm's layout of convnext_nano, 1,000 classes"),
        ("swin_base_patch4_window12_384", {}, "timm's layout of swin_base, 1,000 classes, windows of 12"),
        ("resnet50", {}, "torchvision's and timm's layout of resnet50, 1,000 classes"),
    ],
)
def test_timms_models(name, options, line):
    assert recognise(of_timm(name, **options), "FILE").line == f"recognised: {line}"


def test_a_pool_that_the_names_tell():
    assert recognise(of_timm("vit_tiny_patch16_224", global_pool="avg"), "FILE").config["pool"] == "mean_norm"


def test_a_network_without_its_prefix():
    """transformers leaves "vit." out where there is no head."""
    with torch.device("meta"):
        ours = catalog.build("vit_tiny", classes=0).state_dict()
    state = rename(ours, TABLES["vit"]["transformers"][0].table, reverse=True)
    found = recognise({key.removeprefix("vit."): tensor for key, tensor in state.items()}, "FILE")
    assert (found.name, found.config, found.naming.source) == ("vit_tiny", {"classes": 0}, "transformers")


def test_our_own_names():
    with torch.device("meta"):
        state = catalog.build("convnext_atto", classes=3).state_dict()
    found = recognise(state, "FILE")
    assert found.line == "recognised: vitnext's own layout of convnext_atto, 3 classes"
    small = {"dim": 16, "depth": 1, "heads": 2, "image_size": 16, "patch_size": 4, "classes": 3}
    with torch.device("meta"):
        state = catalog.build("vit", **small).state_dict()
    assert recognise(state, "FILE", "vit", small).config["image_size"] == 16


def test_the_values_come_along():
    state = timm.create_model("vit_tiny_patch16_224", num_classes=2).state_dict()
    found = recognise(state, "FILE")
    assert torch.equal(found.state["encoder.11.mlp.0.weight"], state["blocks.11.mlp.fc1.weight"])


def test_what_is_left_over_missing_or_of_another_shape():
    state = of_timm("convnext_tiny")
    assert message({**state, "foo.0.weight": torch.zeros(1), "foo.1.weight": torch.zeros(1)}) == (
        "FILE fits no model; the nearest is timm's layout of convnext_tiny: left over: foo.{0-1}.weight"
    )
    del state["head.norm.weight"]
    assert message(state) == (
        "FILE fits no model; the nearest is timm's layout of convnext_tiny: missing: head.norm.weight"
    )
    state = of_timm("convnext_tiny")
    state["stages.0.blocks.1.mlp.fc1.weight"] = torch.zeros(100, 3)
    assert message(state) == (
        "FILE fits no model; the nearest is timm's layout of convnext_tiny: stages.0.blocks.1.mlp.fc1.weight is "
        "(100, 3) as stages.0.blocks.1.expand.weight, convnext_tiny has (384, 96)"
    )


def test_every_missing_key_is_named_and_shapes_are_counted():
    text = message(of_timm("vit_tiny_patch16_224", depth=11))
    assert text.endswith(
        "layout of vit_tiny: missing: blocks.11.attn.proj.bias, blocks.11.attn.proj.weight, blocks.11.attn.qkv.bias, "
        "blocks.11.attn.qkv.weight, blocks.11.mlp.fc1.bias, blocks.11.mlp.fc1.weight, blocks.11.mlp.fc2.bias, "
        "blocks.11.mlp.fc2.weight, blocks.11.norm1.bias, blocks.11.norm1.weight, blocks.11.norm2.bias, "
        "blocks.11.norm2.weight"
    )
    text = message(of_timm("vit_tiny_patch16_224", mlp_ratio=3))
    assert "blocks.0.mlp.fc1.weight is (576, 192) as encoder.0.mlp.0.weight, vit_tiny has (768, 192)" in text
    assert text.endswith("; 33 more of other shapes")


def test_weights_of_no_family():
    assert message({"a.weight": torch.zeros(1), "b": torch.zeros(1)}).startswith(
        "FILE fits no model: of its 2 weights only 0 have a place in the nearest layout ("
    )


def test_another_model_than_the_one_that_is_asked_for():
    expected = "FILE is not convnext_small, it holds timm's layout of convnext_tiny, 1,000 classes"
    assert message(of_timm("convnext_tiny"), "convnext_small") == expected
    assert message(of_timm("convnext_tiny"), "vit_small").startswith("FILE is not vit_small, it holds timm's layout")
    text = message(of_timm("vit_tiny_patch16_224", depth=11), "vit_tiny")
    assert "the nearest is timm's layout of vit_tiny: missing: blocks.11" in text
    text = message(of_timm("vit_tiny_patch16_224", depth=11), "convnext_tiny")
    assert text.startswith(
        "FILE does not hold convnext_tiny; it fits no model; the nearest is timm's layout of vit_tiny"
    )


def test_the_order_of_the_keys_tells_nothing():
    with torch.device("meta"):
        theirs = rename(
            catalog.build("vit_tiny", representation=7, classes=3).state_dict(), ORIGINAL_REPRESENTATION, reverse=True
        )
    for keys in (sorted(theirs), sorted(theirs, reverse=True)):
        found = recognise({key: theirs[key] for key in keys}, "FILE")
        assert found.name == "vit_tiny"
        assert {key: found.config[key] for key in ("classes", "representation")} == {"classes": 3, "representation": 7}


def test_windows_of_swin_v2_are_in_the_name_or_in_a_buffer():
    state = of_timm("swinv2_tiny_window16_256", num_classes=3)
    found = recognise(state, "FILE")
    assert "swinv2_tiny, 3 classes; windows of 8 are taken, which these weights do not tell: a file name" in found.line
    assert recognise(state, "timm/swinv2_tiny_window16_256.ms_in1k").config["window"] == 16
    assert recognise(state, "FILE", "swinv2_tiny", {"window": 16}).config["window"] == 16
    found = recognise(state, "timm/swinv2_base_window12to24_192to384.ms_in22k_ft_in1k")
    assert (found.config["window"], found.config["pretrained_windows"]) == (24, (12, 12, 12, 6))
    assert "do not tell" not in found.line
    found = recognise(state, "swinv2_base_window12to24_192to384.safetensors", config={"window": 8})
    assert (found.config["window"], found.config["pretrained_windows"]) == (8, (12, 12, 12, 6))
    found = recognise(state, "window12to24", "swinv2_tiny", {"window": 8, "pretrained_windows": (0,)})
    assert (found.config["window"], found.config["pretrained_windows"]) == (8, (0,))
    with torch.device("meta"):
        buffer = {"layers.0.blocks.0.attn.relative_coords_table": torch.empty(1, 31, 31, 2)}
        ours = catalog.build("swinv2_tiny", classes=3).state_dict()
    authors = rename(ours, TABLES["swinv2"]["original"][0].table, reverse=True)
    assert recognise(authors | buffer, "FILE").config["window"] == 16


def test_a_classifier_of_timms_dinov3_pools_the_patches():
    state = of_timm("vit_small_patch16_dinov3", num_classes=3)
    assert recognise(state, "FILE").config["pool"] == "mean"
    assert "pool" not in recognise(of_timm("vit_small_patch16_dinov3", num_classes=0), "FILE").config


def test_what_is_no_part_of_the_model_is_named():
    with torch.device("meta"):
        state = rename(catalog.build("vit_tiny", classes=0).state_dict(), VIT_TRANSFORMERS, reverse=True)
        state |= {"vit.pooler.dense.weight": torch.empty(192, 192), "vit.pooler.dense.bias": torch.empty(192)}
    line = recognise(state, "FILE").line
    assert line.endswith("left behind, as no part of it: vit.pooler.dense.bias, vit.pooler.dense.weight")


def test_buffers_in_half_precision_and_of_another_image_size():
    theirs = rename(
        catalog.build("vit_small_patch16_dinov3", depth=1).state_dict(),
        TABLES["dinov3"]["original"][0].table,
        reverse=True,
    )
    periods = theirs["rope_embed.periods"]
    theirs["rope_embed.periods"] = periods.bfloat16().float()
    assert not torch.equal(theirs["rope_embed.periods"], periods)
    table = TABLES["dinov3"]["original"][0].table
    rename(theirs, table)
    with pytest.raises(InputError, match=r"rope_embed\.periods is not what this model computes"):
        rename(theirs | {"rope_embed.periods": periods * 1.01}, table)
    table = TABLES["swin"]["original"][0].table
    swin = rename(catalog.build("swin_tiny", depths=(2, 2, 2, 2)).state_dict(), table, reverse=True)
    larger = torch.zeros(256, 49, 49)  # of 448 px
    rename(swin | {"layers.0.blocks.1.attn_mask": larger}, table)
    with pytest.raises(InputError, match="attn_mask is not what this model computes"):
        rename(swin | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}, table)
