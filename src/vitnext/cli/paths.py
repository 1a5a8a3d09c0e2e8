"""Checks of paths before the work starts: a long run must not end with "permission denied"."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vitnext.errors import InputError


def existing_file(path: Path) -> Path:
    """``path``, or InputError if there is no such file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a model file is needed, for example {path / 'model.safetensors'}")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    return path


def writable_folder(path: Path) -> Path:
    """``path``, or InputError if it can be neither written to nor created. Leaves nothing behind."""
    folder = path
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"cannot write to {path}: {folder} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


def writable_file(path: Path) -> Path:
    """``path``, or InputError if no such file can be written. Leaves nothing behind."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file is needed, for example {path / 'model.onnx'}")
    writable_folder(path.parent)
    return path
