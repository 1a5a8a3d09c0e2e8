"""Convolutions with stride = kernel in training, forward and backward: torch's beside a Linear on patches, in turns.

python benchmarks/patches.py [--json patches.json]
"""

from __future__ import annotations

import torch
from measure import interleaved, parser, report
from torch.nn import functional as F

from vitnext.models.patches import patches_linear
from vitnext.training.hardware import keep_heap

# batch, channels in and out, map, kernel
SHAPES = [(128, 40, 80, 14, 2), (128, 80, 160, 7, 2), (8, 96, 192, 56, 2), (8, 384, 768, 14, 2), (8, 32, 32, 56, 8)]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    keep_heap()
    rows = []
    for batch, width_in, width, map_size, size in SHAPES:
        x = torch.randn(batch, width_in, map_size, map_size)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(width, width_in, size, size)
        weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
        bias = torch.zeros(width, requires_grad=True)
        gradient = torch.randn_like(F.conv2d(x, weight, bias, stride=size))

        def convolution() -> None:
            F.conv2d(x, weight, bias, stride=size).backward(gradient)  # noqa: B023

        def linear() -> None:
            patches_linear(x, weight, bias).backward(gradient)  # noqa: B023

        times = interleaved({"convolution": convolution, "linear": linear})
        rows.append({"map": f"{batch} x {width_in} x {map_size} x {map_size} to {width}, {size}x{size}", **times})
    report(rows, baseline="convolution", path=arguments.json)


if __name__ == "__main__":
    main()
