"""Learning rates that fall with the distance from the head, in every family."""

from __future__ import annotations

import pytest
import torch

from vitnext.models import catalog, segmenter
from vitnext.recipe import Optimizer
from vitnext.training.optimizers import layer_scales, optimizers

COMMON = {"channels": 1, "classes": 3}
TOKENS = COMMON | {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "heads": 2}
STAGES = COMMON | {"stem_stride": 2, "depths": (1, 2), "widths": (8, 16)}
WINDOWS = COMMON | {"patch_size": 2, "dim": 8, "depths": (1, 2), "heads": (1, 2), "window": 2}
SMALL = {
    **dict.fromkeys(("vit", "deit", "deit3", "dinov2"), TOKENS),
    "dinov3": {key: value for key, value in TOKENS.items() if key != "image_size"},
    **dict.fromkeys(("swin", "swinv2"), WINDOWS),
    "mit": STAGES | {"heads": (1, 2), "reductions": (2, 1), "mlp_ratios": (2.0, 2.0)},
    **dict.fromkeys(("convnext", "convnextv2", "resnet"), STAGES),
    "mobilenet": COMMON
    | {"stem_stride": 1, "stem_width": 8, "expansions": (1, 2), "widths": (8, 16), "depths": (1, 2), "strides": (1, 2)}
    | {"feature_width": 16},
    "roadmap": STAGES,
}
BLOCKS = 3  # of each of them


def test_every_family_is_here():
    assert set(SMALL) == set(catalog.FAMILIES)


@pytest.mark.parametrize("family", SMALL)
def test_every_parameter_has_a_scale_that_rises_towards_the_head(family):
    model = catalog.build(family, **SMALL[family])
    scales = layer_scales(model, 0.5)
    named = {name: scales[id(p)] for name, p in model.named_parameters()}  # KeyError: one is missing
    body = [scale for name, scale in named.items() if not name.startswith("head")]
    assert {name for name, scale in named.items() if scale == 1.0} == set(named) - {
        name for name in named if not name.startswith("head")
    }
    assert sorted(set(body)) == [0.5 ** (BLOCKS + 1 - i) for i in range(BLOCKS + 1)]
    assert body == sorted(body)
    assert set(layer_scales(model, 1.0).values()) == {1.0}


def test_of_a_segmenter_all_but_the_backbone_is_head():
    config = {key: value for key, value in STAGES.items() if key != "classes"}
    model = segmenter.build("convnext+upernet", **config, classes=3, head={"width": 8, "auxiliary_width": 4})
    scales = layer_scales(model, 0.5)
    for name, parameter in model.named_parameters():
        assert (scales[id(parameter)] < 1) == name.startswith("backbone."), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_groups_hold_every_parameter_once_with_its_scale(name):
    model = catalog.build("vit", **TOKENS)
    found = {}
    for optimizer in optimizers(model, Optimizer(name=name, layer_decay=0.5)):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert id(parameter) not in found
                found[id(parameter)] = group["scale"]
    assert found == layer_scales(model, 0.5)


def test_the_rate_of_a_step_is_scaled(run):
    whole = run("whole", "schedule.epochs=1")
    slow = run("slow", "schedule.epochs=1", "optimizer.layer_decay=0.01")
    torch.manual_seed(0)
    still = run("still", "schedule.epochs=1", "optimizer.learning_rate=1e-12")

    def moved(end, name):
        return (end.weights[name] - still.weights[name]).abs().max().item()

    [first] = [name for name in whole.weights if name.startswith("patch_embedding") and name.endswith("weight")]
    assert moved(slow, first) < 1e-3 * moved(whole, first)
    assert moved(slow, "head.weight") > 0.1 * moved(whole, "head.weight")
