"""Reading other people's files of weights: .safetensors, PyTorch's .pth, .pt, .bin and .ckpt, and Google's .npz.

No file can run code: a pickle that holds anything but tensors and plain values is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitnext.errors import InputError
from vitnext.weights.rename import listed

# Where training scripts put the weights, the averaged ones first. {"model": {...}} may hold a {"state_dict": {...}}.
WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "module", "net", "student")

# What wrappers of the network leave before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors of a file, floats as float32, on the CPU, and a line for each thing that was done to get them.

    Raises InputError, with the file's name, when it is missing, empty, truncated, damaged, of another kind, without
    weights, or needs code to be read.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file of weights in it")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: weights are read from {', '.join(READERS)}, not from {path.suffix or 'such a file'}")
    try:
        if not path.stat().st_size:
            raise InputError(f"{path} is empty: get it again")
        content = reader(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(f"{path}: not enough memory to read it") from error
    lines: list[str] = []
    state = _unwrap(content, path, lines)
    state = _strip(state, lines)
    for key in [key for key in state if key.endswith(".running_mean")]:  # of before PyTorch 0.4.1
        state.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    stored = sorted({_short(t.dtype) for t in state.values() if t.is_floating_point() and t.dtype != torch.float32})
    if stored:
        lines.append(f"stored as {', '.join(stored)}, used as float32")
    return {key: t.float() if t.is_floating_point() else t for key, t in state.items()}, lines


def backbone_alone(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Of a detector or segmenter the backbone, without "backbone." before its names, and the line that says so.

    What has no such names passes unchanged, without a line.
    """
    others = [key for key in state if not key.startswith("backbone.")]
    if len(others) == len(state):
        return state, []
    alone = {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}
    return alone, ['"backbone." taken off the names' + (f"; left out: {listed(others)}" if others else "")]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # safetensors has a class of its own for every kind of damage
        reason = "is truncated" if "incomplete" in str(error).lower() else "is damaged, or is no safetensors file"
        raise InputError(f"{path} {reason}: get it again") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that is not torch's own
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path} is refused: it needs {code[1]} to be read, and such a pickle can run any code; "
                "get a .safetensors file, or save its weights alone with torch.save"
            ) from error
        raise InputError(f"{path} is truncated or damaged, or is no PyTorch file: get it again") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        # Opened here: of a damaged archive NumPy would leave the closing to the garbage collector.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except OSError:
        raise
    except Exception as error:
        if "Object arrays" in str(error):
            raise InputError(f"{path} is refused: it holds pickled objects, and those can run any code") from error
        if isinstance(error, TypeError):
            raise InputError(f"{path} holds an array that is no tensor ({error})") from error
        raise InputError(f"{path} is truncated or damaged, or is no .npz file: get it again") from error


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
    ".ckpt": _read_torch,
    ".npz": _read_npz,
}


def _unwrap(content: Any, path: Path, lines: list[str]) -> dict[str, Tensor]:
    """The tensors in what the file holds, however deep a training script put them."""
    opened: list[str] = []
    while isinstance(content, Mapping):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            break
        opened.append(wrapper)
        content = content[wrapper]
    if opened:
        lines.append(f"the weights are in {'.'.join(opened)}")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not named tensors")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if not state:
        raise InputError(f"{path} holds no weights" + (f", only {', '.join(others[:5])}" if others else ""))
    if others:
        lines.append(f"left out, no tensors: {listed(others)}")
    return state


def _strip(state: dict[str, Tensor], lines: list[str]) -> dict[str, Tensor]:
    """The names without what wrappers put before them."""
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        lines.append(f'"{prefix}" taken off the names')
    return state


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
