"""The passes of a network compiled by torch.compile (Ansel et al. 2024, PyTorch 2), and whether that pays.

The network itself stays as it is: what an objective is given is a view of it, with the same parameters and buffers,
whose passes are compiled. Each size of a part of a batch, two at most, is compiled by itself (``dynamic=False``), so
that the code depends on the size alone, not on what came before, and a run that is resumed computes what it would have.
"""

from __future__ import annotations

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InvalidCxxCompiler

from vitnext.errors import WorkError
from vitnext.recipe import Recipe
from vitnext.training import distributed
from vitnext.training.loop import Objective
from vitnext.training.trial import Trial
from vitnext.training.validation import images_at_once
from vitnext.wording import counted

BACKEND = "inductor"
PASSES = ("forward", "forward_with_auxiliary", "predictions")  # of images, where a model has them
SHORT = 20_000_000_000  # multiply-adds of a pass forward: above, a CPU gains little (benchmarks/README.md)
COMPILING = 60.0  # seconds that it takes, as far as one can say before: half a minute, on a GPU to some minutes
# Of a step's time, as far as one can say: timm's ViT-B and ConvNeXt-B saved 0.22 and 0.30 on an H200; with graphs ours
# saved 0.17 and 0.33, smaller networks, whose kernels are short, 0.37 to 0.70; a CPU saved 0 to 0.2 of short steps, and
# of long ones 0.03 to 0.05 of a ViT, of a ConvNeXt nothing (benchmarks/README.md).
SAVING, SAVING_WITH_GRAPHS, SAVING_OF_LONG = 0.2, 0.4, 0.04
GAIN = 1.02  # compiled steps must be this much faster: a tie goes to eager, so that noise does not decide
LIMIT = 256  # compilations of one function: FSDP's blocks are compiled one by one, and each has its own rates
ROUNDS = 5  # in which the two take turns


def compiled(objective: Objective, graphs: bool = False, say: Callable[[str], None] = lambda line: None) -> Objective:
    """``objective``, which is given its model's compiled passes in training. The first call compiles, again for each
    size of a part, and the first pass backward too; ``failures_named`` says if that fails. What an earlier run in this
    process compiled is forgotten.

    graphs: whether a GPU is given each pass as one CUDA graph instead of kernel by kernel; say: told before the first.

    Torch's graphs end where processes talk to each other: at the blocks of a model that FSDP has divided, and, on GPUs,
    at batch norms of the whole batch.
    """
    torch.compiler.reset()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of CUDA's compiler without a GPU
    torch._dynamo.config.recompile_limit = LIMIT
    views: dict[nn.Module, nn.Module] = {}

    def of_compiled(model: nn.Module, images: Tensor, truth: Any, done: float) -> Tensor:
        if not model.training:  # DDP looks once for what is not used
            return objective(model, images, truth, done)
        if model not in views:
            say("compile: the first steps take about a minute longer")
            views[model] = _view(model, graphs)
        if graphs:  # of the step before nothing is needed any more
            torch.compiler.cudagraph_mark_step_begin()
        return objective(views[model], images, truth, done)

    return of_compiled


@contextmanager
def failures_named() -> Iterator[None]:
    """Raise WorkError for what torch's compiler stumbles over."""
    try:
        yield
    except TorchDynamoException as error:
        raise WorkError(f"torch cannot compile the network here ({_reason(error)}): set compile=off") from error


def expected_saving(device: torch.device, recipe: Recipe, macs: int) -> float:
    """What compilation may save of the time of a step; ``macs``: multiply-adds of a pass forward. The more there are,
    the less counts what lies between the products of matrices, in which a CPU spends its time."""
    if device.type == "cuda":
        return SAVING_WITH_GRAPHS if with_graphs(device, recipe) else SAVING
    if device.type == "cpu":
        return SAVING if macs < SHORT else SAVING_OF_LONG
    return 0.0


def with_graphs(device: torch.device, recipe: Recipe) -> bool:
    """Whether compiled passes are CUDA graphs, by which a GPU does not wait for the process that hands it kernels. A
    graph writes the gradients where it wrote them the last time: neither parts of a batch, whose gradients are added
    up, nor DDP and FSDP, which keep theirs, can have that."""
    return device.type == "cuda" and recipe.accumulate == 1 and not distributed.active()


def _view(model: nn.Module, graphs: bool) -> nn.Module:
    options: dict[str, Any] | None = {"triton.cudagraphs": True} if graphs else None
    view = copy.copy(model)  # its parameters, buffers and modules are the same
    for name in PASSES:
        if hasattr(model, name):
            passes = torch.compile(getattr(model, name), backend=BACKEND, dynamic=False, options=options)
            setattr(view, name, passes)
    return view


def _reason(error: BaseException) -> str:
    """What torch's compiler stumbled over: the line with the C++ compiler's error, or the first one."""
    cause = getattr(error, "inner_exception", error)
    if isinstance(cause, InvalidCxxCompiler):
        return "there is no C++ compiler: install g++, or name one in CXX"
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {next((line for line in lines if 'error:' in line), lines[0])}"


def forget() -> None:
    """What was compiled, and with it the memory of graphs, which is theirs as long as torch knows of them."""
    torch.compiler.reset()
    torch.cuda.empty_cache()


def choose_compilation(
    trial: Trial, sample: tuple[Tensor, Any], steps: int, saving: float, say: Callable[[str], None] = lambda line: None
) -> tuple[Literal["on", "off"], str]:
    """Whether a run of ``steps`` steps, or of the recipe's minutes, gains by compilation, and why.

    If it takes long enough, so that ``saving`` of it is more than compiling the trial's network and then the run's own,
    and the trial's steps, they are timed in both ways. It is on if they are faster by ``GAIN``, and save more than the
    time that they took to compile. Off where a step fails.

    sample: a batch of uint8 (B, C, H, W) and their truth; saving: ``expected_saving``; say: told before it compiles.
    """
    eager, faster = trial.task.objective, None
    graphs = with_graphs(trial.device, trial.recipe)
    worth = 2 * COMPILING / saving  # seconds
    left = 60 * trial.recipe.schedule.minutes or math.inf
    try:
        if left >= worth:
            _seconds(trial, eager, sample)  # sets up
            times = [_seconds(trial, eager, sample)]
            if steps * times[0] > worth / 2:  # else it is not close
                times += [_seconds(trial, eager, sample) for _ in range(ROUNDS - 2)]
            step = statistics.median(times)
            left, worth = min(left, steps * step), worth + 2 * (ROUNDS + 1) * step / saving
        if left < worth:
            return "off", f"training takes about {left:,.0f} s, too short for it to pay"
        taken = COMPILING + 2 * ROUNDS * step
        say(f"compile: trying a few steps, which takes about {counted(max(1, round(taken / 60)), 'minute')}")
        faster = compiled(eager, graphs=graphs)
        compiling = _seconds(trial, faster, sample)
        if graphs:
            _validate(trial, sample[0])
        turns = [(_seconds(trial, eager, sample), _seconds(trial, faster, sample)) for _ in range(ROUNDS)]
    except Exception as error:  # torch raises many kinds
        return "off", f"it was tried and failed ({_reason(error.__cause__ or error)})"
    finally:
        if faster is not None:
            forget()
    ratio = statistics.median(one for one, _ in turns) / statistics.median(other for _, other in turns)
    measured = f"measured {ratio:.2f}x the speed of eager, {compiling:.0f} s to compile"
    if ratio < GAIN:
        return "off", measured
    if left * (1 - 1 / ratio) < compiling:
        return "off", f"{measured}: more than it saves"
    return "on", measured


def _validate(trial: Trial, images: Tensor) -> None:
    """Pass as many images as a validation does at a time: the memory of graphs is theirs alone, and the GPU must have
    room for both."""
    images = images[:1].to(trial.device).float().expand(images_at_once(trial.recipe), -1, -1, -1)
    with torch.inference_mode(), trial.precision.autocast(trial.device):
        trial.model(images)


def _seconds(trial: Trial, objective: Objective, sample: tuple[Tensor, Any]) -> float:
    """Of a step, whose rate of 0 leaves the weights as they are."""
    trial.task = replace(trial.task, objective=objective)
    start = time.perf_counter()
    trial.step(*sample, rate=0.0)
    if trial.device.type == "cuda":  # the optimizer's part
        torch.cuda.synchronize()
    return time.perf_counter() - start
