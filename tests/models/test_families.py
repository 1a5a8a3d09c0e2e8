"""What must hold for every family in the catalogue. A new family or config field fails until it has a case here."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from vitnext.models import catalog

FAMILIES = pytest.mark.parametrize("family", catalog.FAMILIES)

# A changed value of each field, and what it changes: the parameters' names or shapes, the values they start from, the
# result of inference, or the result of training alone.
RATES = {"dropout": (0.5, "training"), "stochastic_depth": (0.5, "training")}
TOKENS = {
    "image_size": (16, "parameters"),
    "patch_size": (6, "parameters"),
    "channels": (3, "parameters"),
    "classes": (0, "parameters"),
    "dim": (48, "parameters"),
    "depth": (2, "parameters"),
    "heads": (3, "inference"),
    "mlp_ratio": (2.0, "parameters"),
    "stochastic_depth": (0.5, "training"),
}
SWIN = RATES | {
    "patch_size": (3, "parameters"),
    "channels": (3, "parameters"),
    "classes": (0, "parameters"),
    "dim": (16, "parameters"),
    "depths": ((2, 2), "parameters"),
    "heads": ((2, 4), "parameters"),
    "window": (2, "parameters"),
    "mlp_ratio": (2.0, "parameters"),
    "qkv_bias": (False, "parameters"),
    "attention_dropout": (0.5, "training"),
}
STAGES = RATES | {
    "channels": (3, "parameters"),
    "classes": (0, "parameters"),
    "depths": ((2, 2), "parameters"),
}
CONVNEXT = STAGES | {
    "stem_stride": (4, "parameters"),
    "widths": ((8, 24), "parameters"),
    "kernel_size": (3, "parameters"),
    "mlp_ratio": (2.0, "parameters"),
}
CHANGES = {
    "vit": TOKENS
    | RATES
    | {
        "patch_stride": (2, "parameters"),
        "qkv_bias": (False, "parameters"),
        "class_token": (False, "parameters"),
        "pool": ("mean", "inference"),
        "representation": (7, "parameters"),
        "attention_dropout": (0.5, "training"),
    },
    "deit": TOKENS | RATES | {"attention_dropout": (0.5, "training")},
    "deit3": TOKENS | {"layer_scale": (0.5, "start")},
    "dinov2": TOKENS
    | {
        "swiglu": (True, "parameters"),
        "registers": (2, "parameters"),
        "pool": ("token_mean", "parameters"),
        "layer_scale": (0.5, "start"),
    },
    "dinov3": {field: change for field, change in TOKENS.items() if field != "image_size"}
    | {
        "heads": (3, "inference"),
        "swiglu": (True, "parameters"),
        "qkv_bias": (False, "parameters"),
        "registers": (1, "parameters"),
        "pool": ("mean", "inference"),
        "rope_base": (10.0, "inference"),
        "layer_scale": (0.5, "start"),
    },
    "swin": SWIN,
    "swinv2": SWIN | {"window": (2, "inference"), "pretrained_windows": ((5,), "inference")},
    "mit": STAGES
    | {
        "stem_stride": (4, "parameters"),
        "widths": ((8, 24), "parameters"),
        "heads": ((1, 3), "inference"),
        "reductions": (((1, 1)), "parameters"),
        "mlp_ratios": ((2.0, 2.0), "parameters"),
        "norm_eps": (0.1, "inference"),
        "attention_dropout": (0.5, "training"),
    },
    "convnext": CONVNEXT | {"layer_scale": (0.5, "start")},
    "convnextv2": CONVNEXT,
    "resnet": STAGES
    | {
        "stem_stride": (2, "inference"),
        "widths": ((4, 8), "parameters"),
        "bottleneck": (False, "parameters"),
    },
    "mobilenet": STAGES
    | {
        "depths": ((1, 1, 2), "parameters"),
        "stem_stride": (2, "inference"),
        "stem_width": (16, "parameters"),
        "expansions": ((1, 2, 2), "parameters"),
        "widths": ((8, 16, 24), "parameters"),
        "strides": ((1, 1, 2), "inference"),
        "feature_width": (32, "parameters"),
        "width_multiplier": (2.0, "parameters"),
        "same_padding": (True, "inference"),
        "norm_eps": (0.1, "inference"),
    },
    "roadmap": STAGES
    | {
        "stem_stride": (2, "inference"),
        "patchify": (True, "parameters"),
        "depthwise": (True, "parameters"),
        "widths": ((4, 8), "parameters"),
        "inverted": (True, "parameters"),
        "depthwise_first": (True, "parameters"),
        "kernel_size": (5, "parameters"),
        "activation": ("gelu", "inference"),
        "activations": (1, "inference"),
        "norms": (1, "parameters"),
        "norm": ("layer", "parameters"),
        "separate_downsampling": (True, "parameters"),
        "layer_scale": (0.5, "parameters"),
    },
}
RANDOM = [(family, field) for family in CHANGES for field, (_, what) in CHANGES[family].items() if what == "training"]


def build(family, **config):
    torch.manual_seed(0)
    return catalog.build(family, **config)


def images(batch=16):
    return torch.randn(batch, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def run(model, training):
    torch.manual_seed(2)
    with torch.no_grad():
        return model.train(training)(images())


def shapes(model):
    return {name: parameter.shape for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("family", "field"),
    [(name, field.name) for name, family in catalog.FAMILIES.items() for field in dataclasses.fields(family.config)],
)
def test_every_field_changes_the_graph_or_the_result(family, field, tiny, randomise):
    value, what = CHANGES[family][field]
    config = tiny[family] | ({"pool": "mean"} if field == "class_token" else {})  # no token, no pooling by token
    base, changed = build(family, **config), build(family, **config | {field: value})
    if what == "parameters":
        assert shapes(base) != shapes(changed)
        return
    assert shapes(base) == shapes(changed)
    start = [torch.equal(*pair) for pair in zip(base.parameters(), changed.parameters(), strict=True)]
    assert all(start) == (what != "start")
    if what != "start":
        randomise(base), randomise(changed)
        assert torch.equal(run(base, False), run(changed, False)) == (what == "training")
        assert not torch.equal(run(base, True), run(changed, True))


@pytest.mark.parametrize(("family", "field"), RANDOM)
def test_dropout_and_stochastic_depth_act_in_training_only(family, field, tiny, randomise):
    model = randomise(build(family, **tiny[family], **{field: 0.5}))
    batch = images()
    with torch.no_grad():
        assert not torch.equal(model(batch), model(batch))
        model.eval()
        assert torch.equal(model(batch), model(batch))


@FAMILIES
def test_reset_parameters_sets_everything(family, tiny):
    model, states = build(family, **tiny[family]), []
    for before in (torch.nan, 7.0):  # what stands there has no influence on what is set
        for tensor in model.state_dict().values():  # with the running statistics
            tensor.fill_(3 if tensor.dtype == torch.int64 else before)
        torch.manual_seed(0)
        model.reset_parameters()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in states[0].items():
        assert tensor.isfinite().all() and torch.equal(tensor, states[1][name]), name


@FAMILIES
def test_a_second_build_with_the_same_seed_is_identical(family, tiny):
    first, second = (build(family, **tiny[family]).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@FAMILIES
def test_weights_start_as_documented(family, tiny):
    model = build(family, **tiny[family])
    heads = set(model.head.modules())
    zero = []  # a branch's last norm, in the families whose blocks start as the identity
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert (module.bias == 0).all()
            zero.append(not module.weight.any())
            assert zero[-1] or (module.weight == 1).all()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            outputs, inputs = module.weight.flatten(1).shape
            if module in heads:
                std = 0.02
            else:  # convolutions: LeCun normal; Linears: Xavier uniform
                std = inputs**-0.5 if isinstance(module, nn.Conv2d) else (2 / (inputs + outputs)) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.4 if module.weight.numel() < 300 else 0.25)
            assert module.bias is None or (module.bias == 0).all()
    assert any(zero) == (family in ("resnet", "roadmap", "swinv2")) and not all(zero)


@FAMILIES
def test_no_classes_gives_the_feature_that_the_head_takes(family, tiny, randomise):
    model = randomise(build(family, **tiny[family])).eval()
    body = build(family, **tiny[family] | {"classes": 0}).eval()
    body.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("head.")})
    with torch.no_grad():
        feature = body(images())
        assert feature.ndim == 2
        torch.testing.assert_close(model.head(feature), model(images()))


@FAMILIES
def test_the_config_survives_json(family, tiny):
    model = build(family, **tiny[family])
    written = json.loads(json.dumps(catalog.config_dict(model)))
    assert catalog.resolve(family, **written)[1] == model.config


@FAMILIES
def test_a_batch_is_answered_image_by_image(family, tiny, randomise):
    model = randomise(build(family, **tiny[family])).eval().double()
    batch = images(3).double()
    with torch.no_grad():
        torch.testing.assert_close(model(batch), torch.cat([model(image[None]) for image in batch]))


@FAMILIES
def test_channels_last_gives_the_same_answers(family, tiny, randomise):
    model = randomise(build(family, **tiny[family])).eval()
    with torch.no_grad():
        expected = model(images())
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images().to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-4)


POOLED_TOKENS = {"vit": 1, "deit": 2, "deit3": 1, "dinov2": 1, "dinov3": 1}


@pytest.mark.parametrize("family", POOLED_TOKENS)
@pytest.mark.parametrize("rate", [0.0, 0.5])  # of stochastic depth
def test_the_last_block_computes_the_tokens_of_the_head_alone_and_nothing_changes(
    family, rate, tiny, randomise, monkeypatch
):
    """Logits and gradients are those of all tokens, whose drawings are the same: one a sample."""
    model = randomise(build(family, **tiny[family], stochastic_depth=rate)).double().train()
    batch, seen = images(6).double(), []
    model.encoder[-1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))

    def trained():
        model.zero_grad()
        torch.manual_seed(0)
        logits = model(batch)
        logits.square().sum().backward()
        return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    found = trained()
    encode = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda self, images, queries: encode(self, images)[:, :queries])
    torch.testing.assert_close(found, trained())
    assert seen[0] == POOLED_TOKENS[family] < seen[1] and found[0].std() > 0


def test_what_pools_the_patches_computes_them_all(tiny):
    for family, pool in (("vit", "mean"), ("vit", "mean_norm"), ("dinov2", "token_mean"), ("dinov3", "mean")):
        model, seen = build(family, **tiny[family] | {"pool": pool}), []
        model.encoder[-1].mlp.register_forward_hook(lambda *call, seen=seen: seen.append(call[2].shape[1]))
        model(images())
        assert seen[0] > POOLED_TOKENS[family], family
