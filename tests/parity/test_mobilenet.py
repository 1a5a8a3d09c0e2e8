"""The same weights in torchvision's, timm's and transformers' MobileNetV2 and in ours give the same numbers."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
import transformers
from torch import nn
from torchvision.models import mobilenetv2 as torchvision_mobilenet

from references import same_outputs, with_weights
from vitnext.errors import InputError
from vitnext.models.mobilenet import MobileNetV2, MobileNetV2Config
from vitnext.weights.rename import rename
from vitnext.weights.tables import mobilenet as tables

ENDS = [2, 5, 12, 16]  # the last block of each stage, blocks numbered from 0


def filled(build):
    """The model that ``build`` gives, with random values in every parameter and buffer: no zeros, no ones."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(int(torch.randint(1000, ())))
        elif tensor.ndim > 1:
            nn.init.normal_(tensor, std=(2 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("weight", "running_var")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            nn.init.normal_(tensor, std=0.3)
    return model.eval()


def transformers_model(width, classes=7, channels=3, tf_padding=True):
    return transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(
            depth_multiplier=width, num_labels=classes, num_channels=channels, tf_padding=tf_padding
        )
    )


def torchvision_model(width):
    return torchvision_mobilenet.MobileNetV2(num_classes=7, width_mult=width)


AUTHORS = {"same_padding": True, "norm_eps": 1e-3}  # what the authors' weights need
CASES = {
    "torchvision 1/4": (lambda: torchvision_model(0.25), tables.TORCHVISION, {"width_multiplier": 0.25}),
    "torchvision 1.4": (lambda: torchvision_model(1.4), tables.TORCHVISION, {"width_multiplier": 1.4}),
    **{
        f"timm {width}": (
            lambda width=width: timm.create_model(f"mobilenetv2_{100 * width:03.0f}", num_classes=7),
            tables.TIMM,
            {"width_multiplier": width},
        )
        for width in (0.35, 0.5, 0.75, 1.0, 1.4)
    },
    "timm one channel": (
        lambda: timm.create_model("mobilenetv2_035", num_classes=7, in_chans=1),
        tables.TIMM,
        {"width_multiplier": 0.35, "channels": 1},
    ),
    "transformers 0.35": (
        lambda: transformers_model(0.35),
        tables.TRANSFORMERS,
        {"width_multiplier": 0.35, **AUTHORS},
    ),
    "transformers 1.4": (lambda: transformers_model(1.4), tables.TRANSFORMERS, {"width_multiplier": 1.4, **AUTHORS}),
    "transformers one channel": (
        lambda: transformers_model(0.35, channels=1),
        tables.TRANSFORMERS,
        {"width_multiplier": 0.35, "channels": 1, **AUTHORS},
    ),
    "transformers own padding": (
        lambda: transformers_model(0.35, tf_padding=False),
        tables.TRANSFORMERS,
        {"width_multiplier": 0.35, "norm_eps": 1e-3},
    ),
}
SMALL = ["torchvision 1/4", "timm 0.35", "transformers 0.35"]


@functools.lru_cache(maxsize=2)  # both sizes of a case follow each other
def pair(case):
    """Their model and ours, with the same random weights."""
    build, table, config = CASES[case]
    theirs = filled(build)
    return theirs, converted(theirs, table, config | {"classes": 7}), table


def converted(theirs, table, config):
    return with_weights(lambda: MobileNetV2(MobileNetV2Config(**config)), theirs.state_dict(), table)


def logits_and_stages(model, images):
    """What their model says, and what leaves its stages."""
    if isinstance(model, torchvision_mobilenet.MobileNetV2):
        x, blocks = model.features[0](images), model.features[1:-1]
        maps = [x := block(x) for block in blocks]
        return model(images), [maps[end] for end in ENDS]
    if isinstance(model, transformers.PreTrainedModel):
        out = model(images, output_hidden_states=True)
        return out.logits, [out.hidden_states[end - 1] for end in ENDS]  # their first block is a part of the stem
    return model(images), model.forward_intermediates(images, intermediates_only=True)[1:]


def compare(ours, theirs, size):
    same_outputs(ours, theirs, logits_and_stages, size)


@pytest.mark.parametrize("size", [(64, 64), (71, 98)])
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.layout(CASES[case][1])) for case in CASES])
def test_small(case, size):
    theirs, ours, _ = pair(case)
    compare(ours, theirs, size)


@pytest.mark.layout(tables.TORCHVISION, tables.TIMM, tables.TRANSFORMERS)
@pytest.mark.parametrize(
    ("build", "table", "config"),
    [
        (torchvision_mobilenet.mobilenet_v2, tables.TORCHVISION, {}),
        (lambda: timm.create_model("mobilenetv2_100"), tables.TIMM, {}),
        (lambda: transformers_model(1.0, classes=1001), tables.TRANSFORMERS, {"classes": 1001, **AUTHORS}),
    ],
    ids=["torchvision", "timm", "transformers"],
)
def test_full_size(build, table, config):
    theirs = filled(build)
    compare(converted(theirs, table, config), theirs, (224, 224))


@pytest.mark.parametrize("case", SMALL)
def test_the_way_there_and_back_is_exact(case):
    theirs, ours, table = pair(case)
    expected, there = theirs.state_dict(), rename(ours.state_dict(), table, reverse=True)
    assert there.keys() == expected.keys()
    assert all(torch.equal(there[name], expected[name]) for name in expected)
    assert all(there[name].dtype == expected[name].dtype for name in expected)


@pytest.mark.parametrize("case", SMALL)
def test_every_entry_of_the_table_has_a_weight(case):
    theirs, _, table = pair(case)
    state = theirs.state_dict()
    for entry in table:
        with pytest.raises(InputError) as caught:
            rename(state, [entry])
        assert int(str(caught.value).split()[0]) < len(state), entry


@pytest.mark.parametrize("case", ["transformers 0.35", "transformers own padding"])
def test_the_authors_padding_and_epsilon_matter(case):
    theirs, _, table = pair(case)
    _, _, right = CASES[case]
    images = torch.randn(2, 3, 64, 64)
    for wrong in ({"same_padding": not right.get("same_padding", False)}, {"norm_eps": 1e-5}):
        other = converted(theirs, table, right | {"classes": 7} | wrong)
        with torch.inference_mode():
            assert (other(images) - theirs(images).logits).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["torchvision 1/4", "timm 0.35"])
def test_gradients_and_running_statistics(case):
    theirs, ours, table = pair.__wrapped__(case)
    for model in (theirs, ours):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    images = torch.randn(8, 3, 48, 48, dtype=torch.float64)
    for model in (theirs, ours):
        model.double().train()(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, table)
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6 or parameter.ndim == 1, name  # a BN may undo the bias before it
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)
    expected = rename(dict(theirs.named_buffers()), table)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=name)
