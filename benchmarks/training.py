"""Whole epochs of training from JPEG files: ``vitnext.train`` beside a plain PyTorch script on timm's model and loader.

Processes take turns, an epoch each:

- vitnext:  ``vitnext.train`` with what it chooses itself (number format, memory, workers, compilation).
- compiled: with ``--compiled``, the same with ``compile=on``.
- plain:    timm's model and loader at their defaults (one worker process), fp32, AdamW, eager.
- tuned:    the same script with the number format that a measurement finds faster, channels-last memory for ConvNeXt,
            and of 0 workers, 1, half of the cores and all of them the count whose first steps were fastest.

All train on the same files, with the same batch, stochastic depth up to 0.1, as the papers of both models have it, and
random resized crops of 8% to 100% and flips (``fashion_mnist_vit``: no stochastic depth, its own shifts by a pixel and
flips, on grey 28 px JPEGs made of the same files), AdamW, and write a checkpoint after each epoch. Nothing is validated
meanwhile. A first epoch is reported by itself: workers start in it, and vitnext decodes what it then keeps in memory.
The ratios are those of the medians of the others. With one core to run on, and one thread, seconds are those of the
CPU, of a process and its workers, which other work changes less; else of time.

    python benchmarks/training.py --data clothing10 [--only vit_small convnext_tiny fashion_mnist_vit] [--batch 64]
        [--images 256] [--rounds 3] [--dtype auto] [--compiled] [--json training.json]

``--data`` has train/ with a folder of JPEGs for each class; ``--images`` takes so many of them, of all classes alike.
The share of the peak is 6 operations for a multiply-add of the forward pass, over what products of matrices reach in
the same number format, as ``vitnext bench`` measures both.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from measure import parser
from PIL import Image
from rich.console import Console
from timm.data import create_dataset, create_loader
from timm.data.loader import PrefetchLoader
from timm_models import small_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

import vitnext
from vitnext.api.bench import FORWARD_AND_BACKWARD, peaks
from vitnext.cores import usable_cores
from vitnext.models import catalog, create
from vitnext.preprocess import IMAGENET_MEAN, IMAGENET_STD
from vitnext.recipe import Recipe, from_dict, override, read
from vitnext.training.console import ConsoleWatcher
from vitnext.training.defaults import model_config
from vitnext.training.hardware import Precision, choose_device, choose_precision
from vitnext.training.loop import Progress

TIMM = {"vit_small": "vit_small_patch16_224", "convnext_tiny": "convnext_tiny"}
TINY = "fashion_mnist_vit"  # a recipe
SCALE = (0.08, 1.0)  # timm's default
STOCHASTIC_DEPTH = 0.1  # Touvron et al. 2021, table 9; Liu et al. 2022, table 5
RATE, WEIGHT_DECAY = 1e-4, 0.05
TRIAL = 4  # steps that a count of workers is judged by, after the first
ENDLESS = 10_000  # epochs


@dataclass(frozen=True)
class Job:
    """What all sides train.

    folder: the images; work: a folder to write to; recipe: of ours, which says model, batch and augmentation to all
    """

    name: str
    folder: Path
    work: Path
    recipe: Recipe
    classes: int
    macs: int
    dtype: str

    @property
    def channels(self) -> int:
        return 1 if self.recipe.data.color == "L" else 3


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--only", nargs="+", choices=(*TIMM, TINY), default=[*TIMM, TINY])
    flags.add_argument("--batch", type=int, help="default: 64, and the recipe's for fashion_mnist_vit")
    flags.add_argument("--images", type=int, help="train on so many; default: all")
    flags.add_argument("--rounds", type=int, default=3, help="epochs of each side after its first")
    flags.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="of vitnext and of tuned")
    flags.add_argument("--compiled", action="store_true", help="vitnext with compile=on, too")
    arguments = flags.parse_args()
    sides = [name for name in SIDES if arguments.compiled or name != "compiled"]
    reached = peaks(choose_device("auto"))
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {usable_cores()} cores, torch {torch.__version__}, "
        f"timm {timm.__version__}; products of matrices: "
        + ", ".join(f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in reached.items()),
        flush=True,
    )
    rows = []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as work:
            row = compared(job_of(name, arguments, Path(work)), sides, arguments.rounds, reached)
        rows.append(row)
        show(row)
    if arguments.json is not None:
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**machine, "peak": reached, "rows": rows}, indent=1) + "\n")


def job_of(name: str, arguments: argparse.Namespace, work: Path) -> Job:
    if name == TINY:
        recipe = override(read(TINY), ["data.val_fraction=null"])
    else:
        augment = {"crop_scale": SCALE, "horizontal_flip": 0.5}
        model = {"name": name, "config": {"stochastic_depth": STOCHASTIC_DEPTH}}
        recipe = from_dict({"model": model, "augment": augment, "batch_size": 64})
    changes = {"optimizer.name": "adamw", "optimizer.learning_rate": RATE, "optimizer.clip_norm": 0}
    changes |= {"schedule.epochs": ENDLESS, "schedule.validate_epochs": ENDLESS, "precision": arguments.dtype}
    changes |= {"batch_size": arguments.batch} if arguments.batch else {}
    recipe = override(recipe, [f"{field}={value}" for field, value in changes.items()])
    side = recipe.data.image_size if name == TINY else None
    classes = laid_out(arguments.data / "train", work / "data", arguments.images, side)
    model = create.build(recipe.model.name, **model_config(recipe, classes))
    macs = catalog.count_macs(model, recipe.data.image_size)
    return Job(name, work / "data", work, recipe, classes, macs, arguments.dtype)


def laid_out(source: Path, folder: Path, count: int | None, side: int | None) -> int:
    """train/ with ``count`` of the files, one of each class after the other, as they are or grey and ``side`` px wide
    and high; val/ with one of each class. Returns the number of classes."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    files = [sorted(f for f in path.iterdir() if f.suffix.lower() in (".jpg", ".jpeg")) for path in classes]
    turns = [of_class[i] for i in range(max(map(len, files))) for of_class in files if i < len(of_class)]
    for part, chosen in (("train", turns[:count]), ("val", [of_class[-1] for of_class in files])):
        for path in chosen:
            copy = folder / part / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if side is None:
                copy.symlink_to(path.resolve())
            else:
                with Image.open(path) as image:
                    image.convert("L").resize((side, side)).save(copy, quality=95)
    return len(classes)


# ---- turns


def compared(job: Job, names: list[str], rounds: int, reached: dict[str, float]) -> dict[str, Any]:
    context = get_context("spawn")
    sides: dict[str, tuple[Any, Connection]] = {}
    epochs: dict[str, list[float]] = {name: [] for name in names}
    facts: dict[str, dict[str, Any]] = {}
    for name in names:  # one after the other is made ready
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(name, job, theirs))
        process.start()
        theirs.close()
        sides[name] = (process, ours)
        facts[name] = ours.recv()
    for _ in range(rounds + 1):
        for name, (_, pipe) in sides.items():
            pipe.send(True)
            epochs[name].append(pipe.recv())
    for process, pipe in sides.values():
        pipe.send(False)
        process.join()
    row: dict[str, Any] = {"model": job.name, "batch": job.recipe.batch_size, "macs": job.macs}
    for name in names:
        images = facts[name]["images"]
        rates = [images / seconds for seconds in epochs[name]]
        rate = statistics.median(rates[1:])
        share = 2 * row["macs"] * FORWARD_AND_BACKWARD * rate / reached[facts[name]["dtype"]]
        row[name] = {**facts[name], "first": rates[0], "rate": rate, "rates": rates, "share_of_peak": share}
    return row


def show(row: dict[str, Any]) -> None:
    print(f"{row['model']}, batch {row['batch']}, {row['macs'] / 1e9:.3g} G multiply-adds", flush=True)
    sides = [name for name in SIDES if name in row]
    for name in sides:
        side = row[name]
        print(
            f"  {name:8} {side['rate']:8.2f} images/s (first epoch {side['first']:.2f}), {side['share_of_peak']:.1%} "
            f"of the {side['dtype']} peak; {side['images']} images an epoch, {side['how']}",
            flush=True,
        )
    ours = row["vitnext"]
    for name in sides[1:]:
        later, first = (ours[rate] / row[name][rate] for rate in ("rate", "first"))
        print(f"  vitnext over {name}: {later:.2f} (first epoch {first:.2f})", flush=True)


class Turns:
    """The side's end of the pipe: an epoch is run when it is asked for, and its seconds are told."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.start = pipe, 0.0

    def ready(self, **facts: Any) -> None:
        self._wait(facts)

    def over(self) -> None:
        self._wait(clock() - self.start)

    def _wait(self, told: Any) -> None:
        self.pipe.send(told)
        if not self.pipe.recv():
            raise SystemExit
        self.start = clock()


def clock() -> float:
    """Seconds: where all work shares one core those of the CPU, of this process and its children, else the time."""
    if usable_cores() > 1 or torch.get_num_threads() > 1:
        return time.perf_counter()
    ended = os.times()
    seconds = time.process_time() + ended.children_user + ended.children_system
    for worker in active_children():
        ticks = Path(f"/proc/{worker.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
        seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds


def child(side: str, job: Job, pipe: Connection) -> None:
    SIDES[side](job, Turns(pipe))


# ---- the sides


def by_vitnext(job: Job, turns: Turns, *sets: str) -> None:
    """``vitnext.train``, stopped where it tells the console that it begins, and that an epoch has ended."""
    run, console = job.work / "-".join(("run", *sets)), Console(file=io.StringIO(), width=200)
    recipe = run.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(override(job.recipe, sets).to_dict()), encoding="utf-8")
    began, ended = ConsoleWatcher.start, ConsoleWatcher.epoch

    def start(watcher: ConsoleWatcher, state: Progress, steps: int | None, ended: bool) -> None:
        began(watcher, state, steps, ended)
        assert steps is not None
        data = next(line for line in console.file.getvalue().splitlines() if line.startswith("data  "))
        images = steps // ENDLESS * job.recipe.batch_size
        turns.ready(images=images, dtype=read(run / "recipe.yaml").precision, how=data.removeprefix("data  "))

    def epoch(watcher: ConsoleWatcher, state: Progress, values: dict[str, float], kept: bool) -> None:
        ended(watcher, state, values, kept)
        turns.over()

    ConsoleWatcher.start, ConsoleWatcher.epoch = start, epoch  # type: ignore[method-assign]
    vitnext.train(job.folder, recipe=str(recipe), out=run, console=console)


def compiled(job: Job, turns: Turns) -> None:
    by_vitnext(job, turns, "compile=on")


def plain(job: Job, turns: Turns) -> None:
    by_timm(job, turns, timm_model(job), timm_loader(job), Precision(torch.float32), "1 worker process")


def tuned(job: Job, turns: Turns) -> None:
    model = timm_model(job)
    device = next(model.parameters()).device
    if job.name.startswith("convnext"):
        model = model.to(memory_format=torch.channels_last)

    def objective(model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        return F.cross_entropy(model(images), labels, label_smoothing=job.recipe.label_smoothing)

    sample = next(iter(timm_loader(job, workers=0)))
    precision = choose_precision(job.dtype, model, objective, sample)
    cores = usable_cores()
    seconds = {}
    for workers in sorted({0, 1, cores // 2, cores}):
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
        steps = stepping(job, model, optimizer, timm_loader(job, workers), precision)
        next(steps)
        start, done = clock(), 0
        for _ in itertools.islice(steps, TRIAL):
            synchronize(device)
            done += 1
        seconds[workers] = (clock() - start) / max(1, done)
    best = min(seconds, key=lambda workers: seconds[workers])
    tried = ", ".join(f"{workers}: {value:.2f} s a step" for workers, value in seconds.items())
    by_timm(job, turns, model, timm_loader(job, best), precision, f"{best} worker processes ({tried})")


def by_timm(job: Job, turns: Turns, model: nn.Module, loader: PrefetchLoader, precision: Precision, how: str) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    turns.ready(images=len(loader) * job.recipe.batch_size, dtype=precision.name, how=how)
    while True:
        for _ in stepping(job, model, optimizer, loader, precision):
            pass
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, job.work / f"{os.getpid()}.pt")
        turns.over()


def stepping(
    job: Job, model: nn.Module, optimizer: torch.optim.Optimizer, loader: PrefetchLoader, precision: Precision
) -> Iterator[None]:
    """An epoch, step after step."""
    device = next(model.parameters()).device
    for images, labels in loader:
        with precision.autocast(device):
            loss = F.cross_entropy(model(images), labels, label_smoothing=job.recipe.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def timm_model(job: Job) -> nn.Module:
    """The recipe's model as timm has it."""
    device = choose_device("auto")
    if job.name != TINY:
        model = timm.create_model(TIMM[job.name], num_classes=job.classes, drop_path_rate=STOCHASTIC_DEPTH)
        return model.to(device).train()
    return small_model(job.recipe, job.classes).to(device).train()


def timm_loader(job: Job, workers: int = 1) -> PrefetchLoader:
    """timm's, at its defaults but for what all sides have in common."""
    side = job.recipe.data.image_size
    dataset = create_dataset("", str(job.folder), split="train", input_img_mode=job.recipe.data.color)
    loader = create_loader(
        dataset,
        (job.channels, side, side),
        job.recipe.batch_size,
        is_training=True,
        color_jitter=0.0,
        mean=IMAGENET_MEAN[: job.channels],
        std=IMAGENET_STD[: job.channels],
        num_workers=workers,
        persistent_workers=workers > 0,
        device=choose_device("auto"),
    )
    if job.name == TINY:
        loader.dataset.transform = transforms.Compose(
            [
                transforms.RandomCrop(side, padding=job.recipe.augment.crop_padding, padding_mode="edge"),
                transforms.RandomHorizontalFlip(job.recipe.augment.horizontal_flip),
                transforms.PILToTensor(),
            ]
        )
    return loader


SIDES: dict[str, Callable[[Job, Turns], None]] = {
    "vitnext": by_vitnext,
    "compiled": compiled,
    "plain": plain,
    "tuned": tuned,
}


if __name__ == "__main__":
    main()
