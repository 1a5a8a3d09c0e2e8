"""Mix Transformer (MiT), the encoder of SegFormer (Xie et al. 2021, arXiv:2105.15203, section 3.1).

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_head)) V               (eq. 1)
    K^ = Reshape(N / R, C R)(K),  K = Linear(C R, C)(K^)               (eq. 2)   from N keys to N / R, values alike
    x_out = MLP(GELU(Conv_3x3(MLP(x_in)))) + x_in                      (eq. 3)   Mix-FFN: positions through the padding
    patches: convolutions K, S, P = 7, 4, 3, then 3, 2, 1              (overlapped patch merging)

Every stage: overlapping patches, LN, pre-norm blocks of attention and Mix-FFN, LN. Features are (B, H, W, C) inside.
Paper -> here: W_K and W_V -> key_value; eq. 2 -> reduction, an r x r convolution with stride r = sqrt(R) (it takes
neighbours in both directions together, the reshape of a row-major sequence would not); the depthwise Conv_3x3 ->
depthwise; K, S, P -> 2 S - 1, S, S - 1.
Deviations: as in the authors' code, the norm after the reduction, biases everywhere, 4 stage-2 blocks in B2 and B3
(table 6: 3) and expansion 4 in every stage (table 6: 8, 8, 4, 4 in B0 to B4): so are the published weights. The head
that was trained on ImageNet is a Linear on the mean of the last stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from vitnext.models.attention import fast_attention, scaled_dot_product_attention
from vitnext.models.backbone import Stage
from vitnext.models.depthwise import DepthwiseConv2d
from vitnext.models.layers import check_at_least, check_rates, gelu, initialize
from vitnext.models.patches import PatchConv2d
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates


@dataclass(frozen=True)
class MiTConfig:
    """Every choice that changes the network. The defaults are MiT-B0 (table 6). Tuples: one number for each stage."""

    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    stem_stride: int = 4  # S of stage 1; its kernel is 2 S - 1
    depths: tuple[int, ...] = (2, 2, 2, 2)  # L
    widths: tuple[int, ...] = (32, 64, 160, 256)  # C
    heads: tuple[int, ...] = (1, 2, 5, 8)  # N
    reductions: tuple[int, ...] = (8, 4, 2, 1)  # r: one key for r x r positions; table 6 calls it R
    mlp_ratios: tuple[float, ...] = (4.0, 4.0, 4.0, 4.0)  # E
    norm_eps: float = 1e-6  # of the norms in blocks and behind stages; 1e-5 in transformers
    dropout: float = 0.0  # after each attention and after both Linears of each Mix-FFN
    attention_dropout: float = 0.0  # on the attention weights
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        fields = ("depths", "widths", "heads", "reductions", "mlp_ratios")
        if len({len(getattr(self, field)) for field in fields}) != 1 or not self.depths:
            raise ValueError(f"{', '.join(fields)} must have one number for each stage")
        check_at_least(1, self, "channels", "stem_stride", "depths", "widths", "heads", "reductions")
        check_at_least(0, self, "classes")
        check_rates(self, "dropout", "attention_dropout", "stochastic_depth")
        for width, heads, ratio in zip(self.widths, self.heads, self.mlp_ratios, strict=True):
            if width % heads:
                raise ValueError(f"width {width} is not a multiple of heads {heads}")
            if not width * ratio >= 1:
                raise ValueError(f"mlp_ratio {ratio} leaves a block without a hidden unit")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps is {self.norm_eps}; it must be above 0")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels to one position of each stage: 4, 8, 16, 32 for the published sizes."""
        return tuple(self.stem_stride * 2**i for i in range(len(self.depths)))

    @property
    def stride(self) -> int:
        return self.strides[-1]

    @property
    def least_size(self) -> int:
        """The smallest side of an image that gives every stage one r x r window: 29 px for the published sizes."""
        return max((r - 1) * stride + 1 for r, stride in zip(self.reductions, self.strides, strict=True))


class OverlapPatchEmbedding(nn.Module):
    """Overlapped patch merging: (B, C_in, H, W) -> (B, H / S, W / S, C), sizes rounded up."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(width_in, width, 2 * stride - 1, stride=stride, padding=stride - 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.projection(x).permute(0, 2, 3, 1))
        return out


class EfficientSelfAttention(nn.Module):
    """Equations 1 and 2: every position asks, one key and value stand for r x r positions. (B, H, W, C) -> the same.

    ``forward(x, return_weights=True)`` takes the readable path and returns the weights (B, h, N, N / r^2) too, whose
    rows sum to one. ``attention_dropout`` acts on the weights, in training.
    """

    def __init__(self, width: int, heads: int, reduction: int, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.reduction = PatchConv2d(width, width, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        batch, _, _, width = x.shape
        size = width // self.heads
        q = self.query(x).reshape(batch, -1, self.heads, size).transpose(1, 2)  # (B, h, N, d)
        if self.reduction is not None and self.norm is not None:
            reduced = self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # (B, H / r, W / r, C)
        else:
            reduced = x
        key_value = self.key_value(reduced).reshape(batch, -1, 2, self.heads, size)
        k, v = (part.transpose(1, 2) for part in key_value.unbind(2))  # each (B, h, N / r^2, d)
        dropout = self.attention_dropout if self.training else 0.0
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, dropout)
        else:
            heads = fast_attention(q, k, v, dropout)
        out: Tensor = self.output(heads.transpose(1, 2).reshape(x.shape))  # (B, N, h * d) as a map
        return (out, weights) if return_weights else out

    def own_macs(self, inputs: tuple[Tensor, ...]) -> int:
        """Multiply-adds of q k^T and A v over all heads."""
        batch, height, width, channels = inputs[0].shape
        r = 1 if self.reduction is None else self.reduction.stride[0]
        return 2 * batch * (height * width) * (height // r * (width // r)) * channels


class MixFFN(nn.Module):
    """Equation 3 without its sum: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.depthwise = DepthwiseConv2d(hidden, 3)
        self.project = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, E C)
        out: Tensor = self.dropout(self.project(self.dropout(gelu(hidden))))
        return out


class MiTBlock(nn.Module):
    """Efficient self-attention, then Mix-FFN, both pre-norm with a residual: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, config: MiTConfig, stage: int, stochastic_depth: float) -> None:
        super().__init__()
        width, heads, reduction = config.widths[stage], config.heads[stage], config.reductions[stage]
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = EfficientSelfAttention(width, heads, reduction, config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = MixFFN(width, int(config.mlp_ratios[stage] * width), config.dropout)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stochastic_depth.residual(x, lambda x: self.dropout(self.attention(self.norm1(x))))
        return self.stochastic_depth.residual(x, lambda x: self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same block on the readable attention path: (its result, attention weights (B, h, N, N / r^2))."""
        branch, weights = self.attention(self.norm1(x), return_weights=True)
        x = x + self.stochastic_depth(self.dropout(branch))
        return x + self.stochastic_depth(self.mlp(self.norm2(x))), weights


class MiTStage(nn.Module):
    """Patches, blocks, norm: (B, C_in, H, W) -> (B, C, H / S, W / S)."""

    def __init__(self, config: MiTConfig, i: int, rates: list[float]) -> None:
        super().__init__()
        width_in, patch_stride = (config.widths[i - 1], 2) if i else (config.channels, config.stem_stride)
        self.patch_embedding = OverlapPatchEmbedding(width_in, config.widths[i], patch_stride)
        self.blocks = nn.Sequential(*(MiTBlock(config, i, rate) for rate in rates))
        self.norm = nn.LayerNorm(config.widths[i], eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch_embedding(x))  # (B, H / S, W / S, C)
        out: Tensor = self.norm(x)
        return out.permute(0, 3, 1, 2)

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same on the readable attention path: (its result, the attention weights of each block)."""
        x = self.patch_embedding(x)
        weights = []
        for block in self.blocks:
            x, block_weights = cast(MiTBlock, block).attend(x)
            weights.append(block_weights)
        return self.norm(x).permute(0, 3, 1, 2), weights


class MixTransformer(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes); with ``classes=0`` the feature (B, C).

    Any size from ``config.least_size`` up is taken; a smaller one raises ValueError.
    """

    def __init__(self, config: MiTConfig) -> None:
        super().__init__()
        self.config = config
        rates = iter(stochastic_depth_rates(config.stochastic_depth, sum(config.depths)))
        self.levels = nn.ModuleList(
            MiTStage(config, i, [next(rates) for _ in range(depth)]) for i, depth in enumerate(config.depths)
        )
        self.head = nn.Linear(config.widths[-1], config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; nothing keeps what construction left in it."""
        initialize(self, self.head)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """stage1 to stage4 at strides 4 to 32, for the published sizes."""
        widths, strides = self.config.widths, self.config.strides
        return tuple(Stage(f"stage{i + 1}", *level) for i, level in enumerate(zip(widths, strides, strict=True)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """The mean over the last stage's positions: (B, C)."""
        *_, x = self.pyramid(images).values()
        return x.mean(dim=(2, 3))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Stage name -> (B, C_i, H / (stem 2^i), W / (stem 2^i)), i counted from 0, sizes rounded up."""
        self._check(images)
        maps: dict[str, Tensor] = {}
        for stage, level in zip(self.stages, self.levels, strict=True):
            images = maps[stage.name] = level(images)
        return maps

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """ "levels.0.blocks.1" -> the attention weights of that block (B, h, N, N / r^2), first to last."""
        self._check(images)
        weights: dict[str, Tensor] = {}
        for i, level in enumerate(self.levels):
            images, of_blocks = cast(MiTStage, level).attend(images)
            weights |= {f"levels.{i}.blocks.{j}": of_block for j, of_block in enumerate(of_blocks)}
        return weights

    def _check(self, images: Tensor) -> None:
        if min(images.shape[-2:]) < self.config.least_size:
            raise ValueError(
                f"images are {tuple(images.shape[-2:])}, smaller than the {self.config.least_size} px that reductions "
                f"{self.config.reductions} need: lower stem_stride or the reductions"
            )


# Table 6, with the depths of the authors' code.
SIZES: dict[str, dict[str, Any]] = {
    "mit_b0": {"depths": (2, 2, 2, 2), "widths": (32, 64, 160, 256)},
    "mit_b1": {"depths": (2, 2, 2, 2), "widths": (64, 128, 320, 512)},
    "mit_b2": {"depths": (3, 4, 6, 3), "widths": (64, 128, 320, 512)},
    "mit_b3": {"depths": (3, 4, 18, 3), "widths": (64, 128, 320, 512)},
    "mit_b4": {"depths": (3, 8, 27, 3), "widths": (64, 128, 320, 512)},
    "mit_b5": {"depths": (3, 6, 40, 3), "widths": (64, 128, 320, 512)},
}
