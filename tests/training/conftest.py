"""A training run in miniature: 24 images of 8 px, three steps an epoch, everything random switched on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitnext.data.dataset import Dataset, Split
from vitnext.data.facts import look_at
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.models import catalog
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict, override
from vitnext.training import loop
from vitnext.training.checkpoint import load_run, trained_on
from vitnext.training.defaults import model_config
from vitnext.training.freezing import freeze
from vitnext.training.hardware import choose_precision
from vitnext.training.loop import Progress, fit
from vitnext.training.losses import LabelLoss
from vitnext.training.task import task_of

RECIPE = from_dict(
    {
        "model": {
            "name": "vit",
            "config": {"patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "dropout": 0.1, "stochastic_depth": 0.3},
        },
        "data": {"image_size": 8, "resize": "stretch", "color": "L"},
        "augment": {"crop_padding": 1, "horizontal_flip": 0.5, "erasing": 0.5},
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"epochs": 2, "warmup_epochs": 1},
        "batch_size": 8,
        "precision": "fp32",
        "label_smoothing": 0.1,
    }
)


def images(count: int, size: int = 8, channels: int = 1, seed: int = 0) -> Split:
    """Noise, and light from above (class "up") or from below ("down")."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = random.integers(0, 60, (count, size, size, channels))
    for i, label in enumerate(labels):
        half = slice(0, size // 2) if label == 0 else slice(size // 2, size)
        pixels[i, half] += 150
    names = np.array([f"toy[{i}]" for i in range(count)], dtype=np.bytes_)
    sizes = np.full(count, size * size * channels)
    return Split(("up", "down"), labels, names, sizes, arrays=pixels.astype(np.uint8))


class Watcher:
    """Remembers what it sees, and calls ``on("step", 3)`` and ``on("epoch", 1)`` when they have passed."""

    def __init__(self, on: Callable[[str, int], None]) -> None:
        self.on, self.steps, self.epochs = on, [], []

    def start(self, state: Progress, steps: int, ended: bool) -> None:
        self.began, self.total, self.ended = state, steps, ended

    def step(self, state: Progress, loss: float | None, learning_rate: float, images: int) -> None:
        self.steps.append((state.step, loss, learning_rate, images))
        self.on("step", state.step)

    def epoch(self, state: Progress, values: dict[str, float], kept: bool) -> None:
        self.epochs.append((state, values, kept))
        self.on("epoch", state.epoch)


@dataclass
class Run:
    """How a run ended."""

    weights: dict[str, Tensor]
    progress: Progress
    kept: list[tuple[int, dict[str, Tensor]]]
    watcher: Watcher

    def __eq__(self, other: object) -> bool:
        """The same weights, bit for bit."""
        assert isinstance(other, Run)
        return all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())


@pytest.fixture
def run(tmp_path):
    """Train in ``tmp_path / name``; with ``resume`` the run there goes on.

    ``sets`` change the recipe; ``press`` is the place where Ctrl-C is pressed, such as ("step", 3); ``on`` is called at
    every place; ``wrap`` changes the model; ``given`` replaces what else ``fit`` takes.
    """

    def run(
        name: str = "run",
        *sets: str,
        press: tuple[str, int] | None = None,
        on: Callable[[str, int], None] | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        **given: Any,
    ) -> Run:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        recipe = override(RECIPE, sets)
        size, channels = recipe.data.image_size, 1 if recipe.data.color == "L" else 3
        split = images(24, size, channels)
        facts = look_at(split)
        preprocess = Preprocess(
            (size, size), resize=recipe.data.resize, color=recipe.data.color, mean=facts.mean, std=facts.std
        )
        torch.manual_seed(recipe.seed)
        model = wrap(catalog.build(recipe.model.name, **model_config(recipe, 2)))
        if recipe.model.name == "convnext":
            model = model.to(memory_format=torch.channels_last)
        if recipe.optimizer.train_blocks is not None:
            freeze(model, recipe.optimizer.train_blocks)
        torch.seed()  # what the process drew before must play no part
        kept: list[Any] = []

        def keep(model, progress, metrics):
            assert not model.training
            kept.append((progress.epoch, {n: t.clone() for n, t in model.state_dict().items()}))
            return lambda: lambda: None

        def press_at(*place: Any) -> None:
            if place == press:
                os.kill(os.getpid(), signal.SIGINT)

        watcher = Watcher(on or press_at)
        splits = {"train": split, "val": images(10, size, channels, seed=1)}
        labelled = Dataset("toy", "builtin", split.classes, splits, {}, fingerprint="toy", line="toy")
        task = task_of(labelled, "val", preprocess, recipe, PanopticQuality)
        parts = {
            "batches": task.batches,
            "objective": task.objective,
            "validate": task.validate,
            "mix": task.mix,
            "precision": choose_precision(recipe.precision, model, LabelLoss(0), (torch.zeros(1), torch.zeros(1))),
            "folder": folder,
            "keep": keep,
            "watch": watcher,
            "data": trained_on(labelled),
            **given,
        }
        accept = parts.pop("accept", False)
        if parts.pop("resume", False):
            of_epoch = parts["batches"].steps_per_epoch
            parts["resume"], _ = load_run(folder / "last.pt", recipe, parts["data"], of_epoch, accept=accept)
        progress = fit(model, recipe=recipe, preprocess=preprocess, **parts)
        return Run({n: t.clone() for n, t in model.state_dict().items()}, progress, kept, watcher)

    return run


@pytest.fixture
def journal(tmp_path):
    """The lines of a run's journal; ``seconds`` are left out, they are never the same."""

    def journal(name: str = "run", event: str | None = None) -> list[dict[str, Any]]:
        text = (tmp_path / name / "journal.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return [
            {key: value for key, value in line.items() if key != "seconds"}
            for line in lines
            if event in (None, line["event"])
        ]

    return journal


@pytest.fixture
def look_at_every_step(monkeypatch):
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
