"""The same weights in other libraries' ConvNeXts and in ours give the same numbers, both ways."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
import transformers
from timm.models.convnext import checkpoint_filter_fn
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from references import same_outputs, saved, with_weights
from vitnext.errors import InputError
from vitnext.models.convnext import SIZES, ConvNeXt, ConvNeXtConfig
from vitnext.weights.rename import rename
from vitnext.weights.tables import convnext as tables

DEPTHS, WIDTHS = (1, 2, 1, 1), (8, 16, 24, 32)
SMALL = {"depths": DEPTHS, "widths": WIDTHS, "classes": 7}


def filled(build):
    """The model that ``build`` gives, with random weights in every parameter: norms, biases and layer scale too."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def converted(state, table, **config):
    return with_weights(lambda: ConvNeXt(ConvNeXtConfig(**config)), state, table)


def timm_model(name="convnext_tiny", depths=DEPTHS, **options):
    return filled(lambda: timm.create_model(name, depths=depths, **options))


def timm_small(**options):
    return timm_model(dims=WIDTHS, **{"num_classes": 7} | options)


def timm_says(model, images):
    return model(images), model.forward_intermediates(images, intermediates_only=True)


def torchvision_small():
    settings = [CNBlockConfig(a, b, d) for a, b, d in zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)]
    return filled(lambda: torchvision.models.ConvNeXt(settings, num_classes=7))


def torchvision_says(model, images):
    return model(images), [model.features[: 2 * i + 2](images) for i in range(4)]


def transformers_small(**options):
    config = transformers.ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(WIDTHS), num_labels=7, **options)
    return filled(lambda: transformers.ConvNextForImageClassification(config))


def transformers_says(model, images):
    out = model(images, output_hidden_states=True)
    return out.logits, out.hidden_states[-4:]


def dinov3_small():
    config = transformers.DINOv3ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(WIDTHS))
    return filled(lambda: transformers.DINOv3ConvNextModel(config))


def dinov3_says(model, images):
    out = model(images, output_hidden_states=True)
    return out.pooler_output, out.hidden_states[-4:]


def original(state):
    """timm's names and layout -> those of facebookresearch/ConvNeXt (models/convnext.py), written out."""
    renamed = {}
    for key, tensor in state.items():
        key = re.sub(r"^stem\.(\d)", r"downsample_layers.0.\1", key)
        key = re.sub(r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", key)
        key = re.sub(r"^stages\.(\d)\.blocks\.(\d+)", r"stages.\1.\2", key)
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        renamed[key.replace("head.norm", "norm").replace("head.fc", "head")] = tensor
    return renamed


# Name -> (their small model, what it says, our table, what changes in our config)
CASES = {
    "timm": (timm_small, timm_says, tables.TIMM, {}),
    "timm, 1x1 convolutions": (lambda: timm_small(conv_mlp=True), timm_says, tables.TIMM_CONV_MLP, {}),
    "timm, stem 1": (lambda: timm_small(patch_size=1), timm_says, tables.TIMM, {"stem_stride": 1}),
    "timm, kernel 3": (lambda: timm_small(kernel_sizes=3), timm_says, tables.TIMM, {"kernel_size": 3}),
    "timm, one channel": (lambda: timm_small(in_chans=1), timm_says, tables.TIMM, {"channels": 1}),
    "timm, no head": (lambda: timm_small(num_classes=0), timm_says, tables.TIMM, {"classes": 0}),
    "torchvision": (torchvision_small, torchvision_says, tables.TORCHVISION, {}),
    "transformers": (transformers_small, transformers_says, tables.TRANSFORMERS, {}),
    "transformers, DINOv3": (dinov3_small, dinov3_says, tables.TRANSFORMERS_DINOV3, {"classes": 0}),
}


def state_of(theirs, folder):
    return saved(theirs, folder) if isinstance(theirs, transformers.PreTrainedModel) else theirs.state_dict()


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.layout(CASES[case][2])) for case in CASES])
def test_logits_and_every_stage(case, tmp_path):
    build, says, table, changed = CASES[case]
    theirs = build()
    same_outputs(converted(state_of(theirs, tmp_path), table, **SMALL | changed), theirs, says, (64, 75))


@pytest.mark.parametrize("case", CASES)
def test_the_way_there_and_back_is_exact(case, tmp_path):
    build, _, table, changed = CASES[case]
    state = state_of(build(), tmp_path)
    back = rename(converted(state, table, **SMALL | changed).state_dict(), table, reverse=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "case", ["timm", "timm, 1x1 convolutions", "torchvision", "transformers", "transformers, DINOv3"]
)
def test_every_entry_of_the_table_has_a_weight(case, tmp_path):
    build, _, table, _ = CASES[case]
    state = state_of(build(), tmp_path)
    for entry in table:
        if entry[0] != "stages.0.downsample_layers.{j}":  # a special case of the entry behind it
            with pytest.raises(InputError, match="no place in this model"):
                rename(state, [other for other in table if other != entry])


@pytest.mark.layout(tables.ORIGINAL)
def test_the_authors_layout():
    """It has no installed reference: timm's weights under the authors' names, which timm reads as its own."""
    theirs = timm_small()
    state = original(theirs.state_dict())
    read = checkpoint_filter_fn(state, theirs)
    assert all(torch.equal(read[name], tensor) for name, tensor in theirs.state_dict().items())
    assert {"downsample_layers.0.0.weight", "stages.1.1.dwconv.bias", "stages.0.0.gamma", "head.bias"} <= state.keys()
    ours = converted(state, tables.ORIGINAL, **SMALL)
    same_outputs(ours, theirs, timm_says, (64, 64))
    back = rename(ours.state_dict(), tables.ORIGINAL, reverse=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.layout(tables.ORIGINAL_DINOV3)
def test_the_authors_layout_of_dinov3():
    """facebookresearch/dinov3 (models/convnext.py): the same without a head, and ``norms.3`` is ``norm``."""
    theirs = timm_small(num_classes=0)
    state = original(theirs.state_dict())
    state |= {"norms.3.weight": state["norm.weight"], "norms.3.bias": state["norm.bias"]}
    ours = converted(state, tables.ORIGINAL_DINOV3, **SMALL | {"classes": 0})
    same_outputs(ours, theirs, timm_says, (64, 64))
    back = rename(ours.state_dict(), tables.ORIGINAL_DINOV3, reverse=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    with pytest.raises(InputError, match=r"norms\.3\.weight is not what this model computes"):
        rename(state | {"norms.3.weight": state["norm.bias"]}, tables.ORIGINAL_DINOV3)


def timm_name(name):
    return f"{name.removesuffix('_dinov3')}.dinov3_lvd1689m" if name.endswith("dinov3") else name


WIDE = 1024  # wider ones are 50 M parameters and more at any depth
NARROW = [name for name, size in SIZES.items() if max(size["widths"]) <= WIDE]


@pytest.mark.layout(tables.TIMM, tables.TIMM_CONV_MLP)
@pytest.mark.parametrize("name", [name for name in NARROW if "dinov3" not in name or "tiny" in name])
def test_widths_at_reduced_depth(name):
    theirs = timm_model(timm_name(name), (1, 1, 2, 1))
    table = tables.TIMM_CONV_MLP if re.search("atto|femto|pico|nano", name) else tables.TIMM
    same_outputs(
        converted(theirs.state_dict(), table, **SIZES[name] | {"depths": (1, 1, 2, 1)}), theirs, timm_says, (64, 64)
    )


@pytest.mark.layout(tables.TIMM)
def test_full_size():
    theirs = timm_model("convnext_tiny", (3, 3, 9, 3))
    same_outputs(converted(theirs.state_dict(), tables.TIMM), theirs, timm_says, (224, 224))


def test_gradients():
    theirs = timm_small().double().train()
    ours = converted(theirs.state_dict(), tables.TIMM, **SMALL).train()
    images = torch.randn(16, 3, 64, 64, dtype=torch.float64)
    for model in (ours, theirs):
        model(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, tables.TIMM)
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)


def test_stochastic_depth_follows_the_same_line():
    theirs = timm.create_model("convnext_tiny", depths=DEPTHS, dims=WIDTHS, drop_path_rate=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in theirs.stages for block in stage.blocks]
    ours = ConvNeXt(ConvNeXtConfig(**SMALL, stochastic_depth=0.3))
    assert [block.stochastic_depth.rate for stage in ours.stages for block in stage.blocks] == pytest.approx(rates)
    assert rates[-1] == pytest.approx(0.3)
