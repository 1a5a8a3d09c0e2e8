"""Training batches of images with masks, the same for the same (seed, epoch, step) wherever a run starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from vitnext.data.loaders import batch_indices, cache_limit, outlast_signals, place_seed
from vitnext.data.mask_augment import MaskAugment
from vitnext.data.mask_folder import MaskSplit
from vitnext.decode import open_image
from vitnext.errors import ImageError
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe


class MaskedImages:
    """Images and masks of any size, decoded once into memory if they fit, augmented one pair at a time."""

    def __init__(self, split: MaskSplit, preprocess: Preprocess, recipe: Recipe) -> None:
        self.split, self.preprocess, self.recipe = split, preprocess, recipe
        self.augment = MaskAugment(recipe.augment, recipe.data.image_size)
        self.steps_per_epoch = max(1, len(split) // recipe.batch_size)
        self.workers = max(recipe.workers, 0)
        self.decoded = self._decode_all() if recipe.workers <= 0 else None
        if recipe.workers < 0 and self.decoded is None:
            self.workers = max(1, min(8, (os.cpu_count() or 1) - 1))
        held = "decoded in memory" if self.decoded is not None else "read from files"
        by = f"{self.workers} worker processes" if self.workers else "the training process"
        self.description = f"{len(split):,} images with masks {held}, augmented by {by}"

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, C) and mask uint8 (H, W) at the scale at which the network sees them."""
        return self.decoded[i] if self.decoded is not None else pair(self.split, self.preprocess, i)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pair ``index`` as it looks in ``epoch``."""
        epoch, index = place
        image, mask = self.pair(index)
        torch.manual_seed(place_seed(self.recipe.seed, epoch, index))
        return self.augment(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        batches = batch_indices(len(self.split), self.recipe.batch_size, self.recipe.seed, epoch)[start:]
        places = [[(epoch, int(i)) for i in indices] for indices in batches]
        yield from DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=places,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=outlast_signals,
        )

    def _decode_all(self) -> list[tuple[np.ndarray, np.ndarray]] | None:
        places = np.linspace(0, len(self.split) - 1, num=min(16, len(self.split)), dtype=int)
        sample = [pair(self.split, self.preprocess, int(i)) for i in places]
        if np.mean([image.nbytes + mask.nbytes for image, mask in sample]) * len(self.split) > cache_limit():
            return None
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda i: pair(self.split, self.preprocess, i), range(len(self.split))))


def pair(split: MaskSplit, preprocess: Preprocess, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W, C) and mask uint8 (H, W), 255 where void, at the scale at which the network sees them.

    Raises ImageError when one cannot be read, or they differ in size.
    """
    image = open_image(split.image(i), color=preprocess.color, exif=preprocess.exif)
    mask = split.mask(i)
    if image.shape[:2] != mask.shape:
        raise ImageError(
            f"{split.name(i)}: the image has {image.shape[1]}x{image.shape[0]} pixels, its mask "
            f"{mask.shape[1]}x{mask.shape[0]}"
        )
    height, width = preprocess.scaled(*mask.shape)
    if (height, width) == mask.shape:
        return np.array(image), np.array(mask)
    return (
        preprocess.pixels(image),
        np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)),
    )
