"""Several processes that train one model, as torchrun starts them: the only file that knows of ranks.

Every process prepares the run alike. Of each batch each computes an equal part, and the gradients are averaged; of the
held-out images each measures a part, and what was counted is added up. The first process alone writes and prints.
Where torchrun has not started the program, there is one process, and every function here gives back what it was given.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitnext.data.loaders import Part
from vitnext.errors import InputError, WorkError

TIMEOUT = timedelta(minutes=30)  # that a process waits for the others' part of a step or of a validation
PATIENCE = timedelta(days=30)  # ... and for what the first one does alone: checks, the last measurement
GRACE = 1.0  # seconds in which a process that fails may say why, before others say that it is gone

# That buffers are the same everywhere is known; DDP would send them all, position indices too, at each step.
_BUFFERS = "forward_sync_buffers"
if _BUFFERS not in inspect.signature(DistributedDataParallel).parameters:  # before torch 2.14
    _BUFFERS = "broadcast_buffers"
_OPTIONS: dict[str, Any] = {_BUFFERS: False}

T = TypeVar("T")
Loss = Callable[[Tensor, Any, float, bool], Tensor]  # normalised images, truth, share of the run, last part of the step

_store: Any = None  # what torchrun keeps for all processes
_patient: Any = None  # the group that waits for PATIENCE
_alone = False  # in what the first process does by itself


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started, if it did. Raises WorkError if one of the others ends early."""
    global _store, _patient
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield
        return
    store, rank, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # What the processes wrote before a restart, their addresses too, is still in it.
    _store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank, world_size=world, timeout=TIMEOUT)
    try:
        _patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        _store.set(f"pid/{rank}", f"{os.uname().nodename} {os.getpid()}")
        with peers():
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Raises WorkError, which says who ended as far as that is known, where torch finds that one cannot be reached."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not active() or isinstance(error, WorkError | InputError) or not _says_unreachable(error):
            raise
        raise WorkError(f"{_missing()}; --resume goes on from the last checkpoint") from error


def _says_unreachable(error: Exception) -> bool:
    words = ("gloo", "nccl", "connection", "timed out", "broken pipe", "socket")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _missing() -> str:
    """In words, which process of the run has ended, as far as that can be seen from this machine."""
    time.sleep(GRACE)
    gone = []
    with contextlib.suppress(Exception):  # the store may be gone as well
        for other in range(dist.get_world_size()):
            host, pid = _store.get(f"pid/{other}").decode().split()
            if host == os.uname().nodename and not _runs(int(pid)):
                gone.append(f"process {other} of {dist.get_world_size()} (pid {pid})")
    if gone:
        return f"{' and '.join(gone)} has ended, perhaps killed for memory, and with it the run"
    return "another process of the run has ended or does not answer, and with it the run"


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not os.path.isdir("/proc/self")  # elsewhere than on Linux it is not known


def first_to_fail() -> bool:
    """Whether this process is the one that says why the run ends: the first that asks. Without torchrun it is."""
    if "RANK" not in os.environ:
        return True
    if _store is None:  # nothing but the arguments was looked at, and all processes have the same
        return os.environ["RANK"] == "0"
    try:
        said: int = _store.add("said", 1)
    except Exception:  # the store went with its machine
        return True
    return said == 1


def require_alone(what: str) -> None:
    """Raises InputError where torchrun has started several processes, for what one does by itself."""
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{what} is the work of one process: start it without torchrun")


def restarted() -> bool:
    """Whether torchrun starts the run again, after one of its processes ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def command() -> str:
    """How the user started the program, as far as it is known."""
    if not active():
        return "vitnext"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = f" --nnodes {world() // here}" if world() > here else ""
    return f"torchrun{nodes} --nproc-per-node {here} -m vitnext"


def active() -> bool:
    """Whether there are processes to talk to, be it only this one."""
    return dist.is_available() and dist.is_initialized() and not _alone


def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if active() else 1


def main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """Of the GPUs of this machine the process's own. Raises InputError if there are too few, or if ``device`` names
    one for all."""
    if world() > 1 and (device.type not in ("cpu", "cuda") or device.index is not None):
        raise InputError(f"device is {device}, but there are {world()} processes: set device=cuda or device=cpu")
    if not active() or device.type != "cuda" or not torch.cuda.is_available():
        return device
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise InputError(
            f"there are more processes on this machine than its {count} GPUs: give --nproc-per-node {count}, or set "
            "device=cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def part(mixed: bool = False) -> Part:
    """What of each batch this process computes; if its images will be ``mixed``, each with the one before it, also the
    one before them."""
    return Part(rank(), world(), before=int(mixed and world() > 1))


def share(count: int) -> np.ndarray:
    """Which of ``count`` held-out images this process measures: every n-th."""
    return np.arange(rank(), count, world())


def total(values: np.ndarray) -> np.ndarray:
    """The sum over all processes."""
    if world() == 1:
        return values
    added = torch.from_numpy(values.copy())
    dist.all_reduce(added)
    return added.numpy()


def gathered(value: T) -> list[T]:
    """What each process has, in their order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=_patient)
    return values


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, which alone calls it; what it raises is raised in all."""
    global _alone
    if world() == 1:
        return make()
    made: list[Any] = [None, None]
    if main():
        _alone = True
        try:
            made[0] = make()
        except Exception as error:
            kind = type(error) if isinstance(error, InputError | WorkError) else WorkError
            dist.broadcast_object_list([None, kind(str(error))], src=0, group=_patient)
            raise
        finally:
            _alone = False
    dist.broadcast_object_list(made, src=0, group=_patient)
    if made[1] is not None:
        raise made[1]
    result: T = made[0]
    return result


def require_same(*facts: Any) -> None:
    """Raises InputError, in all processes, if one of them has other ``facts`` than the first."""
    first, *others = gathered(facts)
    if different := [number for number, other in enumerate(others, start=1) if other != first]:
        raise InputError(
            f"process {different[0]} sees other images than the first one, or chose another recipe: all machines need "
            "the same data, the same vitnext and the same arguments; --recipe names the choice"
        )


def agree(signal: int, seconds: float) -> tuple[int, float]:
    """Of all processes the highest ``signal``, and the first one's ``seconds``."""
    if world() == 1:
        return signal, seconds
    values = torch.tensor([signal, seconds if main() else 0.0], dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values[0]), float(values[1])


def average(values: Tensor) -> Tensor:
    """The mean over all processes, without a gradient."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()
    return values


def batch_sum(values: Tensor) -> Tensor:
    """Sum over the whole batch of what ``values`` is over this process's part of it.

    Its gradient is that of the own part, times the number of processes, because gradients are averaged over them.
    """
    if world() == 1:
        return values
    added = values.detach().clone()
    dist.all_reduce(added)
    if not values.requires_grad:
        return added
    own = values * world()
    return added + (own - own.detach())


def batch_mean(mean: Tensor, amount: Tensor | float) -> Tensor:
    """Mean over the whole batch, from that over this process's part, of which there is so much to count; 0 if nothing
    is to be counted anywhere. The gradient is as that of ``batch_sum``."""
    if world() == 1:
        return mean
    weight = torch.as_tensor(amount, dtype=mean.dtype, device=mean.device).detach()
    added, weights = batch_sum(torch.stack([mean * weight, weight]))
    return added / weights.detach().clamp(min=torch.finfo(mean.dtype).tiny)


class _AllSum(torch.autograd.Function):
    """Sum over all processes; so is its gradient."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        added = values.clone()
        dist.all_reduce(added)
        return added

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        added = gradients[0].contiguous().clone()
        dist.all_reduce(added)
        return added


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm by the statistics of the whole batch, of which each process has an equal part (B / n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        values = x.float()
        mean = _AllSum.apply(values.mean((0, 2, 3))) / world()
        centred = values - mean[:, None, None]
        variance = _AllSum.apply(centred.square().mean((0, 2, 3))) / world()
        with torch.no_grad():
            count = x.numel() // x.shape[1] * world()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's, kept from torch.compile, which cannot look into it (pytorch/pytorch#161302)."""

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def synchronize_batch_norms(model: nn.Module) -> None:
    """Let the batch norms of ``model`` see the whole batch; their weights stay the same tensors."""
    if world() == 1:
        return
    on_gpu = next(model.parameters()).device.type == "cuda"
    if on_gpu:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm if on_gpu else nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm if on_gpu else BatchNorm2d


class Pass(nn.Module):
    """A forward pass as a module: what DDP and FSDP hold on to, whichever method of the model the objective calls."""

    def __init__(self, model: nn.Module, objective: Callable[[nn.Module, Tensor, Any, float], Tensor]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, images: Tensor, truth: Any, done: float) -> Tensor:
        return self.objective(self.model, images, truth, done)


def replicated(model: nn.Module, objective: Callable[[nn.Module, Tensor, Any, float], Tensor]) -> Loss:
    """The objective on replicas of ``model``, one in each process, whose gradients DDP averages (Li et al. 2020,
    arXiv:2006.15704) after the last part of each step; alone, the objective."""
    # Of depthwise convolutions; a copy more, and no mistake.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    if not active():
        return lambda images, truth, done, last: objective(model, images, truth, done)
    step = Pass(model, objective)
    wrapped: list[DistributedDataParallel] = []  # once the first images have shown what of the model is used

    def loss(images: Tensor, truth: Any, done: float, last: bool) -> Tensor:
        if not wrapped:
            unused = _some_unused(step, images, truth, done)
            wrapped.append(DistributedDataParallel(step, find_unused_parameters=unused, **_OPTIONS))
        [replica] = wrapped
        with contextlib.nullcontext() if last else replica.no_sync():
            value: Tensor = replica(images, truth, done)
        return value

    return loss


def _some_unused(step: Pass, images: Tensor, truth: Any, done: float) -> bool:
    """Whether a part of the model that is to be trained gets no gradient in any process: DDP then looks for it at each
    step, which takes time."""
    modes = {module: module.training for module in step.modules()}
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        step.eval()  # no new statistics of batch norms
        trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(step(images, truth, done), trained, allow_unused=True)
    for module, mode in modes.items():
        module.training = mode
    return bool(total(np.array([any(gradient is None for gradient in gradients)], np.int64))[0])
