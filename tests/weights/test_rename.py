from __future__ import annotations

import pytest
import torch

from vitnext.errors import InputError
from vitnext.weights import timm
from vitnext.weights.rename import rename

TABLE = [
    ("cls_token", "class_token"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("stages.{i}.blocks.{j}.gamma", "stages.{i}.blocks.{j}.layer_scale"),
    ("norm", "last_norm"),
]
THEIRS_TO_OURS = {
    "cls_token": "class_token",
    "blocks.0.norm1.weight": "encoder.0.norm1.weight",
    "blocks.11.norm1.bias": "encoder.11.norm1.bias",
    "stages.3.blocks.26.gamma": "stages.3.blocks.26.layer_scale",
    "norm.weight": "last_norm.weight",
    "norm.bias": "last_norm.bias",
}


@pytest.mark.parametrize("reverse", [False, True])
def test_each_key_is_renamed_and_its_tensor_kept(reverse):
    names = {ours: theirs for theirs, ours in THEIRS_TO_OURS.items()} if reverse else THEIRS_TO_OURS
    state = {name: torch.randn(2) for name in names}
    renamed = rename(state, TABLE, reverse=reverse)
    assert list(renamed) == list(names.values())
    assert all(renamed[names[name]] is tensor for name, tensor in state.items())


def test_nothing_is_renamed_to_nothing():
    assert rename({}, TABLE) == {}


@pytest.mark.parametrize(
    "key",
    [
        "blocks.x.norm1.weight",  # {i} is a number
        "blocks.0.norm2.weight",
        "blocks.0.norm1.running_mean",
        "module.norm.weight",  # a name is matched from its first to its last letter
        "norm.weight.weight",
        "norm_weight",
        "stages.0.blocks.gamma",
        "class_token",  # ours, where theirs is expected
    ],
)
def test_a_key_without_a_place_is_named(key):
    with pytest.raises(InputError) as caught:
        rename({"cls_token": torch.zeros(1), key: torch.zeros(1)}, TABLE)
    assert str(caught.value) == f"1 weights have no place in this model: {key}"


def test_many_keys_without_a_place_are_counted():
    with pytest.raises(InputError) as caught:
        rename({f"surprise.{i}": torch.zeros(1) for i in range(9)}, TABLE)
    expected = "9 weights have no place in this model: surprise.0, surprise.1, surprise.2, surprise.3, surprise.4"
    assert str(caught.value) == expected


@pytest.mark.parametrize("table", [timm.VIT, timm.CONVNEXT], ids=["vit", "convnext"])
def test_tables_are_one_to_one(table):
    theirs, ours = zip(*table, strict=True)
    assert len(set(theirs)) == len(set(ours)) == len(table)
