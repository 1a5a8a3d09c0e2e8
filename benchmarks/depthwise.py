"""Depthwise 7x7, forward and backward: torch's convolution beside the dense product, in turns, for small maps.

python benchmarks/depthwise.py [--json depthwise.json]
"""

from __future__ import annotations

import torch
from measure import interleaved, parse, report
from torch.nn import functional as F

from vitnext.models.depthwise import dense_depthwise
from vitnext.training.hardware import keep_heap

SHAPES = [(64, 320, 3), (128, 160, 3), (64, 160, 6), (128, 80, 7), (64, 80, 12), (128, 40, 14)]  # batch, channels, map


def main() -> None:
    arguments = parse(__doc__)
    keep_heap()
    rows = []
    for batch, channels, size in SHAPES:
        x = torch.randn(batch, channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight, bias = torch.randn(channels, 1, 7, 7, requires_grad=True), torch.zeros(channels, requires_grad=True)
        gradient = torch.randn_like(x)

        def convolution() -> None:
            F.conv2d(x, weight, bias, padding=3, groups=channels).backward(gradient)  # noqa: B023

        def dense() -> None:
            dense_depthwise(x, weight, bias).backward(gradient)  # noqa: B023

        times = interleaved({"convolution": convolution, "dense": dense})
        rows.append({"map": f"{batch} x {channels} x {size} x {size}", **times})
    report(rows, baseline="convolution", path=arguments.json)


if __name__ == "__main__":
    main()
