"""The same weights in torchvision's, timm's and transformers' ResNets and in ours give the same numbers."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
import transformers
from timm.models import resnet as timm_resnet
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from references import same_outputs, with_weights
from vitnext.errors import InputError
from vitnext.models.resnet import SIZES, ResNet, ResNetConfig
from vitnext.weights.rename import rename
from vitnext.weights.tables import resnet as tables

DEPTHS = (1, 2, 1, 2)
WIDTHS = {"timm": (64, 16, 24, 32), "transformers": (8, 16, 24, 32)}  # timm's stem and torchvision's stages are fixed


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
            nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5)
        elif name.endswith(("weight", "running_var")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            nn.init.normal_(tensor, std=0.3)
    return model.eval()


def torchvision_model(bottleneck, **options):
    block = torchvision_resnet.Bottleneck if bottleneck else torchvision_resnet.BasicBlock
    return torchvision_resnet.ResNet(block, list(DEPTHS), **options)


def timm_model(bottleneck, **options):
    block = timm_resnet.Bottleneck if bottleneck else timm_resnet.BasicBlock
    return timm_resnet.ResNet(block, DEPTHS, channels=WIDTHS["timm"], **options)


def transformers_model(bottleneck, depths=DEPTHS, widths=WIDTHS["transformers"], num_classes=1000, in_chans=3):
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            depths=list(depths),
            hidden_sizes=[(4 if bottleneck else 1) * width for width in widths],
            embedding_size=widths[0],
            layer_type="bottleneck" if bottleneck else "basic",
            num_labels=num_classes,
            num_channels=in_chans,
        )
    )


SMALL = {
    f"{source}, {'bottleneck' if bottleneck else 'two layers'}{', one channel' if channels == 1 else ''}": (
        build,
        table,
        {"bottleneck": bottleneck, "depths": DEPTHS, "channels": channels, "classes": 7}
        | ({"widths": WIDTHS[source]} if source in WIDTHS else {}),
    )
    for source, build, table, channels in (
        ("torchvision", torchvision_model, tables.TORCHVISION, 3),
        ("timm", timm_model, tables.TIMM, 3),
        ("timm", timm_model, tables.TIMM, 1),
        ("transformers", transformers_model, tables.TRANSFORMERS, 3),
        ("transformers", transformers_model, tables.TRANSFORMERS, 1),
    )
    for bottleneck in (True, False)
}


@functools.lru_cache(maxsize=2)  # both sizes of a case follow each other
def pair(case):
    """Their model and ours, with the same random weights."""
    build, table, config = SMALL[case]
    options = {"num_classes": config["classes"]} | ({"in_chans": 1} if config["channels"] == 1 else {})
    theirs = filled(lambda: build(config["bottleneck"], **options))
    return theirs, converted(theirs, table, config), table


def converted(theirs, table, config):
    return with_weights(lambda: ResNet(ResNetConfig(**config)), theirs.state_dict(), table)


def logits_and_stages(model, images):
    """What their model says, and what leaves its stages."""
    if isinstance(model, timm_resnet.ResNet):
        return model(images), model.forward_intermediates(images, intermediates_only=True)[1:]
    if isinstance(model, torchvision_resnet.ResNet):
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        return model(images), [x := stage(x) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]
    out = model(images, output_hidden_states=True)
    return out.logits, out.hidden_states[1:]


def compare(ours, theirs, size):
    same_outputs(ours, theirs, logits_and_stages, size)


@pytest.mark.parametrize("size", [(64, 64), (57, 90)])
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.layout(SMALL[case][1])) for case in SMALL])
def test_small(case, size):
    theirs, ours, _ = pair(case)
    compare(ours, theirs, size)


@pytest.mark.layout(tables.TIMM)
@pytest.mark.parametrize("name", SIZES)
def test_every_size_of_timm_at_reduced_depth(name):
    theirs = filled(lambda: timm.create_model(name, layers=(1, 1, 1, 1), num_classes=5))
    compare(converted(theirs, tables.TIMM, SIZES[name] | {"depths": (1, 1, 1, 1), "classes": 5}), theirs, (64, 64))


@pytest.mark.layout(tables.TORCHVISION, tables.TIMM, tables.TRANSFORMERS)
@pytest.mark.parametrize(
    ("build", "table", "name"),
    [
        (torchvision_resnet.resnet50, tables.TORCHVISION, "resnet50"),
        (torchvision_resnet.resnet18, tables.TORCHVISION, "resnet18"),
        (lambda: timm.create_model("resnet50"), tables.TIMM, "resnet50"),
        (lambda: transformers_model(False, (3, 4, 6, 3), (64, 128, 256, 512)), tables.TRANSFORMERS, "resnet34"),
    ],
    ids=["torchvision resnet50", "torchvision resnet18", "timm resnet50", "transformers resnet34"],
)
def test_full_size(build, table, name):
    theirs = filled(build)
    compare(converted(theirs, table, SIZES[name]), theirs, (96, 128))


@pytest.mark.parametrize("case", SMALL)
def test_the_way_there_and_back_is_exact(case):
    theirs, ours, table = pair(case)
    expected, there = theirs.state_dict(), rename(ours.state_dict(), table, reverse=True)
    assert there.keys() == expected.keys()
    assert all(torch.equal(there[name], expected[name]) for name in expected)
    assert all(there[name].dtype == expected[name].dtype for name in expected)


@pytest.mark.parametrize("case", ["torchvision, bottleneck", "transformers, bottleneck"])
def test_every_entry_of_the_table_has_a_weight(case):
    theirs, _, table = pair(case)
    state = theirs.state_dict()
    for entry in table:
        with pytest.raises(InputError) as caught:
            rename(state, [entry])
        assert int(str(caught.value).split()[0]) < len(state), entry


@pytest.mark.parametrize("case", ["timm, bottleneck", "timm, two layers"])
def test_gradients_and_running_statistics(case):
    theirs, ours, table = pair.__wrapped__(case)
    images = torch.randn(8, 3, 48, 48, dtype=torch.float64)
    for model in (theirs, ours):
        model.double().train()(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, table)
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6 or parameter.ndim == 1, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)
    expected = rename(dict(theirs.named_buffers()), table)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=name)


def test_the_blocks_start_as_timms_do():
    theirs, ours = timm_model(True), ResNet(ResNetConfig(depths=DEPTHS, widths=WIDTHS["timm"]))
    state = rename(theirs.state_dict(), tables.TIMM)
    for name, tensor in ours.state_dict().items():
        if ".norm" in name or "shortcut.1" in name:
            assert torch.equal(tensor, state[name]), name


def test_other_resnets_are_refused():
    state = timm.create_model("resnet26d", layers=(1, 1, 1, 1)).state_dict()
    with pytest.raises(InputError, match=r"no place in this model: conv1\."):
        rename(state, tables.TIMM)
