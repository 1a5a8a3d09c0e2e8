import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vitnext.card import Card, read_card
from vitnext.errors import InputError
from vitnext.preprocess import Preprocess


@pytest.fixture
def card():
    return Card(
        task="classification",
        architecture="vit_tiny",
        config={"depth": 12},
        classes=("Ankle boot", "T-shirt/top", "été"),
        preprocess=Preprocess((28, 28), color="L", mean=(0.2860,), std=(0.3530,)),
        metrics={"top1": 0.923},
        data={"name": "x", "kind": "image_folder", "fingerprint": "00", "split": {}, "counts": {"train": 3}},
        recipe={"epochs": 2},
        versions={"torch": "2.6.0"},
        licence="Apache-2.0",
    )


def save(path, text):
    save_file({"weight": np.zeros(4, np.float32)}, path, metadata={"vitnext": text})
    return path


def test_json_round_trip(card):
    assert Card.from_json(card.to_json()) == card


def test_read_from_a_safetensors_header(card, tmp_path):
    assert read_card(save(tmp_path / "model.safetensors", card.to_json())) == card


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Card)])
def test_a_missing_or_wrong_key_is_one_line(card, field):
    values = json.loads(card.to_json())
    without = {k: v for k, v in values.items() if k != field}
    younger = field in ("colors", "things", "thresholds")  # older cards lack them
    for broken in (values | {field: None}, *([] if younger else [without])):
        with pytest.raises(InputError) as caught:
            Card.from_json(json.dumps(broken))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not valid JSON"), ("[]", "not a JSON object"), ("{}", "no format version"), ('{"format": 2}', "upgrade")],
)
def test_what_is_no_card(text, says):
    with pytest.raises(InputError, match=says):
        Card.from_json(text)


def test_an_unknown_key_is_named(card):
    with pytest.raises(InputError, match="unknown keys: extra"):
        Card.from_json(json.dumps(json.loads(card.to_json()) | {"extra": 1}))


def test_a_mistake_inside_preprocess_is_named(card):
    values = json.loads(card.to_json())
    values["preprocess"]["resize"] = "squash"
    with pytest.raises(
        InputError, match=r"preprocess\.resize must be 'stretch', 'crop', 'window' or 'fit', not 'squash'"
    ):
        Card.from_json(json.dumps(values))


def test_files_that_hold_no_card(card, tmp_path):
    good = save(tmp_path / "good.safetensors", card.to_json()).read_bytes()
    (tmp_path / "truncated").write_bytes(good[:-3])
    (tmp_path / "header only half").write_bytes(good[:50])
    (tmp_path / "text").write_text("hello, this is a text and not a model")
    (tmp_path / "empty").touch()
    save_file({"weight": np.zeros(4, np.float32)}, tmp_path / "foreign")
    save(tmp_path / "newer", card.to_json().replace('"format": 1', '"format": 9'))
    expected = {
        "truncated": "truncated",
        "header only half": "not a safetensors file",
        "text": "not a safetensors file",
        "empty": "not a safetensors file",
        "foreign": "without a vitnext card",
        "newer": "format 9",
        "missing": "no such file",
        ".": "is a folder",
    }
    for name, says in expected.items():
        with pytest.raises(InputError, match=says) as caught:
            read_card(tmp_path / name)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_opened(card, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    save(tmp_path / "model.safetensors", card.to_json())
    monkeypatch.setattr("safetensors.safe_open", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_card(tmp_path / "model.safetensors")
