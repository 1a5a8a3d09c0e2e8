"""Write predicted masks as pictures: palette PNG, the mask over its image, and the confidence."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vitnext.card import Card
from vitnext.data.mask_values import distinct
from vitnext.errors import InputError
from vitnext.files import atomic_write
from vitnext.types import Prediction, Segmentation

OPACITY = 0.55  # of a mask over its image
CONFIDENCE = "_confidence"  # what the name of the second file ends in


def colors_of(card: Card) -> tuple[str, ...]:
    """The colour of each class: the card's, or where it has none (weights of others) those of PASCAL VOC."""
    return card.colors or tuple("#" + bytes(distinct(i)).hex() for i in range(len(card.classes)))


def mask_names(sources: Sequence[str]) -> dict[str, str]:
    """A file name without its ending for each source: its own, or where others share it, as much of its path as tells
    them apart (a_1, b_1 of a/1.png and b/1.png), or a number at its end."""
    parts = {s: [part for part in Path(s).with_suffix("").parts if part not in ("/", "..", ".")] for s in sources}
    depth = dict.fromkeys(parts, 1)
    while True:
        sharing: dict[str, list[str]] = {}
        for source, path in parts.items():
            sharing.setdefault("_".join(path[-depth[source] :]), []).append(source)
        longer = [s for alike in sharing.values() if len(alike) > 1 for s in alike if depth[s] < len(parts[s])]
        if not longer:
            break
        for source in longer:
            depth[source] += 1
    names: dict[str, str] = {}
    taken: set[str] = set()
    for wanted, alike in sharing.items():
        for source in alike:  # more than one: a.jpg and a.png
            numbered = (wanted if not number else f"{wanted}_{number}" for number in itertools.count())
            names[source] = next(name for name in numbered if not taken & {name, name + CONFIDENCE})
            taken |= {names[source], names[source] + CONFIDENCE}
    return {source: names[source] for source in parts}


def with_masks(
    predictions: Iterable[Prediction], folder: Path, names: Mapping[str, str], card: Card
) -> Iterator[Prediction]:
    """Pass predictions on, having written NAME.png (the mask, class indices with the classes' colours as palette) and
    NAME_confidence.png (grey, shares of 255) into ``folder`` for each.

    names: of each source, as ``mask_names`` gives them; card: the model's.

    Raises InputError for a model that gives no masks and for a mask that would replace one of the images, before
    anything is predicted, and WorkError when the disk does not take one.
    """
    if card.task != "semantic":
        raise InputError(f"a {card.task} model gives no masks: leave --masks out")
    images = {os.path.realpath(source): source for source in names}
    for source, name in names.items():
        for written in (f"{name}.png", f"{name}{CONFIDENCE}.png"):
            if (replaced := os.path.realpath(folder / written)) in images:
                raise InputError(
                    f"the mask of {source} would replace the image {images[replaced]}: name another folder"
                )
    return _written(predictions, folder, names, rgb(colors_of(card)))


def _written(
    predictions: Iterable[Prediction], folder: Path, names: Mapping[str, str], colors: np.ndarray
) -> Iterator[Prediction]:
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    folder.mkdir(parents=True, exist_ok=True)
    for prediction in predictions:
        if isinstance(prediction, Segmentation):
            mask = Image.fromarray(prediction.mask)
            mask.putpalette(palette.tobytes())
            _save(mask, folder / f"{names[prediction.source]}.png")
            _save(Image.fromarray(prediction.confidence), folder / f"{names[prediction.source]}{CONFIDENCE}.png")
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
