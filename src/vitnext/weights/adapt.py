"""Weights of one configuration for another: each step is explicit and says in a line what it did.

A step takes weights in our names and returns new ones with its line; ``adapt`` takes the steps that a model asks for.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.weights.rename import listed
from vitnext.wording import counted

State = dict[str, Tensor]
Grid = tuple[int, int]  # rows and columns of patches

POSITIONS = "position_embedding"  # (1, prefix tokens + rows * columns of patches, dim)
PATCHES = "patch_embedding.weight"  # (dim, channels, patch, patch)
BIAS_TABLE = "bias_table"  # ((2 window - 1)^2, heads), one in every windowed attention of Swin
HEAD = "head."
LAST = ("head.2.weight", "head.label.weight", "head.weight")  # behind a representation, of DeiT's two, of the others

# How position embeddings are resized: (antialiased, offset); with "offset" the scale is (new + 0.1) / old.
Resize = Literal["antialias", "offset", "plain"]
RESIZES: dict[Resize, tuple[bool, float]] = {"antialias": (True, 0.0), "offset": (False, 0.1), "plain": (False, 0.0)}


def resize_of(source: str, family: str, keys: Container[str], registers: bool) -> Resize:
    """How those in whose names weights are (``weights.naming``) resize position embeddings themselves.

    timm antialiases, transformers does not, nor DINOv2's authors, who have an offset besides; with registers all three
    antialias. The authors' files of DINOv2 hold a mask token, which timm's, of the same names, do not.
    """
    if registers:
        return "antialias"
    if source == "transformers":
        return "plain"
    return "offset" if family == "dinov2" and "mask_token" in keys else "antialias"


def resize_positions(
    state: State, grid: Grid, prefix: int, resize: Resize = "antialias", *, old: Grid | None = None
) -> tuple[State, str]:
    """Position embeddings for a grid of patches (rows, columns), bicubic; the first ``prefix`` tokens keep theirs.

    Dosovitskiy et al. 2021, section 3.2: "2D interpolation of the pre-trained position embeddings". ``old`` is the grid
    that they are for; None: a square. Raises InputError if they are not.
    """
    if resize not in RESIZES:
        raise InputError(f'position embeddings cannot be resized in the way "{resize}": give {", ".join(RESIZES)}')
    antialias, offset = RESIZES[resize]
    tokens, dim = state[POSITIONS].shape[1:]
    old = old or square(tokens - prefix)
    if math.prod(old) + prefix != tokens or tokens <= prefix:
        shape = "square" if old == square(tokens - prefix) else f"{old[0]}x{old[1]}"
        raise InputError(f"{POSITIONS} has {tokens} tokens, which are no {shape} of patches and {prefix} more")
    patches = state[POSITIONS][:, prefix:].reshape(1, *old, dim).permute(0, 3, 1, 2)  # (1, dim, rows, columns)
    if offset:
        scale = [(new + offset) / before for new, before in zip(grid, old, strict=True)]
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=antialias)
    patches = patches.permute(0, 2, 3, 1).reshape(1, -1, dim)
    how = f"bicubic{', antialiased' if antialias else ''}{f', offset {offset}' if offset else ''}"
    new = torch.cat([state[POSITIONS][:, :prefix], patches], dim=1)
    return state | {POSITIONS: new}, f"position embedding: {old[0]}x{old[1]} -> {grid[0]}x{grid[1]} patches, {how}"


def square(patches: int) -> Grid:
    """The grid of so many patches, if it is a square; else the largest square that they fill."""
    return (math.isqrt(max(patches, 0)),) * 2


def resize_patches(state: State, size: int) -> tuple[State, str]:
    """Patch embedding for patches of ``size`` x ``size`` pixels: PI-resize (Beyer et al. 2023, FlexiViT, section 3.4).

    w' = (B^T)^+ w, where B resizes a patch: the tokens <Bx, w'> of resized images are as near to <x, w> as can be, and
    equal if the patch grows.
    """
    weight = state[PATCHES]  # (dim, channels, old, old)
    old = weight.shape[-1]
    basis = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)  # every pixel of a patch, one at a time
    transposed = F.interpolate(basis, size=(size, size), mode="bicubic", antialias=True).flatten(1)  # B^T
    new = weight.double().flatten(2) @ torch.linalg.pinv(transposed).T  # (dim, channels, size * size)
    new = new.reshape(*weight.shape[:2], size, size).to(weight.dtype)
    return state | {PATCHES: new}, f"patch embedding: {old} -> {size} px, resized by pseudo-inverse"


def resize_window_bias(state: State, sizes: Mapping[str, int]) -> tuple[State, str]:
    """Relative position bias tables for other windows, bicubic: name -> rows (Liu et al. 2021, section 3.2)."""
    new = dict(state)
    before, after = set(), set()
    for name, rows in sizes.items():
        table = state[name]  # ((2 M - 1)^2, heads)
        old, side = (round(count**0.5) for count in (len(table), rows))
        if old * old != len(table) or side * side != rows:
            raise InputError(f"{name} has {len(table)} rows, {rows} are needed: these are no windows")
        grid = table.T.reshape(1, -1, old, old)
        new[name] = F.interpolate(grid, size=(side, side), mode="bicubic").reshape(-1, rows).T.contiguous()
        before.add((old + 1) // 2)
        after.add((side + 1) // 2)
    windows = [", ".join(f"{size}x{size}" for size in sorted(found)) for found in (before, after)]
    return new, f"relative position bias: windows of {windows[0]} -> {windows[1]}, bicubic"


def change_channels(state: State, name: str, channels: int) -> tuple[State, str]:
    """The first convolution for images of ``channels`` channels, as timm does it.

    One channel: the sum over the old ones, which sees a grey picture as they saw it. More: the old ones again and
    again, times old / new, so that the sum stays.
    """
    weight = state[name]  # (out, old, k, k)
    old = weight.shape[1]
    if channels == 1:
        return state | {name: weight.sum(dim=1, keepdim=True)}, f"{name}: summed over its {old} channels"
    again = weight.repeat(1, -(-channels // old), 1, 1)[:, :channels] * (old / channels)
    return state | {name: again}, f"{name}: {old} channels repeated for {channels}, times {old}/{channels}"


def replace_head(state: State, fresh: Mapping[str, Tensor]) -> tuple[State, str]:
    """The weights with ``fresh`` as their head (empty: none)."""
    old = head_of(state)
    body = {key: tensor for key, tensor in state.items() if key not in old}
    before = f"that of {counted(classes_of(state), 'class')} is left out" if old else "the weights have none"
    if not fresh:
        return body, f"head: none; {before}"
    return body | dict(fresh), f"head: new, for {counted(classes_of(fresh), 'class')}; {before}"


def adapt(
    state: State, model: nn.Module, resize: Resize = "antialias", grid: Grid | None = None
) -> tuple[State, list[str]]:
    """``state`` for ``model``, which is initialised (a new head is taken from it), and a line for each step.

    ``grid`` is that of the patches that ``state`` has positions for; None: a square.
    What no step can mend stays as it is, for ``misfits`` to name.
    """
    wanted = model.state_dict()
    lines: list[str] = []

    def differs(name: str) -> bool:
        return name in state and name in wanted and state[name].shape != wanted[name].shape

    stem = stem_of(wanted)
    if differs(stem) and state[stem].shape[1] != wanted[stem].shape[1]:
        state, line = change_channels(state, stem, wanted[stem].shape[1])
        lines.append(line)
    if differs(PATCHES) and state[PATCHES].shape[:2] == wanted[PATCHES].shape[:2]:
        state, line = resize_patches(state, wanted[PATCHES].shape[-1])
        lines.append(line)
    if POSITIONS in state and POSITIONS in wanted and state[POSITIONS].shape[2] == wanted[POSITIONS].shape[2]:
        new: Grid = model.config.grid  # type: ignore[union-attr, assignment]
        prefix = wanted[POSITIONS].shape[1] - math.prod(new)
        if differs(POSITIONS) or grid not in (None, new):  # 12x12 patches are as many as 16x9
            state, line = resize_positions(state, new, prefix, resize, old=grid)
            lines.append(line)
    tables = {name: len(wanted[name]) for name in wanted if name.endswith(BIAS_TABLE) and differs(name)}
    if tables and all(state[name].shape[1] == wanted[name].shape[1] for name in tables):
        state, line = resize_window_bias(state, tables)
        lines.append(line)
    if any(key not in wanted or differs(key) for key in head_of(state)) or head_of(wanted).keys() - state.keys():
        state, line = replace_head(state, head_of(wanted))
        lines.append(line)
    return state, lines


def head_of(state: Mapping[str, Tensor]) -> State:
    """The weights of the head or heads."""
    return {key: tensor for key, tensor in state.items() if key.startswith(HEAD)}


def stem_of(state: Mapping[str, Tensor]) -> str:
    """The name of the first convolution's weight: what sees the image's channels."""
    return next((name for name, tensor in state.items() if tensor.ndim == 4), "")


def misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> list[str]:
    """Everything that keeps ``state`` out of a model with the weights ``wanted``, called ``name``: [] if it fits."""
    found: list[str] = []
    if left := sorted(state.keys() - wanted.keys()):
        found.append(f"left over: {listed(left)}")
    if missing := sorted(wanted.keys() - state.keys()):
        found.append(f"missing: {listed(missing)}")
    for key in wanted:
        if key in state and state[key].shape != wanted[key].shape:
            found.append(f"{key} is {tuple(state[key].shape)}, {name} has {tuple(wanted[key].shape)}")
    return found


def classes_of(state: Mapping[str, Tensor]) -> int:
    """The rows of the head's last Linear; 0 without a head."""
    return next((len(state[key]) for key in LAST if key in state), 0)
