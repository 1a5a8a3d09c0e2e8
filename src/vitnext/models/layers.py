"""What two families share: checks of a config, norms, GELU and the one rule of initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def check_at_least(least: int, config: object, *fields: str) -> None:
    """Raise ValueError for the first field of a config, or number in a tuple, that is below ``least``."""
    for field in fields:
        value = getattr(config, field)
        if not all(number >= least for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{field} is {value}; it must be at least {least}")


def check_rates(config: object, *fields: str) -> None:
    """Raise ValueError for the first field of a config that is no probability below 1."""
    for field in fields:
        rate = getattr(config, field)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{field} is {rate}; it must be in [0, 1)")


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last dimension.

    Under autocast the CPU takes half the time in float32, casts included, where the width is no multiple of 16 (40
    channels, say): torch's bfloat16 kernel is slow there.
    """

    def forward(self, x: Tensor) -> Tensor:
        mixed = x.dtype == torch.bfloat16 and self.weight.dtype == torch.float32
        if mixed and x.device.type == "cpu" and self.normalized_shape[0] % 16:
            return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


class ChannelLayerNorm(LayerNorm):
    """LayerNorm over the channels at each position of (B, C, H, W). (GroupNorm(1) is not it: it mixes positions.)"""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d of a map (B, C, H, W) that nobody else needs: what a convolution gives.

    In evaluation without gradients the result is written over the map: the same numbers, without the time that a new
    map takes (on the CPU most of a large map's). A forward hook on the convolution that keeps its output finds this
    one's there.
    """

    def forward(self, x: Tensor) -> Tensor:
        # A tensor of another type is being traced, and an exported graph says what the layer is. What torch refuses
        # it shall refuse in its own words: the kernel itself does not look.
        if (
            self.training
            or torch.is_grad_enabled()
            or type(x) is not Tensor
            or x.device.type != "cpu"
            or x.dtype != self.weight.dtype  # autocast
            or x.ndim != 4
            or x.shape[1] != self.num_features
        ):
            return super().forward(x)
        statistics = self.weight, self.bias, self.running_mean, self.running_var
        written = x, x.new_empty(0), x.new_empty(0)  # and no statistics of the batch
        out: Tensor = torch.native_batch_norm(x, *statistics, False, 0.0, self.eps, out=written)[0]
        return out


def gelu(x: Tensor) -> Tensor:
    """GELU (Hendrycks and Gimpel 2016) of what nobody else needs: what a Linear or a convolution gives.

    Without gradients the result is written over it: the widest map of a block is not allocated twice, which on the CPU
    takes longer than the function. A forward hook that keeps the layer's output finds this one's there.
    """
    if torch.is_grad_enabled() or type(x) is not Tensor:  # a tensor of another type is being traced
        return F.gelu(x)
    out: Tensor = torch.ops.aten.gelu_(x)
    return out


class GELU(nn.GELU):
    """``gelu`` as a layer."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


def add_scaled(x: Tensor, scale: Tensor | None, branch: Tensor) -> Tensor:
    """x + scale * branch, layer scale and the residual, of a branch that nobody else needs.

    Without gradients the result is written over it: the same numbers without two new maps.
    """
    if scale is None:
        return x + branch
    alike = branch.dtype == scale.dtype == x.dtype  # else autocast, whose sum is in fp32
    if torch.is_grad_enabled() or type(branch) is not Tensor or not alike:
        return x + scale * branch
    return branch.mul_(scale).add_(x)


def initialize(model: nn.Module, head: nn.Module) -> None:
    """Weights that keep the variance of what flows through them at any width, zero biases, unit norms.

    Linears: Xavier uniform (Glorot and Bengio 2010, eq. 16), convolutions: normal with std 1 / sqrt(fan-in), as in the
    ViT authors' JAX code. DeiT, Swin and ConvNeXt fix a std of 0.02 instead, which is nearly the same at their widths
    (0.0228 for an MLP of 768) but so small at a width of 64 that training loses many epochs. ``head`` starts at a std
    of 0.02. A family's own parameters (tokens, positions, layer scale) are set by the family after this call.
    """
    if any(parameter.is_meta for parameter in model.parameters()):  # shapes alone, to be counted or compared
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.ConvTranspose2d):  # (in, out, k, k): an output of stride k sees one of k x k
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
