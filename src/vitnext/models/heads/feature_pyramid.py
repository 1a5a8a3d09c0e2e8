"""A pyramid from a plain ViT's one map (Li et al. 2022, arXiv:2203.16527, section 3, "simple feature pyramid").

Four maps, at 1/4, 1/2, 1 and 2 times the stride of the patches, each from the last map alone: two deconvolutions with a
norm and GELU between them, one deconvolution, nothing, and 2x2 max pooling. The paper's 1x1 and 3x3 convolutions behind
them, which bring all maps to one width, are left to the head.
"""

from __future__ import annotations

from torch import Tensor, nn

from vitnext.models.backbone import Stage
from vitnext.models.layers import ChannelLayerNorm


class SimpleFeaturePyramid(nn.Module):
    """(B, C, H, W) -> 4 maps of C channels, finest first: (B, C, 4 H, 4 W) to (B, C, H / 2, W / 2), rounded up."""

    def __init__(self, grid: Stage) -> None:
        super().__init__()
        dim = grid.channels
        self.stages = tuple(Stage(f"stage{i + 1}", dim, grid.stride * 2**i // 4) for i in range(4))
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
            ChannelLayerNorm(dim, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
        )
        self.finer = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.coarser = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.finest(x), self.finer(x), x, self.coarser(x)]
