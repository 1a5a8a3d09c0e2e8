"""Depthwise convolution in training, forward and backward: torch's beside ours, in turns.

python benchmarks/depthwise.py [--json depthwise.json]
"""

from __future__ import annotations

import torch
from measure import interleaved, parser, report
from torch.nn import functional as F

from vitnext.models.depthwise import DepthwiseConvolution
from vitnext.training.hardware import keep_heap

# batch, channels, map, kernel
SHAPES = [
    *((64, 320, 3, 7), (128, 160, 3, 7), (64, 160, 6, 7), (128, 80, 7, 7), (32, 768, 7, 7), (16, 768, 7, 7)),
    *((64, 80, 8, 7), (64, 80, 12, 7), (128, 40, 14, 7), (128, 160, 3, 3), (128, 160, 5, 5)),
    *((16, 96, 56, 7), (16, 192, 28, 7), (16, 384, 14, 7), (4, 96, 56, 7), (4, 384, 14, 7), (8, 40, 56, 7)),
]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    keep_heap()
    rows = []
    for batch, channels, size, kernel in SHAPES:
        x = torch.randn(batch, channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
        bias = torch.zeros(channels, requires_grad=True)
        gradient = torch.randn_like(x)

        def torchs() -> None:
            F.conv2d(x, weight, bias, padding=kernel // 2, groups=channels).backward(gradient)  # noqa: B023

        def ours() -> None:
            DepthwiseConvolution.apply(x, weight, bias).backward(gradient)  # noqa: B023

        times = interleaved({"torch": torchs, "ours": ours})
        rows.append({"map": f"{batch} x {channels} x {size} x {size}, kernel {kernel}", **times})
    report(rows, baseline="torch", path=arguments.json)


if __name__ == "__main__":
    main()
