"""DINOv3's ViTs with weights of timm, transformers and the authors."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from timm.models.eva import checkpoint_filter_fn
from torch import nn

from references import LARGEST, near, there_and_back
from vitnext.errors import InputError
from vitnext.models.dinov3 import SIZES, DINOv3, DINOv3Config
from vitnext.weights.rename import rename
from vitnext.weights.tables import dinov3 as tables

TINY = {"dim": 48, "depth": 3, "heads": 2, "patch_size": 8, "classes": 7}
TINY_TIMM = {"embed_dim": 48, "depth": 3, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_classes": 7}
TOKEN = {"global_pool": "token"}  # as the authors; timm's default is the mean


def random_weights(model):
    """Random values in every parameter and stored buffer: norms, biases, tokens and layer scale too."""
    torch.manual_seed(0)
    for parameter in model.state_dict().values():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def timm_model(name, **options):
    return random_weights(timm.create_model(name, **TOKEN | options))


def tiny(name, **options):
    """timm's model of this kind and our fields for it."""
    config = {key: SIZES[name][key] for key in ("swiglu", "mlp_ratio") if key in SIZES[name]}
    return timm_model(name + "_qkvb", **TINY_TIMM | options), TINY | config


def converted(state, table, config, lost=()):
    return there_and_back(lambda: DINOv3(DINOv3Config(**config)), state, table, lost)


def images(channels=3, height=32, width=32, batch=2):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def compare_with_timm(ours, theirs, batch):
    """Logits or feature, and the patches as the last stage."""
    with torch.inference_mode():
        [patches] = theirs.forward_intermediates(batch, indices=1, norm=True, intermediates_only=True)
        near(ours(batch), theirs(batch))
        near(ours.pyramid(batch)["grid"], patches)


def timm_table(name):
    return tables.TIMM_SWIGLU if SIZES[name].get("swiglu") else tables.TIMM


@pytest.mark.layout(tables.TIMM, tables.TIMM_SWIGLU)
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (8, 8)], ids=str)  # the second is no square
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"])
def test_timm(name, size):
    theirs, config = tiny(name)
    compare_with_timm(converted(theirs.state_dict(), timm_table(name), config), theirs, images(3, *size))


@pytest.mark.layout(tables.TIMM)
@pytest.mark.parametrize(
    ("changed", "its"),
    [
        ({"channels": 1}, {"in_chans": 1}),
        ({"classes": 0}, {"num_classes": 0}),
        ({"registers": 2}, {"num_reg_tokens": 2}),
        ({"pool": "mean"}, {"global_pool": "avg"}),
    ],
    ids=str,
)
def test_timm_options(changed, its):
    theirs, config = tiny("vit_small_patch16_dinov3", **its)
    ours = converted(theirs.state_dict(), tables.TIMM, config | changed)
    compare_with_timm(ours, theirs, images(ours.config.channels))


@pytest.mark.layout(tables.TIMM, tables.TIMM_SWIGLU)
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", [name for name in SIZES if "7b" not in name])
def test_timm_every_size_at_reduced_depth(name, biases):
    theirs = timm_model(name + "_qkvb" if biases else name, depth=1, img_size=64)
    config = SIZES[name] | {"depth": 1, "qkv_bias": biases}
    compare_with_timm(converted(theirs.state_dict(), timm_table(name), config), theirs, images(3, 64, 64))


@pytest.mark.layout(tables.TIMM_SWIGLU)
def test_timm_7b_at_reduced_width():
    """The 7B network has 128 numbers in a head and no biases of q, k and v."""
    theirs = timm_model("vit_7b_patch16_dinov3", embed_dim=256, depth=2, num_heads=2, img_size=32)
    config = SIZES["vit_7b_patch16_dinov3"] | {"dim": 256, "depth": 2, "heads": 2}
    compare_with_timm(converted(theirs.state_dict(), tables.TIMM_SWIGLU, config), theirs, images())


@pytest.mark.layout(tables.TIMM_SWIGLU)
def test_timm_full_size():
    theirs = timm_model("vit_small_plus_patch16_dinov3_qkvb")
    ours = converted(theirs.state_dict(), tables.TIMM_SWIGLU, SIZES["vit_small_plus_patch16_dinov3"])
    compare_with_timm(ours, theirs, images(3, 224, 224, batch=1))


def transformers_model(swiglu, tmp_path, **options):
    config = transformers.DINOv3ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192, patch_size=8, image_size=32,
        num_register_tokens=4, use_gated_mlp=swiglu, hidden_act="silu" if swiglu else "gelu",
        attn_implementation="eager", **options,
    )  # fmt: skip
    theirs = random_weights(transformers.DINOv3ViTModel(config))
    theirs.save_pretrained(tmp_path)
    return theirs, load_file(tmp_path / "model.safetensors")


@pytest.mark.layout(tables.TRANSFORMERS, tables.TRANSFORMERS_SWIGLU)
@pytest.mark.parametrize("size", [(32, 32), (48, 24)], ids=str)
@pytest.mark.parametrize("swiglu", [False, True])
def test_transformers(swiglu, size, tmp_path):
    theirs, state = transformers_model(swiglu, tmp_path)
    table = tables.TRANSFORMERS_SWIGLU if swiglu else tables.TRANSFORMERS
    config = TINY | {"classes": 0, "swiglu": swiglu, "mlp_ratio": 6.0 if swiglu else 4.0}
    ours = converted(state, table, config, lost=["embeddings.mask_token"])
    with torch.inference_mode():
        batch = images(3, *size)
        answer = theirs(batch)
        near(ours(batch), answer.pooler_output)
        patches = answer.last_hidden_state[:, 5:].transpose(1, 2).unflatten(2, (size[0] // 8, -1))
        near(ours.pyramid(batch)["grid"], patches)
        attentions = theirs(batch, output_attentions=True).attentions
        for (name, weights), expected in zip(ours.attention_weights(batch).items(), attentions, strict=True):
            assert (weights - expected).abs().max() <= LARGEST, name


@pytest.mark.layout(tables.TRANSFORMERS_SWIGLU)
def test_transformers_without_biases(tmp_path):
    theirs, state = transformers_model(True, tmp_path, query_bias=False, value_bias=False)
    config = TINY | {"classes": 0, "swiglu": True, "mlp_ratio": 6.0, "qkv_bias": False}
    ours = converted(state, tables.TRANSFORMERS_SWIGLU, config, lost=["embeddings.mask_token"])
    with torch.inference_mode():
        near(ours(images()), theirs(images()).pooler_output)


def authors_names(state, width=64, biases=True, swiglu=False):
    """timm's weights under the names of facebookresearch/dinov3, models/vision_transformer.py, with its buffers."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    if swiglu:
        names |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"}
    renamed = {}
    for key, tensor in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        if key.endswith("q_bias"):
            zero = torch.zeros_like(tensor)
            value = state[key.replace("q_bias", "v_bias")]
            renamed[key.replace("q_bias", "qkv.bias")] = torch.cat([tensor, zero, value])
            renamed[key.replace("q_bias", "qkv.bias_mask")] = torch.cat([zero + 1, zero, zero + 1])
        elif not key.endswith("v_bias"):
            renamed[key] = tensor
    exponents = 2 * torch.arange(width // 4) / (width // 2)
    return renamed | {"rope_embed.periods": 100.0**exponents, "mask_token": torch.ones(1, 48)}


@pytest.mark.layout(tables.ORIGINAL, tables.ORIGINAL_SWIGLU)
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"])
def test_authors_files_as_timm_reads_them(name):
    theirs, config = tiny(name, embed_dim=128, num_classes=0)
    config |= {"dim": 128, "classes": 0}
    state = authors_names(theirs.state_dict(), swiglu="swiglu" in config)
    assert checkpoint_filter_fn(dict(state), theirs).keys() == theirs.state_dict().keys()
    table = tables.ORIGINAL_SWIGLU if "swiglu" in config else tables.ORIGINAL
    compare_with_timm(converted(state, table, config, lost=["mask_token"]), theirs, images())


def test_authors_7b_without_biases():
    """Its names alone: the widths of the real one would be 700 MB a block."""
    config = TINY | {"classes": 0, "swiglu": True, "mlp_ratio": 3.0, "qkv_bias": False}
    state = rename(DINOv3(DINOv3Config(**config)).state_dict(), tables.ORIGINAL_SWIGLU, reverse=True)
    assert not any("bias_mask" in key or "qkv.bias" in key for key in state)
    local = {
        "local_cls_norm.weight": torch.ones(48),
        "local_cls_norm.bias": torch.ones(48),
        "mask_token": torch.ones(48),
    }
    converted(state | local, tables.ORIGINAL_SWIGLU, config, lost=local)


def test_authors_periods_are_those_of_the_model():
    theirs, _ = tiny("vit_small_patch16_dinov3", embed_dim=128, num_classes=0)
    state = authors_names(theirs.state_dict())
    with pytest.raises(InputError, match=r"rope_embed\.periods is not what this model computes"):
        rename(state | {"rope_embed.periods": state["rope_embed.periods"] * 2}, tables.ORIGINAL)


def test_gradients():
    theirs, config = tiny("vit_small_plus_patch16_dinov3")
    ours = converted(theirs.state_dict(), tables.TIMM_SWIGLU, config)
    ours.train()
    theirs.train()
    for model in (ours, theirs):
        model(images()).square().sum().backward()
    expected = rename({key: parameter.grad for key, parameter in theirs.named_parameters()}, tables.TIMM_SWIGLU)
    for key, parameter in ours.named_parameters():
        scale = expected[key].abs().max()
        assert scale > 1e-3, key
        torch.testing.assert_close(parameter.grad, expected[key], rtol=0, atol=1e-5 * float(scale), msg=key)
