"""UPerNet: "Unified Perceptual Parsing for Scene Understanding" (Xiao et al. 2018, arXiv:1807.10221, section 3).

Pyramid pooling on the coarsest map (Zhao et al. 2017, section 3.2: means over 1, 2, 3 and 6 cells a side), a feature
pyramid network from it down to the finest (Lin et al. 2017, figure 3), all levels fused at the finest resolution. The
auxiliary head, a small FCN on the last map but one, is a second loss in training (section 4.1 of Zhao et al.; as Swin's
and ConvNeXt's authors train).

Deviation from the FPN paper, as in the authors' code: every convolution is followed by batch norm and ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.heads.segformer import upsample
from vitnext.models.layers import check_at_least, check_rates

POOLS = (1, 2, 3, 6)  # cells a side


@dataclass(frozen=True)
class UPerNetConfig:
    """Every choice that changes the head."""

    width: int = 512
    dropout: float = 0.1  # of whole features, before the classifiers
    auxiliary_width: int = 256  # 0: no auxiliary head

    def __post_init__(self) -> None:
        check_at_least(1, self, "width")
        check_at_least(0, self, "auxiliary_width")
        check_rates(self, "dropout")


class ConvNormReLU(nn.Sequential):
    """(B, C_in, H, W) -> (B, C, H, W)."""

    def __init__(self, width_in: int, width: int, kernel: int = 1) -> None:
        convolution = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class UPerNetHead(nn.Module):
    """Maps (B, C_i, H_i, W_i), finest first -> logits (B, classes, H_1, W_1)."""

    def __init__(self, stages: Sequence[Stage], classes: int, config: UPerNetConfig) -> None:
        super().__init__()
        *finer, coarsest = (stage.channels for stage in stages)
        width = config.width
        self.pools = nn.ModuleList(ConvNormReLU(coarsest, width) for _ in POOLS)
        self.pooled = ConvNormReLU(coarsest + len(POOLS) * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormReLU(channels, width) for channels in finer)
        self.smooth = nn.ModuleList(ConvNormReLU(width, width, 3) for _ in finer)
        self.fuse = ConvNormReLU(len(stages) * width, width, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, x = maps
        means = [pool(F.adaptive_avg_pool2d(x, cells)) for pool, cells in zip(self.pools, POOLS, strict=True)]
        x = self.pooled(torch.cat([x, *(upsample(mean, x) for mean in means)], dim=1))
        levels = [x]
        for i in reversed(range(len(finer))):  # from coarse to fine
            lateral = self.laterals[i](finer[i])
            x = lateral + upsample(x, lateral)
            levels.append(self.smooth[i](x))
        levels = [upsample(level, maps[0]) for level in reversed(levels)]
        out: Tensor = self.classifier(self.dropout(self.fuse(torch.cat(levels, dim=1))))
        return out


class FCNHead(nn.Module):
    """A 3x3 convolution and a classifier on one map (Long et al. 2015): (B, C, H, W) -> (B, classes, H, W)."""

    def __init__(self, width_in: int, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.convolution = ConvNormReLU(width_in, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.dropout(self.convolution(x)))
        return out
