"""What a run starts from: nothing, what is named, or published weights for photographs."""

from __future__ import annotations

import pytest
import torch

from vitnext.data.facts import Facts
from vitnext.errors import InputError, WorkError
from vitnext.models import catalog
from vitnext.training.defaults import choose, fetched, model_config, starting_point
from vitnext.weights import hub, sources


def facts(side, grey=False):
    channels = 1 if grey else 3
    return Facts(3_000, side, grey, (0.5,) * channels, (0.25,) * channels)


PHOTOGRAPHS = facts(300)


@pytest.fixture
def published(monkeypatch):
    """A hub that has everything; the names that were asked for."""
    asked = []
    monkeypatch.setattr(hub, "fetch", asked.append)
    return asked


def start(asked="auto", of=PHOTOGRAPHS, **given):
    given = {"model": None, "recipe": None, **given}
    found = starting_point(asked, of, **given)
    return fetched(found, asked, given["model"]) if found.fetch else found


def test_photographs_start_from_published_weights_that_allow_any_use(published):
    found = start()
    [name] = published
    assert sources.find(name).permissive and sources.find(name).model == found.model == "convnext_atto"
    assert found.pretrained and found.overrides == (f'model.pretrained="{name}"',)
    assert name in found.reasons[0] and "--pretrained none" in found.reasons[0]


def test_a_model_starts_from_its_own_weights(published):
    assert start(model="vit_small").model == "vit_small"
    assert sources.find(published[0]).model == "vit_small"


@pytest.mark.parametrize(
    "given",
    [
        {"asked": "none"},
        {"of": facts(64)},
        {"recipe": "photos_vit"},
        {"overrides": ["model.pretrained=none"]},
        {"overrides": ["model.config.widths=[8, 8, 8, 8]"]},
    ],
)
def test_nothing_is_asked_of_the_hub(given, published):
    found = start(**given)
    assert not found.pretrained and found.overrides in ((), ("model.pretrained=none",)) and published == []


@pytest.mark.parametrize("kind", [WorkError, InputError])
def test_without_the_weights_the_run_starts_from_scratch_and_says_why(kind, monkeypatch):
    def fail(name):
        raise kind(f"the hub has no {name}: download it and put it elsewhere")

    monkeypatch.setattr(hub, "fetch", fail)
    found = start(model="convnext_tiny")
    assert (found.pretrained, found.model) == (False, "convnext_tiny")
    name = sources.default_for("convnext_tiny").name
    assert found.reasons == (f"from scratch: the hub has no {name}; --pretrained none does not ask for it",)
    with pytest.raises(kind, match="put it elsewhere"):
        start("timm/convnext_tiny.fb_in1k", model="convnext_tiny")


def test_what_cannot_be_fetched_offline_is_said_in_short():
    [reason] = start(model="swin_tiny").reasons
    assert len(reason) < 160 and "HF_HUB_OFFLINE is set; --pretrained none does not ask for it" in reason


def test_names_that_cannot_be_of_weights_are_refused_before_anything_is_fetched(published):
    with pytest.raises(InputError, match="no such file, and no name on the hub"):
        starting_point("weigths", PHOTOGRAPHS, model=None, recipe=None)
    assert start("someone/weights", model="vit_tiny").overrides == ('model.pretrained="someone/weights"',)
    assert published == ["someone/weights"]


def test_a_model_without_published_weights_starts_from_scratch(published):
    [reason] = start(model="roadmap_r50_03").reasons
    assert reason == "from scratch: no weights of roadmap_r50_03 are published for any use"


def test_a_file_names_its_model(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(catalog.build("convnext_atto").state_dict(), path)
    found = start(str(path))
    assert (found.pretrained, found.model) == (True, "convnext_atto")
    assert found.overrides == (f'model.pretrained="{path}"',)


@pytest.mark.parametrize(
    ("model", "size"), [("convnext_tiny", 96), ("vit_small", 96), ("vit_small_patch14_dinov2", 84), ("swin_tiny", 96)]
)
def test_the_network_keeps_its_published_patches(model, size):
    recipe = choose(facts(300, grey=True), model=model, pretrained=True).recipe
    assert recipe.title.startswith("Photographs, from published weights")
    assert (recipe.data.image_size, recipe.data.color) == (size, "RGB")
    config = catalog.resolve(model, **model_config(recipe, 5))[1]
    published = catalog.resolve(model)[1]
    for field in ("patch_size", "patch_stride", "stem_stride"):
        assert getattr(config, field, None) == getattr(published, field, None)
    with torch.device("meta"):
        network = catalog.build(model, **model_config(recipe, 5)).eval()
        assert network(torch.empty(2, 3, size, size)).shape == (2, 5)
