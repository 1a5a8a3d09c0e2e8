"""A checkpoint is whole or it is the one before."""

from __future__ import annotations

import errno
import os
import pickle
import time

import pytest
import torch
from PIL import Image

from vitnext.data.dataset import open_dataset
from vitnext.errors import DiskError, InputError, WorkError
from vitnext.training.checkpoint import load_checkpoint, newer_than, save_checkpoint

STATE = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "progress": {"step": 3}, "losses": [1.5], "bf16": False}


def same(state):
    return torch.equal(state["model"]["w"], STATE["model"]["w"]) and all(
        state[key] == STATE[key] for key in ("progress", "losses", "bf16")
    )


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "last.pt", STATE)
    return tmp_path / "last.pt"


def test_what_is_saved_comes_back(path):
    assert same(load_checkpoint(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_memory_layout_survives(tmp_path):
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "last.pt", {"w": tensor})
    loaded = load_checkpoint(tmp_path / "last.pt")["w"]
    assert loaded.stride() == tensor.stride() and torch.equal(loaded, tensor)


def test_a_later_one_replaces_an_earlier_one_and_what_a_kill_left_behind(path):
    (path.parent / "last.pt.tmp").write_bytes(b"half a checkpoint")
    save_checkpoint(path, {"progress": {"step": 9}})
    assert load_checkpoint(path) == {"progress": {"step": 9}}
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_ctrl_c_while_it_is_written_is_no_error_of_the_disk(path, monkeypatch):
    """torch's own answer to it is "[enforce fail at inline_container.cc]"."""
    save = torch.save

    class Pressed:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if len(data) > 1000:
                raise KeyboardInterrupt
            return self.file.write(data)

    monkeypatch.setattr(torch, "save", lambda state, file: save(state, Pressed(file)))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"w": torch.zeros(1_000_000)})
    assert same(load_checkpoint(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_last_good_one(name, path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(DiskError, match=r"last\.pt: cannot be written \(No space left on device\)$"):
        save_checkpoint(path, {"progress": {"step": 9}})
    assert same(load_checkpoint(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_leaves_the_last_good_one(path):
    (path.parent / "last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskError) as caught:
        save_checkpoint(path, {"w": torch.zeros(1 << 16)})
    assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert same(load_checkpoint(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_failure_of_torch_leaves_the_last_good_one(path, monkeypatch):
    def fail(_state, file):
        file.write(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(WorkError, match="cannot be written .PytorchStreamWriter failed") as caught:
        save_checkpoint(path, {})
    assert type(caught.value) is WorkError  # the disk takes more
    monkeypatch.undo()
    assert same(load_checkpoint(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_nothing_is_there_under_its_name_before_it_is_whole(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(sorted(file.name for file in tmp_path.iterdir())))
    save_checkpoint(tmp_path / "last.pt", STATE)
    assert seen == [["last.pt.tmp"]]


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(DiskError, match="cannot be written"):
        save_checkpoint(tmp_path / "gone" / "last.pt", STATE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a checkpoint",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "text", "half", "one byte short", "zeros"],
)
def test_a_damaged_file_is_one_line(damage, path):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "damaged" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_piece_of_a_larger_file_is_damaged_too(share, tmp_path):
    """torch may look for its parts before its start, which the system refuses."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"w": torch.randn(2_000)})
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        load_checkpoint(path)


def test_one_that_cannot_be_read_is_not_called_damaged(path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(InputError, match=r"last\.pt cannot be read \(Input/output error\)$"):
        load_checkpoint(path)


def test_there_is_none(tmp_path):
    with pytest.raises(InputError, match=r"last\.pt cannot be read \(No such file or directory\)"):
        load_checkpoint(tmp_path / "last.pt")


class Malicious:
    def __reduce__(self):
        return print, ("this code has run",)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickled_code_is_refused_and_does_not_run(legacy, tmp_path, capsys):
    path = tmp_path / "last.pt"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Malicious()}))
    else:
        torch.save({"model": Malicious()}, path)
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert "this code has run" not in capsys.readouterr().out


def test_which_files_are_newer(tmp_path):
    """Of annotations in JSON, tables and masks, too: each file once, whatever reads it."""
    data, begun = tmp_path / "data", tmp_path / "card.json"
    for i in range(8):
        for name in (f"images/{i}.png", f"masks/{i}.png"):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L" if "masks" in name else "RGB", (8, 8), i % 2).save(data / name)
    (data / "classes.txt").write_text("0 a\n1 b\n")
    rows = "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(8))
    (data / "t.csv").write_text("image,label\n" + rows)
    time.sleep(0.02)
    begun.write_text("{}")
    time.sleep(0.02)
    masks, table = open_dataset(data), open_dataset(data / "t.csv")
    assert newer_than(begun, masks) == newer_than(begun, table) == []
    for name in ("classes.txt", "t.csv", "masks/3.png", "images/5.png"):
        os.utime(data / name)
    assert sorted(newer_than(begun, masks)) == ["classes.txt", "images/5.png", "masks/3.png"]
    assert sorted(newer_than(begun, table)) == ["images/5.png", "t.csv"]
    assert newer_than(begun, open_dataset("digits")) == newer_than(tmp_path / "gone", masks) == []
