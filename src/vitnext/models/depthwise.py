"""Depthwise convolution: one k x k filter a channel (ConvNeXt, section 2.3).

On the CPU, torch's backward pass is slow where the map is smaller than the kernel, as in the last stages of a network
at low resolution. There the convolution is written as what it nearly is, a dense product: for each channel a matrix
that holds the filter at every offset (benchmarks/depthwise.py). The result is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, C, H, W) with an odd kernel, stride 1 and zero padding."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__(width, width, kernel_size, padding=kernel_size // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        small = max(x.shape[-2:]) < self.kernel_size[0] and x.shape[0] >= 16
        if small and x.device.type == "cpu" and self.training and torch.is_grad_enabled():
            return dense_depthwise(x, self.weight, self.bias)
        return super().forward(x)


def dense_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (B, C, H, W) with weight (C, 1, k, k), padded by k // 2, as one matrix for each channel.

    out[b, c, p] = sum over positions q of matrix[c, p, q] x[b, c, q], where matrix[c, p, q] is the filter's value at
    the offset q - p, and 0 outside of the filter.
    """
    batch, channels, height, width = x.shape
    kernel = weight.shape[-1]
    dy = _offsets(height, kernel, x.device)[:, None, :, None]  # (H, 1, H, 1): rows of p, of q
    dx = _offsets(width, kernel, x.device)[None, :, None, :]  # (1, W, 1, W)
    inside = (dy >= 0) & (dy < kernel) & (dx >= 0) & (dx < kernel)
    index = (dy.clamp(0, kernel - 1) * kernel + dx.clamp(0, kernel - 1)).flatten()  # (HW * HW,)
    positions = height * width
    matrix = (weight.flatten(1)[:, index] * inside.flatten()).reshape(channels, positions, positions)
    columns = x.permute(1, 2, 3, 0).reshape(channels, positions, batch)
    out = matrix @ columns if bias is None else torch.baddbmm(bias[:, None, None], matrix, columns)  # (C, HW, B)
    return out.reshape(channels, height, width, batch).permute(3, 0, 1, 2)


def _offsets(size: int, kernel: int, device: torch.device) -> Tensor:
    """(size, size): q - p, counted from the filter's first row or column."""
    place = torch.arange(size, device=device)
    return place[None, :] - place[:, None] + kernel // 2
