"""The same weights in transformers' SegFormer encoder and in ours give the same numbers, both ways.

timm and torchvision have no MiT.
"""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from torch import nn

from references import LARGEST, same_outputs, saved, with_weights
from vitnext.errors import InputError
from vitnext.models.mit import SIZES, MiTConfig, MixTransformer
from vitnext.weights.rename import rename
from vitnext.weights.tables import mit as tables

SMALL = {"depths": (1, 2, 1, 2), "widths": (8, 16, 20, 32), "heads": (1, 2, 5, 8), "classes": 7}
TRANSFORMERS_EPS = {"norm_eps": 1e-5}  # transformers leaves torch's default in every norm


def reference(
    depths, widths, heads=(1, 2, 5, 8), reductions=(8, 4, 2, 1), mlp_ratios=(4, 4, 4, 4), channels=3, classes=1000
):
    return transformers.SegformerForImageClassification(
        transformers.SegformerConfig(
            depths=list(depths),
            hidden_sizes=list(widths),
            num_attention_heads=list(heads),
            sr_ratios=list(reductions),
            mlp_ratios=list(mlp_ratios),
            num_channels=channels,
            num_labels=classes,
            drop_path_rate=0.0,
        )
    )


def filled(**config):
    """transformers' model with random weights in every parameter: norms and biases too."""
    with torch.device("meta"):
        model = reference(**config)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def converted(state, table, **config):
    return with_weights(lambda: MixTransformer(MiTConfig(**config)), state, table)


def original(state):
    """transformers' file -> names and layout of NVlabs/SegFormer (mmseg/models/backbones/mix_transformer.py)."""
    renamed = {}
    for key, tensor in state.items():
        if ".self.value." in key:
            continue
        if ".self.key." in key:
            key, tensor = (
                key.replace("self.key", "kv"),
                torch.cat([tensor, state[key.replace("self.key", "self.value")]]),
            )
        key = key.removeprefix("segformer.encoder.")
        key = re.sub(r"^patch_embeddings\.(\d)\.", lambda match: f"patch_embed{int(match[1]) + 1}.", key)
        key = re.sub(r"^block\.(\d)\.", lambda match: f"block{int(match[1]) + 1}.", key)
        key = re.sub(r"^layer_norm\.(\d)", lambda match: f"norm{int(match[1]) + 1}", key)
        key = re.sub(r"layer_norm_(\d)", r"norm\1", key).replace("layer_norm", "norm")
        key = key.replace("attention.output.dense", "attn.proj").replace("attention.", "attn.")
        key = key.replace("self.query", "q").replace("self.", "").replace("mlp.dense", "mlp.fc")
        renamed[key.replace("classifier", "head")] = tensor
    return renamed


def says(model, images):
    out = model(images, output_hidden_states=True)
    return out.logits, out.hidden_states[-4:]


# What changes in both models
CASES = {
    "default": {},
    "one channel": {"channels": 1},
    "table 6's expansions": {"mlp_ratios": (8, 8, 4, 4)},
    "reductions": {"reductions": (4, 4, 1, 2)},
}


@pytest.mark.layout(tables.TRANSFORMERS)
@pytest.mark.parametrize("case", CASES)
def test_logits_every_stage_and_back(case, tmp_path):
    theirs = filled(**SMALL | CASES[case])
    state = saved(theirs, tmp_path)
    ours = converted(state, tables.TRANSFORMERS, **SMALL | CASES[case] | TRANSFORMERS_EPS)
    same_outputs(ours, theirs, says, (64, 75))
    back = rename(ours.state_dict(), tables.TRANSFORMERS, reverse=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_every_entry_of_the_table_has_a_weight(tmp_path):
    state = saved(filled(**SMALL), tmp_path)
    for entry in tables.TRANSFORMERS:
        with pytest.raises(InputError, match="no place in this model"):
            rename(state, [other for other in tables.TRANSFORMERS if other != entry])


@pytest.mark.layout(tables.ORIGINAL)
def test_the_authors_layout_and_norms(tmp_path):
    """They have no installed reference: transformers' weights under the authors' names, its model with their eps."""
    theirs = filled(**SMALL)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.LayerNorm) and "patch_embeddings" not in name and "attention" not in name:
            module.eps = 1e-6
    state = original(saved(theirs, tmp_path))
    assert {
        *("patch_embed1.proj.weight", "patch_embed4.norm.bias", "block1.0.norm1.weight", "block2.1.attn.q.bias"),
        *("block1.0.attn.kv.weight", "block1.0.attn.sr.weight", "block3.0.attn.norm.bias", "block4.1.attn.proj.weight"),
        *("block4.0.mlp.fc1.weight", "block4.0.mlp.dwconv.dwconv.bias", "block4.1.mlp.fc2.bias", "norm4.weight"),
        "head.weight",
    } <= state.keys()
    ours = converted(state, tables.ORIGINAL, **SMALL)
    same_outputs(ours, theirs, says, (64, 75))
    back = rename(ours.state_dict(), tables.ORIGINAL, reverse=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_attention_weights(tmp_path):
    theirs = filled(**SMALL)
    theirs.set_attn_implementation("eager")
    ours = converted(saved(theirs, tmp_path), tables.TRANSFORMERS, **SMALL | TRANSFORMERS_EPS)
    images = torch.randn(2, 3, 64, 75)
    with torch.inference_mode():
        expected, weights = theirs(images, output_attentions=True).attentions, ours.attention_weights(images)
    assert len(weights) == len(expected) == 6
    for of_block, theirs_ in zip(weights.values(), expected, strict=True):
        assert (of_block - theirs_).abs().max() <= LARGEST


@pytest.mark.layout(tables.TRANSFORMERS)
def test_full_size(tmp_path):
    theirs = filled(**SIZES["mit_b0"])
    ours = converted(saved(theirs, tmp_path), tables.TRANSFORMERS, **SIZES["mit_b0"] | TRANSFORMERS_EPS)
    same_outputs(ours, theirs, says, (224, 224))


def test_gradients(tmp_path):
    theirs = filled(**SMALL)
    ours = converted(saved(theirs, tmp_path), tables.TRANSFORMERS, **SMALL | TRANSFORMERS_EPS).double().train()
    theirs = theirs.double().train()
    gradients = []
    for model in (theirs, ours):
        images = torch.randn(16, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        out = model(images.requires_grad_())
        (out if model is ours else out.logits).square().sum().backward()
        gradients.append(images.grad)
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-9)
