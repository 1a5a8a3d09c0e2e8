"""Names of every kind of model, and configs that build the same model again."""

from __future__ import annotations

import json

import pytest

from vitnext.errors import InputError
from vitnext.models import create
from vitnext.models.convnext import ConvNeXt
from vitnext.models.eomt import EoMT
from vitnext.models.segmenter import Mask2Former, Segmenter

SMALL = {
    "convnext": {"depths": [1, 1, 1, 1], "widths": [4, 8, 12, 16], "classes": 3},
    "convnext+upernet": {"depths": [1, 1, 1, 1], "widths": [4, 8, 12, 16], "head": {"width": 8}, "classes": 3},
    "convnext+mask2former": {"depths": [1, 1], "widths": [4, 8], "head": {"width": 8, "queries": 3}, "classes": 3},
    "segformer_b0": {"widths": [4, 8, 20, 32], "head": {"width": 8, "dropout": 0.0}, "classes": 3},
    "vit+linear": {"image_size": 16, "patch_size": 4, "depth": 2, "dim": 8, "heads": 2, "classes": 3},
    "vit+eomt": {"image_size": 16, "patch_size": 4, "depth": 2, "dim": 8, "heads": 2, "classes": 3, "queries": 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_config_of_a_model_builds_it_again(name):
    model = create.build(name, **(SMALL[name] | ({"blocks": 1} if name == "vit+eomt" else {})))
    config = json.loads(json.dumps(create.config_dict(model)))
    again = create.build(name, **config)
    assert again.config == model.config and create.config_dict(again) == config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "kind", "backbone", "family"),
    [
        ("convnext_atto", ConvNeXt, "convnext_atto", "convnext"),
        ("vit_tiny_patch8+linear", Segmenter, "vit_tiny_patch8", "vit"),
        ("segformer_b1", Segmenter, "mit_b1", "mit"),
        ("vit_tiny+eomt", EoMT, "vit_tiny", "vit"),
        ("swin_tiny+mask2former", Mask2Former, "swin_tiny", "swin"),
    ],
)
def test_a_name_says_what_is_built(name, kind, backbone, family):
    assert create.composed(backbone, create.head_of(name)) == name
    assert (
        create.task_of(name)
        == {ConvNeXt: "classification", Segmenter: "semantic", EoMT: "panoptic", Mask2Former: "panoptic"}[kind]
    )
    assert create.resolve(name, classes=2) == create.build(name, classes=2).config
    assert isinstance(create.build(name, classes=2), kind)
    assert create.backbone_of(name) == backbone and create.family_of(name) == family
    assert create.is_segmenter(name) == (kind is not ConvNeXt)


def test_a_family_is_known_before_its_config_fits():
    assert create.family_of("dinov2_patch16+eomt") == "dinov2"  # 518 px are no whole number of such patches


@pytest.mark.parametrize("name", ["vit_smal", "vit_smal+linear", "vit_small+liner", "swin_tiny+eomt", "segformer_b9"])
def test_a_wrong_name_is_said(name):
    with pytest.raises(InputError):
        create.family_of(name)
