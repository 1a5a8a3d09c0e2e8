"""digit-scenes: pictures composed of scikit-learn's real 8x8 digits, with a mask of classes and one of instances.

Every digit of a scene is enlarged 4 to 5.5 times, turned a little, coloured and laid over what is there already, so
that digits hide parts of each other; below and above them lies clutter that is no digit: shaded ground, ellipses, bars,
strokes. A digit hides at most a tenth of another, because half of a 3 may be an 8; what is left of a digit of which
less than half is seen is void: nobody could tell. The scenes of the three splits are made of different digits, and are
the same wherever NumPy and Pillow are of the same version. There are many, for the digits are few: from 2,400
a network learns more of the very scenes than of digits.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw

from vitnext.data.builtin import digits
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import VOID, MaskClass, MaskValues

NAME = "digit-scenes"
SIZE = 96  # pixels a side
COUNTS = {"train": 14400, "val": 150, "test": 300}
PARTS = {"train": (0, 16), "val": (16, 17), "test": (17, 20)}  # which digits each split is made of, of every twenty
CLASSES = ("background", *map(str, range(10)))
SEEN = 0.5  # share of a digit that must be seen
LEFT = 0.9  # share of it that later digits leave
PLACES = 8  # tried for a digit; if none will do the scene goes without it
MOST_DIGITS = 5


@functools.cache
def splits() -> dict[str, MaskSplit]:
    """train, val and test: images uint8 (N, 96, 96, 3), masks uint8 (N, 96, 96), instances uint16 (N, 96, 96).

    Raises InputError when scikit-learn is not installed.
    """
    images, labels = digits()
    place = np.zeros(len(labels), np.int64)
    for label in range(10):  # of each digit by itself: the data set repeats 0 to 9 in long stretches
        place[labels == label] = np.arange((labels == label).sum()) % 20
    values = MaskValues(tuple(MaskClass(i, name, None, i > 0) for i, name in enumerate(CLASSES)))
    drawn = {}
    for number, (split, count) in enumerate(COUNTS.items()):
        low, high = PARTS[split]
        mine = (place >= low) & (place < high)
        scenes = [scene(images[mine], labels[mine], np.random.default_rng((number, i))) for i in range(count)]
        pixels, masks, instances = (np.stack(part) for part in zip(*scenes, strict=True))
        names = np.array([f"{split}[{i}]" for i in range(count)], np.bytes_)
        sizes = np.full(count, pixels[0].nbytes, np.int64)
        drawn[split] = MaskSplit(values, names, sizes, names, sizes, arrays=pixels, masks=masks, instances=instances)
    return drawn


def scene(
    images: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene from digits uint8 (N, 8, 8) and int64 (N,): its image, its classes and its instances."""
    canvas = _ground(random)
    _clutter(canvas, random, int(random.integers(2, 6)))
    pixels = np.asarray(canvas).astype(np.float32)
    owner = np.zeros((SIZE, SIZE), np.uint16)
    chosen = random.integers(0, len(labels), int(random.integers(2, MOST_DIGITS + 1)))
    areas: list[int] = []
    for number, i in enumerate(chosen, start=1):
        alpha = _enlarged(images[i], random)  # (h, w) in 0..1
        ink = alpha > 0.5
        place = _free_place(owner, ink, areas, random)
        areas.append(int(ink.sum()))
        if place is None:
            continue
        patch = pixels[place]
        color = _unlike(patch[ink].mean(axis=0), random)
        patch += alpha[..., None] * (color - patch)
        owner[place][ink] = number
    canvas = Image.fromarray(np.rint(pixels).astype(np.uint8))
    hidden = Image.new("1", (SIZE, SIZE))
    _clutter(canvas, random, int(random.integers(0, 3)), over=hidden)
    owner[np.asarray(hidden)] = 0
    noisy = np.asarray(canvas).astype(np.float32) + random.normal(0, random.uniform(0, 8), (SIZE, SIZE, 1))
    return noisy.clip(0, 255).astype(np.uint8), *_truth(owner, labels[chosen], areas)


def _free_place(
    owner: np.ndarray, ink: np.ndarray, areas: list[int], random: np.random.Generator
) -> tuple[slice, slice] | None:
    """A random place for a digit's ink, bool (h, w), that leaves LEFT of every digit before it; None if none is met."""
    h, w = ink.shape
    least = LEFT * np.array([0, *areas])
    seen = np.bincount(owner.reshape(-1), minlength=len(least))
    there = seen > 0  # a digit that found no place has nothing to lose
    for y, x in random.integers(0, (SIZE - h + 1, SIZE - w + 1), (PLACES, 2)):
        place = slice(y, y + h), slice(x, x + w)
        left = seen - np.bincount(owner[place][ink], minlength=len(least))
        if (left >= least)[1:][there[1:]].all():
            return place
    return None


def _truth(owner: np.ndarray, labels: np.ndarray, areas: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Classes and instances of a scene; digits that are mostly hidden become void."""
    seen = np.bincount(owner.reshape(-1), minlength=len(labels) + 1)[1:]
    classes, number = np.zeros(len(labels) + 1, np.uint8), np.zeros(len(labels) + 1, np.uint16)
    clear = seen >= np.maximum(SEEN * np.array(areas), 1)
    classes[1:] = np.where(clear, labels + 1, VOID)
    number[1:][clear] = np.arange(1, clear.sum() + 1)
    return classes[owner], number[owner]


def _ground(random: np.random.Generator) -> Image.Image:
    """A shaded surface: colours at 3 x 3 points, blended."""
    points = random.integers(0, 256, (3, 3, 3)) * 0.4 + random.integers(0, 256, 3) * 0.6
    return Image.fromarray(points.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _clutter(canvas: Image.Image, random: np.random.Generator, count: int, over: Image.Image | None = None) -> None:
    """Draw ellipses, bars and strokes; where they lie is marked in ``over``. Those above digits are thin."""
    draws = [(ImageDraw.Draw(canvas), tuple(int(v) for v in random.integers(0, 256, 3)))]
    draws += [(ImageDraw.Draw(over), 1)] if over is not None else []  # type: ignore[list-item]
    for _ in range(count):
        draws[0] = (draws[0][0], tuple(int(v) for v in random.integers(0, 256, 3)))
        x, y, a, b = (int(v) for v in random.integers(0, SIZE, 4))
        width = int(random.integers(1, 4))
        kind = 2 if over is not None else int(random.integers(0, 3))
        for draw, color in draws:
            if kind == 0:
                draw.ellipse((min(x, a), min(y, b), max(x, a), max(y, b)), fill=color)
            elif kind == 1:
                draw.rectangle((min(x, a), min(y, b), max(x, a), max(y, b)), outline=color, width=width)
            else:
                draw.line((x, y, a, b), fill=color, width=width)


def _enlarged(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A digit's ink as opacity float32 (h, w), with sharp edges: 4 to 5.5 times larger, turned by up to 15 degrees."""
    side = round(8 * random.uniform(4, 5.5))
    padded = np.zeros((10, 10), np.uint8)
    padded[1:-1, 1:-1] = digit
    image = Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC)
    image = image.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR)
    opacity: np.ndarray = ((np.asarray(image).astype(np.float32) / 255 - 0.25) / 0.1).clip(0, 1)
    return opacity


def _unlike(color: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random colour that stands out from ``color`` (3,): at least 90 grey levels lighter or darker."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        other = random.integers(0, 256, 3).astype(np.float32)
        if abs((other - color) @ weights) >= 90:
            return other
