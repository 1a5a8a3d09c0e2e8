"""Windows of a feature map, as Swin Transformer attends in them (Liu et al. 2021, section 3.2, figures 2 and 4).

A map is padded with zeros at the right and bottom to a whole number of windows, then, for every second block, shifted
cyclically by half a window to the top left, then cut. All of it depends on the map's sides alone, so that the places of
the tokens and the masks are computed once for each size, on the CPU, and kept on the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """How a map is cut: its sides, those of a window, and how far the map is shifted first; all (rows, columns)."""

    map: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, window: int, shifted: bool) -> Windows:
        """For x (B, H, W, C). A side that one window covers is one window, and is not shifted."""
        sides = x.shape[1:3]
        rows, columns = (min(window, side) for side in sides)
        down, right = (window // 2 if shifted and side > window else 0 for side in sides)
        return cls((sides[0], sides[1]), (rows, columns), (down, right))

    @property
    def count(self) -> tuple[int, int]:
        """Windows in a column and in a row of the padded map."""
        return -(-self.map[0] // self.size[0]), -(-self.map[1] // self.size[1])

    def cut(self, x: Tensor) -> Tensor:
        """Pad, shift and partition: (B, H, W, C) -> (B * windows, N, C), N = M * M. One gather does the last two."""
        (down, across), (rows, columns) = self.count, self.size
        below, right = down * rows - self.map[0], across * columns - self.map[1]
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        x = x.flatten(1, 2)
        if self.count != (1, 1):
            x = x.index_select(1, constant(places, self, like=x))
        return x.reshape(-1, rows * columns, x.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """The reverse of ``cut``: (B * windows, N, C) -> (B, H, W, C)."""
        x = windows.reshape(-1, math.prod(self.count) * math.prod(self.size), windows.shape[-1])
        if self.count != (1, 1):
            x = x.index_select(1, constant(places_in_windows, self, like=x))
        return x.unflatten(1, self.map)

    def mask(self, like: Tensor) -> Tensor | None:
        """-100 between tokens that only the cyclic shift brought together, else 0: (windows, 1, N, N)."""
        return constant(shift_mask, self, like=like).to(like) if any(self.shift) else None


def partition(tokens: np.ndarray, windows: Windows) -> np.ndarray:
    """The cyclic shift to the top left and the windows of figure 4: (H, W), padded -> (windows, N), both row by row."""
    (down, across), (rows, columns) = windows.count, windows.size
    shifted = np.roll(tokens, (-windows.shift[0], -windows.shift[1]), axis=(0, 1))
    return shifted.reshape(down, rows, across, columns).swapaxes(1, 2).reshape(down * across, rows * columns)


def places(windows: Windows) -> np.ndarray:
    """Which token of the padded map stands at each place of the windows: (windows * N,)."""
    sides = [count * size for count, size in zip(windows.count, windows.size, strict=True)]
    return partition(np.arange(sides[0] * sides[1]).reshape(sides), windows).ravel()


def places_in_windows(windows: Windows) -> np.ndarray:
    """At which place of the windows each token of the map stands: (H * W,)."""
    of_all = np.argsort(places(windows)).reshape(-1, windows.count[1] * windows.size[1])
    return of_all[: windows.map[0], : windows.map[1]].ravel()


def shift_mask(windows: Windows) -> np.ndarray:
    """The mask of ``Windows.mask``: tokens attend to each other if the shift moved neither, or both, over."""
    moved = [
        np.arange(count * size) < shift
        for count, size, shift in zip(windows.count, windows.size, windows.shift, strict=True)
    ]
    region = partition(2 * moved[0][:, None] + moved[1], windows)  # (windows, N): 0, 1, 2 or 3
    return np.where(region[:, None, None, :] != region[:, None, :, None], np.float32(-100), np.float32(0))


def constant(make: Callable[..., np.ndarray], *arguments: Hashable, like: Tensor) -> Tensor:
    """``make(*arguments)`` on the device of ``like``, computed once (while a graph is traced: each time)."""
    traced = torch.compiler.is_compiling() or type(like) not in (Tensor, nn.Parameter)
    tensor: Tensor = (_constant.__wrapped__ if traced else _constant)(make, arguments, like.device)
    return tensor


@functools.lru_cache(maxsize=256)
def _constant(make: Callable[..., np.ndarray], arguments: tuple[Hashable, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what prediction has left here must serve training too
        return torch.from_numpy(make(*arguments)).to(device)
