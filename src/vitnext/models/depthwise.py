"""Depthwise convolution: one k x k filter a channel (ConvNeXt, section 2.3).

The gradient of the map is the convolution with the filter turned around. On a GPU that kernel took half the time of
cuDNN's gradient (140 and 293 microseconds a block of ConvNeXt-B, torch.profiler on an H200). On the CPU, torch's
gradient of the filters takes 2 to 50 times as long as the convolution; that one is a depthwise convolution itself, of
the map with the map's gradient as the filter, and as such fast. The results are the same (benchmarks/depthwise.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight


class DepthwiseConv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, C, H, W) with an odd kernel, stride 1 and zero padding."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__(width, width, kernel_size, padding=kernel_size // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        slow = kernel > 3 or max(x.shape[-2:]) < kernel  # torch's backward pass
        # A GPU waits for Python; compiled there is none of it left.
        ours = x.device.type == "cpu" or (x.device.type == "cuda" and torch.compiler.is_compiling())
        if slow and ours and self.training and torch.is_grad_enabled():
            out: Tensor = DepthwiseConvolution.apply(*autocast(x, self.weight, self.bias))
            return out
        return super().forward(x)


def autocast(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    """All in the number format of autocast, if it is on: what is kept for the backward pass is then cast already."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, *parameters
    dtype = torch.get_autocast_dtype(kind)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in (x, *parameters))


class DepthwiseConvolution(torch.autograd.Function):
    """The same convolution of x (B, C, H, W) with weight (C, 1, k, k); its backward pass is ours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if x.is_contiguous(memory_format=torch.channels_last):  # torch.compile may hand over the gradient in another
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = convolve(gradient, weight.flip(2, 3), None) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            kernel = weight.shape[-1]
            if x.device.type == "cpu":
                small = max(x.shape[-2:]) <= kernel // 2
                of_weight = (filters_by_product if small else filters_by_convolution)(x, gradient, kernel)
            else:
                of_weight = conv2d_weight(x, weight.shape, gradient, 1, kernel // 2, 1, x.shape[1])
        return of_x, of_weight, of_bias


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Without the filter's far ends, which a small map never touches: torch is slow with them on 1 x 1 maps."""
    middle = weight.shape[-1] // 2
    y, z = (min(middle, size - 1) for size in x.shape[-2:])
    weight = weight[:, :, middle - y : middle + y + 1, middle - z : middle + z + 1]
    return F.conv2d(x, weight, bias, padding=(y, z), groups=weight.shape[0])


def filters_by_convolution(x: Tensor, gradient: Tensor, kernel: int) -> Tensor:
    """(C, 1, k, k): for each offset o of the filter the sum of gradient[b, c, p] x[b, c, p + o] over b and p.

    One map of B * C channels, each with a filter as large as the map: F.conv2d adds up over p, and B is left.
    """
    batch, channels, height, width = x.shape
    x = x.contiguous().view(1, batch * channels, height, width)
    filters = gradient.contiguous().view(batch * channels, 1, height, width)
    of_each = F.conv2d(x, filters, padding=kernel // 2, groups=batch * channels)  # (1, B * C, k, k)
    return of_each.view(batch, channels, 1, kernel, kernel).sum(0)


def filters_by_product(x: Tensor, gradient: Tensor, kernel: int) -> Tensor:
    """The same from a product of matrices for each channel: torch is slow on maps smaller than their padding."""
    height, width = x.shape[-2:]
    products = by_channel(gradient).transpose(1, 2) @ by_channel(x)  # (C, HW, HW): every p with every q, over all b
    # Those with the same q - p are added up: F.fold adds where q + p' is the same, and p' counts backwards.
    offsets = F.fold(products.flip(1), (2 * height - 1, 2 * width - 1), (height, width))  # (C, 1, 2 H - 1, 2 W - 1)
    y, z = kernel // 2 + 1 - height, kernel // 2 + 1 - width  # what is beyond the filter is cut, what is missing is 0
    return F.pad(offsets, (z, z, y, y))


def by_channel(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C, B, HW), contiguous."""
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(-1, channels).t().contiguous().view(channels, batch, height * width)
