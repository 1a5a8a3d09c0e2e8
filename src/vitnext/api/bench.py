"""``bench``: what this machine can do, what training and prediction take of it, and what holds them up."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vitnext.api import network, plan, run
from vitnext.api.console import Say
from vitnext.cores import usable_cores
from vitnext.data.dataset import Split
from vitnext.data.loaders import Batches, Photographs
from vitnext.decode import open_image
from vitnext.errors import InputError
from vitnext.models import catalog, create
from vitnext.preprocess import Preprocess
from vitnext.recipe import AUTO, Model, Recipe, override
from vitnext.training import defaults
from vitnext.training.compilation import compiled, failures_named, with_graphs
from vitnext.training.hardware import Precision, choose_device, choose_precision, keep_heap, suitable_threads
from vitnext.training.loop import Mix, Normalize, Objective
from vitnext.training.losses import LabelLoss
from vitnext.training.optimizers import optimizers

if TYPE_CHECKING:
    from rich.console import Console

MODEL = "vit_small"  # where neither a model nor data are named
CLASSES, BATCH = 1000, 32  # where there are no data
FORWARD_AND_BACKWARD = 3  # times the operations of a forward pass: the gradients of inputs and of weights take one each
SIDES = (512, 1024, 2048, 4096, 8192)  # of the matrices whose product is timed
LONG = 0.2  # seconds: no larger product is timed after one that took so long
DECODED = 256  # images, evenly spread over the training images, that are decoded in turn


def bench(
    model: str | None = None,
    data: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    seconds: float = 3.0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure, for about ``seconds`` each, products of matrices, a model's inference and training step and, of
    ``data``, decoding, batches and training on them. Rates are images a second; operations are counted as papers do
    (``models.macs``), also where the network gets along with fewer.

    ``model`` is a name of the catalogue. With ``data`` the recipe is what ``train`` chooses without published weights,
    in which ``overrides`` change fields, else an image of the model's size in batches of 32.

    Raises InputError for wrong input, such as a segmenter without data.
    """
    say = Say(console)
    batches = split = preprocess = mix = None
    if data is None:
        plan.require_one_model(model, overrides)
        recipe, built, objective, precision, sample = _without_data(model or MODEL, overrides)
    else:
        with tempfile.TemporaryDirectory() as nowhere:  # no run is begun
            recipe, dataset, facts = plan.begin(
                data, Path(nowhere), model=model, pretrained="none", recipe=None, overrides=overrides, say=say
            )
            started = network.build(recipe, dataset, facts, say)
            ready = run.prepare(recipe, dataset, *started, Path(nowhere), data, say)
        recipe, built, objective, precision = ready.recipe, ready.network, ready.task.objective, ready.precision
        batches, split, preprocess, mix = ready.task.batches, dataset.splits["train"], started[1], ready.task.mix
        sample = _on_device(next(batches.epoch(0)), Normalize(preprocess, next(built.parameters()).device))
    device, size = sample[0].device, recipe.data.image_size
    macs = catalog.count_macs(built, size)
    say(f"measuring each figure for {seconds:g} s, or for one step where that takes longer")
    found: dict[str, Any] = {"machine": {**_machine(device), "peak": peaks(device)}}
    if recipe.compile == "on":
        objective = compiled(objective, graphs=with_graphs(device, recipe))
    step = _step(built, objective, precision, recipe)
    with suitable_threads(macs * recipe.batch_size):
        times = {
            "inference": _seconds(lambda: _infer(built, sample[0], precision), device, seconds),
            "training": _seconds(lambda: step(*sample), device, seconds),
        }
        peak = found["machine"]["peak"][precision.name]
        found["model"] = {
            "name": recipe.model.name,
            "image_size": size,
            "batch_size": len(sample[0]),
            "precision": precision.name,
            "compiled": recipe.compile == "on",
            "parameters": sum(p.numel() for p in built.parameters()),
            "macs": macs,
        }
        for name, passes in (("inference", 1), ("training", FORWARD_AND_BACKWARD)):
            rate = len(sample[0]) / times[name]
            flops = 2 * macs * passes * rate
            found["model"][name] = {"rate": rate, "flops": flops, "share_of_peak": flops / peak}
        if batches is None or split is None or preprocess is None:
            return found
        found["data"] = {"images": len(split), "batches": batches.description}
        if isinstance(batches, Photographs) and split.arrays is None:
            found["data"] |= _of_one_core(split, preprocess, recipe, seconds)
        found["data"]["rate"] = _rate_of(batches, seconds)
        found["together"] = _together(batches, step, mix, Normalize(preprocess, device), seconds)
    found["bottleneck"] = "data" if found["together"]["waiting"] > 0.5 else "training step"
    return found


def _without_data(
    name: str, overrides: Sequence[str]
) -> tuple[Recipe, nn.Module, Objective, Precision, tuple[Tensor, Tensor]]:
    """What a classifier of 1,000 classes trains with, on images of its published size."""
    if create.is_segmenter(name):
        raise InputError(f"{name} is a segmenter, whose training depends on the masks: give --data")
    family = catalog.FAMILIES[catalog.family_of(name)]
    size = getattr(create.resolve(name), "image_size", family.image_size)
    recipe = override(Recipe(model=Model(name=name), batch_size=BATCH), [f"data.image_size={size}", *overrides])
    if recipe.batch_size == AUTO:
        raise InputError("batch_size=auto is decided by what is trained on: give --data, or a number")
    device, size = choose_device(recipe.device), recipe.data.image_size
    keep_heap()
    built = create.build(name, **defaults.model_config(recipe, CLASSES)).to(device)
    create.require_fit(built, name, channels := 1 if recipe.data.color == "L" else 3, (size, size))
    if family.channels_last:
        built = built.to(memory_format=torch.channels_last)
    sample = (
        torch.randn(recipe.batch_size, channels, size, size, device=device),
        torch.randint(CLASSES, (recipe.batch_size,), device=device),
    )
    objective = LabelLoss(recipe.label_smoothing)
    return recipe, built, objective, choose_precision(recipe.precision, built, objective, sample), sample


def _on_device(batch: tuple[Tensor, Any], normalize: Normalize) -> tuple[Tensor, Any]:
    images, truth = (part.to(normalize.mean.device, non_blocking=True) for part in batch)
    return normalize(images), truth


def _machine(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "cores": usable_cores(), "torch": torch.__version__}
    name = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {"device": name, "threads": torch.get_num_threads(), "cores": usable_cores(), "torch": torch.__version__}


def peaks(device: torch.device) -> dict[str, float]:
    """The most operations a second of a product of two matrices, an addition and a multiplication each being one."""
    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        peaks[name] = 0.0
        for side in SIDES:
            a = torch.randn(side, side, device=device).to(dtype)
            out = torch.empty_like(a)
            taken = min(_times(partial(torch.mm, a, a, out=out), device, LONG))
            peaks[name] = max(peaks[name], 2 * side**3 / taken)
            if taken > LONG:
                break
    return peaks


def _times(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each call, after one that sets up, for ``seconds`` and at least three times."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    once()
    times = [once()]
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        times.append(once())
    return times


def _seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    return statistics.median(_times(work, device, seconds))


def _infer(built: nn.Module, images: Tensor, precision: Precision) -> None:
    with torch.inference_mode(), precision.autocast(images.device):
        built.eval()(images)


def _step(
    built: nn.Module, objective: Objective, precision: Precision, recipe: Recipe
) -> Callable[[Tensor, Any], None]:
    """A training step as in ``training.loop``, without accumulation and averages of weights."""
    each = optimizers(built, recipe.optimizer)

    def step(images: Tensor, truth: Any) -> None:
        built.train()
        with failures_named():
            with precision.autocast(images.device):
                loss = objective(built, images, truth, 0.0)
            loss.backward()
        if recipe.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(built.parameters(), recipe.optimizer.clip_norm)
        for optimizer in each:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def _of_one_core(split: Split, preprocess: Preprocess, recipe: Recipe, seconds: float) -> dict[str, float]:
    """Of files: images a second that one core decodes, and that it reads, crops and augments."""
    sample = split.subset(np.unique(np.linspace(0, len(split) - 1, num=min(DECODED, len(split)), dtype=int)))
    read = Photographs(sample, None, preprocess, recipe, workers=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spent: dict[str, list[float]] = {"decoding": [], "reading": []}
    try:
        for i in _endless(range(len(sample))):  # in turns, so that a busy moment hits both
            start = time.perf_counter()
            open_image(sample.image(i), color=preprocess.color, exif=preprocess.exif)
            between = time.perf_counter()
            read.__getitems__([(len(spent["decoding"]), i)])
            spent["decoding"].append(between - start)
            spent["reading"].append(time.perf_counter() - between)
            if sum(map(sum, spent.values())) > 2 * seconds:
                break
    finally:
        torch.set_num_threads(threads)
    decoding, reading = (len(times) / sum(times) for times in spent.values())
    return {"decoding_of_a_core": decoding, "rate_of_a_core": reading, "share_of_decoding": reading / decoding}


def _endless(places: range) -> Iterator[int]:
    while True:
        yield from places


def _rate_of(batches: Batches, seconds: float) -> float:
    """Images a second of the batches alone, as the run makes them, once those that are kept have been decoded."""
    start = time.perf_counter()
    for _ in batches.epoch(0):
        if time.perf_counter() - start > 5 * seconds:
            break
    images, start = 0, 0.0
    with closing(batches.stream(1)) as stream:
        for number, (batch, _) in enumerate(stream):
            if number == 0:  # workers have started
                start = time.perf_counter()
                continue
            images += len(batch)
            if time.perf_counter() - start > seconds and number > 2:
                break
    return images / (time.perf_counter() - start)


def _together(
    batches: Batches, step: Callable[[Tensor, Any], None], mix: Mix | None, normalize: Normalize, seconds: float
) -> dict[str, float]:
    """Images a second of training on the data, and the share of the time in which the step waits for them."""
    device = normalize.mean.device
    with closing(batches.stream(1)) as stream:
        next(stream)
        images, waited, start = 0, 0.0, time.perf_counter()
        while images == 0 or time.perf_counter() - start < 2 * seconds:
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            inputs, truth = _on_device(batch, normalize)
            if mix is not None:
                inputs, truth = mix(inputs, truth)
            step(inputs, truth)
            if device.type != "cpu":
                torch.accelerator.synchronize()
            images += len(inputs)
        spent = time.perf_counter() - start
    return {"rate": images / spent, "waiting": waited / spent}
