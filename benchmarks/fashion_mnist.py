"""Fashion-MNIST from scratch, 60,000 training and 10,000 test images, by the two recipes that come with the package.

Prints test top-1, parameters and time, and when test top-1 first reached 93% and 94% (the test images are watched
after every epoch but choose nothing: the last epoch is the model).

    python benchmarks/fashion_mnist.py [--only fashion_mnist_vit] [--timm] [--epochs 8] [--json fashion_mnist.json]

``--timm``: timm's model of the same shape instead, in the same loop on the same batches for as many epochs, with
what it does unless it is told otherwise (initialisation, memory layout), by AdamW at its usual 1e-3, in the number
format that is faster, as ours.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measure import parser
from rich.console import Console
from timm_models import small_model

import vitnext
from vitnext.card import read_card
from vitnext.data.dataset import open_dataset
from vitnext.data.facts import look_at
from vitnext.data.loaders import training_batches
from vitnext.preprocess import Preprocess
from vitnext.recipe import Optimizer, override, read
from vitnext.training import loop
from vitnext.training.hardware import choose_precision, keep_heap
from vitnext.training.loop import Metrics, Progress
from vitnext.training.losses import LabelLoss
from vitnext.training.validation import Validator, images_at_once

RECIPES = ("fashion_mnist_vit", "fashion_mnist_convnext")
REACHED = (0.93, 0.94)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES)
    flags.add_argument("--timm", action="store_true")
    flags.add_argument("--epochs", type=int, help="instead of the recipe's")
    arguments = flags.parse_args()
    results = {}
    for recipe in arguments.only:
        row = (by_timm if arguments.timm else by_vitnext)(recipe, arguments.epochs)
        results[recipe] = row
        after = ", ".join(f"{share:.0%} after {first(row['curve'], share)}" for share in REACHED)
        print(
            f"{recipe}{', timm' if arguments.timm else ''}: {row['top1']:.2%} test top-1, {row['parameters']:,} "
            f"parameters, {row['seconds']:,} s; {after}",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def first(curve: list[dict[str, Any]], share: float) -> str:
    return next((f"{row['seconds']:,} s" for row in curve if row["top1"] >= share), "never")


def by_vitnext(recipe: str, epochs: int | None) -> dict[str, Any]:
    """``vitnext.train``, which goes on where an earlier call was stopped. Seconds of the clock."""
    folder = Path("runs/benchmarks") / recipe
    resume = (folder / "last.pt").exists()
    result = vitnext.train(
        "fashion-mnist",
        recipe=None if resume else recipe,
        epochs=epochs,
        out=folder,
        resume=resume,
        console=Console(),
    )
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [row for row in journal if row["event"] == "epoch"]
    return {
        "top1": result.metrics["top1"],
        "parameters": sum(p.numel() for p in vitnext.load(result.artifact).engine.model.parameters()),
        "seconds": round(read_card(result.artifact).metrics["seconds"]),
        "curve": [{"epoch": row["epoch"], "seconds": round(row["seconds"]), "top1": row["top1"]} for row in curve],
    }


def by_timm(name: str, epochs: int | None) -> dict[str, Any]:
    """timm's model in ``loop.fit``. Seconds of the CPU with one thread, else of the clock."""
    recipe = override(read(name), [f"schedule.epochs={epochs}"] if epochs else [])
    adamw = Optimizer(name="adamw", learning_rate=1e-3, weight_decay=0.05, clip_norm=0)
    recipe = replace(recipe, optimizer=adamw)
    splits = open_dataset("fashion-mnist", val_fraction=0.0).splits
    facts = look_at(splits["train"])
    preprocess = Preprocess(
        image_size=(28, 28), resize="stretch", interpolation="bicubic", color="L", mean=facts.mean, std=facts.std
    )
    keep_heap()
    torch.manual_seed(recipe.seed)
    model = small_model(recipe, classes=10)
    batches, loss = training_batches(splits["train"], preprocess, recipe), LabelLoss(recipe.label_smoothing)
    images, labels = next(batches.epoch(0))
    precision = choose_precision("auto", model, loss, (loop.Normalize(preprocess, images.device)(images), labels))
    print(f"{precision.name}: {precision.reason}", flush=True)
    watcher = Curve()
    with TemporaryDirectory() as folder:
        end = loop.fit(
            model,
            batches,
            loss,
            Validator(splits["test"], preprocess, images_at_once(recipe)),
            recipe,
            preprocess,
            precision,
            folder=Path(folder),
            keep=lambda *_: lambda: lambda: None,
            watch=watcher,
            data={},
            select=False,
        )
    return {
        "top1": end.kept_score,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": watcher.curve[-1]["seconds"],
        "curve": watcher.curve,
    }


class Curve:
    """Test top-1 and seconds after each epoch."""

    def __init__(self) -> None:
        self.curve: list[dict[str, Any]] = []

    def start(self, state: Progress, steps: int | None) -> None:
        self.now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.began = self.now()

    def step(self, state: Progress, loss: float | None, learning_rate: float, images: int) -> None: ...

    def epoch(self, state: Progress, values: Metrics, kept: bool) -> None:
        row = {"epoch": state.epoch, "seconds": round(self.now() - self.began), "top1": values["top1"]}
        self.curve.append(row)
        print(f"epoch {row['epoch']}  top-1 {row['top1']:.2%}  {row['seconds']:,} s", flush=True)


if __name__ == "__main__":
    main()
