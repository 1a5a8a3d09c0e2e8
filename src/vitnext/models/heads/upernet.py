"""UPerNet: "Unified Perceptual Parsing for Scene Understanding" (Xiao et al. 2018, arXiv:1807.10221, section 3).

Pyramid pooling on the coarsest map (Zhao et al. 2017, section 3.2: means over 1, 2, 3 and 6 cells a side), a feature
pyramid network from it down to the finest (Lin et al. 2017, figure 3), all levels fused at the finest resolution. The
auxiliary head, a small FCN on the last map but one, is a second loss in training (section 4.1 of Zhao et al.; as Swin's
and ConvNeXt's authors train).

Deviation from the FPN paper, as in the authors' code: every convolution is followed by batch norm and ReLU.

The two 3x3 convolutions of concatenated maps, which are most of the head's work, are not computed at the finest map's
resolution alone: what a coarser map adds is computed at its own and then upsampled (``convolve_upsampled``). The result
is the same; the fusing convolution of four levels takes a third of the multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.heads.segformer import upsample
from vitnext.models.layers import BatchNorm, check_at_least, check_rates

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
        super().__init__(convolution, BatchNorm(width), nn.ReLU(inplace=True))


class FusingConvNormReLU(ConvNormReLU):
    """Maps (B, C_i, H_i, W_i), of whatever resolution -> (B, C, H_1, W_1): the same of all maps upsampled to the first.

    C_in is the sum of all C_i; the kernel is 3.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width_in, width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        convolution, norm, relu = cast("tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]", tuple(self))
        first, *others = maps
        of_first, *of_others = convolution.weight.split([x.shape[1] for x in maps], dim=1)
        out = F.conv2d(first, of_first, padding=1)
        for x, weight in zip(others, of_others, strict=True):
            out = out + convolve_upsampled(x, weight, out)
        return cast(Tensor, relu(norm(out)))

    def own_macs(self, inputs: tuple[Sequence[Tensor], ...]) -> int:
        """Multiply-adds of the convolution, whose shares are not called as modules."""
        return sum(x.numel() for x in inputs[0]) * 9 * cast(nn.Conv2d, self[0]).out_channels


def convolve_upsampled(x: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """F.conv2d(upsample(x, like), weight, padding=1), computed at x's resolution: (B, C_in, h, w) -> (B, C, H, W).

    With the filter's taps W_d, d = (-1, -1) ... (1, 1), and Shift_d(y)[p] = y[p + d], 0 beyond the map:

        sum_d W_d Shift_d(Upsample(x)) = sum_d Shift_d(Upsample(W_d x))

    since shifting and upsampling treat all channels alike. Both are products with one matrix a direction.
    """
    batch, _, height, length = x.shape
    width, channels, *_ = weight.shape
    rows, columns = (shifted_upsampling(*sizes, x) for sizes in zip(x.shape[2:], like.shape[2:], strict=True))
    taps = F.linear(x.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1).reshape(9 * width, channels))  # (B, h, w, 9 C)
    taps = taps.view(batch, height, length, 3, 3, width).permute(0, 3, 1, 4, 2, 5)
    out = columns @ taps.reshape(batch, 3 * height, 3 * length, width)  # (B, 3 h, W, C)
    out = rows @ out.flatten(2)  # (B, H, W C)
    return out.unflatten(2, (-1, width)).permute(0, 3, 1, 2)


def shifted_upsampling(length: int, size: int, like: Tensor) -> Tensor:
    """(size, 3 length): the matrix of linear interpolation, shifted by -1, 0 and 1, side by side; 0 beyond the ends."""
    units = torch.eye(length, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))[None]
    upsampled = F.interpolate(units, size=size, mode="linear", align_corners=False)[0].t()  # (size, length)
    padded = F.pad(upsampled, (0, 0, 1, 1))
    return torch.cat([padded[shift : shift + size] for shift in range(3)], dim=1).to(like.dtype)


class UPerNetHead(nn.Module):
    """Maps (B, C_i, H_i, W_i), finest first -> logits (B, classes, H_1, W_1)."""

    def __init__(self, stages: Sequence[Stage], classes: int, config: UPerNetConfig) -> None:
        super().__init__()
        *finer, coarsest = (stage.channels for stage in stages)
        width = config.width
        self.pools = nn.ModuleList(ConvNormReLU(coarsest, width) for _ in POOLS)
        self.pooled = FusingConvNormReLU(coarsest + len(POOLS) * width, width)
        self.laterals = nn.ModuleList(ConvNormReLU(channels, width) for channels in finer)
        self.smooth = nn.ModuleList(ConvNormReLU(width, width, 3) for _ in finer)
        self.fuse = FusingConvNormReLU(len(stages) * width, width)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, x = maps
        means = [pool(F.adaptive_avg_pool2d(x, cells)) for pool, cells in zip(self.pools, POOLS, strict=True)]
        x = self.pooled([x, *means])
        levels = [x]
        for i in reversed(range(len(finer))):  # from coarse to fine
            lateral = self.laterals[i](finer[i])
            x = lateral + upsample(x, lateral)
            levels.append(self.smooth[i](x))
        out: Tensor = self.classifier(self.dropout(self.fuse(levels[::-1])))
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
