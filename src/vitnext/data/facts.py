"""What a sample of the training images looks like: enough to choose a recipe and to normalise. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    """Decode up to 256 images. Raises InputError if none of them can be read."""
    sides, images = [], []
    for i in np.unique(np.linspace(0, len(split) - 1, num=min(SAMPLE, len(split)), dtype=int)):
        try:
            image = open_image(split.image(int(i)))  # uint8 (H, W, 3)
        except ImageError:
            continue  # the doctor reports it
        sides.append(image.shape[:2])
        images.append(image.reshape(-1, 3)[:: max(1, image.size // 30_000)])  # about 10,000 pixels an image
    if not images:
        raise InputError("none of the training images can be read")
    pixels = np.concatenate(images) / 255.0
    grey = bool((pixels == pixels[:, :1]).all())
    channels = pixels[:, :1] if grey else pixels
    mean, std = channels.mean(axis=0), channels.std(axis=0).clip(min=1 / 255)
    rounded = {name: tuple(round(float(v), 4) for v in values) for name, values in (("mean", mean), ("std", std))}
    height, width = np.median(sides, axis=0).astype(int).tolist()
    return Facts(len(split), int(np.median(np.min(sides, axis=1))), grey, **rounded, size=(height, width))
