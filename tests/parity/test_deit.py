"""DeiT with a distillation token and DeiT III, with weights of timm, transformers and the authors."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from references import LARGEST, near, there_and_back
from vitnext.models.deit import DEIT3_SIZES, PLAIN_SIZES, SIZES, DeiT, DeiT3, DeiT3Config, DeiTConfig
from vitnext.models.vit import VisionTransformer, ViTConfig, sides
from vitnext.weights.rename import rename
from vitnext.weights.tables import deit as tables
from vitnext.weights.tables import vit as plain_tables

TINY = {"dim": 24, "depth": 3, "heads": 2, "image_size": 32, "patch_size": 8, "classes": 7}
TINY_TIMM = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 7}
OBLONG = {"image_size": (32, 56)}


def random_weights(model):
    """Random values in every parameter and buffer: norms, biases, tokens, positions and layer scale too."""
    torch.manual_seed(0)
    for parameter in model.state_dict().values():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def timm_model(name, **options):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    return random_weights(model.to_empty(device="cpu"))


def build(name, **config):
    if "distilled" in name:
        return DeiT(DeiTConfig(**SIZES[name] | config))
    if name in PLAIN_SIZES:
        return VisionTransformer(ViTConfig(**PLAIN_SIZES[name] | config))
    return DeiT3(DeiT3Config(**DEIT3_SIZES[name] | config))


def table_of(name):
    if "distilled" in name:
        return tables.TIMM
    return plain_tables.TIMM if name in PLAIN_SIZES else tables.DEIT3_TIMM


def converted(name, state, table, **config):
    return there_and_back(lambda: build(name, **config), state, table)


def images(model):
    height, width = sides(model.config.image_size)
    batch = 1 if height == 224 else 2
    return torch.randn(batch, model.config.channels, height, width, generator=torch.Generator().manual_seed(1))


def compare(ours, logits, tokens):
    """Logits, and the patches' tokens (B, N, dim) as the last stage."""
    near(ours(images(ours)), logits)
    near(ours.pyramid(images(ours))["grid"], tokens.transpose(1, 2).unflatten(2, ours.config.grid))


def compare_with_timm(ours, theirs):
    with torch.inference_mode():
        batch = images(ours)
        [tokens] = theirs.forward_intermediates(batch, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
        compare(ours, theirs(batch), tokens)


@pytest.mark.layout(tables.TIMM, tables.DEIT3_TIMM)
@pytest.mark.parametrize("changed", [{}, {"channels": 1}, {"mlp_ratio": 2.5}, OBLONG], ids=str)
@pytest.mark.parametrize("name", ["deit_tiny_distilled", "deit3_small"])
def test_timm(name, changed):
    its = {{"channels": "in_chans", "image_size": "img_size"}.get(key, key): value for key, value in changed.items()}
    theirs = timm_model(f"{name}_patch16_224", **TINY_TIMM | its)
    compare_with_timm(converted(name, theirs.state_dict(), table_of(name), **TINY | changed), theirs)


@pytest.mark.layout(plain_tables.TIMM, tables.TIMM, tables.DEIT3_TIMM)
@pytest.mark.parametrize("name", [*PLAIN_SIZES, *SIZES, *DEIT3_SIZES])
def test_timm_every_size_at_reduced_depth(name):
    patch = DEIT3_SIZES.get(name, {}).get("patch_size", 16)
    theirs = timm_model(f"{name}_patch{patch}_224", depth=1, img_size=4 * patch, num_classes=10)
    ours = converted(name, theirs.state_dict(), table_of(name), depth=1, image_size=4 * patch, classes=10)
    compare_with_timm(ours, theirs)


@pytest.mark.layout(tables.TIMM, tables.DEIT3_TIMM)
@pytest.mark.parametrize("name", ["deit_tiny_distilled", "deit3_small"])
def test_timm_full_size(name):
    theirs = timm_model(f"{name}_patch16_224")
    compare_with_timm(converted(name, theirs.state_dict(), table_of(name)), theirs)


def test_both_heads_are_those_that_timm_trains():
    theirs = timm_model("deit_tiny_distilled_patch16_224", **TINY_TIMM)
    ours = converted("deit_tiny_distilled", theirs.state_dict(), tables.TIMM, **TINY)
    theirs.set_distilled_training()
    with torch.inference_mode():
        for found, expected in zip(
            ours.head.both(ours.pooled(images(ours))), theirs.train()(images(ours)), strict=True
        ):
            near(found, expected)


def test_the_feature_without_heads_is_both_tokens_of_timm():
    theirs = timm_model("deit_tiny_distilled_patch16_224", **TINY_TIMM | {"num_classes": 0})
    ours = converted("deit_tiny_distilled", theirs.state_dict(), tables.TIMM, **TINY | {"classes": 0})
    with torch.inference_mode():
        near(ours(images(ours)), theirs.forward_features(images(ours))[:, :2].flatten(1))
        near(ours(images(ours)).unflatten(1, (2, -1)).mean(dim=1), theirs(images(ours)))


@pytest.mark.layout(tables.TRANSFORMERS)
@pytest.mark.parametrize("epsilon", [1e-6, 1e-12])  # ours, and what the published configs say
def test_transformers(epsilon, tmp_path):
    config = transformers.DeiTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96, image_size=32, patch_size=8,
        num_labels=7, layer_norm_eps=epsilon, attn_implementation="eager",
    )  # fmt: skip
    theirs = random_weights(transformers.DeiTForImageClassificationWithTeacher(config))
    theirs.save_pretrained(tmp_path)
    ours = converted("deit_tiny_distilled", load_file(tmp_path / "model.safetensors"), tables.TRANSFORMERS, **TINY)
    with torch.inference_mode():
        batch = images(ours)
        answer = theirs(batch)
        compare(ours, answer.logits, theirs.deit(batch).last_hidden_state[:, 2:])
        for found, expected in zip(
            ours.head.both(ours.pooled(batch)), (answer.cls_logits, answer.distillation_logits), strict=True
        ):
            near(found, expected)
        attentions = theirs(batch, output_attentions=True).attentions
        for (name, weights), expected in zip(ours.attention_weights(batch).items(), attentions, strict=True):
            assert (weights - expected).abs().max() <= LARGEST, name


def authors_keys(depth, *own):
    """The names in facebookresearch/deit, models.py and models_v2.py."""
    linears = ["patch_embed.proj", "norm", "head"]
    linears += [f"blocks.{i}.{n}" for i in range(depth) for n in ("norm1", "attn.qkv", "attn.proj", "norm2")]
    linears += [f"blocks.{i}.mlp.{n}" for i in range(depth) for n in ("fc1", "fc2")]
    return {"cls_token", "pos_embed", *own, *(f"{name}.{part}" for name in linears for part in ("weight", "bias"))}


@pytest.mark.layout(tables.ORIGINAL)
def test_authors_names_of_deit_are_timms():
    state = timm_model("deit_tiny_distilled_patch16_224", **TINY_TIMM).state_dict()
    assert state.keys() == authors_keys(3, "dist_token", "head_dist.weight", "head_dist.bias")
    state = timm_model("deit_tiny_patch16_224", **TINY_TIMM).state_dict()
    assert state.keys() == authors_keys(3)


@pytest.mark.layout(tables.DEIT3_ORIGINAL)
def test_authors_names_of_deit3():
    """timm's weights under the authors' names; timm reads them too."""
    theirs = timm_model("deit3_small_patch16_224", **TINY_TIMM)
    state = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for key, tensor in theirs.state_dict().items()
    }
    assert state.keys() == authors_keys(3, *(f"blocks.{i}.gamma_{j}" for i in range(3) for j in (1, 2)))
    compare_with_timm(converted("deit3_small", state, tables.DEIT3_ORIGINAL, **TINY), theirs)
    read = timm.models.deit.checkpoint_filter_fn(dict(state), theirs, adapt_layer_scale=True)
    assert read.keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("name", ["deit_tiny_distilled", "deit3_small"])
def test_gradients(name):
    theirs = timm_model(f"{name}_patch16_224", **TINY_TIMM)
    ours = converted(name, theirs.state_dict(), table_of(name), **TINY).double().train()
    theirs, batch = theirs.double().train(), images(ours).double().repeat(4, 1, 1, 1)
    for model in (ours, theirs):
        model(batch).square().sum().backward()
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    expected = rename(gradients, table_of(name))
    for key, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, key
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-7, atol=1e-9, msg=key)
