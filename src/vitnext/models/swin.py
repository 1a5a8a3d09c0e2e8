"""Swin Transformer: "Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021, arXiv:2103.14030).

    z'_l     = W-MSA(LN(z_{l-1})) + z_{l-1}
    z_l      = MLP(LN(z'_l)) + z'_l
    z'_{l+1} = SW-MSA(LN(z_l)) + z_l
    z_{l+1}  = MLP(LN(z'_{l+1})) + z'_{l+1}                               (eq. 3; the paper writes z-hat for z')
    Attention(Q, K, V) = SoftMax(Q K^T / sqrt(d) + B) V                   (eq. 4)

Paper -> here: M -> window, C -> dim, B-hat -> bias_table, W-MSA and SW-MSA -> WindowAttention in Windows whose shift is
(0, 0) or (M // 2, M // 2), linear embedding -> patch_embedding and embedding_norm, patch merging -> merging.
Deviations: section 3.2 speaks of maps that are a whole number of windows. Others are treated as in the authors' code
for dense prediction: padded with zeros at the right and bottom, before the shift, and the padding is attended to (so do
torchvision and transformers; timm shifts before it pads). Along a side that one window covers, the window is as long as
the side and not shifted (so do the authors' classifier, timm and transformers; torchvision pads to a whole window).
Masked pairs get -100, not minus infinity, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.layers import GELU, check_at_least, check_rates, initialize
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates
from vitnext.models.windows import Windows, constant


@dataclass(frozen=True)
class SwinConfig:
    """Every choice that changes the network. The defaults are Swin-T (section 3.3). Images may have any size."""

    patch_size: int = 4
    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    dim: int = 96  # C of the first stage; it doubles in each further one
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks in each stage
    heads: tuple[int, ...] = (3, 6, 12, 24)  # of each stage: d = 32 for the published sizes
    window: int = 7  # M; 12 for the networks trained at 384 px
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    dropout: float = 0.0  # after the embedding, after each attention and after both Linears of each MLP
    attention_dropout: float = 0.0  # on the attention weights
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.heads) or not self.depths:
            raise ValueError(f"depths {self.depths} and heads {self.heads} must have one number for each stage")
        check_at_least(1, self, "patch_size", "channels", "dim", "depths", "heads", "window")
        check_at_least(0, self, "classes")
        check_rates(self, "dropout", "attention_dropout", "stochastic_depth")
        if not self.dim * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without a hidden unit")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"dim {self.dim} gives a stage of width {width}, no multiple of its {heads} heads")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage: C, 2 C, 4 C, 8 C."""
        return tuple(self.dim * 2**i for i in range(len(self.depths)))


def relative_position_index(size: tuple[int, int], table: tuple[int, int]) -> np.ndarray:
    """Which row of B-hat holds the offset of each pair of a window's tokens: (N * N,), query by query.

    B-hat has (2 rows - 1) (2 columns - 1) rows for windows of ``table`` = (rows, columns), offset by offset; a smaller
    window takes the central ones.
    """
    grids = [grid.ravel() for grid in np.meshgrid(*(np.arange(side) for side in size), indexing="ij")]  # (N,) each
    down, right = (grid[:, None] - grid[None, :] + side - 1 for grid, side in zip(grids, table, strict=True))
    return (down * (2 * table[1] - 1) + right).ravel()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Eq. 4, step by step: softmax(scale q k^T + B) v, and the attention weights (B * windows, h, N, N).

    q, k, v: (B * windows, h, N, d). bias: (1, h, N, N), or (windows, h, N, N) with the mask of each window.
    """
    scores = scale * q @ k.transpose(-2, -1)  # (B * windows, h, N, N)
    scores = (scores.unflatten(0, (-1, bias.shape[0])) + bias).flatten(0, 1)
    weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0.0) @ v, weights


def steps_are_faster(bias: Tensor) -> bool:
    """Whether to take eq. 4's steps: on the CPU torch's fused kernel gives B no gradient, and what it falls back to is
    slower."""
    return bias.requires_grad and bias.device.type == "cpu"


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """The same as ``attend`` on torch's fused kernel."""
    if bias.shape[0] > 1:  # the windows' masks, for each image
        bias = bias.expand(q.shape[0] // bias.shape[0], *bias.shape).flatten(0, 1)  # (B * windows, h, N, N)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


class WindowAttention(nn.Module):
    """W-MSA: h heads attend inside each window, with a learned bias for each offset (section 3.2, eq. 4)."""

    def __init__(self, dim: int, heads: int, config: SwinConfig) -> None:
        super().__init__()
        self.heads = heads
        self.window = config.window
        self.attention_dropout = config.attention_dropout
        self.bias_table = nn.Parameter(torch.empty((2 * config.window - 1) ** 2, heads))  # B-hat
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.output = nn.Linear(dim, dim)

    def forward(self, z: Tensor, windows: Windows, return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(B * windows, N, C) -> (B * windows, N, C), on request with the weights (B * windows, h, N, N)."""
        qkv = self.qkv(z).unflatten(-1, (3, self.heads, -1))  # (B * windows, N, 3, h, d)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B * windows, h, N, d)
        bias = self.position_bias(windows).to(q)  # B
        mask = windows.mask(like=q)
        bias = bias if mask is None else bias + mask
        dropout = self.attention_dropout if self.training else 0.0
        if return_weights or steps_are_faster(bias):
            heads, weights = attend(q, k, v, bias, q.shape[-1] ** -0.5, dropout)
        else:
            heads = attend_fused(q, k, v, bias, q.shape[-1] ** -0.5, dropout)
        out: Tensor = self.output(heads.transpose(1, 2).reshape(z.shape))  # (B * windows, N, h * d)
        return (out, weights) if return_weights else out

    def position_bias(self, windows: Windows) -> Tensor:
        """B, taken from B-hat: (1, h, N, N)."""
        index = constant(relative_position_index, windows.size, (self.window, self.window), like=self.bias_table)
        tokens = windows.size[0] * windows.size[1]
        return self.bias_table[index].reshape(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)

    def own_macs(self, inputs: tuple[Tensor, ...]) -> int:
        """Multiply-adds of q k^T and A v."""
        many, tokens, dim = inputs[0].shape
        return 2 * many * tokens * tokens * dim


class Mlp(nn.Sequential):
    """Linear, GELU, Dropout, Linear, Dropout."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, hidden), GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )


class SwinBlock(nn.Module):
    """Half of eq. 3: W-MSA or, shifted, SW-MSA, and the MLP. (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, stage: int, shifted: bool, stochastic_depth: float, config: SwinConfig) -> None:
        super().__init__()
        dim = config.widths[stage]
        self.window, self.shifted = config.window, shifted
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, config.heads[stage], config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.dropout)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, z: Tensor) -> Tensor:
        def branch(z: Tensor) -> Tensor:
            windows = Windows.of(z, self.window, self.shifted)
            return self.dropout(windows.join(self.attention(windows.cut(self.norm1(z)), windows)))

        z = self.stochastic_depth.residual(z, branch)
        return self.stochastic_depth.residual(z, lambda z: self.mlp(self.norm2(z)))

    def attend(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same block on the readable attention path: (z_l, attention weights (B * windows, h, N, N))."""
        windows = Windows.of(z, self.window, self.shifted)
        branch, weights = self.attention(windows.cut(self.norm1(z)), windows, return_weights=True)
        z = z + self.stochastic_depth(self.dropout(windows.join(branch)))
        return z + self.stochastic_depth(self.mlp(self.norm2(z))), weights


def neighbours(x: Tensor) -> Tensor:
    """2 x 2 positions become one with all their channels: (B, H, W, C) -> (B, H / 2, W / 2, 4 C), zeros at odd ends.

    The order is that of the authors' weights: down the left column, then down the right one.
    """
    height, width = x.shape[1:3]
    if height % 2 or width % 2:
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


class PatchMerging(nn.Module):
    """Half the resolution, twice the channels (section 3.1): (B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.reduction(self.norm(neighbours(x)))
        return out


class SwinStage(nn.Module):
    """A stage of figure 3: patch merging (all stages but the first), then blocks, every second one shifted.

    It describes itself as ``backbone.Stage`` does: ``name``, ``channels`` and ``stride`` of what leaves it.
    """

    def __init__(self, stage: Stage, merging: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.name, self.channels, self.stride = stage.name, stage.channels, stage.stride
        self.merging = merging
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.merging(x)
        for block in self.blocks:
            x = block(x)
        return x

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same on the readable attention path, with the weights of each block."""
        x, weights = self.merging(x), []
        for block in self.blocks:
            x, of_block = cast(SwinBlock, block).attend(x)
            weights.append(of_block)
        return x, weights


class SwinTransformer(nn.Module):
    """Images (B, channels, H, W), any size -> logits (B, classes); ``classes=0``: features (B, 8 C)."""

    block: type[nn.Module] = SwinBlock
    merging: type[nn.Module] = PatchMerging

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.embedding_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        rates = iter(stochastic_depth_rates(config.stochastic_depth, sum(config.depths)))
        self.stages = nn.ModuleList()
        for i, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            merging = self.merging(config.widths[i - 1]) if i else nn.Identity()
            blocks = [self.block(i, j % 2 == 1, next(rates), config) for j in range(depth)]
            self.stages.append(SwinStage(Stage(f"stage{i + 1}", width, config.patch_size * 2**i), merging, blocks))
        self.norm = nn.LayerNorm(config.widths[-1])
        self.head = nn.Linear(config.widths[-1], config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; nothing keeps what construction left in it. B-hat is normal with std 0.02."""
        initialize(self, self.head)
        for module in self.modules():
            if isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.bias_table, std=0.02)

    def embed(self, images: Tensor) -> Tensor:
        """Patches and their linear embedding: (B, channels, H, W) -> (B, H / 4, W / 4, C), the last patches padded."""
        patch = self.config.patch_size
        height, width = images.shape[-2:]
        if height % patch or width % patch:
            images = F.pad(images, (0, -width % patch, 0, -height % patch))
        return self.dropout(self.embedding_norm(self.patch_embedding(images).permute(0, 2, 3, 1)))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Stage name -> its output, before the next stage's merging and without a norm: (B, C_i, H_i, W_i)."""
        x: Tensor = self.embed(images)
        maps: dict[str, Tensor] = {}
        for stage in self.stages:
            x = stage(x)
            maps[cast(str, stage.name)] = x.permute(0, 3, 1, 2)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """The mean of the last stage's normalised features: (B, 8 C)."""
        *_, x = self.pyramid(images).values()
        out: Tensor = self.norm(x.permute(0, 2, 3, 1)).mean(dim=(1, 2))
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """ "stages.0.blocks.1" -> the attention weights of that block (B * windows, h, N, N), first to last."""
        x: Tensor = self.embed(images)
        weights: dict[str, Tensor] = {}
        for i, stage in enumerate(self.stages):
            x, of_blocks = cast(SwinStage, stage).attend(x)
            weights |= {f"stages.{i}.blocks.{j}": of_block for j, of_block in enumerate(of_blocks)}
        return weights


# Section 3.3: C and the depths; a head has 32 channels.
SIZES: dict[str, dict[str, int | tuple[int, ...]]] = {
    "swin_tiny": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "swin_small": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "swin_base": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "swin_large": {"dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}
