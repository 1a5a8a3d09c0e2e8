from __future__ import annotations

import pytest
import torch

from vitnext.errors import InputError
from vitnext.weights.rename import (
    CONV1X1,
    DERIVED,
    DROPPED,
    HWIO,
    TRANSPOSED,
    Layout,
    leftovers,
    listed,
    rename,
    theirs,
)
from vitnext.weights.tables.swin import UNFOLDED

TABLE = [
    ("cls_token", "class_token"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("stages.{i}.blocks.{j}.gamma", "stages.{i}.blocks.{j}.layer_scale"),
    ("bn", "stem.bn"),
    ("norm", "last_norm"),
]
THEIRS_TO_OURS = {
    "cls_token": "class_token",
    "blocks.0.norm1.weight": "encoder.0.norm1.weight",
    "blocks.11.norm1.bias": "encoder.11.norm1.bias",
    "stages.3.blocks.26.gamma": "stages.3.blocks.26.layer_scale",
    "bn.running_mean": "stem.bn.running_mean",
    "bn.running_var": "stem.bn.running_var",
    "bn.num_batches_tracked": "stem.bn.num_batches_tracked",
    "norm.weight": "last_norm.weight",
    "norm.bias": "last_norm.bias",
}
JOINED = [(("{i}.q", "{i}.k", "{i}.v"), "encoder.{i}.qkv")]


def message(state, table, **options):
    with pytest.raises(InputError) as caught:
        rename({key: torch.zeros(1) for key in state} if isinstance(state, list) else state, table, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def there_and_back(state, table):
    ours = rename(state, table)
    back = rename(ours, table, reverse=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)
    assert all(tensor.is_contiguous() for tensor in (ours | back).values())
    return ours


@pytest.mark.parametrize("reverse", [False, True])
def test_each_key_is_renamed_and_its_tensor_kept(reverse):
    names = {ours: theirs for theirs, ours in THEIRS_TO_OURS.items()} if reverse else THEIRS_TO_OURS
    state = {name: torch.randn(2) for name in names}
    renamed = rename(state, TABLE, reverse=reverse)
    assert list(renamed) == list(names.values())
    assert all(renamed[names[name]] is tensor for name, tensor in state.items())


def test_nothing_is_renamed_to_nothing():
    assert rename({}, TABLE) == {}
    assert rename({}, TABLE, reverse=True) == {}


@pytest.mark.parametrize(
    "key",
    [
        "blocks.x.norm1.weight",  # {i} is a number
        "blocks.0.norm2.weight",
        "blocks.0.norm1.scale",
        "module.norm.weight",  # a name is matched from its first to its last letter
        "norm.weight.weight",
        "norm_weight",
        "stages.0.blocks.gamma",
        "class_token",  # ours, where theirs is expected
        "blocks.{i}.norm1",
    ],
)
def test_a_key_without_a_place_is_named(key):
    assert message(["cls_token", key], TABLE) == f"1 weight has no place in this model: {key}"


def test_a_key_of_ours_without_a_place_is_named():
    assert message(["cls_token"], TABLE, reverse=True) == "1 weight has no place in this layout: cls_token"


def test_every_key_without_a_place_is_named():
    keys = [f"blocks.{i}.ls{j}.gamma" for i in range(12) for j in (1, 2)] + ["b.0.x", "b.2.x", "c.0.0", "c.1.1"]
    expected = "b.{0,2}.x, blocks.{0-11}.ls1.gamma, blocks.{0-11}.ls2.gamma, c.0.0, c.1.1"
    assert message(keys, TABLE) == f"28 weights have no place in this model: {expected}"


def test_lists_of_keys():
    assert listed([]) == ""
    assert listed(["norm1.weight"]) == "norm1.weight"
    assert listed(f"s.{i}.b.{j}.w" for i in range(2) for j in range(3)) == "s.{0-1}.b.{0-2}.w"
    assert listed(["x.10.w", "x.9.w"]) == "x.{9-10}.w"
    assert (
        listed(["Transformer/encoderblock_0/k", "Transformer/encoderblock_1/k"]) == "Transformer/encoderblock_{0-1}/k"
    )


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [(CONV1X1, (5, 3, 1, 1), (5, 3)), (TRANSPOSED, (3, 5), (5, 3)), (HWIO, (2, 4, 3, 5), (5, 3, 2, 4))],
)
def test_layouts(layout, theirs, ours):
    state = {"fc.weight": torch.randn(theirs), "fc.bias": torch.randn(5), "kernel": torch.randn(theirs)}
    renamed = there_and_back(state, [("fc", "project", layout), ("kernel", "stem.weight", layout)])
    assert renamed["project.weight"].shape == renamed["stem.weight"].shape == ours
    assert renamed["project.bias"] is state["fc.bias"]  # a module's layout is that of its weight


def test_hwio_moves_each_axis_to_its_place():
    theirs = torch.randn(2, 4, 3, 5)
    ours = rename({"kernel": theirs}, [("kernel", "weight", HWIO)])["weight"]
    assert ours[4, 2, 1, 3] == theirs[1, 3, 2, 4]


def test_neighbours_of_unfold_and_of_the_authors():
    """(C, row, column), and four quarters of C: first column, then second."""
    numbers = torch.arange(12).reshape(3, 4)  # C, neighbours in the order of Unfold
    state = {"norm.weight": numbers.flatten(), "fc.weight": torch.stack([numbers, 100 + numbers]).flatten(1)}
    ours = there_and_back(state, [("norm", "norm", UNFOLDED), ("fc", "reduction", UNFOLDED)])
    expected = torch.cat([numbers[:, 0], numbers[:, 2], numbers[:, 1], numbers[:, 3]])
    assert torch.equal(ours["norm.weight"], expected)
    assert torch.equal(ours["reduction.weight"], torch.stack([expected, 100 + expected]))


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        (CONV1X1, (5, 3), "fc.weight has the shape (5, 3); a 1x1 convolution has (out, in, 1, 1)"),
        (CONV1X1, (5, 3, 3, 3), "fc.weight has the shape (5, 3, 3, 3); a 1x1 convolution has (out, in, 1, 1)"),
        (TRANSPOSED, (5, 3, 1), "fc.weight has the shape (5, 3, 1); a matrix has 2 dimensions"),
        (HWIO, (5, 3), "fc.weight has the shape (5, 3); a convolution has 4 dimensions"),
        (UNFOLDED, (5, 6), "fc.weight has the shape (5, 6); 2 x 2 neighbours have 4 C channels"),
        (UNFOLDED, (), "fc.weight has the shape (); 2 x 2 neighbours have 4 C channels"),
        (Layout(lambda t: t.reshape(7), lambda t: t), (5,), "fc.weight shape '[7]' is invalid for input of size 5"),
    ],
)
def test_a_shape_that_the_layout_does_not_fit(layout, shape, expected):
    assert message({"fc.weight": torch.zeros(shape)}, [("fc", "project", layout)]) == expected


def test_weights_of_several_are_joined_in_the_order_of_the_table():
    state = {f"0.{n}.{p}": torch.randn(2, *shape) for n in "vkq" for p, shape in (("weight", (2,)), ("bias", ()))}
    ours = there_and_back(state, JOINED)
    assert list(ours) == ["encoder.0.qkv.weight", "encoder.0.qkv.bias"]
    expected = torch.cat([state["0.q.weight"], state["0.k.weight"], state["0.v.weight"]])
    assert torch.equal(ours["encoder.0.qkv.weight"], expected)


def test_joined_weights_have_a_layout_each():
    table = [(("q", "k"), "qk", TRANSPOSED)]
    state = {
        "q.weight": torch.randn(3, 2),
        "k.weight": torch.randn(3, 2),
        "q.bias": torch.ones(2),
        "k.bias": torch.ones(2),
    }
    ours = there_and_back(state, table)
    assert torch.equal(ours["qk.weight"], torch.cat([state["q.weight"].T, state["k.weight"].T]))


def test_a_missing_part_of_a_joined_weight_is_named():
    keys = ["0.q.weight", "0.v.weight", "1.q.weight", "1.v.weight"]
    assert message(keys, JOINED) == "2 weights are missing: {0-1}.k.weight"
    assert message(["0.q.bias", "0.k.bias"], JOINED) == "1 weight is missing: 0.v.bias"


def test_a_joined_weight_that_cannot_be_divided():
    expected = "encoder.0.qkv.weight has the shape (4, 2), which 3 weights cannot share"
    assert message({"encoder.0.qkv.weight": torch.zeros(4, 2)}, JOINED, reverse=True) == expected


def test_two_keys_for_one_weight():
    table = [("gamma", "norm.weight"), ("norm", "norm")]
    expected = "gamma and norm.weight are the same weight of this model, norm.weight: remove one of them"
    assert message(["gamma", "norm.weight"], table) == expected


def index(numbers, ours):
    """As many as the bias table has rows, from the block's number on; block 1 has none."""
    rows = ours.get(f"encoder.{numbers['i']}.table")
    return None if rows is None or numbers["i"] == 1 else torch.arange(len(rows)) + numbers["i"]


DERIVES = [("b.{i}.attn.table", "encoder.{i}.table"), ("b.{i}.attn.index", DERIVED(index)), ("norm", "norm")]


def test_a_derived_buffer_is_checked_and_made_again():
    state = {"norm.weight": torch.ones(1)}
    for i in (0, 1, 10):
        state[f"b.{i}.attn.table"] = torch.randn(4)
        state |= {f"b.{i}.attn.index": torch.arange(4) + i} if i != 1 else {}
    ours = there_and_back(state, DERIVES)
    assert set(ours) == {"norm.weight", "encoder.0.table", "encoder.1.table", "encoder.10.table"}
    assert rename({key: t for key, t in state.items() if "index" not in key}, DERIVES).keys() == ours.keys()


@pytest.mark.parametrize("wrong", [torch.arange(4) + 1, torch.arange(5)])
def test_a_derived_buffer_that_differs(wrong):
    state = {"b.0.attn.table": torch.randn(4), "b.0.attn.index": wrong}
    assert message(state, DERIVES) == "b.0.attn.index is not what this model computes in its place"
    rename({key: tensor.to("meta") for key, tensor in state.items()}, DERIVES)  # no values to compare
    rename({"b.1.attn.table": torch.randn(4), "b.1.attn.index": wrong}, DERIVES)  # not known from the weights


def test_what_is_dropped_is_left_behind_with_all_below_it():
    table = [("norm", "norm"), ("decoder", DROPPED), ("mask_token", DROPPED), ("heads/x", DROPPED)]
    keys = ["norm.weight", "decoder.0.fc.weight", "decoder.norm.bias", "mask_token", "heads/x/kernel"]
    assert list(rename({key: torch.ones(1) for key in keys}, table)) == ["norm.weight"]
    assert list(rename({"norm.weight": torch.ones(1)}, table, reverse=True)) == ["norm.weight"]
    assert message(["decoder_norm.weight"], table) == "1 weight has no place in this model: decoder_norm.weight"


def test_a_derived_buffer_whose_weights_are_missing():
    table = [("last", DERIVED(lambda numbers, ours: ours["norm.weight"])), ("norm", "norm"), ("fc", "fc")]
    assert message(["last"], table) == "last cannot be made: norm.weight is missing"
    assert message(["fc.weight"], table, reverse=True) == "last cannot be made: norm.weight is missing"


def test_names_without_weights():
    table = [*JOINED, ("norm", "last_norm"), ("mask", DROPPED)]
    assert list(leftovers(["0.q.bias", "norm.weight", "mask.x", "y"], table)) == ["y"]
    assert theirs(["encoder.3.qkv.bias", "last_norm.weight", "y"], table) == [
        "3.q.bias",
        "3.k.bias",
        "3.v.bias",
        "norm.weight",
        "y",
    ]
