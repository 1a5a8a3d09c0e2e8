"""A model divided among the processes, each with a part of every weight, of its gradient and of the optimizer's state.

FSDP (Zhao et al. 2023, arXiv:2304.11277, and Rajbhandari et al. 2020, "ZeRO", stage 3) gathers the weights of a block
before it computes and sheds them after it. Checkpoints are divided too: `torch.distributed.checkpoint` writes a file a
process and reads them for any number of processes, be it one.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vitnext.errors import InputError
from vitnext.files import unwritten
from vitnext.training import distributed
from vitnext.training.ema import WeightAverage
from vitnext.training.optimizers import BLOCK

SHARDS = "last.shards"  # the folders that hold them begin like this
# What the description of a checkpoint consists of; nothing else in it is called, so that reading it runs no code.
_PLAIN = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *(("torch.distributed.checkpoint.metadata", name) for name in dcp.metadata.__dict__ if name[0].isupper()),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(("pathlib", name) for name in ("Path", "PosixPath", "PurePosixPath")),
    *(("torch", name) for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
}

# Of each model that is divided, one that is not, whose weights are only there when they are wanted.
_whole: weakref.WeakKeyDictionary[nn.Module, nn.Module] = weakref.WeakKeyDictionary()


def parallel(
    how: Literal["ddp", "fsdp"],
    model: nn.Module,
    objective: Callable[[nn.Module, Tensor, Any, float], Tensor],
    average: WeightAverage | None,
) -> distributed.Loss:
    """The objective on ``model``, of which each process has a replica or a part; alone, all of it."""
    if how == "fsdp" and distributed.active():
        return sharded(model, objective, average)
    return distributed.replicated(model, objective)


def sharded(
    model: nn.Module,
    objective: Callable[[nn.Module, Tensor, Any, float], Tensor],
    average: WeightAverage | None,
) -> distributed.Loss:
    """The objective on ``model``, which is divided among the processes in place, as is the ``average``."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (distributed.world(),))
    for network in (model, average.model) if average is not None else (model,):
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
        _whole[network] = _without_weights(network)
    for name, module in model.named_modules():
        if BLOCK.fullmatch(name.removeprefix("backbone.") + "."):
            fully_shard(module, mesh=mesh)
    step = distributed.Pass(model, objective)
    fully_shard(step, mesh=mesh)
    if average is not None:
        fully_shard(average.model, mesh=mesh)

    def loss(images: Tensor, truth: Any, done: float, last: bool) -> Tensor:
        assert isinstance(step, FSDPModule)
        step.set_requires_gradient_sync(last)
        value: Tensor = step(images, truth, done)
        return value

    return loss


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy with its buffers alone."""
    bare = copy.deepcopy(model)
    _drop_weights(bare)
    return bare


def _drop_weights(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty_like(parameter, device="meta")
            setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[nn.Module]:
    """``model``, or if it is divided, a copy that has all of its weights as long as it is needed."""
    copied = _whole.get(model)
    if copied is None:
        yield model
        return
    state = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in _state(model)}
    copied.load_state_dict(state, assign=True)
    try:
        yield copied
    finally:
        _drop_weights(copied)


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())


def saved(
    folder: Path,
    model: nn.Module,
    average: WeightAverage | None,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
) -> dict[str, Any]:
    """The tensors of a checkpoint, or if they are divided, the name of the folder where all processes write them now.

    Raises DiskError if the disk does not take them, WorkError if torch fails.
    """
    if model not in _whole:
        return {
            "model": model.state_dict(),
            "average": average.model.state_dict() if average is not None else {},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }
    # Never where last.pt says that the last good ones are, of the same step perhaps, nor what a kill left.
    name = distributed.from_first(lambda: _unused(folder, f"{SHARDS}-{step}"))
    try:
        dcp.save(_tensors(model, average, optimizers), checkpoint_id=folder / name)
    except (OSError, dcp.api.CheckpointException) as error:
        failures = [] if isinstance(error, OSError) else [cause for cause, _ in error.failures.values()]
        raise unwritten(folder / name, failures[0] if failures else error) from error
    return {"model": name, "average": {}, "optimizers": []}


def _unused(folder: Path, name: str) -> str:
    names = (f"{name}.{again}" if again else name for again in itertools.count())
    return next(name for name in names if not (folder / name).exists())


def tidy(folder: Path, kept: dict[str, Any]) -> None:
    """Remove the shards of all checkpoints but ``kept``, what ``saved`` gave."""
    for path in folder.glob(f"{SHARDS}-*"):
        if path.name != kept["model"]:
            shutil.rmtree(path, ignore_errors=True)


def restore(
    state: dict[str, Any],
    folder: Path,
    model: nn.Module,
    average: WeightAverage | None,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Put the tensors of a checkpoint into a run, whether they were divided or not, and whether it is divided or not.

    Raises InputError for shards that are gone or damaged.
    """
    if isinstance(state["model"], str):
        _read_shards(folder / state["model"], model, average, optimizers)
        return
    _fill(model, state["model"])
    if average is not None:
        _fill(average.model, state["average"])
    for optimizer, of_optimizer in zip(optimizers, state["optimizers"], strict=True):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        values = {
            i: {key: _divided_as(parameters[i], value) for key, value in of_parameter.items()}
            for i, of_parameter in of_optimizer["state"].items()
        }
        own = optimizer.state_dict()["param_groups"]  # with the recipe's values, which may have been changed
        groups = [group | {"lr": before["lr"]} for group, before in zip(own, of_optimizer["param_groups"], strict=True)]
        optimizer.load_state_dict({"state": values, "param_groups": groups})


def _fill(model: nn.Module, values: dict[str, Tensor]) -> None:
    if model not in _whole:
        model.load_state_dict(values)
        return
    with torch.no_grad():
        for name, own in _state(model):
            own.copy_(_divided_as(own, values[name]))


def _divided_as(own: Tensor, value: Any) -> Any:
    """``value``, if it is a tensor of the size of ``own``, divided as that is."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def _tensors(
    model: nn.Module, average: WeightAverage | None, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Every tensor of a run by a name that does not depend on the number of processes."""
    found = {f"model.{name}": value for name, value in _state(model)}
    if average is not None:
        found |= {f"average.{name}": value for name, value in _state(average.model)}
    for optimizer, name, parameter in _trained(model, optimizers):
        found |= {f"optimizers.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return found


def _trained(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[torch.optim.Optimizer, str, nn.Parameter]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, names[id(parameter)], parameter


def _read_shards(
    folder: Path, model: nn.Module, average: WeightAverage | None, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    reader = _Reader(folder)
    try:
        there = reader.read_metadata().state_dict_metadata
        for optimizer, name, parameter in _trained(model, optimizers):
            prefix = f"optimizers.{name}."
            for key in (key.removeprefix(prefix) for key in there if key.startswith(prefix)):
                one = there[prefix + key].size != parameter.shape  # type: ignore[union-attr]  # a count of steps
                value = torch.zeros((), device=parameter.device) if one else torch.zeros_like(parameter)
                optimizer.state[parameter][key] = value
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a single process may read them
            dcp.load(_tensors(model, average, optimizers), storage_reader=reader)
    except (OSError, pickle.UnpicklingError, dcp.api.CheckpointException) as error:
        raise InputError(f"the checkpoint {folder} is not whole, or damaged: start anew with another --out") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint")
        return super().find_class(module, name)


class _Reader(dcp.FileSystemReader):
    """Reads shards of tensors, in which nothing can run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        content = (Path(self.path) / ".metadata").read_bytes()
        metadata: Metadata = _Unpickler(io.BytesIO(content)).load()
        if not all(isinstance(entry, TensorStorageMetadata) for entry in metadata.state_dict_metadata.values()):
            raise pickle.UnpicklingError("something else than tensors is in it")
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata
