"""A training step of ViT-B and ConvNeXt-B on a CUDA GPU beside timm's same models, bf16 autocast, eager and compiled.

A step is forward, cross-entropy, backward and fused AdamW on random images that lie on the card; ConvNeXt runs in
channels-last memory on both sides. Four variants take turns. The share of the matrix peak is 6 floating-point
operations per multiply-add of the forward pass, over the step's time, over what an 8192^3 bf16 product reaches on the
same card in the same run.

    python benchmarks/gpu.py [--only vit_base convnext_base] [--batch 128] [--rounds 20] [--json gpu.json]
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import timm
import torch
from measure import parser
from torch import nn
from torch.nn import functional as F

from vitnext.models import catalog

MODELS = {"vit_base": "vit_base_patch16_224", "convnext_base": "convnext_base"}
SIZE, CLASSES = 224, 1000


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    flags.add_argument("--batch", type=int, default=128)
    flags.add_argument("--rounds", type=int, default=20)
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
        flops = 6 * catalog.count_macs(ours, SIZE) * arguments.batch
        models = {"vitnext": ours, "timm": timm.create_model(MODELS[name], num_classes=CLASSES)}
        if catalog.FAMILIES[catalog.family_of(name)].channels_last:
            images = images.to(memory_format=torch.channels_last)
            models = {who: model.to(memory_format=torch.channels_last) for who, model in models.items()}
        steps = {}
        for who, model in models.items():
            model.cuda().train()
            optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
            steps[f"{who} eager"] = step_of(model, optimizer, images, labels)
            steps[f"{who} compiled"] = step_of(torch.compile(model), optimizer, images, labels)
        for step in steps.values():
            for _ in range(3):
                step()
        times = interleaved(steps, arguments.rounds)
        for mode in ("eager", "compiled"):
            ratio = times[f"timm {mode}"] / times[f"vitnext {mode}"]
            share = flops / times[f"vitnext {mode}"] / peak
            print(
                f"{name}, batch {arguments.batch}, {mode}: vitnext {1e3 * times[f'vitnext {mode}']:.1f} ms, timm "
                f"{1e3 * times[f'timm {mode}']:.1f} ms, ratio {ratio:.2f}; {100 * share:.0f}% of the matrix peak",
                flush=True,
            )
        rows.append({"model": name, "batch": arguments.batch, "flops": flops, "peak": peak, **times})
    if arguments.json is not None:
        card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "timm": timm.__version__}
        arguments.json.write_text(json.dumps({**card, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def step_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def interleaved(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each by the card's own clock."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def matrix_peak(side: int = 8192) -> float:
    """Floating-point operations a second of a bf16 product of random matrices, the median of 20."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2 * side**3 / interleaved({"product": lambda: a @ b}, 20)["product"]


if __name__ == "__main__":
    main()
