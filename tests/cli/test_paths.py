"""Paths are checked before the work starts, and the check leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitnext.cli.paths import existing_file, writable_file, writable_folder
from vitnext.errors import InputError


def test_existing_file(tmp_path):
    file = tmp_path / "model.onnx"
    file.touch()
    assert existing_file(file) == file
    with pytest.raises(InputError, match=r"is a folder, .*model\.safetensors"):
        existing_file(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        existing_file(tmp_path / "nothing")


def test_a_folder_that_can_be_created_is_not_created(tmp_path):
    assert writable_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert writable_file(tmp_path / "a" / "x.csv") == tmp_path / "a" / "x.csv"
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert writable_folder(Path("runs/a")) == Path("runs/a")
    assert writable_file(Path("x.csv")) == Path("x.csv")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").touch()
    for path in (tmp_path / "runs", tmp_path / "runs" / "a"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            writable_folder(path)


def test_a_folder_where_a_file_is_needed(tmp_path):
    with pytest.raises(InputError, match="is a folder, but a file is needed"):
        writable_file(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}: Permission denied"):
        writable_folder(tmp_path / "runs")
