"""Write predicted masks as pictures: palette PNG, the mask over its image, and the confidence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vitnext.errors import InputError
from vitnext.files import atomic_write
from vitnext.types import Failure, Prediction, Segmentation

OPACITY = 0.55  # of a mask over its image


def mask_names(sources: Sequence[str]) -> dict[str, str]:
    """A file name without its ending for each source: its own, or as much of its path as tells it from the others."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        parts = [part for part in Path(source).with_suffix("").parts if part not in ("/", "..", ".")]
        for depth in range(1, len(parts) + 1):
            name = "_".join(parts[-depth:])
            if name not in taken:
                break
        else:
            name = f"{name}_{len(taken)}"
        taken.add(name)
        names[source] = name
    return names


def with_masks(
    predictions: Iterable[Prediction], folder: Path, names: dict[str, str], colors: Sequence[str]
) -> Iterator[Prediction]:
    """Pass predictions on, having written NAME.png (the mask, class indices with the classes' colours as palette) and
    NAME_confidence.png (grey, shares of 255) into ``folder`` for each.

    Raises InputError for predictions that are no masks, WorkError when the disk does not take one.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = rgb(colors)
    folder.mkdir(parents=True, exist_ok=True)
    for prediction in predictions:
        if isinstance(prediction, Segmentation):
            mask = Image.fromarray(prediction.mask)
            mask.putpalette(palette.tobytes())
            _save(mask, folder / f"{names[prediction.source]}.png")
            _save(Image.fromarray(prediction.confidence), folder / f"{names[prediction.source]}_confidence.png")
        elif not isinstance(prediction, Failure):
            raise InputError("masks are written by segmenters alone: leave --masks out")
        yield prediction


def rgb(colors: Sequence[str]) -> np.ndarray:
    """("#804080", ...) -> uint8 (C, 3)."""
    return np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8).reshape(-1, 3)


def overlay(pixels: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the image with the classes' colours, uint8 (C, 3), laid over it; void stays as it is."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    mixed = np.rint(pixels * (1 - OPACITY) + table[mask] * OPACITY).astype(np.uint8)
    covered: np.ndarray = np.where((mask >= len(colors))[..., None], pixels, mixed)
    return covered


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(os.fspath(temporary), "png")
