"""Kills training runs with SIGKILL at random moments, resumes them, and compares how they end with a run left alone.

python benchmarks/kills.py [--kills 20] [--seed 0] [--task labels masks] [--json kills.json]

Each kill happens at one of PLACES, after a random number of passes through it; a run is killed again and again until
one of its processes comes to its end. What is compared: a hash of the model file's weights, of all tensors of last.pt
(weights, moving average, optimizer), and of the journal's epochs but for their seconds. Exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from vitnext.api import run as api_run
from vitnext.cli.main import main as command
from vitnext.data.builtin import digits as all_digits
from vitnext.data.dataset import open_dataset
from vitnext.data.loaders import Photographs
from vitnext.data.mask_loaders import MaskedImages
from vitnext.training.console import ConsoleWatcher
from vitnext.training.mask_validation import MaskValidator
from vitnext.training.validation import Validator
from vitnext.weights import artifact

PLACES = {  # and the most passes before the kill
    "a step": 12,
    "a worker": 12,  # the worker alone; the run then ends with a line
    "a worker's parent": 12,
    "half of a checkpoint": 3,
    "a file not yet renamed": 5,
    "half of a model file": 2,
    "between an epoch's model and its checkpoint": 2,
    "between a checkpoint and its model's name": 2,
    "validation": 2,
    "the final evaluation": 1,
    "any moment": 1,
}
SETS = ("precision=fp32", "device=cpu", "workers=2", "ema=0.9", "save_steps=5", "schedule.warmup_epochs=1")
TASKS = {
    "labels": (
        *("--model=vit", "--epochs=4", *(f"--set={change}" for change in SETS)),
        *("--set=augment.crop_scale=[0.5, 1]", "--set=batch_size=12", "--set=model.config.dropout=0.1"),
    ),
    "masks": (
        *("--recipe=digit_scenes", "--epochs=4", *(f"--set={change}" for change in SETS)),
        *("--set=model.config.widths=[8, 16, 16]", "--set=model.config.depths=[1, 1, 1]", "--set=batch_size=4"),
        *("--set=model.config.head={width: 16, dropout: 0.1}", "--set=data.image_size=48"),
    ),
}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=20, help="of each task")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    flags.add_argument("--json", type=Path)
    given = flags.parse_args()
    for name in ("vitnext.evaluation.semantic", "vitnext.training.task"):
        importlib.import_module(name)  # so that a forked process need not
    torch.set_num_threads(1)  # forked processes cannot use threads that were there before
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for task in given.task:
            results.append(torture(task, Path(folder), given.kills, random.Random(given.seed)))
    print(*(" ".join(f"{key} {value}" for key, value in row.items()) for row in results), sep="\n")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["different"] for row in results))


def torture(task: str, folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    data = str((digits if task == "labels" else scenes)(folder / f"{task} data"))
    begin = time.monotonic()
    whole, text = start(task, data, folder / f"{task} whole", None, 0, 0.0)
    if whole:
        raise SystemExit(f"{task}: the run that was left alone ended with {whole}: {text}")
    seconds, truth = time.monotonic() - begin, fingerprint(folder / f"{task} whole")
    places = list(places_for(kills, chance))
    runs = different = 0
    while places:
        runs += 1
        out = folder / f"{task} {runs}"
        done = False
        while not done:
            place, passes = places.pop() if places else (None, 0)
            delay = chance.uniform(0, seconds) if place == "any moment" else chance.uniform(0, 0.03)
            code, text = start(task, data, out, place, passes, delay)
            expected = (1,) if place == "a worker" else (-signal.SIGKILL,)
            if code and (code not in expected or (code == 1 and "a worker process died" not in text)):
                raise SystemExit(f"{task}: killed in {place}, the process ended with {code}: {text}")
            done = code == 0
            if done and place is not None:  # the run ended before it came there
                places.append((place, 1))
            if not done:
                print(f"{task} run {runs}: killed in {place}, pass {passes}, {stands(out)}", flush=True)
        same = fingerprint(out) == truth
        different += not same
        print(f"{task} run {runs}: {'the same' if same else 'DIFFERENT'}", flush=True)
    return {"task": task, "kills": kills, "runs": runs, "different": different, "hash": truth["weights"][:16]}


def places_for(kills: int, chance: random.Random) -> Iterator[tuple[str, int]]:
    """Every place about as often as the others, in random order."""
    names = [name for _ in range(kills // len(PLACES) + 1) for name in chance.sample(list(PLACES), len(PLACES))]
    for name in names[:kills]:
        yield name, chance.randint(1, PLACES[name])


def stands(out: Path) -> str:
    path = out / "last.pt"
    if not path.exists():
        return "before the first checkpoint"
    return f"last.pt at step {torch.load(path, weights_only=True)['progress']['step']}"


def start(task: str, data: str, out: Path, place: str | None, passes: int, delay: float) -> tuple[int, str]:
    """`vitnext train`, begun or resumed, with a kill planned; the exit code, below 0 for a signal, and the last line.

    A forked process, which need not import anything again.
    """
    more = ["--resume"] if (out / "last.pt").exists() else list(TASKS[task])
    with tempfile.TemporaryFile("w+") as text:
        if not (pid := os.fork()):
            os.dup2(text.fileno(), 1)
            os.dup2(text.fileno(), 2)
            os._exit(child(str(place), passes, delay, ["train", data, "--out", str(out), *more]))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text.seek(0)
        return code, (text.read().strip().splitlines() or [""])[-1]


def fingerprint(out: Path) -> dict[str, str]:
    """Hashes of what a run has come to."""
    saved = torch.load(out / "last.pt", weights_only=True)
    state = {name: saved[name] for name in ("model", "average", "optimizers")}
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [{k: v for k, v in line.items() if k != "seconds"} for line in lines if line["event"] == "epoch"]
    return {
        "weights": digest(load_file(out / "model.safetensors")),
        "state": digest(state),
        "epochs": hashlib.sha256(json.dumps(epochs).encode()).hexdigest(),
    }


def digest(tree: Any) -> str:
    """sha256 of all tensors and numbers in nested dicts and lists."""
    total = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, dict):
            for key in sorted(node, key=str):
                total.update(str(key).encode())
                add(node[key])
        elif isinstance(node, list | tuple):
            for part in node:
                add(part)
        elif hasattr(node, "numpy"):
            total.update(np.ascontiguousarray(node.cpu().numpy()).tobytes())
        else:
            total.update(repr(node).encode())

    add(tree)
    return total.hexdigest()


def digits(root: Path) -> Path:
    """A few of digits as files: 120 to train on, 30 to validate, 30 to test."""
    images, labels = all_digits()
    for label in range(10):
        for i, image in enumerate(images[labels == label][:18]):
            path = root / ("train" if i < 12 else "val" if i < 15 else "test") / str(label) / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def scenes(root: Path) -> Path:
    """A few of digit-scenes as files: 32 to train on, 6 to validate, 6 to test."""
    for part, split in open_dataset("digit-scenes").splits.items():
        for i in range(32 if part == "train" else 6):
            for name, pixels in (("images", split.image(i)), ("masks", split.mask(i))):
                path = root / part / name / f"{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.asarray(pixels)).save(path)
    lines = [f"{i} {name}" for i, name in enumerate(["background", *map(str, range(10))])]
    (root / "classes.txt").write_text("\n".join([*lines, "255 ignore"]) + "\n", encoding="utf-8")
    return root


# ---- in the process that will be killed


def child(place: str, passes: int, delay: float, arguments: list[str]) -> int:
    parent = os.getpid()
    seen = 0

    def kill(pid: int | None = None) -> None:
        os.kill(os.getpid() if pid is None else pid, signal.SIGKILL)

    def soon() -> None:
        threading.Timer(delay, kill).start()

    def on_pass(owner: Any, name: str, action: Callable[..., None]) -> None:
        """Call ``action`` with the arguments of the call before the call that is the planned pass."""
        original = getattr(owner, name)

        def counted(*given: Any, **more: Any) -> Any:
            nonlocal seen
            epoch = {"__getitem__": lambda place: place[0], "__getitems__": lambda places: places[0][0]}.get(name)
            seen += epoch is None or epoch(given[1]) > 0  # the first epoch's batches are looked at before training
            if seen == passes:
                action(*given, **more)
            return original(*given, **more)

        setattr(owner, name, counted)

    def half(state: Any, file: Any) -> None:
        whole = io.BytesIO()
        saved(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        kill()

    def half_of_model(tensors: Any, path: Path, **more: Any) -> None:
        written(tensors, path, **more)
        os.truncate(path, path.stat().st_size // 2)
        kill()

    def after_model(*given: Any) -> None:
        kept(*given)
        kill()

    saved, written, kept = torch.save, artifact.save_file, api_run.save_weights
    if place == "a step":
        on_pass(ConsoleWatcher, "step", lambda *_: soon())
    elif place == "a worker":
        for images, read in ((Photographs, "__getitems__"), (MaskedImages, "__getitem__")):
            on_pass(images, read, lambda *_: kill())
    elif place == "a worker's parent":
        for images, read in ((Photographs, "__getitems__"), (MaskedImages, "__getitem__")):
            on_pass(images, read, lambda *_: kill(parent))
    elif place == "half of a checkpoint":
        on_pass(torch, "save", half)
    elif place == "a file not yet renamed":
        on_pass(os, "fsync", lambda *_: kill())
    elif place == "half of a model file":
        on_pass(artifact, "save_file", half_of_model)
    elif place == "between an epoch's model and its checkpoint":
        on_pass(api_run, "save_weights", after_model)
    elif place == "between a checkpoint and its model's name":
        on_pass(api_run, "settle", lambda *_: kill())
    elif place == "validation":
        for validator in (Validator, MaskValidator):
            on_pass(validator, "__call__", lambda *_: soon())
    elif place == "the final evaluation":
        on_pass(api_run, "evaluate", lambda *_, **__: soon())
    elif place == "any moment":
        soon()
    return command(arguments)


if __name__ == "__main__":
    main()
