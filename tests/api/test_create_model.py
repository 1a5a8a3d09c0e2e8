"""Models by name."""

from __future__ import annotations

import pytest
import torch

import vitnext
from colours import mistake
from vitnext import api
from vitnext.errors import InputError
from vitnext.models import catalog


@pytest.mark.parametrize(("classes", "outputs"), [(7, 7), (["a", "b"], 2), (("a", "b", "c"), 3), (0, 16), (None, 1000)])
def test_create_model_gives_as_many_outputs_as_there_are_classes(classes, outputs):
    config = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
    model = vitnext.create_model("vit", classes, **config)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 8, 8)).shape == (2, outputs)


def test_create_model_knows_the_published_sizes():
    with torch.device("meta"):
        assert vitnext.create_model("convnext_tiny", classes=10).config.widths == (96, 192, 384, 768)


@pytest.mark.parametrize("given", [{"name": "vti_tiny"}, {"name": "vit", "dime": 3}, {"name": "vit", "dim": "8"}])
def test_create_model_refuses_what_does_not_exist(given):
    assert mistake(vitnext.create_model, **given)


def test_a_single_name_is_not_a_list_of_classes():
    with pytest.raises(InputError, match="classes is 'cat'"):
        api.create_model("vit_tiny", classes="cat")


def test_segmenters():
    model = vitnext.create_model("mit_b0+segformer", classes=["sky", "road"], head={"width": 16})
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(InputError, match=r"^x.pth: no such file$"):
        vitnext.create_model("segformer_b0", pretrained="x.pth")
    with pytest.raises(InputError, match=r"^convnext_tiny\+upernet is a segmenter, and this needs a classifier"):
        catalog.family_of("convnext_tiny+upernet")
