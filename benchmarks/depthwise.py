"""Depthwise convolution in training, forward and backward: torch's beside ours, in turns.

python benchmarks/depthwise.py [--dtypes fp32 bf16] [--device cuda] [--json depthwise.json]

On a GPU they are the maps of ConvNeXt-B with a batch of 128, and CUDA graphs, so that the host plays no part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from measure import interleaved, parser, report
from torch.nn import functional as F

from vitnext.models.depthwise import DepthwiseConvolution
from vitnext.training.hardware import keep_heap

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# batch, channels, map, kernel
SHAPES = [
    *((16, 96, 56, 7), (16, 192, 28, 7), (16, 384, 14, 7), (16, 768, 7, 7), (4, 96, 56, 7), (4, 384, 14, 7)),
    *((2, 96, 128, 7), (128, 44, 14, 7), (128, 88, 7, 7), (128, 176, 3, 7), (64, 160, 6, 7), (64, 80, 12, 7)),
    *((128, 160, 5, 5), (64, 240, 14, 5), (128, 160, 2, 3), (8, 80, 28, 31)),
]
GPU_SHAPES = [(128, 128, 56, 7), (128, 256, 28, 7), (128, 512, 14, 7), (128, 1024, 7, 7)]


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    arguments = flags.parse_args()
    keep_heap()
    rows = []
    for dtype, (batch, channels, size, kernel) in itertools.product(
        arguments.dtypes, SHAPES if arguments.device == "cpu" else GPU_SHAPES
    ):
        torch.set_default_device(arguments.device)
        x = torch.randn(batch, channels, size, size, dtype=DTYPES[dtype])
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, 1, kernel, kernel, dtype=DTYPES[dtype], requires_grad=True)
        bias = torch.zeros(channels, dtype=DTYPES[dtype], requires_grad=True)
        gradient = torch.randn_like(x)

        def torchs() -> None:
            F.conv2d(x, weight, bias, padding=kernel // 2, groups=channels).backward(gradient)  # noqa: B023

        def ours() -> None:
            DepthwiseConvolution.apply(x, weight, bias).backward(gradient)  # noqa: B023

        variants: dict[str, Callable[[], object]] = {"torch": torchs, "ours": ours}
        if arguments.device == "cuda":
            variants = {name: recorded(run) for name, run in variants.items()}
        times = interleaved(variants, device=arguments.device)
        rows.append({"map": f"{dtype}, {batch} x {channels} x {size} x {size}, kernel {kernel}", **times})
    report(rows, baseline="torch", path=arguments.json)


def recorded(run: Callable[[], object]) -> Callable[[], object]:
    """A run as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


if __name__ == "__main__":
    main()
