"""Draw segments: every object in its own shade of its class's colour, with an outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitnext.inference.mask_files import OPACITY, rgb

GOLDEN = (5**0.5 - 1) / 2  # of the steps between shades: neighbours in number are far apart in lightness
OUTLINE = 0.9  # opacity


def shades(labels: np.ndarray, colors: Sequence[str]) -> np.ndarray:
    """uint8 (n, 3): for segments of classes ``labels``, int64 (n,), a colour each. The first of a class has the class's
    own; others are mixed with white or black, half and half at most."""
    of_class = rgb(colors).astype(np.float64)
    drawn = np.zeros((len(labels), 3))
    seen = [0] * len(colors)
    for k, label in enumerate(labels.tolist()):
        step = seen[label] * GOLDEN % 1
        share, other = (step, 255.0) if step < 0.5 else (1 - step, 0.0)
        drawn[k] = of_class[label] * (1 - share) + other * share
        seen[label] += 1
    return np.rint(drawn).astype(np.uint8)


def segment_overlay(ids: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4), RGBA to be laid over the image: segment k, of ids (H, W), in ``colors``, uint8 (n, 3), at
    [k - 1], and white along the outlines inside it. What no segment covers (id 0) is transparent."""
    table = np.zeros((len(colors) + 1, 4), np.uint8)
    table[1:, :3], table[1:, 3] = colors, round(255 * OPACITY)
    layer: np.ndarray = table[ids]
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    edge[:, 1:] |= (ids[:, :-1] != ids[:, 1:]) & (ids[:, :-1] == 0)  # beside nothing, the outline is on this side
    edge[1:] |= (ids[:-1] != ids[1:]) & (ids[:-1] == 0)
    layer[edge & (ids > 0)] = (255, 255, 255, round(255 * OUTLINE))
    return layer


def laid_over(pixels: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): RGBA over the image."""
    opacity = layer[..., 3:].astype(np.float32) / 255
    mixed: np.ndarray = np.rint(pixels * (1 - opacity) + layer[..., :3] * opacity).astype(np.uint8)
    return mixed
