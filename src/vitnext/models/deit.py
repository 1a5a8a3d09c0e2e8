"""DeiT with its distillation token (Touvron et al. 2021, arXiv:2012.12877) and DeiT III (Touvron et al. 2022,
arXiv:2204.07118). DeiT without distillation is the plain network of models/vit.py.

DeiT, section 4 and figure 2: a second token beside the class token learns from a teacher, with a head of its own.

    z_0 = [x_class; x_distill; x_p^1 E; ...; x_p^N E] + E_pos
    y   = (W_label LN(z_L^0) + W_teacher LN(z_L^1)) / 2                  logits

DeiT III: LayerScale (Touvron et al. 2021, CaiT, arXiv:2103.17239, section 2) in every block, one rate of stochastic
depth for all, and positions for the patches alone (both as in the authors' code).

    z_0  = [x_class; x_p^1 E + E_pos^1; ...; x_p^N E + E_pos^N]
    z'_l = diag(lambda_l) MSA(LN(z_{l-1})) + z_{l-1}
    z_l  = diag(lambda'_l) MLP(LN(z'_l)) + z'_l

Paper -> here: x_distill -> distillation_token, W_label and W_teacher -> head.label and head.teacher, lambda and
lambda' -> layer_scale1 and layer_scale2; the rest as in models/vit.py.
Deviations: the paper adds the softmax of both heads, the authors' code averages their logits, as here. In training the
average comes out too; a distillation loss takes ``model.head.both(model.pooled(images))``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitnext.models.attention import MultiHeadSelfAttention
from vitnext.models.backbone import Stage
from vitnext.models.layers import add_scaled, check_at_least, check_rates, initialize
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates
from vitnext.models.vit import (
    EncoderBlock,
    Mlp,
    Size,
    as_map,
    attend_all,
    check_images,
    check_patches,
    encode_all,
    grid_of,
    patches,
)


@dataclass(frozen=True)
class DeiTConfig:
    """Every choice that changes the network. The defaults are DeiT-B distilled, at 224 px (Table 1)."""

    image_size: Size = 224  # of a square, or (height, width)
    patch_size: int = 16
    channels: int = 3
    classes: int = 1000  # 0: no heads, both tokens come out side by side
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0  # after E_pos, after each MSA and after both Linears of each MLP
    attention_dropout: float = 0.0  # on the attention weights
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        check_at_least(1, self, "image_size", "patch_size", "channels", "dim", "depth", "heads")
        check_at_least(0, self, "classes")
        check_rates(self, "dropout", "attention_dropout", "stochastic_depth")
        if not self.dim * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without a hidden unit")
        check_patches(self.image_size, self.patch_size, self.stride)

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return grid_of(self.image_size, self.patch_size, self.stride)


class TwoHeads(nn.Module):
    """The mean of two linear classifiers, one on each half of the feature: (B, 2 dim) -> (B, classes)."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.in_features = 2 * dim
        self.label = nn.Linear(dim, classes)  # on the class token, learns the labels
        self.teacher = nn.Linear(dim, classes)  # on the distillation token, learns what the teacher says

    def both(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of either head: a distillation loss compares one with the labels, the other with the teacher."""
        of_class, of_distillation = feature.chunk(2, dim=-1)
        return self.label(of_class), self.teacher(of_distillation)

    def forward(self, feature: Tensor) -> Tensor:
        label, teacher = self.both(feature)
        return (label + teacher) / 2


class DeiT(nn.Module):
    """Images (B, channels, *image_size), normalised floats -> logits (B, classes).

    With ``classes=0`` class token and distillation token after the last norm, side by side (B, 2 dim). Raises
    ValueError for another image size.
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.distillation_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(1, 2 + math.prod(config.grid), config.dim))
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(
            EncoderBlock(
                config.dim,
                config.heads,
                int(config.dim * config.mlp_ratio),
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                stochastic_depth=rate,
            )
            for rate in stochastic_depth_rates(config.stochastic_depth, config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = TwoHeads(config.dim, config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; tokens and positions are normal with std 0.02, as in the authors' code."""
        initialize(self, self.head)
        for parameter in (self.class_token, self.distillation_token, self.position_embedding):
            nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("grid", self.config.dim, self.config.stride),)

    def embed(self, images: Tensor) -> Tensor:
        """z_0: (B, 2 + N, dim)."""
        check_images(images, self.config.image_size)
        z = patches(self.patch_embedding, images)  # (B, N, dim)
        tokens = torch.cat([self.class_token, self.distillation_token], dim=1).expand(z.shape[0], -1, -1)
        return self.dropout(torch.cat([tokens, z], dim=1) + self.position_embedding)

    def encode(self, images: Tensor, queries: int | None = None) -> Tensor:
        """z_L, before the last norm; or of its first tokens alone (B, queries, dim)."""
        return encode_all(self.encoder, self.embed(images), queries=queries)

    def pooled(self, images: Tensor) -> Tensor:
        """What the heads are given: (B, 2 dim), the class token's half and the distillation token's."""
        return self.norm(self.encode(images, queries=2)[:, :2]).flatten(1)  # count_macs makes all of them come out

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        return {"grid": as_map(self.norm(self.encode(images)[:, 2:]), self.config.grid)}

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """The weights (B, heads, N, N) of every block, "encoder.0" first."""
        return attend_all(self.encoder, self.embed(images))


@dataclass(frozen=True)
class DeiT3Config:
    """Every choice that changes the network. The defaults are DeiT III's ViT-B at 224 px."""

    image_size: Size = 224  # of a square, or (height, width)
    patch_size: int = 16
    channels: int = 3
    classes: int = 1000  # 0: no head, the class token after the last norm comes out
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-4  # lambda's start
    stochastic_depth: float = 0.0  # of every block

    def __post_init__(self) -> None:
        check_at_least(1, self, "image_size", "patch_size", "channels", "dim", "depth", "heads")
        check_at_least(0, self, "classes")
        check_rates(self, "stochastic_depth")
        if not self.dim * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without a hidden unit")
        check_patches(self.image_size, self.patch_size, self.stride)

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return grid_of(self.image_size, self.patch_size, self.stride)


class LayerScaleBlock(nn.Module):
    """A pre-norm encoder block whose two branches have a learned factor for each channel (CaiT, section 2)."""

    def __init__(self, dim: int, heads: int, mlp: nn.Module, stochastic_depth: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = MultiHeadSelfAttention(dim, heads)
        self.layer_scale1 = nn.Parameter(torch.empty(dim))  # lambda
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.layer_scale2 = nn.Parameter(torch.empty(dim))  # lambda'
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, z: Tensor, mask: Tensor | None = None, queries: int | None = None) -> Tensor:
        """z_l, or of its first tokens alone (B, queries, dim)."""

        def branch(z: Tensor, mask: Tensor | None) -> Tensor:
            return self.attention(self.norm1(z), mask=mask, queries=queries)

        z = self.stochastic_depth.residual(z, branch, mask, scale=self.layer_scale1, first=queries)
        return self.stochastic_depth.residual(z, lambda z: self.mlp(self.norm2(z)), scale=self.layer_scale2)

    def attend(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same block on the readable attention path: (z_l, attention weights (B, h, N, N))."""
        branch, weights = self.attention(self.norm1(z), return_weights=True)
        z = add_scaled(z, self.layer_scale1, self.stochastic_depth(branch))
        return add_scaled(z, self.layer_scale2, self.stochastic_depth(self.mlp(self.norm2(z)))), weights


class DeiT3(nn.Module):
    """Images (B, channels, *image_size), normalised floats -> logits (B, classes).

    With ``classes=0`` the class token after the last norm (B, dim). Raises ValueError for another image size.
    """

    def __init__(self, config: DeiT3Config) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.position_embedding = nn.Parameter(torch.empty(1, math.prod(config.grid), config.dim))  # no class token's
        hidden = int(config.dim * config.mlp_ratio)
        self.encoder = nn.ModuleList(
            LayerScaleBlock(config.dim, config.heads, Mlp(config.dim, hidden, 0.0), config.stochastic_depth)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter, lambda to config.layer_scale; token and positions are normal with std 0.02."""
        initialize(self, self.head)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        reset_layer_scale(self.encoder, self.config.layer_scale)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("grid", self.config.dim, self.config.stride),)

    def embed(self, images: Tensor) -> Tensor:
        """z_0: (B, 1 + N, dim)."""
        check_images(images, self.config.image_size)
        z = patches(self.patch_embedding, images) + self.position_embedding  # (B, N, dim)
        return torch.cat([self.class_token.expand(z.shape[0], -1, -1), z], dim=1)

    def encode(self, images: Tensor, queries: int | None = None) -> Tensor:
        """z_L, before the last norm; or of its first tokens alone (B, queries, dim)."""
        return encode_all(self.encoder, self.embed(images), queries=queries)

    def pooled(self, images: Tensor) -> Tensor:
        """What the head is given: the class token (B, dim)."""
        return self.norm(self.encode(images, queries=1)[:, 0])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        return {"grid": as_map(self.norm(self.encode(images)[:, 1:]), self.config.grid)}

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """The weights (B, heads, N, N) of every block, "encoder.0" first."""
        return attend_all(self.encoder, self.embed(images))


def reset_layer_scale(encoder: nn.Module, start: float) -> None:
    """lambda and lambda' of every block to ``start``."""
    for name, parameter in encoder.named_parameters():
        if name.endswith(("layer_scale1", "layer_scale2")):
            nn.init.constant_(parameter, start)


# Table 1 of Touvron et al. 2021. Without distillation (PLAIN_SIZES) they are configurations of models/vit.py.
PLAIN_SIZES: dict[str, dict[str, int]] = {
    "deit_tiny": {"dim": 192, "depth": 12, "heads": 3},
    "deit_small": {"dim": 384, "depth": 12, "heads": 6},
    "deit_base": {"dim": 768, "depth": 12, "heads": 12},
}
SIZES: dict[str, dict[str, int]] = {f"{name}_distilled": size for name, size in PLAIN_SIZES.items()}

# Touvron et al. 2022 (the authors' models_v2.py).
DEIT3_SIZES: dict[str, dict[str, int]] = {
    "deit3_small": {"dim": 384, "depth": 12, "heads": 6},
    "deit3_medium": {"dim": 512, "depth": 12, "heads": 8},
    "deit3_base": {"dim": 768, "depth": 12, "heads": 12},
    "deit3_large": {"dim": 1024, "depth": 24, "heads": 16},
    "deit3_huge": {"patch_size": 14, "dim": 1280, "depth": 32, "heads": 16},
}
