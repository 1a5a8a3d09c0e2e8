"""An exponential moving average of the weights (Polyak and Juditsky 1992): smoother than the last step's."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """After step t: average <- d average + (1 - d) weights, d = min(decay, (1 + t) / (10 + t)).

    t counts from 1. The rising d forgets the start of the run, as in TensorFlow's ExponentialMovingAverage. Buffers
    (batch norm's statistics, averages already) are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        # One call for all, which a GPU answers by few kernels.
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), share)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
