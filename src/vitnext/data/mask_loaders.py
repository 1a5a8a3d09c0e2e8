"""Training batches of images with masks, the same for the same (seed, epoch, step) wherever a run starts."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitnext.cores import usable_cores
from vitnext.data.loaders import (
    WHOLE,
    Batches,
    Part,
    batch_indices,
    cache_limit,
    from_step,
    on_gpu,
    place_seed,
    spare_cores,
)
from vitnext.data.mask_augment import MaskAugment
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import VOID
from vitnext.data.workers import by_workers
from vitnext.decode import open_image
from vitnext.errors import ImageError
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.types import Segments
from vitnext.wording import counted


@dataclass(frozen=True)
class SegmentTargets:
    """The true segments of a batch. ids: int64 (B, H, W), 0 where void, k where the k-th segment is; labels: int64
    (B, n), class indices, -1 where an image has fewer segments."""

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device, non_blocking: bool = False) -> SegmentTargets:
        return SegmentTargets(*(t.to(device, non_blocking=non_blocking) for t in (self.ids, self.labels)))

    def pin_memory(self) -> SegmentTargets:
        return SegmentTargets(self.ids.pin_memory(), self.labels.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """As of a tensor: the memory is given to nobody else before what ``stream`` has been given to do is done."""
        self.ids.record_stream(stream)
        self.labels.record_stream(stream)

    def tensor_split(self, parts: int) -> list[SegmentTargets]:
        """The images divided as torch.tensor_split divides them."""
        pairs = zip(self.ids.tensor_split(parts), self.labels.tensor_split(parts), strict=True)
        return [SegmentTargets(ids, labels) for ids, labels in pairs]

    def classes(self) -> Tensor:
        """int64 (B, H, W): class indices, 255 where void."""
        table = torch.cat([self.labels.new_full((len(self), 1), VOID), self.labels], dim=1)  # (B, n + 1)
        return table.gather(1, self.ids.flatten(1)).view_as(self.ids)


class MaskedImages(Batches):
    """Images and masks of any size, decoded once into memory if they fit, augmented one pair at a time.

    Batches hold masks of classes, int64 (B, S, S), or with ``objects`` `SegmentTargets`.
    """

    def __init__(self, split: MaskSplit, preprocess: Preprocess, recipe: Recipe, *, objects: bool = False) -> None:
        self.split, self.preprocess, self.recipe, self.objects = split, preprocess, recipe, objects
        self.augment = MaskAugment(recipe.augment, recipe.data.image_size)
        self.steps_per_epoch = max(1, len(split) // recipe.batch_size)
        self.workers = max(recipe.workers, 0)
        self.decoded = self._decode_all() if recipe.workers <= 0 else None
        # A GPU trains faster than one process augments.
        if recipe.workers < 0 and (self.decoded is None or on_gpu(recipe)):
            self.workers = spare_cores()
        held = "decoded in memory" if self.decoded is not None else "read from files"
        by = counted(self.workers, "worker process") if self.workers else "the training process"
        truth = "segments" if objects else "masks"
        self.description = f"{counted(split, 'image')} with {truth} {held}, augmented by {by}"

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Image uint8 (H, W, C) and mask uint8 (H, W) at the scale at which the network sees them; with ``objects``
        the ids of its segments, int32 (H, W), and the mask made of their classes."""
        return self.decoded[i] if self.decoded is not None else self._read(i)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, ...]:
        """Pair ``index`` as it looks in ``epoch``; with ``objects`` ids and the classes of the segments in the crop."""
        epoch, index = place
        image, mask, ids = self.pair(index)
        torch.manual_seed(place_seed(self.recipe.seed, epoch, index))
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if ids is None:
            return self.augment(pixels, torch.from_numpy(mask))
        pixels, classes, numbers = self.augment(pixels, torch.from_numpy(mask), torch.from_numpy(ids))
        there, numbers = numbers.unique(return_inverse=True)  # what the crop has left, numbered anew
        if there[0] != 0:
            numbers = numbers + 1
        labels = classes.new_full((len(there) + 1,), VOID)
        labels[numbers.flatten()] = classes.flatten()  # all pixels of a segment have one class
        void = labels == VOID  # void itself, and crowds
        place_of = torch.where(void, 0, (~void).cumsum(0))
        return pixels, place_of[numbers], labels[~void]

    def stream(self, epoch: int, start: int = 0, part: Part = WHOLE) -> Generator[tuple[Tensor, Any]]:
        count, size, seed = len(self.split), self.recipe.batch_size, self.recipe.seed
        batches = (batch_indices(count, size, seed, number) for number in itertools.count(epoch))
        places = (
            [(at, int(i)) for i in indices[part.places(len(indices))]]
            for at, _, indices in from_step(batches, epoch, start)
        )
        collate = _with_segments if self.objects else None
        return by_workers(self, places, self.workers, pinned=on_gpu(self.recipe), collate=collate)

    def _decode_all(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] | None:
        def size(i: int) -> int:
            return sum(part.nbytes for part in self._read(i) if part is not None)

        places = np.linspace(0, len(self.split) - 1, num=min(16, len(self.split)), dtype=int)
        if np.mean([size(int(i)) for i in places]) * len(self.split) > cache_limit():
            return None
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(self._read, range(len(self.split))))

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if not self.objects:
            return *pair(self.split, self.preprocess, i), None
        segments = self.split.segments(i)
        image, ids = scaled_pair(self.split, self.preprocess, i, segments.ids)
        return image, class_mask(segments)[ids], ids


def _with_segments(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, SegmentTargets]:
    images, ids, labels = zip(*samples, strict=True)
    padded = torch.nn.utils.rnn.pad_sequence(list(labels), batch_first=True, padding_value=-1)
    return torch.stack(images), SegmentTargets(torch.stack(ids), padded)


def class_mask(segments: Segments) -> np.ndarray:
    """uint8 (n + 1,): the class of id k at [k]; 255, void, of id 0 and of crowds, which teach nothing."""
    classes = np.where(segments.crowd, VOID, segments.labels)
    return np.concatenate([[VOID], classes]).astype(np.uint8)


def pair(split: MaskSplit, preprocess: Preprocess, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W, C) and mask uint8 (H, W), 255 where void, at the scale at which the network sees them.

    Raises ImageError when one cannot be read, or they differ in size.
    """
    return scaled_pair(split, preprocess, i, split.mask(i))


def scaled_pair(split: MaskSplit, preprocess: Preprocess, i: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image ``i`` and what stands at each of its pixels (H, W), as ``pair`` gives them."""
    image = open_image(split.image(i), color=preprocess.color, exif=preprocess.exif)
    if image.shape[:2] != mask.shape:
        raise ImageError(
            f"{split.name(i)}: the image has {image.shape[1]}x{image.shape[0]} pixels, its mask "
            f"{mask.shape[1]}x{mask.shape[0]}"
        )
    height, width = preprocess.scaled(*mask.shape)
    if (height, width) == mask.shape:
        return np.array(image), np.array(mask)
    return (
        preprocess.pixels(image)[:height, :width],
        np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)),
    )
