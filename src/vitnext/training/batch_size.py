"""How many images an optimizer step takes, found out before a run."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vitnext.errors import WorkError
from vitnext.training.trial import Trial

MEASURED = (8, 16, 32, 64)  # on the CPU
SECONDS = 10.0  # that the measurement takes, if its first round does not take longer
TIE = 0.95  # of the best speed: the smaller batch is taken, whose steps are more
EPOCH = 10  # steps that an epoch has at least


def choose_batch_size(trial: Trial, sample: tuple[Tensor, Any], images: int) -> tuple[int, str]:
    """The batch size and why. On CUDA the largest power of two that fits into memory, else the one of 8 to 64 that
    passes most images a second; in both, with at least ten steps an epoch where that is possible.

    sample: a batch of uint8 (B, C, H, W) and their truth, which larger ones repeat; images: how many are trained on.
    Raises WorkError where the smallest batch does not fit into memory.
    """
    pieces = max(trial.recipe.accumulate, trial.recipe.augment.repeats)
    least = 1 << (2 * pieces - 1).bit_length()  # two images in each part, and two different ones in a batch
    most = max(least, 1 << max(images // EPOCH, 1).bit_length() - 1)

    numbers = itertools.count()  # of steps: each drops other branches, which take no time

    def step(size: int) -> None:
        trial.step(_repeated(sample[0], size), _repeated(sample[1], size), rate=0.0, number=next(numbers))

    if trial.device.type == "cuda":
        return largest_that_fits(step, least, most)
    return fastest(step, [size for size in MEASURED if least <= size <= most] or [least])


def largest_that_fits(step: Callable[[int], None], least: int, most: int) -> tuple[int, str]:
    """Doubles the size until ``step`` runs out of memory. Two steps each: the first makes the optimizer's state.

    Raises WorkError if not even ``least`` images fit.
    """
    size = found = least
    while size <= most:
        try:
            step(size)
            step(size)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if size == least:
                raise WorkError(
                    f"not even batches of {least} images fit into the GPU's memory: set data.image_size lower, or give "
                    "a smaller --model"
                ) from error
            return found, f"tried: {size} does not fit into memory"
        found, size = size, 2 * size
    torch.cuda.empty_cache()
    return found, f"tried: it fits into memory, and an epoch has no fewer than {EPOCH} steps"


def fastest(step: Callable[[int], None], sizes: Sequence[int], seconds: float = SECONDS) -> tuple[int, str]:
    """The size that passes most images a second, by rounds in which each takes its turn."""
    if len(sizes) == 1:
        return sizes[0], "there are too few images for another"
    step(sizes[0])  # sets up
    times: dict[int, list[float]] = {size: [] for size in sizes}
    begun = time.perf_counter()
    while not times[sizes[-1]] or time.perf_counter() - begun < seconds:
        for size in sizes:
            start = time.perf_counter()
            step(size)
            times[size].append(time.perf_counter() - start)
    speeds = {size: size / statistics.median(taken) for size, taken in times.items()}
    chosen = next(size for size in sizes if speeds[size] >= TIE * max(speeds.values()))
    return chosen, "measured: " + ", ".join(f"{size} at {speed:,.1f} images/s" for size, speed in speeds.items())


def _repeated(part: Tensor, size: int) -> Tensor:
    return part.repeat(-(-size // len(part)), *(1,) * (part.ndim - 1))[:size]
