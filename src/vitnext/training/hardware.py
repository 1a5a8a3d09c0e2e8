"""What this machine does best, found out before a run: device, number format, memory layout, heap."""

from __future__ import annotations

import copy
import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitnext.errors import InputError
from vitnext.training.distributed import own_device

SMALL_STEP = 500_000_000  # multiply-adds of one batch, forward
HOPELESS = 0.5  # bf16 products that run at less than this share of fp32's speed
BF16_GAIN = 1.15  # bf16 must be this much faster to be chosen: a tie goes to fp32, so that noise does not decide


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass; weights and optimizer stay in fp32."""

    dtype: torch.dtype
    reason: str = ""

    @property
    def name(self) -> Literal["fp32", "bf16"]:
        """As the recipe calls it."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """The recipe's device, or the best there is; of several GPUs the process's own, before any of them is used.

    Raises InputError for a device that torch cannot use here, and as ``own_device`` does.
    """
    if name == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return own_device(torch.device(best))
    try:
        device = own_device(torch.device(name))
        torch.zeros(1, device=device).item()  # "meta" takes tensors, but has no values to give back
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device is {name!r}, which torch cannot use here: try cpu, or auto") from error
    return device


def choose_precision(
    requested: str,
    model: nn.Module,
    objective: Callable[[nn.Module, Tensor, Any, float], Tensor],
    batch: tuple[Tensor, Any],
) -> Precision:
    """fp32 or bf16 as requested; for "auto" a few training steps of a copy of the model are timed in both.

    A CPU that emulates bf16 is found out by a single product first: a whole step could take a minute there.

    objective: (model, images, truth, share of the run) -> loss; batch: normalised images (B, C, H, W) and their truth,
    on the model's device.
    """
    if requested != "auto":
        return Precision(torch.bfloat16 if requested == "bf16" else torch.float32)
    if batch[0].device.type == "cpu" and (products := product_ratio()) < HOPELESS:
        return Precision(torch.float32, f"measured: bf16 products run at {products:.2g}x the speed of fp32 here")
    trial = copy.deepcopy(model).train()
    ratio = _step_ratio(trial, objective, batch)
    dtype = torch.bfloat16 if ratio >= BF16_GAIN else torch.float32
    return Precision(dtype, f"measured: bf16 runs at {ratio:.2g}x the speed of fp32 here")


def product_ratio(side: int = 256) -> float:
    """How much faster than in fp32 a product of two matrices is in bf16."""

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(side, side, dtype=dtype)
        times = []
        for _ in range(4):  # the first one sets up
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return seconds(torch.float32) / seconds(torch.bfloat16)


def _step_ratio(
    model: nn.Module, objective: Callable[[nn.Module, Tensor, Any, float], Tensor], batch: tuple[Tensor, Any]
) -> float:
    """How much faster than in fp32 a forward and backward pass is in bf16; stops measuring after four seconds.

    The passes take turns, and of each the fastest counts: what else runs on the machine only makes some slower. A GPU
    first loads its kernels and chooses among them, for seconds: three passes there are not timed.
    """
    on_gpu = batch[0].device.type == "cuda"
    for bf16 in (False, True) * (3 if on_gpu else 0):
        _step_time(model, objective, batch, bf16)
    times: list[tuple[float, float]] = []
    while len(times) < 6 and sum(map(sum, times)) < 4.0:
        times.append((_step_time(model, objective, batch, False), _step_time(model, objective, batch, True)))
    of_fp32, of_bf16 = zip(*(times[1:] or times), strict=True)  # the first passes allocate
    return min(of_fp32) / min(of_bf16)


def _step_time(
    model: nn.Module,
    objective: Callable[[nn.Module, Tensor, Any, float], Tensor],
    batch: tuple[Tensor, Any],
    bf16: bool,
) -> float:
    """Seconds of a forward and backward pass."""
    images, truth = batch
    start = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        loss = objective(model, images, truth, 0.0)
    loss.backward()
    model.zero_grad()
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def suitable_threads(macs: int) -> Iterator[None]:
    """Run a step of ``macs`` multiply-adds on one CPU thread if it is small: handing out and collecting the pieces of
    tiny products takes longer than computing them. A rule, not a measurement, so that a repeated run rounds alike."""
    threads = torch.get_num_threads()
    if macs < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_heap() -> None:
    """Let the C library keep freed memory instead of giving it back after every large tensor.

    glibc maps each block above 32 MB anew and hands it back when freed; touching the fresh pages took longer than a
    GELU over them (benchmarks/heap.py). Linux with glibc only; elsewhere it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
