"""Convolutions whose windows do not overlap: patches, one Linear on each (ConvNeXt, section 2.6), and single points."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchConv2d(nn.Conv2d):
    """A k x k convolution with stride k: (B, C_in, H, W) -> (B, C, H / k, W / k), rounded down.

    On the CPU, torch's backward pass of it is slower than that of the Linear which it is (benchmarks/patches.py): in
    training it is written so.
    """

    def __init__(self, width_in: int, width: int, size: int) -> None:
        super().__init__(width_in, width, size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and self.training and torch.is_grad_enabled():
            return patches_linear(x, self.weight, self.bias)
        return super().forward(x)


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution with a stride, no padding: (B, C_in, H, W) -> (B, C, H / stride, W / stride), rounded up.

    With gradients on the CPU it is the same without a stride, on what the stride leaves of the map: on a processor with
    AVX-512 torch's gradient of its filters wrote beyond its memory for 3 to 12 channels in channels-last memory (torch
    2.14, oneDNN; the process ended with a segmentation fault).
    """

    def __init__(self, width_in: int, width: int, stride: int, *, bias: bool = True) -> None:
        super().__init__(width_in, width, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            y, z = self.stride
            return F.conv2d(x[:, :, ::y, ::z], self.weight, self.bias)
        return super().forward(x)


def patches_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d(x, weight, bias, stride=k) with weight (C, C_in, k, k), as one product of matrices."""
    width, width_in, size, _ = weight.shape
    height, length = x.shape[2] // size, x.shape[3] // size
    x = x[:, :, : height * size, : length * size].permute(0, 2, 3, 1)  # (B, H, W, C_in)
    x = x.reshape(-1, height, size, length, size, width_in).transpose(2, 3).flatten(3)  # (B, H / k, W / k, k k C_in)
    return F.linear(x, weight.permute(0, 2, 3, 1).reshape(width, -1), bias).permute(0, 3, 1, 2)
