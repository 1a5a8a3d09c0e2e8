"""ConvNeXt V2: "Co-designing and Scaling ConvNets with Masked Autoencoders" (Woo et al. 2023, arXiv:2301.00808).

    G(X) = {||X_1||, ..., ||X_C||}              the L2 norm of each channel's map        (eq. 1)
    N(||X_i||) = ||X_i|| / mean_j ||X_j||       its strength beside the other channels   (eq. 2)
    X_i <- X_i * N(G(X)_i)                                                               (eq. 3)
    GRN(X) = gamma * (X * N(G(X))) + beta + X                                            (algorithm 1)
    block:   x <- x + W_2 GRN(GELU(W_1 LN(DWConv_7x7(x))))                               (figure 5)

Everything else is ConvNeXt (convnext.py): stem, downsampling, head. GRN takes the place of the layer scale.
Paper -> here: the 1x1 convolutions W_1 and W_2 -> expand and project.
Deviations: none from algorithm 1, whose mean stands where the printed equation 2 has a sum; GRN is calculated as
X * (1 + gamma * N) + beta, which passes over the large X once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitnext.models.backbone import Stage
from vitnext.models.convnext import ConvNeXtStage, check_covers_stride
from vitnext.models.depthwise import DepthwiseConv2d
from vitnext.models.layers import ChannelLayerNorm, LayerNorm, check_at_least, check_rates, gelu, initialize
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates


@dataclass(frozen=True)
class ConvNeXtV2Config:
    """Every choice that changes the network. The defaults are ConvNeXt V2-T (appendix A)."""

    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    stem_stride: int = 4  # the stem's kernel and stride
    depths: tuple[int, ...] = (3, 3, 9, 3)  # blocks in each stage
    widths: tuple[int, ...] = (96, 192, 384, 768)  # C of each stage
    kernel_size: int = 7
    mlp_ratio: float = 4.0
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


class GlobalResponseNorm(nn.Module):
    """GRN, algorithm 1: (B, H, W, C) -> (B, H, W, C). Channels that respond strongly to the image are strengthened."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))
        self.beta = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        response = norm_of_channels(x)  # G(X): (B, 1, 1, C)
        strength = response / (response.mean(dim=-1, keepdim=True) + 1e-6)  # N(G(X))
        return torch.addcmul(self.beta, x, 1 + self.gamma * strength)  # gamma * (X * N(G(X))) + beta + X


def norm_of_channels(x: Tensor) -> Tensor:
    """||X_i|| over all positions: (B, H, W, C) -> (B, 1, 1, C).

    On the CPU a sum of squares takes a third to a tenth of vector_norm's time; in float16 it may overflow.
    """
    if x.dtype is torch.float16:
        return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    squares = x.square().sum(dim=(1, 2), keepdim=True)
    return squares.clamp_min(torch.finfo(x.dtype).tiny).sqrt()  # the root of 0 has no gradient


class ConvNeXtV2Block(nn.Module):
    """Figure 5, right: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, config: ConvNeXtV2Config, stochastic_depth: float) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * width)
        self.depthwise = DepthwiseConv2d(width, config.kernel_size)
        self.norm = LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, hidden)
        self.response_norm = GlobalResponseNorm(hidden)
        self.project = nn.Linear(hidden, width)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.stochastic_depth.residual(x, self.branch)

    def branch(self, x: Tensor) -> Tensor:
        x = self.depthwise(x).permute(0, 2, 3, 1)  # (B, H, W, C): free when the memory is channels-last
        x = self.project(self.response_norm(gelu(self.expand(self.norm(x)))))
        return x.permute(0, 3, 1, 2)


class ConvNeXtV2(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes); with ``classes=0`` the feature (B, C).

    Any size from ``config.stride`` up is taken; a smaller one raises ValueError.
    """

    def __init__(self, config: ConvNeXtV2Config) -> None:
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
            blocks = [ConvNeXtV2Block(width, config, next(rates)) for _ in range(depth)]
            self.stages.append(ConvNeXtStage(stage, widths[i - 1] if i else 0, blocks))
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; GRN starts as the identity (section 3). Nothing keeps what construction left in it."""
        initialize(self, self.head)
        for module in self.modules():
            if isinstance(module, GlobalResponseNorm):
                nn.init.zeros_(module.gamma)
                nn.init.zeros_(module.beta)

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


# Woo et al. 2023, appendix A.
SIZES: dict[str, dict[str, Any]] = {
    "convnextv2_atto": {"depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)},
    "convnextv2_femto": {"depths": (2, 2, 6, 2), "widths": (48, 96, 192, 384)},
    "convnextv2_pico": {"depths": (2, 2, 6, 2), "widths": (64, 128, 256, 512)},
    "convnextv2_nano": {"depths": (2, 2, 8, 2), "widths": (80, 160, 320, 640)},
    "convnextv2_tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "convnextv2_base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "convnextv2_large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    "convnextv2_huge": {"depths": (3, 3, 27, 3), "widths": (352, 704, 1408, 2816)},
}
