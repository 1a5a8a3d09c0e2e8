"""Images of a training batch, decoded, cropped, resized and flipped: ours beside torchvision's usual transforms on
Pillow images, and beside decoding alone.

python benchmarks/pipeline.py --data clothing10 [--size 1600x1200 500x375] [--rounds 9] [--json pipeline.json]

``--data`` is a folder with JPEGs at any depth. ``--size`` also measures copies of them that were resized to that size
(the other way round if they stand upright) and saved with quality 90, in a temporary folder. One thread; seconds of the
CPU.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import interleaved, parser, report
from PIL import Image
from torchvision import transforms

from vitnext.data import image_parts
from vitnext.data.dataset import Split
from vitnext.data.loaders import HeldImages, Photographs, channels_last, held_side
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict
from vitnext.training.hardware import keep_heap

SIZE, COUNT, SCALE = 224, 64, (0.08, 1.0)


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--size", nargs="*", default=["1600x1200"])
    flags.add_argument("--rounds", type=int, default=9)
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    keep_heap()  # as training does
    files = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    files = random.Random(0).sample(files, min(COUNT, len(files)))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in ["as they are", *arguments.size]:
            here = files if size == "as they are" else [resized(path, size, Path(folder)) for path in files]
            times = interleaved(variants(here), arguments.rounds)
            rows.append({"images": size, **{name: value / len(files) for name, value in times.items()}})
    report(rows, baseline="torchvision", path=arguments.json)
    for row in rows:
        shares = {name: f"{row['decoding'] / row[name]:.0%}" for name in row if name.startswith("vitnext")}  # type: ignore[operator]
        print(f"{row['images']}, of the rate of decoding alone: {shares}")


def resized(path: Path, size: str, folder: Path) -> Path:
    long, short = map(int, size.split("x"))
    out = folder / f"{size}-{path.name}"
    with Image.open(path) as image:
        shape = (long, short) if image.width >= image.height else (short, long)
        image.convert("RGB").resize(shape, Image.Resampling.LANCZOS).save(out, quality=90)
    return out


def variants(files: list[Path]) -> dict[str, Callable[[], object]]:
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=SCALE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    recipe = from_dict(
        {"data": {"image_size": SIZE}, "augment": {"crop_scale": list(SCALE), "horizontal_flip": 0.5}, "workers": 0}
    )
    names = np.array([str(path.resolve()) for path in files], np.bytes_)
    split = Split(("a",), np.zeros(len(files), np.int64), names, np.ones(len(files), np.int64), root="/")
    preprocess = Preprocess((SIZE, SIZE))
    read = Photographs(split, None, preprocess, recipe, workers=0)
    held = Photographs(split, HeldImages(split, preprocess, held_side(recipe)), preprocess, recipe, workers=0)
    epoch = iter(range(1 << 30))

    def ours(batches: Photographs) -> object:
        now = next(epoch)
        return channels_last(batches.__getitems__([(now, i) for i in range(len(files))]))

    def by_pillow() -> object:
        found, image_parts.simplejpeg = image_parts.simplejpeg, None
        try:
            return ours(read)
        finally:
            image_parts.simplejpeg = found

    made: dict[str, Callable[[], object]] = {
        "decoding": lambda: [opened(path).load() for path in files],
        "torchvision": lambda: torch.stack([theirs(opened(path).convert("RGB")) for path in files]),
        "vitnext, files by Pillow": by_pillow,
        "vitnext, in memory": partial(ours, held),
    }
    if image_parts.simplejpeg is not None:
        made["vitnext, files by simplejpeg"] = partial(ours, read)
    return made


def opened(path: Path) -> Image.Image:
    return Image.open(path)


if __name__ == "__main__":
    main()
