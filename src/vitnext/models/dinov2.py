"""DINOv2: "Learning Robust Visual Features without Supervision" (Oquab et al. 2023, arXiv:2304.07193), and its networks
with registers: "Vision Transformers Need Registers" (Darcet et al. 2024, arXiv:2309.16588).

A ViT of patches of 14 px with LayerScale; the giant one has SwiGLU for the MLP (Shazeer 2020, arXiv:2002.05202).

    z_0       = [x_class + E_pos^0; r_1; ...; r_R; x_p^1 E + E_pos^1; ...; x_p^N E + E_pos^N]    registers: no position
    z'_l      = diag(lambda_l) MSA(LN(z_{l-1})) + z_{l-1}
    z_l       = diag(lambda'_l) MLP(LN(z'_l)) + z'_l
    SwiGLU(x) = W_3 (SiLU(W_1 x) * W_2 x)                                                    (Shazeer 2020, eq. 6)

Paper -> here: [W_1; W_2] -> expand, W_3 -> project, r -> registers; the rest as in models/deit.py. The networks are
published without a head; the authors' linear classifiers see class token and mean patch (``pool="token_mean"``).
Deviations: the authors' code draws a fixed number of samples whose branches stay, here each is drawn by itself. Their
four-layer linear classifiers are not represented.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.deit import LayerScaleBlock, reset_layer_scale
from vitnext.models.layers import check_at_least, check_rates, gelu, initialize
from vitnext.models.vit import Size, as_map, attend_all, check_images, check_patches, encode_all, grid_of, patches


@dataclass(frozen=True)
class DINOv2Config:
    """Every choice that changes the network. The defaults are ViT-B/14 at the 518 px of the published positions."""

    image_size: Size = 518  # of a square, or (height, width)
    patch_size: int = 14
    channels: int = 3
    classes: int = 0  # 0: no head, the pooled feature comes out
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    swiglu: bool = False  # the MLP is a SwiGLU, whose hidden width is 2/3 of dim * mlp_ratio
    registers: int = 0
    pool: str = "token"  # "token": the class token; "token_mean": class token and mean of the patches, side by side
    layer_scale: float = 1e-5  # lambda's start
    stochastic_depth: float = 0.0  # of every block

    def __post_init__(self) -> None:
        check_at_least(1, self, "image_size", "patch_size", "channels", "dim", "depth", "heads")
        check_at_least(0, self, "classes", "registers")
        check_rates(self, "stochastic_depth")
        if not self.dim * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without a hidden unit")
        if self.pool not in ("token", "token_mean"):
            raise ValueError(f'pool is "{self.pool}"; it must be "token" or "token_mean"')
        check_patches(self.image_size, self.patch_size, self.stride)

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches: 37 x 37 at 518 px."""
        return grid_of(self.image_size, self.patch_size, self.stride)


class FeedForward(nn.Module):
    """The MLP of eq. 3 without dropout: W_project GELU(W_expand x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.project = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(gelu(self.expand(x)))
        return out


class SwiGLU(nn.Module):
    """W_3 (SiLU(W_1 x) * W_2 x). Three matrices of 2/3 of the width have the parameters of two of the whole width."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        width = -(-int(hidden * 2 / 3) // 8) * 8  # the authors' rule: up to a multiple of 8
        self.expand = nn.Linear(dim, 2 * width)
        self.project = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.expand(x).chunk(2, dim=-1)
        out: Tensor = self.project(F.silu(gate) * value)
        return out


class DINOv2(nn.Module):
    """Images (B, channels, *image_size), normalised floats -> logits (B, classes).

    With ``classes=0`` the pooled feature: the class token after the last norm (B, dim), or that and the mean patch
    (B, 2 dim). Raises ValueError for another image size.
    """

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.registers = nn.Parameter(torch.empty(1, config.registers, config.dim)) if config.registers else None
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + math.prod(config.grid), config.dim))
        mlp: Any = SwiGLU if config.swiglu else FeedForward
        hidden = int(config.dim * config.mlp_ratio)
        self.encoder = nn.ModuleList(
            LayerScaleBlock(config.dim, config.heads, mlp(config.dim, hidden), config.stochastic_depth)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        width = config.dim * (2 if config.pool == "token_mean" else 1)
        self.head = nn.Linear(width, config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter, lambda to config.layer_scale; class token and registers are almost zero."""
        initialize(self, self.head)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        nn.init.normal_(self.class_token, std=1e-6)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=1e-6)
        reset_layer_scale(self.encoder, self.config.layer_scale)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("grid", self.config.dim, self.config.stride),)

    def embed(self, images: Tensor) -> Tensor:
        """z_0: (B, 1 + registers + N, dim)."""
        check_images(images, self.config.image_size)
        z = patches(self.patch_embedding, images) + self.position_embedding[:, 1:]  # (B, N, dim)
        tokens = [self.class_token + self.position_embedding[:, :1]]
        if self.registers is not None:
            tokens.append(self.registers)
        return torch.cat([*(token.expand(z.shape[0], -1, -1) for token in tokens), z], dim=1)

    def encode(self, images: Tensor, queries: int | None = None) -> Tensor:
        """z_L, before the last norm; or of its first tokens alone (B, queries, dim)."""
        return encode_all(self.encoder, self.embed(images), queries=queries)

    def pooled(self, images: Tensor) -> Tensor:
        """What the head is given: (B, dim) or (B, 2 dim)."""
        if self.config.pool == "token":
            return self.norm(self.encode(images, queries=1)[:, 0])
        z = self.norm(self.encode(images))
        return torch.cat([z[:, 0], z[:, 1 + self.config.registers :].mean(dim=1)], dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """The patches after the last norm, as a map: "grid" -> (B, dim, H / patch, W / patch)."""
        z = self.norm(self.encode(images)[:, 1 + self.config.registers :])
        return {"grid": as_map(z, self.config.grid)}

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """The weights (B, heads, N, N) of every block, "encoder.0" first."""
        return attend_all(self.encoder, self.embed(images))


# L, D, heads: Oquab et al. 2023, appendix B; four registers: Darcet et al. 2024 (both: the authors' hub/backbones.py).
SIZES: dict[str, dict[str, Any]] = {
    "vit_small_patch14_dinov2": {"dim": 384, "depth": 12, "heads": 6},
    "vit_base_patch14_dinov2": {"dim": 768, "depth": 12, "heads": 12},
    "vit_large_patch14_dinov2": {"dim": 1024, "depth": 24, "heads": 16},
    "vit_giant_patch14_dinov2": {"dim": 1536, "depth": 40, "heads": 24, "swiglu": True},
    "vit_small_patch14_reg4_dinov2": {"dim": 384, "depth": 12, "heads": 6, "registers": 4},
    "vit_base_patch14_reg4_dinov2": {"dim": 768, "depth": 12, "heads": 12, "registers": 4},
    "vit_large_patch14_reg4_dinov2": {"dim": 1024, "depth": 24, "heads": 16, "registers": 4},
    "vit_giant_patch14_reg4_dinov2": {"dim": 1536, "depth": 40, "heads": 24, "swiglu": True, "registers": 4},
}
