"""Images of three noisy colours, short runs on them, and what a run leaves."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from vitnext import api
from vitnext.errors import InputError
from vitnext.training.console import ConsoleWatcher

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
# Small and quick: 3 steps an epoch on the fixture "tree".
TINY = (
    *("model.config.patch_size=4", "model.config.dim=16", "model.config.depth=1", "model.config.heads=2"),
    *("precision=fp32", "batch_size=10", "schedule.warmup_epochs=1", "optimizer.learning_rate=5e-3"),
)


def picture(name, seed):
    random = np.random.default_rng(seed)
    return np.clip(np.array(COLORS[name]) + random.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)


def plant(root, counts, seed=0):
    """Class folders of noisy 16-px images of one colour each."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(name, [seed, i, *name.encode()])).save(root / name / f"{i:02}.png")
    return root


def train(data, out, *sets, epochs=2, model="vit", **more):
    return api.train(data, model=model, out=out, epochs=epochs, overrides=[*TINY, *sets], **more)


def weights(path):
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def journal(folder):
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def mistake(call, *arguments, **more):
    with pytest.raises(InputError) as caught:
        call(*arguments, **more)
    message = str(caught.value)
    assert message and len(message.splitlines()) == 1
    return message


def on_step(monkeypatch, action):
    """Call ``action(step)`` when a step of a run has passed."""
    step = ConsoleWatcher.step

    def watched(self, state, *others):
        step(self, state, *others)
        action(state.step)

    monkeypatch.setattr(ConsoleWatcher, "step", watched)


def press_at(wanted):
    return lambda step: os.kill(os.getpid(), signal.SIGINT) if step == wanted else None
