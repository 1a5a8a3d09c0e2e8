"""Training batches: uint8 images and labels, the same for the same (seed, epoch, step) wherever a run starts.

Every random choice is drawn from a generator seeded with the place in the run, never from what came before: a run that
is resumed in the middle of an epoch sees the batches that it would have seen.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from vitnext.cores import usable_cores, usable_memory
from vitnext.data.augment import BatchAugment, ImageAugment, works_on_batches
from vitnext.data.dataset import Split
from vitnext.data.image_parts import read_part
from vitnext.data.sampling import class_order, occurrences
from vitnext.data.workers import by_workers
from vitnext.errors import InputError
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.wording import counted

SMALL = 64  # pixels: up to this size whole batches are augmented at once
CACHE_BYTES = 4 << 30  # decoded images are kept in memory up to this much ...
CACHE_SHARE = 0.25  # ... and up to this share of the machine's or the container's memory


@dataclass(frozen=True)
class Part:
    """Which images of every batch are wanted: of ``count`` equal parts the one at ``index``, after the last ``before``
    images of the part before it (of the first part: of the last one)."""

    index: int = 0
    count: int = 1
    before: int = 0

    def places(self, size: int) -> list[int]:
        """Of the images in a batch of ``size``. Raises InputError if its parts would not be equal."""
        share, left = divmod(size, self.count)
        if left:
            mend = f"batch_size={size - left}" if share else "batch_size higher, or start fewer processes"
            what = f"a batch of {size} images cannot be divided evenly among {self.count} processes"
            raise InputError(f"{what}: set {mend}")
        return [place % size for place in range(self.index * share - self.before, (self.index + 1) * share)]


WHOLE = Part()


class Batches(ABC):
    """What the loop trains on."""

    steps_per_epoch: int
    description: str  # how the images are held and read, for the user

    @abstractmethod
    def stream(self, epoch: int, start: int = 0, part: Part = WHOLE) -> Generator[tuple[Tensor, Any]]:
        """uint8 (B, C, H, W) and their truth (of labels int64 (B,), or uint8 (B, classes)) of an epoch, from step
        ``start`` on, and of all that follow it, without an end; of each batch ``part``, whose images are those that the
        whole has at their places. Worker processes live until it is closed: they do not start anew for each epoch, and
        make the first batches of one while the epoch before it is validated."""

    def epoch(self, epoch: int, start: int = 0, part: Part = WHOLE) -> Iterator[tuple[Tensor, Any]]:
        """The same of this epoch alone."""
        with closing(self.stream(epoch, start, part)) as stream:
            yield from itertools.islice(stream, self.steps_per_epoch - start)


def training_batches(split: Split, preprocess: Preprocess, recipe: Recipe) -> Batches:
    """The fastest way that fits: small images as one tensor, photographs in memory, or files read by workers.

    What fits into ``cache_limit`` is decoded when a batch first asks for it and then kept, so that the first batch is
    there at once, however many follow. For a GPU, which trains faster than one process augments, photographs are all
    decoded first: workers then share them, and each makes three to six times as many images as it would from files.
    Nothing is kept on disk, where it could be of other data than is trained on.
    """
    size, workers = recipe.data.image_size, recipe.workers
    if size <= SMALL and works_on_batches(recipe.augment) and len(split) * size * size * 3 <= cache_limit():
        return SmallImages(split, preprocess, recipe)
    held = HeldImages(split, preprocess, held_side(recipe))
    fits = workers <= 0 and held.expected_bytes() <= cache_limit()
    if workers < 0:  # decoded images leave little to do; otherwise leave a core to the training step
        workers = 0 if fits and not on_gpu(recipe) else spare_cores()
    if fits and workers:  # what a worker decoded, it alone would have
        held.get(np.arange(len(split)))
    return Photographs(split, held if fits else None, preprocess, recipe, workers)


def held_side(recipe: Recipe) -> int:
    """Pixels of the short side at which photographs are kept: the smallest random crop then still has about
    ``image_size`` of them, so that what is kept is trained on as if it came from the files."""
    return math.ceil(recipe.data.image_size / math.sqrt(recipe.augment.crop_scale[0]))


def on_gpu(recipe: Recipe) -> bool:
    """Whether a run of it trains on a GPU of CUDA's; one that is there may be left alone."""
    return torch.cuda.is_available() and recipe.device.partition(":")[0] in ("auto", "cuda")


def cache_limit() -> int:
    """Bytes that decoded images may take in this process."""
    return min(CACHE_BYTES, int(usable_memory() * CACHE_SHARE)) // _processes_here()


def spare_cores() -> int:
    """Worker processes that decode beside a training process: 1 to 8."""
    return max(1, min(8, usable_cores() // _processes_here() - 1))


def _processes_here() -> int:
    """Training processes that torchrun started on this machine, which share its memory and its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def generator(*place: int) -> torch.Generator:
    """A generator that depends on the place in the run alone."""
    return torch.Generator().manual_seed(place_seed(*place))


def place_seed(*place: int) -> int:
    """One well-mixed 63-bit seed from (seed, epoch, step, ...)."""
    digest = hashlib.blake2b(repr([int(number) for number in place]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


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


def from_step(epochs: Iterable[list[Any]], epoch: int, start: int) -> Iterator[tuple[int, int, Any]]:
    """(epoch, step, what belongs to it) of lists for the epochs from ``epoch`` on, the first one from ``start`` on."""
    for number, steps in enumerate(epochs, start=epoch):
        for step in range(start if number == epoch else 0, len(steps)):
            yield number, step, steps[step]


class SmallImages(Batches):
    """All images in one uint8 tensor, into which each is decoded when it is first used."""

    def __init__(self, split: Split, preprocess: Preprocess, recipe: Recipe) -> None:
        self.split, self.preprocess, self.recipe = split, preprocess, recipe
        self.images = torch.empty((len(split), preprocess.channels, *preprocess.image_size), dtype=torch.uint8)
        self.decoded = np.zeros(len(split), bool)
        self.labels = torch.from_numpy(split.labels)
        self.augment = BatchAugment(recipe.augment)
        self.steps_per_epoch = max(1, len(split) // recipe.batch_size)
        self.description = f"{counted(split, 'image')} in memory, augmented a batch at a time"

    def stream(self, epoch: int, start: int = 0, part: Part = WHOLE) -> Generator[tuple[Tensor, Tensor]]:
        seed, pinned = self.recipe.seed, on_gpu(self.recipe)
        batches = (label_batches(self.split.labels, self.recipe, number) for number in itertools.count(epoch))
        for at, step, indices in from_step(batches, epoch, start):
            self._decode(indices)
            images, labels = self.augment(self.images[indices], generator(seed, at, step)), self.labels[indices]
            if part != WHOLE:  # a part draws what the whole does, which costs little
                places = part.places(len(indices))
                images, labels = images[places], labels[places]
            yield (images.pin_memory(), labels.pin_memory()) if pinned else (images, labels)

    def _decode(self, indices: np.ndarray) -> None:
        missing = np.unique(indices[~self.decoded[indices]])
        pixels = side_by_side(lambda i: self.preprocess.pixels(self.split.image(i)), missing, self.split)
        if pixels:
            self.images[missing] = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        self.decoded[missing] = True


class HeldImages:
    """Photographs, each decoded when it is first used and then kept, with its short side at most ``short_side`` px."""

    def __init__(self, split: Split, preprocess: Preprocess, short_side: int) -> None:
        self.split, self.preprocess, self.short_side = split, preprocess, short_side
        self.images: dict[int, np.ndarray] = {}  # uint8 (H, W, C)

    def expected_bytes(self) -> int:
        """What all of them will take, judged by a few."""
        sample = np.linspace(0, len(self.split) - 1, num=min(16, len(self.split)), dtype=int)
        return int(np.mean([self._read(int(i)).nbytes for i in sample]) * len(self.split))

    def get(self, indices: np.ndarray) -> list[Tensor]:
        """uint8 (C, H, W) of each."""
        missing = np.array(sorted({int(i) for i in indices} - self.images.keys()), np.int64)
        self.images.update(zip(missing.tolist(), side_by_side(self._read, missing, self.split), strict=True))
        return [torch.from_numpy(self.images[int(i)]).permute(2, 0, 1) for i in indices]

    def _read(self, i: int) -> np.ndarray:
        image = read_part(self.split.image(i), lambda *size: (0, 0, *size), self.short_side, self.preprocess)
        return shrink(image.permute(1, 2, 0).numpy(), self.short_side)


def side_by_side(read: Callable[[int], np.ndarray], indices: np.ndarray, split: Split) -> list[np.ndarray]:
    """``read`` of each index, by as many threads as there are cores; decoders release the interpreter's lock."""
    if split.arrays is not None or len(indices) < 2:  # handing over small arrays takes longer than reading them
        return [read(int(i)) for i in indices]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(read, indices.tolist()))


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """Resize uint8 (H, W, C) so that its short side is ``short_side`` px; smaller images are left as they are."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).resize(size, Image.Resampling.BICUBIC)
    return np.array(small).reshape(size[1], size[0], -1)  # a copy, which torch may write to


def channels_last(samples: Sequence[tuple[Tensor, int | Tensor]]) -> tuple[Tensor, Tensor]:
    """uint8 (B, C, H, W) and labels, the images in memory as they come from decoding and resizing: (B, H, W, C)."""
    images = torch.stack([image.permute(1, 2, 0) for image, _ in samples]).permute(0, 3, 1, 2)
    return images, default_collate([labels for _, labels in samples])


class Photographs(Batches):
    """Images of any size, in memory or read from their files by worker processes, augmented one at a time.

    torch gives each worker one thread, and no object is kept for a file, so that workers share the names and labels of
    any number of them with the process that they are forked from.
    """

    def __init__(
        self, split: Split, held: HeldImages | None, preprocess: Preprocess, recipe: Recipe, workers: int
    ) -> None:
        self.split, self.held, self.preprocess, self.recipe, self.workers = split, held, preprocess, recipe, workers
        stretch = recipe.data.resize == "stretch"
        self.augment = ImageAugment(recipe.augment, recipe.data.image_size, stretch=stretch)
        self.steps_per_epoch = max(1, len(split) // recipe.batch_size)
        where = "decoded in memory" if held is not None else "read from files"
        by = counted(workers, "worker process") if workers else "the training process"
        self.description = f"{counted(split, 'image')} {where}, augmented by {by}"

    def __getitems__(self, places: list[tuple[int, ...]]) -> list[tuple[Tensor, int | Tensor]]:
        """Images as they look in their epochs, each by (epoch, index); a third number tells how often it was in the
        epoch before."""
        images = self.held.get(np.array([place[1] for place in places])) if self.held is not None else None
        return [self._augmented(place, None if images is None else images[i]) for i, place in enumerate(places)]

    def _augmented(self, place: tuple[int, ...], image: Tensor | None) -> tuple[Tensor, int | Tensor]:
        index = place[1]
        # As torch.manual_seed, without what that does for devices, which took longer than a small image's crop.
        torch.default_generator.manual_seed(place_seed(self.recipe.seed, *place))
        if image is not None:
            changed = self.augment(image)
        else:
            size = self.recipe.data.image_size
            part = read_part(self.split.image(index), self.augment.box, size, self.preprocess)
            changed = self.augment.finish(part)
        labels = self.split.labels[index]
        return changed, torch.from_numpy(labels) if labels.ndim else int(labels)

    def stream(self, epoch: int, start: int = 0, part: Part = WHOLE) -> Generator[tuple[Tensor, Tensor]]:
        places, pinned = self._places(epoch, start, part), on_gpu(self.recipe)
        return by_workers(self, places, self.workers, pinned=pinned, collate=channels_last)

    def _places(self, epoch: int, start: int, part: Part) -> Iterator[list[tuple[int, ...]]]:
        """A batch after the other, made when it is asked for: all at once would take long with many images."""
        for at, _, (indices, counts) in from_step(map(self._of_epoch, itertools.count(epoch)), epoch, start):
            batch = [(at, int(i), int(n)) if n else (at, int(i)) for i, n in zip(indices, counts, strict=True)]
            yield [batch[place] for place in part.places(len(batch))]

    def _of_epoch(self, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each batch the images, and how often each was in the epoch before."""
        batches = label_batches(self.split.labels, self.recipe, epoch)
        before = np.split(occurrences(np.concatenate(batches)), np.cumsum([len(batch) for batch in batches])[:-1])
        return list(zip(batches, before, strict=True))
