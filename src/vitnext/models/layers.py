"""What two families share: stochastic depth and the one rule of initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drop a residual branch for a whole sample with probability ``rate`` (Huang et al. 2016, eq. 2).

    The kept branches are divided by 1 - rate, so that nothing changes at inference.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"stochastic depth rate {rate} is not in [0, 1)")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)  # one decision for each sample
        keep = torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(1.0 - self.rate)
        return branch * keep.div_(1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def stochastic_depth_rates(final_rate: float, blocks: int) -> list[float]:
    """Linear decay rule: 0 for the first block, ``final_rate`` for the last (Huang et al. 2016, section 4)."""
    return [final_rate * i / max(blocks - 1, 1) for i in range(blocks)]


def initialize(model: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights, zero biases, unit norms: what ViT (JAX), DeiT, Swin and ConvNeXt start from.

    Covers Linear, Conv2d and LayerNorm; a family's own parameters (tokens, positions, layer scale) are set by the
    family after this call.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
