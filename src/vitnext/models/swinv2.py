"""Swin Transformer V2: "Scaling Up Capacity and Resolution" (Liu et al. 2022, arXiv:2111.09883, section 3).

    z'      = LN(W-MSA(z)) + z                           res-post-norm (section 3.2, figure 1)
    z''     = LN(MLP(z')) + z'
    Sim     = cos(q_i, k_j) / tau + B_ij                 scaled cosine attention (eq. 2), tau >= 0.01, of each head
    B(d)    = G(d^)                                      G: a 2-layer MLP on the offset d = (dx, dy) (eq. 3)
    d^      = sign(d) log(1 + |d|)                       log-spaced offsets (eq. 4)

The rest is V1's. Paper -> here: 1 / tau = exp(logit_scale), G -> bias_network, merging -> Linear, then LN.
Deviations, as in the authors' code: offsets are divided by the largest one, M - 1, and multiplied by 8 before the
logarithm, which is to the base 8; B is 16 sigmoid(G); k has no bias; the block's norms start at zero, so that every
block starts as the identity. Where a window is smaller than M, its own size counts. Networks with an additional norm
every six blocks (SwinV2-H and -G) are not built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.layers import check_at_least
from vitnext.models.stochastic_depth import StochasticDepth
from vitnext.models.swin import (
    Mlp,
    SwinConfig,
    SwinTransformer,
    attend,
    attend_fused,
    neighbours,
    relative_position_index,
    steps_are_faster,
)
from vitnext.models.windows import Windows, constant


@dataclass(frozen=True)
class SwinV2Config(SwinConfig):
    """Every choice that changes the network. The defaults are SwinV2-T with windows of 8, trained at 256 px."""

    window: int = 8  # M
    pretrained_windows: tuple[int, ...] = (0,)  # M of each stage, or of all, that G was trained with; 0: this network's

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "pretrained_windows")
        if len(self.pretrained_windows) not in (1, len(self.depths)):
            raise ValueError(
                f"pretrained_windows {self.pretrained_windows} must have one number, or one for each stage"
            )


def log_offsets(size: tuple[int, int], pretrained: int) -> np.ndarray:
    """d^ of eq. 4 for every offset between two tokens of a window: ((2 rows - 1) (2 columns - 1), 2)."""
    grids = np.meshgrid(*(np.arange(1 - side, side, dtype=np.float32) for side in size), indexing="ij")
    largest = [max((pretrained or side) - 1, 1) for side in size]
    offsets = np.stack([8 * grid.ravel() / side for grid, side in zip(grids, largest, strict=True)], axis=-1)
    return (np.sign(offsets) * np.log2(1 + np.abs(offsets)) / np.log2(8)).astype(np.float32)


def length(x: Tensor) -> Tensor:
    """Of each vector (..., d): (..., 1), never 0 in float32 and bfloat16."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)


class CosineWindowAttention(nn.Module):
    """W-MSA with scaled cosine attention and the log-spaced continuous position bias (eq. 2 to 4)."""

    def __init__(self, stage: int, config: SwinV2Config) -> None:
        super().__init__()
        dim, heads = config.widths[stage], config.heads[stage]
        self.heads = heads
        self.pretrained = (config.pretrained_windows * len(config.depths))[stage]
        self.attention_dropout = config.attention_dropout
        self.logit_scale = nn.Parameter(torch.empty(heads, 1, 1))  # log(1 / tau)
        self.bias_network = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))  # G
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.qv_bias = nn.Parameter(torch.empty(2 * dim)) if config.qkv_bias else None  # of q, then of v
        self.output = nn.Linear(dim, dim)

    def forward(self, z: Tensor, windows: Windows, return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(B * windows, N, C) -> (B * windows, N, C), on request with the weights (B * windows, h, N, N)."""
        qkv = F.linear(z, self.qkv.weight, self.qkv_bias()).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B * windows, h, N, d)
        scale = self.logit_scale.clamp(max=math.log(1 / 0.01)).exp()
        q, k = q * (scale.to(q) / length(q)), F.normalize(k, dim=-1)  # q k^T = cos / tau
        bias = self.position_bias(windows).to(q)  # B
        mask = windows.mask(like=q)
        bias = bias if mask is None else bias + mask
        dropout = self.attention_dropout if self.training else 0.0
        if return_weights or steps_are_faster(bias):
            heads, weights = attend(q, k, v, bias, 1.0, dropout)
        else:
            heads = attend_fused(q, k, v, bias, 1.0, dropout)
        out: Tensor = self.output(heads.transpose(1, 2).reshape(z.shape))  # (B * windows, N, h * d)
        return (out, weights) if return_weights else out

    def qkv_bias(self) -> Tensor | None:
        """(3 C,), zero for k."""
        if self.qv_bias is None:
            return None
        q, v = self.qv_bias.chunk(2)
        return torch.cat([q, torch.zeros_like(q), v])

    def position_bias(self, windows: Windows) -> Tensor:
        """B of eq. 3: (1, h, N, N)."""
        offsets = constant(log_offsets, windows.size, self.pretrained, like=self.qkv.weight).to(self.qkv.weight.dtype)
        table = 16 * torch.sigmoid(self.bias_network(offsets))  # ((2 rows - 1) (2 columns - 1), h)
        index = constant(relative_position_index, windows.size, windows.size, like=self.qkv.weight)
        tokens = windows.size[0] * windows.size[1]
        return table[index].reshape(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)

    def own_macs(self, inputs: tuple[Tensor, ...]) -> int:
        """Multiply-adds of q, k and v, whose Linear is not called as a module, of q k^T and of A v."""
        many, tokens, dim = inputs[0].shape
        return many * tokens * (3 * dim * dim + 2 * tokens * dim)


class SwinV2Block(nn.Module):
    """W-MSA or, shifted, SW-MSA, and the MLP, each with its norm behind it. (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, stage: int, shifted: bool, stochastic_depth: float, config: SwinV2Config) -> None:
        super().__init__()
        dim = config.widths[stage]
        self.window, self.shifted = config.window, shifted
        self.attention = CosineWindowAttention(stage, config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, z: Tensor) -> Tensor:
        def branch(z: Tensor) -> Tensor:
            windows = Windows.of(z, self.window, self.shifted)
            return self.norm1(self.dropout(windows.join(self.attention(windows.cut(z), windows))))

        z = self.stochastic_depth.residual(z, branch)
        return self.stochastic_depth.residual(z, lambda z: self.norm2(self.mlp(z)))

    def attend(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same block on the readable attention path: (z'', attention weights (B * windows, h, N, N))."""
        windows = Windows.of(z, self.window, self.shifted)
        branch, weights = self.attention(windows.cut(z), windows, return_weights=True)
        z = z + self.stochastic_depth(self.norm1(self.dropout(windows.join(branch))))
        return z + self.stochastic_depth(self.norm2(self.mlp(z))), weights


class PatchMergingV2(nn.Module):
    """Half the resolution, twice the channels, the norm last: (B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.reduction(neighbours(x)))
        return out


class SwinTransformerV2(SwinTransformer):
    """V1 of V2's blocks and merging: images (B, channels, H, W) of any size -> logits (B, classes)."""

    block = SwinV2Block
    merging = PatchMergingV2

    def reset_parameters(self) -> None:
        """Set every parameter. tau starts at 0.1, the blocks' norms at 0."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, CosineWindowAttention):
                nn.init.constant_(module.logit_scale, math.log(10))
                if module.qv_bias is not None:
                    nn.init.zeros_(module.qv_bias)
            elif isinstance(module, SwinV2Block):
                nn.init.zeros_(module.norm1.weight)
                nn.init.zeros_(module.norm2.weight)


# Section 3.6: V1's stages. With windows of 8, at 256 px; L is published with windows of 12, 16 and 24 alone.
SIZES: dict[str, dict[str, int | tuple[int, ...]]] = {
    "swinv2_tiny": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "swinv2_small": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "swinv2_base": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "swinv2_large": {"dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}
