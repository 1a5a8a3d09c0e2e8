"""CamVid-11 from scratch within one budget of time: vitnext's recipe, and segmentation_models_pytorch's U-Net.

Both train on the train split for ``--minutes`` by the clock, one after the other with the same threads, from images
that are decoded in memory before, in what a measurement at start finds fastest (``--dtype``). Ours: ``vitnext.train``
with what it chooses itself, or with ``--model``, ``--recipe`` and ``--set``; its validation after each epoch is paid
from its budget. U-Net: ResNet-18, no pretrained weights, AdamW with the poly schedule of the clock, random crops of
256x320 at scales of 0.5 to 2, mirrored at random, batches of 8, cross-entropy of the labelled pixels.

Then both segment the test images, each a whole image, and the same lines count: mean IoU of the classes, from one
confusion matrix of all pixels that are not void. The test images choose nothing.

    python benchmarks/camvid.py --data camvid11 [--minutes 15] [--threads 2] [--only ours smp] [--dtype auto]
        [--model NAME] [--recipe NAME|FILE] [--set optimizer.learning_rate=3e-3 ...] [--smp-rate 1e-3] [--seed 0]
        [--images 233] [--out runs/benchmarks/camvid] [--json camvid.json]

The folder has images/, masks/, classes.txt, train.txt, val.txt and test.txt. README.md says how to install
segmentation_models_pytorch.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import parser
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import vitnext
from vitnext.card import read_card
from vitnext.data.dataset import open_dataset
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import VOID
from vitnext.decode import open_image
from vitnext.evaluation.semantic import iou
from vitnext.preprocess import IMAGENET_MEAN, IMAGENET_STD
from vitnext.training.hardware import HOPELESS, keep_heap, product_ratio

CROP = (256, 320)  # height and width
SCALE = (0.5, 2.0)
BATCH = 8
WEIGHT_DECAY = 0.01  # torch's default
GRAIN = 32  # of the U-Net: sides must be multiples of it
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--minutes", type=float, default=15.0)
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--only", nargs="+", choices=("ours", "smp"), default=["ours", "smp"])
    flags.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    flags.add_argument("--model", help="of ours")
    flags.add_argument("--recipe", help="of ours")
    flags.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of our recipe")
    flags.add_argument("--smp-rate", type=float, default=1e-3, help="learning rate of the U-Net")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--images", type=int, help="measure so many of the test images; default: all")
    flags.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/camvid"), help="ours is trained in a folder there"
    )
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_heap()
    dataset = open_dataset(arguments.data)
    test = dataset.splits["test"]
    test = test.subset(range(min(len(test), arguments.images or len(test))))
    rows = []
    for name in arguments.only:
        if name == "ours":
            row, predict = train_ours(arguments)
        else:
            row, predict = train_unet(dataset.splits["train"], arguments)
        ious = measure(test, predict)
        row["test_miou"] = round(100 * float(np.nanmean(ious)), 2)
        row["per_class"] = {c: round(100 * float(v), 2) for c, v in zip(dataset.classes, ious, strict=True)}
        rows.append(row)
        print(
            f"{row['model']}: {row['steps']:,} steps, {row['images_per_second']:.1f} images/s, {row['dtype']}, "
            f"{row['seconds']:,.0f} s, test mIoU {row['test_miou']:.2f}% of {len(test)} images",
            flush=True,
        )
        print("  " + "  ".join(f"{c} {value:.1f}" for c, value in row["per_class"].items()), flush=True)
    if arguments.json is not None:
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        run = {"minutes": arguments.minutes, "seed": arguments.seed, "images": len(test), "rows": rows}
        arguments.json.write_text(json.dumps({**machine, **run}, indent=1) + "\n", encoding="utf-8")


Predict = Callable[[str], np.ndarray]  # an image's path -> class indices uint8 (H, W)


def measure(test: MaskSplit, predict: Predict) -> np.ndarray:
    """IoU of each class (C,), counted over all pixels of all images that are not void."""
    count = len(test.classes)
    confusion = np.zeros((count, count), np.int64)
    for i in range(len(test)):
        truth, predicted = test.mask(i), predict(test.image(i))
        seen = truth != VOID
        pairs = truth[seen].astype(np.int64) * count + predicted[seen]
        confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)
    return iou(confusion)


def train_ours(arguments: argparse.Namespace) -> tuple[dict, Predict]:
    folder = arguments.out / "ours"
    shutil.rmtree(folder, ignore_errors=True)
    result = vitnext.train(
        arguments.data,
        model=arguments.model,
        recipe=arguments.recipe,
        pretrained="auto" if arguments.recipe else "none",
        minutes=arguments.minutes,
        seed=arguments.seed,
        overrides=[f"precision={arguments.dtype}", *arguments.set],
        out=folder,
        console=Console(),
    )
    card = read_card(result.artifact)
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    steps, seconds = journal[-1]["step"], card.metrics["seconds"]
    predictor = vitnext.load(result.artifact, threads=arguments.threads)
    row = {
        "model": f"vitnext {card.architecture}",
        "parameters": sum(p.numel() for p in predictor.engine.model.parameters()),
        "steps": steps,
        "images_per_second": round(steps * card.recipe["batch_size"] / seconds, 2),
        "seconds": round(seconds, 1),
        "dtype": card.recipe["precision"],
        "recipe": card.recipe,
    }
    return row, lambda path: predictor.predict(path).mask


def train_unet(train: MaskSplit, arguments: argparse.Namespace) -> tuple[dict, Predict]:
    import segmentation_models_pytorch as smp

    torch.manual_seed(arguments.seed)
    model = smp.Unet("resnet18", encoder_weights=None, classes=len(train.classes)).train()
    pairs = [(torch.from_numpy(open_image(train.image(i))), torch.from_numpy(train.mask(i))) for i in range(len(train))]
    dtype, layout = fastest(model, batch_of(pairs[:BATCH]), arguments.dtype)
    model = model.to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), arguments.smp_rate, weight_decay=WEIGHT_DECAY)
    limit, start, steps, window = 60 * arguments.minutes, time.monotonic(), 0, []
    order: list[int] = []
    while (done := (time.monotonic() - start) / limit) < 1:
        for group in optimizer.param_groups:
            group["lr"] = arguments.smp_rate * (1 - done) ** 0.9
        if len(order) < BATCH:
            order = torch.randperm(len(pairs)).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        window.append(step(model, *batch_of([pairs[i] for i in chosen]), dtype, layout))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps % 50 == 0:
            print(f"U-Net, step {steps:,}, {time.monotonic() - start:,.0f} s, loss {sum(window) / 50:.3f}", flush=True)
            window = []
    seconds = time.monotonic() - start
    row = {
        "model": "segmentation_models_pytorch Unet resnet18",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "images_per_second": round(steps * BATCH / seconds, 2),
        "seconds": round(seconds, 1),
        "dtype": "bf16" if dtype == torch.bfloat16 else "fp32",
        "layout": str(layout),
        "learning_rate": arguments.smp_rate,
        "smp": smp.__version__,
    }
    model.eval()

    def predict(path: str) -> np.ndarray:
        image = normalized(torch.from_numpy(open_image(path)).permute(2, 0, 1)[None])
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % GRAIN, 0, -height % GRAIN))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(image.contiguous(memory_format=layout))
        return logits[0, :, :height, :width].float().argmax(0).byte().numpy()

    return row, predict


def step(model: nn.Module, images: Tensor, truth: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> float:
    """Forward and backward of one batch; its loss."""
    images = normalized(images).contiguous(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(images)
    loss = F.cross_entropy(logits.float(), truth, ignore_index=VOID)
    loss.backward()
    return loss.item()


def fastest(model: nn.Module, batch: tuple[Tensor, Tensor], wanted: str) -> tuple[torch.dtype, torch.memory_format]:
    """Number format and memory layout of the fastest step; bf16 is not tried where the machine emulates it."""
    dtypes = [torch.bfloat16] if wanted == "bf16" else [torch.float32]
    if wanted == "auto" and product_ratio() >= HOPELESS:
        dtypes.append(torch.bfloat16)
    times = {}
    for dtype, layout in itertools.product(dtypes, LAYOUTS):
        trial, seconds = copy.deepcopy(model).to(memory_format=layout), []
        for _ in range(3):
            start = time.perf_counter()
            step(trial, *batch, dtype, layout)
            seconds.append(time.perf_counter() - start)
        times[dtype, layout] = min(seconds[1:])
    print("U-Net, one step: " + ", ".join(f"{d} {m} {t:.2f} s" for (d, m), t in times.items()), flush=True)
    return min(times, key=lambda choice: times[choice])


def normalized(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float32."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean) / std


def batch_of(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images uint8 (H, W, 3) with masks uint8 (H, W) -> uint8 (B, 3, *CROP) and int64 (B, *CROP)."""
    images, masks = zip(*(augmented(*pair) for pair in pairs), strict=True)
    return torch.stack(images), torch.stack(masks).long()


def augmented(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A crop of CROP of the image at a random scale, filled up with black and void where it leaves the image."""
    low, high = (float(np.log(bound)) for bound in SCALE)
    scale = float(torch.empty(()).uniform_(low, high).exp())
    sides = [min(round(side / scale), full) for side, full in zip(CROP, mask.shape, strict=True)]
    top, left = (int(torch.randint(full - side + 1, ())) for side, full in zip(sides, mask.shape, strict=True))
    part = image[top : top + sides[0], left : left + sides[1]].permute(2, 0, 1)[None].float()
    labels = mask[top : top + sides[0], left : left + sides[1]][None, None].float()
    size = [min(full, round(side * scale)) for side, full in zip(sides, CROP, strict=True)]
    part = F.interpolate(part, size=size, mode="bilinear", antialias=True).round().clamp(0, 255)
    labels = F.interpolate(labels, size=size, mode="nearest-exact")
    y, x = (int(torch.randint(full - side + 1, ())) for side, full in zip(size, CROP, strict=True))
    beyond = (x, CROP[1] - size[1] - x, y, CROP[0] - size[0] - y)
    part, labels = F.pad(part, beyond)[0].byte(), F.pad(labels, beyond, value=VOID)[0, 0].byte()
    return (part.flip(-1), labels.flip(-1)) if torch.rand(()) < 0.5 else (part, labels)


if __name__ == "__main__":
    main()
