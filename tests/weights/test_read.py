from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vitnext.errors import InputError
from vitnext.weights.read import READERS, backbone_alone, read_weights

STATE = {"norm.weight": torch.arange(3.0), "blocks.0.fc.weight": torch.randn(2, 3)}


def write(path, content):
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in content.items()})
    else:
        torch.save(content, path)
    return path


def message(path):
    with pytest.raises(InputError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text.replace(str(path), "FILE")


def same(state, expected=STATE):
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("suffix", READERS)
def test_every_kind_of_file(tmp_path, suffix):
    for name in ("weights" + suffix, "WEIGHTS" + suffix.upper()):
        state, lines = read_weights(write(tmp_path / f"weights{suffix}", STATE).rename(tmp_path / name))
        assert same(state) and lines == []


def test_the_old_format_of_pytorch(tmp_path):
    torch.save({"model": STATE}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "old.pth")[0])


@pytest.mark.parametrize(
    ("wrapped", "line"),
    [
        ({"model": STATE, "epoch": 5}, "the weights are in model"),
        ({"state_dict": STATE, "optimizer": {"lr": 1.0}}, "the weights are in state_dict"),
        ({"model": {"state_dict": STATE}}, "the weights are in model.state_dict"),
        ({"student": {"norm.weight": torch.zeros(3)}, "teacher": STATE}, "the weights are in teacher"),
        ({"model": {"norm.weight": torch.zeros(3)}, "model_ema": STATE}, "the weights are in model_ema"),
        ({**STATE, "epoch": 5, "name": "x"}, "left out, no tensors: epoch, name"),
        ({f"module.{key}": t for key, t in STATE.items()}, '"module." taken off the names'),
        ({f"_orig_mod.{key}": t for key, t in STATE.items()}, '"_orig_mod." taken off the names'),
        ({key: t.double() for key, t in STATE.items()}, "stored as float64, used as float32"),
    ],
)
def test_what_was_done_is_said(tmp_path, wrapped, line):
    state, lines = read_weights(write(tmp_path / "weights.pth", wrapped))
    assert same(state) and lines == [line]


def test_several_things_at_once(tmp_path):
    wrapped = {"teacher": {f"module.{key}": t.half() for key, t in STATE.items()}}
    state, lines = read_weights(write(tmp_path / "weights.pth", wrapped))
    assert same(state, {key: t.half().float() for key, t in STATE.items()})
    assert lines == [
        "the weights are in teacher",
        '"module." taken off the names',
        "stored as float16, used as float32",
    ]


def test_the_backbone_of_a_detector():
    assert backbone_alone(STATE) == (STATE, [])
    inside = {f"backbone.{key}": tensor for key, tensor in STATE.items()}
    state, lines = backbone_alone(inside)
    assert same(state) and lines == ['"backbone." taken off the names']
    state, lines = backbone_alone(inside | {f"head.{i}.weight": torch.ones(1) for i in range(3)})
    assert same(state) and lines == ['"backbone." taken off the names; left out: head.{0-2}.weight']


def test_a_prefix_of_some_names_stays(tmp_path):
    state = {"model.norm": torch.ones(1), "head": torch.ones(1)}
    assert read_weights(write(tmp_path / "weights.pth", state)) == (state, [])


def test_whole_numbers_stay_what_they_are(tmp_path):
    counter = {"bn.num_batches_tracked": torch.tensor(7)}
    state, _ = read_weights(write(tmp_path / "weights.pth", counter))
    assert state["bn.num_batches_tracked"].dtype == torch.int64


class Evil:
    def __reduce__(self):
        return os.mkdir, ("EXECUTED",)


@pytest.mark.parametrize(
    ("content", "needs"),
    [
        ({"model": STATE, "x": Evil()}, "posix.mkdir"),
        ({"model": STATE, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_needs_code_is_refused(tmp_path, monkeypatch, content, needs, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    assert message(tmp_path / "weights.pth").startswith(f"FILE is refused: it needs {needs} to be read")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(content, protocol=2))
    assert "is refused" in message(tmp_path / "plain.bin")
    assert not (tmp_path / "EXECUTED").exists()


def test_pickled_objects_in_an_npz_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "weights.npz", a=np.array([Evil()], dtype=object), allow_pickle=True)
    assert message(tmp_path / "weights.npz") == "FILE is refused: it holds pickled objects, and those can run any code"
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("suffix", READERS)
def test_empty_truncated_damaged(tmp_path, suffix):
    path = write(tmp_path / f"weights{suffix}", STATE)
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert message(path) == "FILE is empty: get it again"
    for length in (1, 7, 50, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        assert message(path).endswith(": get it again")
    path.write_bytes(b"<html>not found</html>" * 10)
    assert message(path).endswith(": get it again")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert message(path).endswith(": get it again")


def test_a_flipped_bit_in_an_archive(tmp_path):
    path = write(tmp_path / "weights.npz", STATE)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("norm.weight.npy").header_offset
    damaged = bytearray(path.read_bytes())
    damaged[start + 180] ^= 0xFF
    path.write_bytes(damaged)
    assert message(path) == "FILE is truncated or damaged, or is no .npz file: get it again"


def test_files_without_weights(tmp_path):
    for content, expected in (
        ({"epoch": 1, "lr": 0.1}, "FILE holds no weights, only epoch, lr"),
        ({}, "FILE holds no weights"),
        ({"model": {}}, "FILE holds no weights"),
        (torch.ones(3), "FILE holds a Tensor, not named tensors"),
        ([torch.ones(3)], "FILE holds a list, not named tensors"),
    ):
        assert message(write(tmp_path / "weights.pth", content)) == expected
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    assert message(tmp_path / "text.npz").startswith("FILE holds an array that is no tensor (can't convert")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"x")
    kinds = ".safetensors, .pth, .pt, .bin, .ckpt, .npz"
    assert message(tmp_path / "x.onnx") == f"FILE: weights are read from {kinds}, not from .onnx"
    assert message(tmp_path) == "FILE is a folder: name the file of weights in it"
    assert message(tmp_path / "no.pth") == "FILE: no such file"


def test_nothing_but_the_file_is_read(tmp_path):
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    (tmp_path / "weights.pt").write_bytes(buffer.getvalue())
    assert same(read_weights(tmp_path / "weights.pt")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
