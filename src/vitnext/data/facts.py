"""What a sample of the training images looks like: enough to choose a recipe and to normalise. No torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vitnext.cores import usable_cores
from vitnext.data.dataset import Split
from vitnext.data.mask_folder import MaskSplit
from vitnext.decode import open_image
from vitnext.errors import ImageError, InputError

SAMPLE = 256  # images, evenly spread over the split


@dataclass(frozen=True)
class Facts:
    """Of the sample: the median short side in pixels, whether every image is grey, the channels' statistics, and the
    median height and width."""

    count: int  # images in the whole split
    short_side: int
    grey: bool
    mean: tuple[float, ...]  # of pixels in 0..1; one value for grey images, else three
    std: tuple[float, ...]
    size: tuple[int, int] = (0, 0)


def look_at(split: Split | MaskSplit) -> Facts:
    """Decode up to 256 images, by as many threads as there are cores. Raises InputError if none of them can be read.

    JPEGs are not decoded at a part of their size, which is quicker: it would make the standard deviation smaller.
    """
    places = np.unique(np.linspace(0, len(split) - 1, num=min(SAMPLE, len(split)), dtype=int))
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = [seen for seen in pool.map(_sample, [split.image(int(i)) for i in places]) if seen is not None]
    if not found:
        raise InputError("none of the training images can be read")
    sides, pixels = [size for size, _ in found], np.concatenate([some for _, some in found]) / 255.0
    grey = bool((pixels == pixels[:, :1]).all())
    channels = pixels[:, :1] if grey else pixels
    mean, std = channels.mean(axis=0), channels.std(axis=0).clip(min=1 / 255)
    rounded = {name: tuple(round(float(v), 4) for v in values) for name, values in (("mean", mean), ("std", std))}
    height, width = np.median(sides, axis=0).astype(int).tolist()
    return Facts(len(split), int(np.median(np.min(sides, axis=1))), grey, **rounded, size=(height, width))


def _sample(source: str | np.ndarray) -> tuple[tuple[int, int], np.ndarray] | None:
    """Height and width of an image, and about 10,000 of its pixels, uint8 (N, 3); None if it cannot be read."""
    try:
        image = open_image(source)  # uint8 (H, W, 3)
    except ImageError:
        return None  # the doctor reports it
    height, width = image.shape[:2]
    return (height, width), image.reshape(-1, 3)[:: max(1, image.size // 30_000)].copy()  # lets go of all the others
