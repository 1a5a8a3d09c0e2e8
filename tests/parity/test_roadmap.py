"""The two ends of the roadmap: torchvision's and timm's ResNet, and our ConvNeXt, have the same numbers."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet

from references import same_outputs, with_weights
from vitnext.models.convnext import SIZES, ConvNeXt, ConvNeXtConfig
from vitnext.models.roadmap import STEPS, Roadmap
from vitnext.weights.rename import rename
from vitnext.weights.tables.roadmap import CONVNEXT, TIMM, TORCHVISION

DEPTHS = (1, 2, 1, 2)


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
        elif name.endswith("layer_scale"):
            nn.init.uniform_(tensor, 0.1, 0.5)
        elif name.endswith(("weight", "running_var")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            nn.init.normal_(tensor, std=0.3)
    return model.eval()


def converted(theirs, table, design):
    return with_weights(lambda: Roadmap(design), theirs.state_dict(), table)


def compare(ours, theirs, pyramid_of, size=(64, 96)):
    same_outputs(ours, theirs, lambda model, images: (model(images), pyramid_of(images)), size)


def compare_both_ways(ours, theirs, table):
    expected, there = theirs.state_dict(), rename(ours.state_dict(), table, reverse=True)
    assert there.keys() == expected.keys()
    assert all(torch.equal(there[name], expected[name]) for name in expected)


def stages_of_torchvision(model):
    def run(images):
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        return [x := stage(x) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]

    return run


def stages_of_timm(model):
    return lambda images: model.forward_intermediates(images, intermediates_only=True)[1:]


@pytest.mark.layout(TORCHVISION)
@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("column", STEPS)
def test_the_first_steps_are_torchvisions_resnet(column, i):
    theirs = filled(lambda: resnet.ResNet(resnet.Bottleneck, list(DEPTHS), num_classes=7))
    ours = converted(theirs, TORCHVISION, dataclasses.replace(STEPS[column][i].design, depths=DEPTHS, classes=7))
    compare(ours, theirs, stages_of_torchvision(theirs))
    compare_both_ways(ours, theirs, TORCHVISION)


@pytest.mark.layout(TORCHVISION)
def test_step_0_is_torchvisions_resnet50():
    theirs = filled(resnet.resnet50)
    ours = converted(theirs, TORCHVISION, STEPS["r50"][0].design)
    compare(ours, theirs, stages_of_torchvision(theirs))
    compare_both_ways(ours, theirs, TORCHVISION)


def test_step_0_is_timms_resnet200():
    theirs = filled(lambda: timm.create_model("resnet200", layers=(1, 3, 4, 1), num_classes=7))
    ours = converted(theirs, TIMM, dataclasses.replace(STEPS["r200"][0].design, depths=(1, 3, 4, 1), classes=7))
    compare(ours, theirs, stages_of_timm(theirs))
    with torch.device("meta"):
        full, theirs = Roadmap(STEPS["r200"][0].design).state_dict(), timm.create_model("resnet200").state_dict()
    assert {name: tensor.shape for name, tensor in rename(theirs, TIMM).items()} == {
        name: tensor.shape for name, tensor in full.items()
    }


@pytest.mark.parametrize(("column", "size"), [("r50", "convnext_tiny"), ("r200", "convnext_base")])
def test_the_last_step_is_convnext_module_for_module(column, size):
    with torch.device("meta"):
        ours = Roadmap(STEPS[column][-1].design)
        theirs = ConvNeXt(ConvNeXtConfig(**SIZES[size]))
    there, expected = rename(ours.state_dict(), CONVNEXT, reverse=True), theirs.state_dict()
    assert {name: tensor.shape for name, tensor in there.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    kinds = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GELU)
    calls = {kind: sum(isinstance(module, kind) for module in ours.modules()) for kind in kinds}
    blocks = sum(STEPS[column][-1].design.depths)
    assert calls == {nn.Conv2d: 4 + 3 * blocks, nn.Linear: 1, nn.LayerNorm: 5 + blocks, nn.GELU: blocks}


@pytest.mark.parametrize(
    ("column", "changes"),
    [("r50", {"depths": DEPTHS, "classes": 7}), ("r200", {"depths": DEPTHS, "classes": 7}), ("r50", {})],
    ids=["r50 small", "r200 small", "r50 full"],
)
def test_the_last_step_has_the_logits_of_convnext(column, changes):
    size = "convnext_tiny" if column == "r50" else "convnext_base"
    theirs = filled(lambda: ConvNeXt(ConvNeXtConfig(**SIZES[size] | changes)))
    ours = converted(theirs, CONVNEXT, dataclasses.replace(STEPS[column][-1].design, **changes))
    compare(ours, theirs, lambda images: theirs.pyramid(images).values())
    compare_both_ways(ours, theirs, CONVNEXT)


def test_the_last_step_starts_and_learns_as_convnext():
    sizes = {"depths": (1, 2), "widths": (8, 16), "classes": 5, "stem_stride": 2}
    torch.manual_seed(0)
    theirs = ConvNeXt(ConvNeXtConfig(**sizes)).double()
    ours = Roadmap(dataclasses.replace(STEPS["r50"][-1].design, **sizes)).double()
    for name, tensor in rename(theirs.state_dict(), CONVNEXT).items():
        mine = ours.state_dict()[name]
        if tensor.ndim == 1:  # norms, biases, gamma; the matrices are random
            assert torch.equal(mine, tensor), name
    ours.load_state_dict(rename(theirs.state_dict(), CONVNEXT))
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for model in (theirs, ours):
        model.train()(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, CONVNEXT)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)
