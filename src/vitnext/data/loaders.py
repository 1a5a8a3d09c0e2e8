"""Training batches: uint8 images and labels, the same for the same (seed, epoch, step) wherever a run starts.

Every random choice is drawn from a generator seeded with the place in the run, never from what came before: a run that
is resumed in the middle of an epoch sees the batches that it would have seen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitnext.cores import usable_cores
from vitnext.data.augment import BatchAugment, image_augment, works_on_batches
from vitnext.data.dataset import Split
from vitnext.data.sampling import class_order, occurrences
from vitnext.decode import open_image
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.wording import counted

SMALL = 64  # pixels: up to this size whole batches are augmented at once
CACHE_BYTES = 4 << 30  # decoded images are kept in memory up to this much ...
CACHE_SHARE = 0.25  # ... and up to this share of the machine's memory


class Batches(Protocol):
    """What the loop trains on."""

    steps_per_epoch: int
    description: str  # how the images are held and read, for the user

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Any]]:
        """uint8 (B, C, H, W) and their truth (of labels int64 (B,), or uint8 (B, classes)) of one epoch, from step
        ``start`` on."""
        ...


def training_batches(split: Split, preprocess: Preprocess, recipe: Recipe) -> Batches:
    """The fastest way that fits: small images as one tensor, photographs decoded once, or files read by workers."""
    size, workers = recipe.data.image_size, recipe.workers
    if size <= SMALL and works_on_batches(recipe.augment) and len(split) * size * size * 3 <= cache_limit():
        pixels = np.stack([preprocess.pixels(split.image(i)) for i in range(len(split))])  # (N, H, W, C)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return SmallImages(images, torch.from_numpy(split.labels), recipe)
    packed = None
    if workers <= 0:
        packed = pack(split, preprocess, short_side=round(size * 1.25), limit=cache_limit())
    if workers < 0:  # decoded images leave little to do; otherwise leave a core to the training step
        workers = 0 if packed is not None else max(1, min(8, usable_cores() - 1))
    return Photographs(split, packed, preprocess, recipe, workers)


def cache_limit() -> int:
    """Bytes that decoded images may take."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    return min(CACHE_BYTES, int(memory * CACHE_SHARE))


def generator(*place: int) -> torch.Generator:
    """A generator that depends on the place in the run alone."""
    return torch.Generator().manual_seed(place_seed(*place))


def place_seed(*place: int) -> int:
    """One well-mixed 63-bit seed from (seed, epoch, step, ...). NumPy pads with zeros, so the length goes in too."""
    return int(np.random.SeedSequence((len(place), *place)).generate_state(1, np.uint64)[0] >> 1)


def batch_indices(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's order, cut into full batches; a set smaller than one batch is one batch."""
    order = torch.randperm(count, generator=generator(seed, epoch)).numpy()
    steps = max(1, count // batch_size)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(steps)]


def label_batches(labels: np.ndarray, recipe: Recipe, epoch: int) -> list[np.ndarray]:
    """The epoch's batches of indices, by the recipe's sampling of classes and repeats of each image."""
    count, repeats, power = len(labels), recipe.augment.repeats, recipe.data.class_sampling
    if power == 1.0 and repeats == 1:
        return batch_indices(count, recipe.batch_size, recipe.seed, epoch)
    draw = generator(recipe.seed, epoch)
    order = torch.randperm(count, generator=draw).numpy() if power == 1.0 else class_order(labels, power, draw)
    size = recipe.batch_size
    different = -(-size // repeats)  # images a batch; those alike do not stand side by side, for mixing
    steps = max(1, count // size)
    return [np.tile(order[i * different : (i + 1) * different], repeats)[:size] for i in range(steps)]


def outlast_signals(worker: int) -> None:
    """In a worker process: let Ctrl-C and SIGTERM, which reach the whole group of processes, stop the training process
    alone. It still needs the workers to end its step and save; they end when it does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class SmallImages:
    """All images as one uint8 tensor in memory."""

    def __init__(self, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
        self.images, self.labels, self.recipe = images, labels, recipe
        self.augment = BatchAugment(recipe.augment)
        self.steps_per_epoch = max(1, len(labels) // recipe.batch_size)
        self.description = f"{counted(labels, 'image')} in memory, augmented a batch at a time"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        seed = self.recipe.seed
        for step, indices in enumerate(label_batches(self.labels.numpy(), self.recipe, epoch)):
            if step >= start:
                yield self.augment(self.images[indices], generator(seed, epoch, step)), self.labels[indices]


@dataclass(frozen=True)
class PackedImages:
    """Decoded images of different sizes in one buffer, so that workers share it without copies."""

    buffer: np.ndarray  # uint8, all images one after the other
    offsets: np.ndarray  # int64 (N + 1,)
    shapes: np.ndarray  # int64 (N, 3): H, W, C

    def __getitem__(self, i: int) -> np.ndarray:
        return self.buffer[self.offsets[i] : self.offsets[i + 1]].reshape(self.shapes[i])


def pack(split: Split, preprocess: Preprocess, short_side: int, limit: int) -> PackedImages | None:
    """Decode every image once with its short side at most ``short_side`` px; None if that takes more than ``limit``."""
    from concurrent.futures import ThreadPoolExecutor

    def decode(i: int) -> np.ndarray:
        return shrink(open_image(split.image(i), color=preprocess.color, exif=preprocess.exif), short_side)

    sample = [decode(i).nbytes for i in np.linspace(0, len(split) - 1, num=min(16, len(split)), dtype=int)]
    if np.mean(sample) * len(split) > limit:
        return None
    with ThreadPoolExecutor(usable_cores()) as pool:
        images = list(pool.map(decode, range(len(split))))
    offsets = np.concatenate([[0], np.cumsum([image.size for image in images])])
    buffer = np.concatenate([image.reshape(-1) for image in images])
    return PackedImages(buffer, offsets, np.array([image.shape for image in images]))


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """Resize uint8 (H, W, C) so that its short side is ``short_side`` px; smaller images are left as they are."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small).reshape(size[1], size[0], -1)


class Photographs:
    """Images of any size, decoded once into memory or read from their files, augmented one at a time."""

    def __init__(
        self, split: Split, packed: PackedImages | None, preprocess: Preprocess, recipe: Recipe, workers: int
    ) -> None:
        self.split, self.packed, self.preprocess, self.recipe, self.workers = split, packed, preprocess, recipe, workers
        stretch = recipe.data.resize == "stretch"
        self.augment = image_augment(recipe.augment, recipe.data.image_size, stretch=stretch)
        self.steps_per_epoch = max(1, len(split) // recipe.batch_size)
        held = "decoded in memory" if packed is not None else "read from files"
        by = counted(workers, "worker process") if workers else "the training process"
        self.description = f"{counted(split, 'image')} {held}, augmented by {by}"

    def __getitem__(self, place: tuple[int, ...]) -> tuple[Tensor, int | Tensor]:
        """Image ``index`` as it looks in ``epoch``, a third number telling how often it was in it before."""
        index = place[1]
        if self.packed is not None:
            image = self.packed[index]
        else:
            image = open_image(self.split.image(index), color=self.preprocess.color, exif=self.preprocess.exif)
        torch.manual_seed(place_seed(self.recipe.seed, *place))
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        labels = self.split.labels[index]
        return self.augment(tensor), torch.from_numpy(labels) if labels.ndim else int(labels)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        batches = label_batches(self.split.labels, self.recipe, epoch)
        before = np.split(occurrences(np.concatenate(batches)), np.cumsum([len(batch) for batch in batches])[:-1])
        places = [
            [(epoch, int(i), int(n)) if n else (epoch, int(i)) for i, n in zip(*batch, strict=True)]
            for batch in zip(batches[start:], before[start:], strict=True)
        ]
        yield from DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=places,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=outlast_signals,
        )
