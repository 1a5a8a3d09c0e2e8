"""ConvNeXt: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv:2201.03545, section 2 and figure 4).

    block:       x <- x + gamma * W_2 GELU(W_1 LN(DWConv_7x7(x)))      W_1: C -> 4C, W_2: 4C -> C
    stem:        4x4 convolution, stride 4, then LN                     (patchify, section 2.2)
    downsample:  LN, then 2x2 convolution, stride 2                     (section 2.6)
    head:        global average, LN, Linear

Paper -> here: gamma -> layer_scale, the 1x1 convolutions W_1 and W_2 -> expand and project (Linears on channels-last
features, where a 1x1 convolution is a matrix product).
Deviations: none. ``stem_stride`` and the number of stages are free, so that 8x8 and 28x28 images keep their detail.
DINOv3's ConvNeXts (Simeoni et al. 2025, arXiv:2508.10104) are this network without a head: their global feature is
what ``pooled`` gives, LN of the average.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.depthwise import DepthwiseConv2d
from vitnext.models.layers import ChannelLayerNorm, LayerNorm, add_scaled, check_at_least, check_rates, gelu, initialize
from vitnext.models.patches import PatchConv2d
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Every choice that changes the network. The defaults are ConvNeXt-T (section 3)."""

    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    stem_stride: int = 4  # the stem's kernel and stride
    depths: tuple[int, ...] = (3, 3, 9, 3)  # blocks in each stage
    widths: tuple[int, ...] = (96, 192, 384, 768)  # C of each stage
    kernel_size: int = 7
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-6  # gamma's start; 0: no layer scale
    dropout: float = 0.0  # before the head's Linear
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ValueError(f"depths {self.depths} and widths {self.widths} must have one number for each stage")
        check_at_least(1, self, "channels", "stem_stride", "depths", "widths", "kernel_size")
        check_at_least(0, self, "classes")
        check_rates(self, "dropout", "stochastic_depth")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even; the padding needs an odd one")
        if not min(self.widths) * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves a block without a hidden unit")

    @property
    def stride(self) -> int:
        """Pixels to one position of the last stage: 32 for the published sizes."""
        return self.stem_stride * 2 ** (len(self.depths) - 1)


class ConvNeXtBlock(nn.Module):
    """Figure 4, right: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, config: ConvNeXtConfig, stochastic_depth: float) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * width)
        self.depthwise = DepthwiseConv2d(width, config.kernel_size)
        self.norm = LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.layer_scale = nn.Parameter(torch.empty(width)) if config.layer_scale else None
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.layer_scale is None:
            return self.stochastic_depth.residual(x, self.branch)
        return add_scaled(x, self.layer_scale.view(-1, 1, 1), self.branch(x))

    def branch(self, x: Tensor) -> Tensor:
        x = self.depthwise(x).permute(0, 2, 3, 1)  # (B, H, W, C): free when the memory is channels-last
        x = gelu(self.expand(self.norm(x)))
        if (gamma := self.layer_scale) is not None and self.training:
            # gamma W_2 and gamma b_2 are smaller than a map and its gradient
            x = F.linear(x, gamma[:, None] * self.project.weight, gamma * self.project.bias)
        else:
            x = self.project(x)
        return x.permute(0, 3, 1, 2)


class ConvNeXtStage(nn.Module):
    """A separate downsampling layer (all stages but the first), then blocks of one width.

    It describes itself as ``backbone.Stage`` does: ``name``, ``channels`` and ``stride`` of what leaves it.
    """

    def __init__(self, stage: Stage, width_in: int, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.name, self.channels, self.stride = stage.name, stage.channels, stage.stride
        self.downsample = nn.Sequential()
        if width_in:
            self.downsample.append(ChannelLayerNorm(width_in, eps=1e-6))
            self.downsample.append(PatchConv2d(width_in, stage.channels, 2))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))  # (B, C_in, H, W) -> (B, C, H / 2, W / 2)
        return out


class ConvNeXt(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes); with ``classes=0`` the feature (B, C).

    Any size from ``config.stride`` up is taken; a smaller one raises ValueError.
    """

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        widths, stem = config.widths, config.stem_stride
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, widths[0], stem, stride=stem), ChannelLayerNorm(widths[0], eps=1e-6)
        )
        rates = iter(stochastic_depth_rates(config.stochastic_depth, sum(config.depths)))
        self.stages = nn.ModuleList()
        for i, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
            stage = Stage(f"stage{i + 1}", width, stem * 2**i)
            blocks = [ConvNeXtBlock(width, config, next(rates)) for _ in range(depth)]
            self.stages.append(ConvNeXtStage(stage, widths[i - 1] if i else 0, blocks))
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter, gamma to config.layer_scale; nothing keeps what construction left in it."""
        initialize(self, self.head)
        for module in self.modules():
            if isinstance(module, ConvNeXtBlock) and module.layer_scale is not None:
                nn.init.constant_(module.layer_scale, self.config.layer_scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.pooled(images)))

    def pooled(self, images: Tensor) -> Tensor:
        """LN of the average over the last stage's positions: (B, C)."""
        *_, x = self.pyramid(images).values()
        feature: Tensor = self.norm(x.mean(dim=(2, 3)))
        return feature

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Stage name -> (B, C_i, H / (stem 2^i), W / (stem 2^i)), i counted from 0."""
        check_covers_stride(images, self.config.stride)
        x: Tensor = self.stem(images)
        maps: dict[str, Tensor] = {}
        for stage in self.stages:
            x = maps[cast(str, stage.name)] = stage(x)
        return maps


def check_covers_stride(images: Tensor, stride: int) -> None:
    """Raise ValueError for images that leave the last stage without a position."""
    if min(images.shape[-2:]) < stride:
        raise ValueError(
            f"images are {tuple(images.shape[-2:])}, smaller than the network's stride of {stride} px: "
            "lower stem_stride or use fewer stages"
        )


# Tiny to xlarge: Liu et al. 2022, section 3. Atto to nano: depths and widths of Woo et al. 2023 (ConvNeXt V2), app. A.
# DINOv3: Simeoni et al. 2025, distilled from its ViT-7B; published without a head.
SIZES: dict[str, dict[str, Any]] = {
    "convnext_atto": {"depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)},
    "convnext_femto": {"depths": (2, 2, 6, 2), "widths": (48, 96, 192, 384)},
    "convnext_pico": {"depths": (2, 2, 6, 2), "widths": (64, 128, 256, 512)},
    "convnext_nano": {"depths": (2, 2, 8, 2), "widths": (80, 160, 320, 640)},
    "convnext_tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "convnext_small": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
    "convnext_base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "convnext_large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    "convnext_xlarge": {"depths": (3, 3, 27, 3), "widths": (256, 512, 1024, 2048)},
    "convnext_tiny_dinov3": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768), "classes": 0},
    "convnext_small_dinov3": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768), "classes": 0},
    "convnext_base_dinov3": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024), "classes": 0},
    "convnext_large_dinov3": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536), "classes": 0},
}
