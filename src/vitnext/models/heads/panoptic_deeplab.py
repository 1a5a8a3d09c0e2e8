"""Panoptic-DeepLab's heads: classes, centres and offsets (Cheng et al. 2020, arXiv:1911.10194, section 3.1).

Every pixel says its class, how near it is to the centre of an object, and where the centre of its own object lies.
`vitnext.inference.centers` groups the pixels. There is no query and no box, so that the number of objects is open, and
answers of overlapping windows can be blended.

Deviations: the decoder is SegFormer's, one for all three, instead of one with ASPP for classes and one for the rest;
offsets are in units of 32 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.heads.segformer import SegFormerConfig, SegFormerHead
from vitnext.models.layers import BatchNorm, check_at_least, check_rates


@dataclass(frozen=True)
class PanopticDeepLabConfig:
    """Every choice that changes the heads."""

    width: int = 256
    dropout: float = 0.1  # before the classifier

    def __post_init__(self) -> None:
        check_at_least(1, self, "width")
        check_rates(self, "dropout")


class Separable(nn.Sequential):
    """A depthwise 5 x 5 convolution and a pointwise one, each with batch norm and ReLU: (B, C, H, W) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
            BatchNorm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            BatchNorm(width),
            nn.ReLU(),
        )


class PanopticDeepLabHead(SegFormerHead):
    """Maps (B, C_i, H_i, W_i), finest first -> (B, classes + 3, H_1, W_1): logits of classes, the centres' heat, and
    the offsets to the own centre, y and x."""

    def __init__(self, stages: Sequence[Stage], classes: int, config: PanopticDeepLabConfig) -> None:
        super().__init__(stages, classes, SegFormerConfig(config.width, config.dropout))
        self.of_classes, self.of_objects = Separable(config.width), Separable(config.width)
        self.center = nn.Conv2d(config.width, 1, 1)
        self.offset = nn.Conv2d(config.width, 2, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fused = F.relu(self.norm(self.fused(maps)))
        objects = self.of_objects(fused)
        classes = self.classifier(self.dropout(self.of_classes(fused)))
        return torch.cat([classes, self.center(objects), self.offset(objects)], dim=1)
