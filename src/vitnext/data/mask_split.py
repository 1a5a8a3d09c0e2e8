"""Images with the truth of their pixels: masks of classes and, where objects are told apart, segments. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vitnext.data.label_maps import read_numbers
from vitnext.data.mask_values import VOID, MaskValues, read_mask
from vitnext.data.segments import combined, segments_of
from vitnext.data.truth import Drawn, Truth
from vitnext.errors import ImageError, InputError
from vitnext.files import stamp
from vitnext.types import Instances, Segments

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class MaskSplit:
    """N images with their masks, as files or as arrays in memory.

    values:     which value of a mask's pixel is which class
    names:      bytes (N,); files: the path below ``root``
    sizes:      int64 (N,), bytes of each image
    mask_names: bytes (N,), as ``names``
    mask_sizes: int64 (N,)
    root:       the folder the files lie in, or ""
    arrays:     uint8 (N, H, W) or (N, H, W, C), or None for files
    masks:      uint8 (N, H, W) with arrays: class indices, 255 where void
    instances:  uint16 (N, H, W) with arrays: which thing of the image a pixel is of, from 1; or None
    instance_names, instance_sizes: of files that hold the same, as ``mask_names`` and ``mask_sizes``; or None
    truth:      what draws masks and segments where no files hold them; ``mask_names`` are then those of what it reads
    """

    values: MaskValues
    names: np.ndarray
    sizes: np.ndarray
    mask_names: np.ndarray
    mask_sizes: np.ndarray
    root: str = ""
    arrays: np.ndarray | None = None
    masks: np.ndarray | None = None
    instances: np.ndarray | None = None
    instance_names: np.ndarray | None = None
    instance_sizes: np.ndarray | None = None
    truth: Truth | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.values.classes

    @property
    def strata(self) -> np.ndarray:
        """int64 (N,): what is divided evenly between splits; an image holds many classes, so all are alike."""
        return np.zeros(len(self), np.int64)

    def image(self, i: int) -> str | np.ndarray:
        """What ``preprocess.open_image`` takes: a path, or uint8 (H, W) or (H, W, C)."""
        if self.arrays is not None:
            array: np.ndarray = self.arrays[i]
            return array
        return self._path(self.names, i)

    def mask(self, i: int) -> np.ndarray:
        """uint8 (H, W): class indices, 255 where void. Raises ImageError when it cannot be read or holds other ids."""
        if self.masks is not None:
            return self.values.merged(self.masks[i])
        if self.truth is not None:
            return self.values.merged(self.drawn(i).mask)
        return read_mask(self.mask_path(i), self.values)

    @property
    def has_instances(self) -> bool:
        """Whether the truth tells the objects of a class apart."""
        told = self.truth is not None or self.instances is not None or self.instance_names is not None
        return told and any(self.values.things)

    def drawn(self, i: int) -> Drawn:
        """What ``truth`` says of image ``i``, its classes not yet merged. Raises ImageError where it cannot."""
        drawn = self._told(lambda truth: truth.draw(self.names[i]))
        assert drawn is not None
        return drawn

    def _told(self, ask: Callable[[Truth], T]) -> T | None:
        """What ``truth`` answers, if there is one. Raises ImageError where it cannot."""
        if self.truth is None:
            return None
        try:
            return ask(self.truth)
        except ImageError:
            raise
        except InputError as error:
            raise ImageError(str(error)) from error

    def numbers(self, i: int) -> np.ndarray | None:
        """uint8 or uint16 (H, W): which thing of the image a pixel is of, from 1; None where no instance map says it.

        Raises ImageError when it cannot be read or has colours.
        """
        if self.instance_names is not None:
            return read_numbers(Path(self._path(self.instance_names, i)))
        if self.instances is None:
            return None
        numbers: np.ndarray = self.instances[i]
        return numbers

    def segments(self, i: int) -> Segments:
        """The true segments of image ``i``, at its original size: things one by one, stuff a class at a time.

        Pixels of one number are one thing where they are of one class: of a class and its outline, once these are
        merged. Raises ImageError as ``mask`` and ``numbers`` do, and when these two differ in size.
        """
        if self.truth is not None:
            return self.regrouped_segments(self.drawn(i))
        mask, numbers = self.mask(i), self.numbers(i)
        if numbers is not None and numbers.shape != mask.shape:
            raise ImageError(
                f"{self.name(i)}: its mask has {mask.shape[1]}x{mask.shape[0]} pixels, its instance map "
                f"{numbers.shape[1]}x{numbers.shape[0]}"
            )
        return segments_of(mask, numbers, self.values.things)

    def objects(self, i: int) -> Instances | None:
        """The true objects of image ``i`` whole, where annotations say so of objects that overlap; None where
        ``segments`` says all. Raises ImageError as it does."""
        whole = self._told(lambda truth: truth.objects(self.names[i]))
        if whole is None:
            return None
        labels = self.values.merged(whole.labels.astype(np.uint8)).astype(np.int64)
        kept = labels != VOID
        return Instances(whole.masks[kept], labels[kept], whole.crowd[kept])

    def regrouped_segments(self, drawn: Drawn) -> Segments:
        """The segments of what was drawn, with the labels of ``classes``."""
        labels = self.values.merged(drawn.segments.labels.astype(np.uint8)).astype(np.int64)
        return combined(drawn.segments, labels, self.values.things)

    def files(self, i: int) -> list[str]:
        """What image ``i`` and its truth are read from."""
        names = (self.names, self.mask_names, self.instance_names)
        return [self._path(each, i) for each in names if each is not None]

    def mask_path(self, i: int) -> str:
        return self._path(self.mask_names, i)

    def name(self, i: int) -> str:
        """How messages and reports call image ``i``."""
        return str(self.names[i].decode(errors="replace"))

    def mask_name(self, i: int) -> str:
        """How messages call the mask of image ``i``."""
        names = self.names if self.masks is not None else self.mask_names
        return str(names[i].decode(errors="replace"))

    def regrouped(self, merge: Mapping[str, Sequence[str]], ignore: Sequence[str]) -> MaskSplit:
        """With classes merged under new names and others made void. Raises InputError for a name that is no class."""
        return replace(self, values=self.values.regrouped(merge, ignore))

    def subset(self, indices: Sequence[int] | np.ndarray) -> MaskSplit:
        """The images at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        files = ("names", "sizes", "mask_names", "mask_sizes", "instance_names", "instance_sizes")
        fields = (*files, "arrays", "masks", "instances")
        taken: dict[str, Any] = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return replace(self, **{name: array[at] for name, array in taken.items()})

    def _path(self, names: np.ndarray, i: int) -> str:
        return os.path.join(self.root, os.fsdecode(names[i]))


def file_sizes(root: Path, names: np.ndarray) -> np.ndarray:
    """int64 (N,): bytes of the files ``names``, bytes (N,), below ``root``; -1 for one that is not there."""
    below = os.fsencode(root)
    return np.array([stamp(partial(os.stat, os.path.join(below, name)))[0] for name in names.tolist()], np.int64)


def fingerprint_parts(split: MaskSplit) -> Iterator[bytes]:
    """What makes the truth of a split: classes, files and their sizes, arrays, and what annotations are read from."""
    values = split.values
    yield json.dumps([(c.id, c.name, c.color) for c in (*values.known, *values.void)]).encode()
    columns = (split.names, split.sizes, split.mask_names, split.mask_sizes)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield b"%b\0%d\0%b\0%d\n" % row
    if split.truth is not None:
        yield json.dumps(values.things).encode() + split.truth.digest
    if split.instance_names is not None and split.instance_sizes is not None:
        yield json.dumps(values.things).encode()
        for pair in zip(split.instance_names.tolist(), split.instance_sizes.tolist(), strict=True):
            yield b"%b\0%d\n" % pair
    if split.instances is not None:
        yield json.dumps(values.things).encode()
    for array in (split.arrays, split.masks, split.instances):
        yield b"" if array is None else np.ascontiguousarray(array).tobytes()
