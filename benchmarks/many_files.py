"""Time to the first batch, memory and images a second with many small files, beside a tenth of them.

python benchmarks/many_files.py [--files 200000] [--json many.json]

The files are hard links to 48 small JPEGs in a temporary folder, which is removed. Each measurement is a process of its
own; "first" starts with an empty cache of what was seen of files, "second" does not. "train" is the whole of `vitnext
train`, by a single step of a tiny ViT, from the start of Python to its end, the median of starts that take turns:
another process lists the files while torch is imported.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import parser
from PIL import Image

DISTINCT, CLASSES, TURNS = 48, 10, 5
SETS = ("data.image_size=32", "model.config.patch_size=4", "model.config.dim=64", "model.config.depth=2")
TRAIN = ("--model=vit", "--steps=1", *(f"--set={field}" for field in (*SETS, "model.config.heads=2", "precision=fp32")))
START = """
import json, os, sys, time
from itertools import islice
import numpy as np, torch
from vitnext.api.checks import LOOKED_AT
from vitnext.data import doctor
from vitnext.data.dataset import open_dataset
from vitnext.data.facts import look_at
from vitnext.data.loaders import training_batches
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict

def memory(process, field):
    with open(f"/proc/{process}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024

size, augment, workers = (32, {"horizontal_flip": 0.5}, 0) if sys.argv[2] == "in memory" else (
    64, {"crop_scale": [0.35, 1], "horizontal_flip": 0.5}, 1)
recipe = from_dict({"data": {"image_size": size}, "augment": augment, "batch_size": 128, "workers": workers})
preprocess = Preprocess((size, size))
times, base = {}, memory("self", "Rss")
def lap(name, since):
    times[name] = round(time.perf_counter() - since, 2)
    return time.perf_counter()
start = at = time.perf_counter()
dataset = open_dataset(sys.argv[1]); at = lap("list", at)
look_at(dataset.splits["train"]); at = lap("facts", at)
doctor.check(dataset, limit=LOOKED_AT); at = lap("check", at)
batches = training_batches(dataset.splits["train"], preprocess, recipe)
stream = batches.stream(0)
next(stream); lap("batch", at); lap("to the first batch", start)
begin, seen = time.perf_counter(), 0
for images, labels in islice(stream, batches.steps_per_epoch - 1):
    seen += len(labels)
    if time.perf_counter() - begin > 8:
        break
rate = seen / (time.perf_counter() - begin)
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
print(json.dumps({**times, "images/s": round(rate), "MB": round(memory("self", "Rss") - base),
    "MB of a worker": round(max([memory(c, "Private_Dirty") for c in children], default=0))}))
stream.close()
"""


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--files", type=int, default=200_000)
    arguments = flags.parse_args()
    counts = (arguments.files // 10, arguments.files)
    rows: list[dict[str, Any]] = []

    def tell(**row: Any) -> None:
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        data = {count: Path(folder) / f"files{count}" for count in counts}
        for count in counts:
            make(data[count], count)
            for start, held in (("first", "in memory"), ("second", "in memory"), ("second", "from files")):
                found = run(folder, "-c", START, str(data[count]), held)
                tell(files=count, images=held, start=start, **json.loads(found))
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for turn in range(-1, TURNS):
            for count in counts:
                began = time.perf_counter()
                run(folder, "-m", "vitnext", "train", str(data[count]), *TRAIN, f"--out={folder}/{count}-{turn}")
                if turn >= 0:  # in the first one torch is read from the disk, and the folder is found large
                    seconds[count].append(round(time.perf_counter() - began, 2))
        for count in counts:
            tell(files=count, train=statistics.median(seconds[count]), each=seconds[count])
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def run(folder: str, *arguments: str) -> str:
    """What Python prints, with a cache of its own in ``folder``."""
    environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def make(data: Path, count: int) -> None:
    random = np.random.default_rng(0)
    originals = []
    for i in range(DISTINCT):
        originals.append(data.parent / f"{data.name}-{i}.jpg")
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((72, 64), Image.Resampling.BICUBIC).save(originals[-1])
    for label in range(CLASSES):
        for split in ("train", "val"):
            (data / split / f"class{label}").mkdir(parents=True)
        os.link(originals[label], data / "val" / f"class{label}" / "image.jpg")
    for i in range(count):
        os.link(originals[i % DISTINCT], data / "train" / f"class{i % CLASSES}" / f"image-{i:07}.jpg")


if __name__ == "__main__":
    main()
