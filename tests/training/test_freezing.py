"""What is frozen stays as it is and behaves the same; all else is trained."""

from __future__ import annotations

import pytest
import torch

from vitnext.errors import InputError
from vitnext.models import catalog, segmenter
from vitnext.training.freezing import freeze, frozen_part
from vitnext.training.optimizers import depths

TOKENS = {"channels": 1, "classes": 3, "image_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "heads": 2}
STAGES = {"channels": 1, "classes": 3, "stem_stride": 2, "depths": (1, 2), "widths": (8, 16)}
NETWORKS = {
    "vit": TOKENS | {"dropout": 0.5, "stochastic_depth": 0.5},
    "deit3": TOKENS | {"stochastic_depth": 0.5},
    "swin": {"channels": 1, "classes": 3, "patch_size": 2, "dim": 8, "depths": (1, 2), "heads": (1, 2), "window": 2},
    "convnext": STAGES | {"stochastic_depth": 0.5},
    "resnet": STAGES,
}


def network(name):
    torch.manual_seed(0)
    return catalog.build(name, **NETWORKS[name])


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_changes_the_last_blocks_and_the_head_alone(name, blocks):
    model = network(name)
    depth_of, depth = depths(model)
    freeze(model, blocks)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.train()
    for module in frozen_part(model):
        module.eval()
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    of_name = dict(model.named_parameters())
    for parameter in of_name.values():
        assert (parameter.grad is not None) == parameter.requires_grad == (depth_of[id(parameter)] > depth - blocks)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    first = min(list(before).index(key) for key in changed)
    assert {key for key in of_name if of_name[key].requires_grad} >= changed & set(of_name)
    assert all(list(before).index(key) >= first for key in changed) and any(key.startswith("head") for key in changed)
    trained = next(key for key in of_name if of_name[key].requires_grad)
    assert first >= list(before).index(trained)  # no statistics of batch norm before it


@pytest.mark.parametrize("name", ["vit", "convnext", "deit3"])
def test_what_is_frozen_gives_the_same_each_time(name):
    model = network(name)
    freeze(model, 0)
    model.train()
    for module in frozen_part(model):
        module.eval()
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model(images), model(images))


def test_without_freezing_nothing_is_kept_from_training():
    assert frozen_part(network("vit")) == []


def test_of_a_segmenter_the_backbone_is_frozen():
    config = {key: value for key, value in STAGES.items() if key != "classes"}
    model = segmenter.build("convnext+segformer", **config, classes=3, head={"width": 8})
    freeze(model, 0)
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"norms", "head"}
    assert model.backbone in frozen_part(model)


def test_more_blocks_than_there_are_is_a_mistake():
    with pytest.raises(InputError, match="the network has 3 blocks"):
        freeze(network("vit"), 3)
