"""What two families share: checks of a config, stochastic depth and the one rule of initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


class StochasticDepth(nn.Module):
    """Drop a residual branch for a whole sample with probability ``rate`` (Huang et al. 2016, eq. 2).

    The kept branches are divided by 1 - rate, so that nothing changes at inference.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        check_rates(self, "rate")

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)  # one decision for each sample
        keep = torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(1.0 - self.rate)
        return branch * keep.div_(1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def stochastic_depth_rates(final_rate: float, blocks: int) -> list[float]:
    """0 for the first block, ``final_rate`` for the last (or only) one, linear between: as DeiT, Swin and ConvNeXt.

    Huang et al. 2016, eq. 4, start the line one block earlier, at the input.
    """
    if blocks == 1:
        return [final_rate]
    return [final_rate * i / (blocks - 1) for i in range(blocks)]


def initialize(model: nn.Module, std: float = 0.02) -> None:
    """Normal weights cut at two ``std`` (which leaves them 0.88 ``std``), zero biases, unit norms.

    The rule that DeiT and Swin state for Linears and ConvNeXt for every layer; their code, though, cuts at an absolute
    2, which is no cut. Covers Linear, Conv2d and LayerNorm; a family's own parameters (tokens, positions, layer scale)
    are set by the family after this call.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
