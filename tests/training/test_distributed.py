"""Two processes train what one does. They are forked, and find each other on the loopback."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitnext.data import scenes
from vitnext.data.dataset import Dataset, open_dataset
from vitnext.data.facts import look_at
from vitnext.errors import InputError
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.models import create
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe, from_dict, override
from vitnext.training import distributed
from vitnext.training.checkpoint import load_run
from vitnext.training.defaults import model_config
from vitnext.training.hardware import Precision
from vitnext.training.loop import Interrupted, fit
from vitnext.training.task import task_of

# Of Python 3.12 and later, where a process with threads is forked.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

DIGITS = from_dict(
    {
        "model": {"name": "vit", "config": {"patch_size": 4, "dim": 16, "depth": 2, "heads": 2}},
        "data": {"image_size": 8, "resize": "stretch", "color": "L"},
        "augment": {"crop_padding": 1, "erasing": 0.3, "mixup": 0.5, "cutmix": 0.5},
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"epochs": 2, "warmup_epochs": 1},
        "batch_size": 16,
        "accumulate": 2,
        "ema": 0.9,
        "label_smoothing": 0.1,
    }
)
SCENES = from_dict(
    {
        "model": {
            "name": "convnext+segformer",
            "config": {"widths": [8, 16], "depths": [1, 1], "stem_stride": 4, "head": {"width": 16, "dropout": 0.0}},
        },
        "data": {"image_size": 32, "window": [96, 96]},
        "augment": {"scale": [0.8, 1.25], "horizontal_flip": 0.5},
        "optimizer": {"learning_rate": 2e-4},  # Adam makes steps of it even where a gradient is rounding alone
        "schedule": {"epochs": 2, "warmup_epochs": 0},
        "loss": {"dice": 0.5, "focal": 0.5, "balanced": True},
        "batch_size": 4,
        "workers": 0,
    }
)


@pytest.fixture(scope="module")
def digits() -> Dataset[Any]:
    """96 to train on, 31 to validate: an odd number."""
    whole = open_dataset("digits")
    splits = {
        name: whole.splits[name].subset(np.arange(count)) for name, count in {"train": 96, "val": 31, "test": 8}.items()
    }
    return Dataset("digits", "builtin", whole.classes, splits, {}, fingerprint="digits", line="")


@pytest.fixture(scope="module")
def digit_scenes() -> Dataset[Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scenes, "COUNTS", {"train": 12, "val": 5, "test": 2})
        patched.setattr(scenes, "splits", scenes.splits.__wrapped__)  # which remembers nothing
        return open_dataset("digit-scenes")


class Watcher:
    def __init__(self, on) -> None:
        self.on, self.epochs = on, []

    def start(self, state, steps) -> None: ...

    def step(self, state, loss, learning_rate, images) -> None:
        self.on(state.step)

    def epoch(self, state, values, kept) -> None:
        self.epochs.append(values)


def train(data: Dataset[Any], recipe: Recipe, folder: Path, *, resume: bool = False, on=lambda step: None) -> Any:
    """Each epoch's numbers, and the weights that were kept last; of other processes than the first no weights."""
    folder.mkdir(exist_ok=True)
    facts = look_at(data.splits["train"])
    size, window = recipe.data.image_size, recipe.data.window
    preprocess = Preprocess(
        window or (size, size),
        resize="window" if window else "stretch",
        color=recipe.data.color,
        mean=facts.mean,
        std=facts.std,
    )
    torch.manual_seed(recipe.seed)
    model = create.build(recipe.model.name, **model_config(recipe, len(data.classes)))
    task = task_of(data, "val", preprocess, recipe, PanopticQuality)
    state = load_run(folder / "last.pt", recipe, "data", task.batches.steps_per_epoch) if resume else None
    kept: dict[str, Any] = {}
    watcher = Watcher(on)
    fit(
        model,
        task.batches,
        task.objective,
        task.validate,
        recipe,
        preprocess,
        Precision(torch.float32),
        folder=folder,
        keep=lambda network, *_: kept.update({n: t.clone().numpy() for n, t in network.state_dict().items()}),
        watch=watcher,
        fingerprint="data",
        mix=task.mix,
        select=False,
        resume=state,
    )
    return watcher.epochs, kept


def together(count: int, work, *arguments: Any, **more: Any) -> list[Any]:
    """What ``work`` gives, or the error that it raises, in each of ``count`` processes; None of one that was killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]

    def process(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        torch.set_num_threads(1)
        try:
            with distributed.joined():
                answer = work(*arguments, **more)
        except BaseException as error:
            answer = error
        pipes[rank][1].send(answer)
        os._exit(0)  # without what pytest does at the end of a process

    processes = [context.Process(target=process, args=(rank,), daemon=True) for rank in range(count)]
    for one in processes:
        one.start()
    answers = []
    for one, (receive, send) in zip(processes, pipes, strict=True):
        send.close()
        try:
            answers.append(receive.recv() if receive.poll(60) else TimeoutError())
        except EOFError:
            answers.append(None)
        one.join(10)
    return answers


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["digits", "digit_scenes"])
def test_two_processes_train_what_one_does(name, parallel, request, tmp_path):
    data = request.getfixturevalue(name)
    recipe = override(DIGITS if name == "digits" else SCENES, [f"parallel={parallel}"])
    epochs, weights = train(data, recipe, tmp_path / "one")
    first, second = together(2, train, data, recipe, tmp_path / "two")
    assert not isinstance(first, BaseException), first
    assert first[0] == second[0] and second[1] == {}  # the same numbers in both; the first alone keeps
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-5)
    for one, two in zip(epochs, first[0], strict=True):
        assert two == pytest.approx(one, rel=2e-5)
        assert two.get("top1") == one.get("top1")
    away = max(np.abs(first[1][key] - value).max() for key, value in weights.items())
    print("away", away)
    assert first[1].keys() == weights.keys() and away < 1e-3  # Adam makes much of gradients that are all but 0
