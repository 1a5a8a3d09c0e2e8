"""A training step of ViT-B and ConvNeXt-B on a CUDA GPU beside timm's same models, bf16 autocast, eager and compiled.

A step is forward, cross-entropy, backward and fused AdamW on random images that lie on the card; ConvNeXt runs in
channels-last memory on both sides. vitnext is compiled as `compile=on` does it, with CUDA graphs; timm's by
torch.compile as it is, and with CUDA graphs too (mode="reduce-overhead"). All variants take turns. The share of the
matrix peak is 6 floating-point operations per multiply-add of the forward pass, over the step's time, over what an
8192^3 bf16 product reaches on the same card in the same run.

    python benchmarks/gpu.py [--only vit_base convnext_base] [--batch 128] [--rounds 20] [--sides ...] [--json gpu.json]
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

import timm
import torch
from measure import parser
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models import catalog
from vitnext.training.compilation import compiled

MODELS = {"vit_base": "vit_base_patch16_224", "convnext_base": "convnext_base"}
SIDES = ("vitnext eager", "vitnext compiled", "timm eager", "timm compiled", "timm with graphs")
SIZE, CLASSES = 224, 1000


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    flags.add_argument("--batch", type=int, default=128)
    flags.add_argument("--rounds", type=int, default=20)
    flags.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    arguments = flags.parse_args()
    peak = matrix_peak()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, timm {timm.__version__}", flush=True)
    print(f"bf16 product of 8192 x 8192 matrices: {peak / 1e12:.0f} TFLOP/s", flush=True)
    rows = []
    for name in arguments.only:
        images = torch.randn(arguments.batch, 3, SIZE, SIZE, device="cuda")
        labels = torch.randint(CLASSES, (arguments.batch,), device="cuda")
        config = {"image_size": SIZE} if name.startswith("vit") else {}
        ours = catalog.build(name, classes=CLASSES, **config)
        macs = catalog.count_macs(ours, SIZE)
        models = {"vitnext": ours, "timm": timm.create_model(MODELS[name], num_classes=CLASSES)}
        if catalog.FAMILIES[catalog.family_of(name)].channels_last:
            images = images.to(memory_format=torch.channels_last)
            models = {who: model.to(memory_format=torch.channels_last) for who, model in models.items()}
        objectives: dict[str, Callable[..., Tensor]] = {
            "vitnext eager": loss,
            "vitnext compiled": compiled(loss, graphs=True),
            "timm eager": loss,
            "timm compiled": with_passes(torch.compile(models["timm"])),
            "timm with graphs": with_passes(torch.compile(models["timm"], mode="reduce-overhead")),
        }
        steps = {}
        for side in arguments.sides:
            model = models[side.partition(" ")[0]].cuda().train()
            optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
            steps[side] = step_of(model, objectives[side], optimizer, images, labels)
            for _ in range(4):
                steps[side]()
        times = interleaved(steps, arguments.rounds)
        for side, seconds in times.items():
            share = 6 * macs * arguments.batch / seconds / peak
            rate = arguments.batch / seconds
            print(
                f"{name}, batch {arguments.batch}, {side:16}: {1e3 * seconds:6.2f} ms a step, {rate:7,.0f} images/s, "
                f"{share:.1%} of the matrix peak",
                flush=True,
            )
        rows.append({"model": name, "batch": arguments.batch, "macs": macs, "peak": peak, **times})
        del models, ours, steps, objectives
        torch.cuda.empty_cache()
    if arguments.json is not None:
        card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "timm": timm.__version__}
        arguments.json.write_text(json.dumps({**card, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def loss(model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
    return F.cross_entropy(model(images).float(), labels)


def with_passes(view: Any) -> Callable[..., Tensor]:
    def of_view(model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return loss(view, images, labels, done)

    return of_view


def step_of(
    model: nn.Module,
    objective: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            value = objective(model, images, labels, 0.0)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def interleaved(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each by the card's own clock, of turns of three steps."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            run()  # what the turn before left in caches and queues is not counted
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(3):
                run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end) / 3e3)
    return {name: statistics.median(values) for name, values in times.items()}


def matrix_peak(side: int = 8192) -> float:
    """Floating-point operations a second of a bf16 product of random matrices, the median of 20 turns."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2 * side**3 / interleaved({"product": lambda: a @ b}, 20)["product"]


if __name__ == "__main__":
    main()
