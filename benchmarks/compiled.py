"""Training steps on the CPU, forward and backward in bf16, uncompiled and compiled by torch.compile, in turns.

python benchmarks/compiled.py [--dtype bf16] [--json compiled.json]
"""

from __future__ import annotations

import time

import torch
from measure import interleaved, parser, report
from torch.nn import functional as F

from vitnext.models import catalog, create
from vitnext.recipe import read
from vitnext.training.hardware import keep_heap

VIT_TINY = {"dim": 192, "depth": 12, "heads": 3}
# model, what of its config is other, batch, pixels, channels
CASES = {
    "fashion_mnist_vit, batch 128": ("vit", read("fashion_mnist_vit").model.config, 128, 28, 1),
    "fashion_mnist_convnext, batch 128": ("convnext", read("fashion_mnist_convnext").model.config, 128, 28, 1),
    "convnext_atto at 64 px, batch 64": ("convnext_atto", {}, 64, 64, 3),
    "vit_tiny at 64 px, patches of 16, batch 64": ("vit", VIT_TINY | {"patch_size": 16}, 64, 64, 3),
    "vit_tiny at 64 px, patches of 8, batch 32": ("vit", VIT_TINY | {"patch_size": 8}, 32, 64, 3),
    "vit_tiny at 224 px, batch 8": ("vit_tiny", {}, 8, 224, 3),
    "vit_small at 224 px, batch 16": ("vit_small", {}, 16, 224, 3),
    "convnext_tiny at 224 px, batch 16": ("convnext_tiny", {}, 16, 224, 3),
}


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    arguments = flags.parse_args()
    keep_heap()
    rows = []
    for case, (name, changes, batch, side, channels) in CASES.items():
        torch.compiler.reset()
        config = {**changes, "channels": channels, "classes": 10}
        if create.family_of(name) == "vit":
            config["image_size"] = side
        model = create.build(name, **config).train()
        if catalog.FAMILIES[create.family_of(name)].channels_last:
            model = model.to(memory_format=torch.channels_last)
        images = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(10, (batch,))
        compiled = torch.compile(model, dynamic=False)

        def step(model: torch.nn.Module) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bf16"):
                loss = F.cross_entropy(model(images), labels)  # noqa: B023
            loss.backward()
            model.zero_grad()

        start = time.perf_counter()
        step(compiled)
        compiling = time.perf_counter() - start
        times = interleaved({"eager": lambda: step(model), "compiled": lambda: step(compiled)})  # noqa: B023
        macs = catalog.count_macs(model, side) * batch
        rows.append({"case": f"{case}, {macs / 1e9:.1f} G multiply-adds, {compiling:.0f} s to compile:", **times})
    report(rows, baseline="eager", path=arguments.json)


if __name__ == "__main__":
    main()
