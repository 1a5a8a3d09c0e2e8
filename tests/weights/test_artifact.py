from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitnext.card import METADATA_KEY, Card
from vitnext.errors import InputError, WorkError
from vitnext.models import catalog
from vitnext.preprocess import Preprocess
from vitnext.weights import artifact
from vitnext.weights.artifact import load_artifact, save_artifact

CONFIGS = {
    "vit": {"image_size": 8, "patch_size": 4, "classes": 2, "dim": 8, "depth": 2, "heads": 2, "dropout": 0.1},
    "convnext": {"classes": 2, "stem_stride": 2, "depths": (1, 1), "widths": (4, 8), "stochastic_depth": 0.1},
}


def model_and_card(family="vit"):
    torch.manual_seed(0)
    model = catalog.build(family, **CONFIGS[family])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    card = Card(
        task="classification",
        architecture=family,
        config=catalog.config_dict(model),
        classes=("katt", "hund ü"),
        preprocess=Preprocess((8, 8)),
        metrics={"val": {"top1": 0.5}},
        data={"name": "pets"},
        recipe={"seed": 0},
        versions={"torch": "2"},
        licence="CC0-1.0",
    )
    return model, card


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_artifact(path, *model_and_card())
    return path


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_loaded_is_what_was_saved(tmp_path, family, memory_format):
    model, card = model_and_card(family)
    path = tmp_path / "model.safetensors"
    save_artifact(path, model.to(memory_format=memory_format), card)
    loaded, its_card = load_artifact(path)
    assert its_card == card
    assert not loaded.training and model.training
    assert loaded.config == model.config
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model.eval()(images))


def test_the_same_model_gives_the_same_bytes(saved):
    again = saved.with_name("again.safetensors")
    save_artifact(again, *model_and_card())
    assert again.read_bytes() == saved.read_bytes()
    loaded = load_artifact(saved)
    save_artifact(again, *loaded)
    assert again.read_bytes() == saved.read_bytes()


def test_it_can_be_read_by_whom_the_umask_allows(tmp_path):
    model, card = model_and_card()
    (tmp_path / "plain").touch()
    save_artifact(tmp_path / "model.safetensors", model, card)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"])
@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch, error, step):
    before = saved.read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise error

    def refuse(source, target):
        raise error

    if step == "write":
        monkeypatch.setattr(artifact, "save_file", half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WorkError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        save_artifact(saved, *model_and_card("convnext"))
    if isinstance(error, OSError):
        assert str(caught.value) == f"{saved}: cannot be written (No space left on device)"
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]
    assert saved.read_bytes() == before


@pytest.mark.parametrize("path", ["missing/model.safetensors", "file/model.safetensors"])
def test_a_place_that_cannot_be_written(tmp_path, path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkError) as caught:
        save_artifact(tmp_path / path, *model_and_card())
    assert str(caught.value).startswith(f"{tmp_path / path}: cannot be written (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: b"\x89PNG" + data,
    ],
    ids=["last byte", "half", "header", "empty", "no safetensors"],
)
def test_damaged_files(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    refused(saved, "; train or copy it again")


def test_a_file_that_is_lost_between_card_and_weights(saved, monkeypatch):
    def lost(path):
        raise OSError("Input/output error")

    monkeypatch.setattr(artifact, "load_file", lost)
    refused(saved, " is damaged (Input/output error): get or train it again")


def test_no_file(tmp_path):
    refused(tmp_path / "model.safetensors", "no such file")


def test_weights_without_a_card(saved):
    save_file(load_file(saved), saved)
    refused(saved, "without a vitnext card")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), "norm.bias is missing, the vit needs (8,)"),
        (lambda t: t.update(extra=torch.zeros(3)), "extra is (3,), the vit needs nothing of that name"),
        (lambda t: t.update({"norm.bias": torch.zeros(9)}), "norm.bias is (9,), the vit needs (8,)"),
        (lambda t: t.update({"head.weight": torch.zeros(3, 8)}), "head.weight is (3, 8), the vit needs (2, 8)"),
    ],
    ids=["missing", "extra", "longer", "more classes"],
)
def test_weights_that_do_not_fit_the_card(saved, change, message):
    tensors = load_file(saved)
    change(tensors)
    save_file(tensors, saved, metadata={METADATA_KEY: model_and_card()[1].to_json()})
    refused(saved, f"{saved} does not fit its card: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "vit_tny"},
            'its card describes no model (there is no model "vit_tny": did you mean vit_tiny?)',
        ),
        ({"config": {"name": 1}}, "its card describes no model (vit has no model.config.name; "),
        ({"config": {"heads": 0}}, "its card describes no model (vit: heads is 0; it must be at least 1)"),
        ({"classes": ("one",)}, "does not fit its card: 2 outputs for 1 class name"),
    ],
    ids=["architecture", "unknown field", "impossible field", "classes"],
)
def test_cards_that_describe_another_model(saved, change, message):
    model, card = model_and_card()
    save_artifact(saved, model, dataclasses.replace(card, **change))
    refused(saved, message)


def refused(path, message):
    with pytest.raises(InputError) as caught:
        load_artifact(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)
