"""DINOv3 (Siméoni et al. 2025, arXiv:2508.10104): a ViT whose patches know their place by rotation, with registers,
LayerScale and, in the larger sizes, SwiGLU. It takes images of any size.

Axial RoPE (Su et al. 2021, arXiv:2104.09864): the d numbers of a query or key are d / 2 pairs (a_i, b_i), and pair i of
a patch is turned by the angle that its row (the first half of the pairs) or its column (the second) gives:

    angle_i = 2 pi y / T_i   or   2 pi x / T_i          y, x in [-1, 1]: the patch's centre, from edge to edge
    T_j     = base^(4 j / d)                            j = 0 ... d / 4 - 1, for y and for x
    (a, b) <- (a cos - b sin, b cos + a sin)

    z_0  = [x_class; r_1; ...; r_R; x_p^1 E; ...; x_p^N E]
    z'_l = diag(lambda_l) MSA(LN(z_{l-1})) + z_{l-1}    q and k of the patches turned, k without a bias
    z_l  = diag(lambda'_l) MLP(LN(z'_l)) + z'_l

Paper -> here: the pairs (a_i, b_i) -> columns i and i + d / 2 of a head; the rest as in models/dinov2.py.
Deviations: the training-time jitter of the coordinates (section 3.2) is left out. The periods T are computed in
float32, as in timm and transformers; the authors' files hold them rounded to bfloat16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.attention import fast_attention, scaled_dot_product_attention
from vitnext.models.backbone import Stage
from vitnext.models.deit import reset_layer_scale
from vitnext.models.dinov2 import FeedForward, SwiGLU
from vitnext.models.layers import add_scaled, check_at_least, check_rates, initialize
from vitnext.models.stochastic_depth import StochasticDepth
from vitnext.models.vit import as_map, attend_all, encode_all, patches


@dataclass(frozen=True)
class DINOv3Config:
    """Every choice that changes the network. The defaults are ViT-B/16."""

    patch_size: int = 16
    channels: int = 3
    classes: int = 0  # 0: no head, the pooled feature comes out
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    swiglu: bool = False  # the MLP is a SwiGLU, whose hidden width is 2/3 of dim * mlp_ratio
    qkv_bias: bool = True  # of q and v; k has none
    registers: int = 4
    pool: str = "token"  # "token": the class token; "mean": of the patches, as timm has it for classifiers
    rope_base: float = 100.0
    layer_scale: float = 1e-5  # lambda's start
    stochastic_depth: float = 0.0  # of every block

    def __post_init__(self) -> None:
        check_at_least(1, self, "patch_size", "channels", "dim", "depth", "heads")
        check_at_least(0, self, "classes", "registers")
        check_rates(self, "stochastic_depth")
        if not self.dim * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without a hidden unit")
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim {self.dim} is no multiple of 4 x heads {self.heads}: pairs for rows and for columns")
        if self.pool not in ("token", "mean"):
            raise ValueError(f'pool is "{self.pool}"; it must be "token" or "mean"')
        if not self.rope_base > 0:
            raise ValueError(f"rope_base is {self.rope_base}; it must be above 0")

    @property
    def stride(self) -> int:
        return self.patch_size


def periods(width: int, base: float) -> Tensor:
    """T of a head of this width: (width / 4,), from 1 to nearly ``base``."""
    return base ** (torch.arange(width // 4, dtype=torch.float32) * 4 / width)


def rotations(height: int, width: int, period: Tensor, upright: int) -> tuple[Tensor, Tensor]:
    """What ``rotate`` takes for ``upright`` tokens that are not turned and then for the patches, (tokens, d) each.

    cos is [cos(angles), cos(angles)], sin is [-sin(angles), sin(angles)].
    """
    y = (torch.arange(height, device=period.device) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=period.device) + 0.5) / width * 2 - 1
    places = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2, 1)  # (H * W, 2, 1)
    angles = (2 * math.pi * places / period).flatten(1)  # (H * W, 2, d / 4) -> (H * W, d / 2)
    angles = F.pad(angles, (0, 0, upright, 0))  # class token and registers: 0
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of x = [a, b], (..., tokens, d), by their token's angles: [a, b] cos + [b, a] [-sin, sin]."""
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


class KeylessBiasLinear(nn.Linear):
    """W_qkv with a bias for q and v and none for k: (..., D) -> (..., 3 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim, bias=False)
        self.query_value_bias = nn.Parameter(torch.empty(2 * dim))  # q's, then v's

    def forward(self, z: Tensor) -> Tensor:
        of_q, of_v = self.query_value_bias.chunk(2)
        return F.linear(z, self.weight, torch.cat([of_q, torch.zeros_like(of_q), of_v]))


class RotaryAttention(nn.Module):
    """Multi-head self-attention of models/attention.py with turned q and k, and no bias for k."""

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = KeylessBiasLinear(dim) if qkv_bias else nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        z: Tensor,
        cos: Tensor,
        sin: Tensor,
        return_weights: bool = False,
        mask: Tensor | None = None,
        queries: int | None = None,
    ) -> Any:
        batch, tokens, dim = z.shape
        qkv = self.qkv(z).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B, h, N, d)
        q = q if queries is None else q[:, :, :queries]
        q, k = rotate(q, cos[:queries], sin[:queries]), rotate(k, cos, sin)
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v)
        else:
            heads = fast_attention(q, k, v, mask=mask)
        out = self.output(heads.transpose(1, 2).flatten(2))  # (B, N, h * d)
        return (out, weights) if return_weights else out

    def own_macs(self, inputs: tuple[Tensor, ...]) -> int:
        """Multiply-adds of q k^T and A v over all heads."""
        batch, tokens, dim = inputs[0].shape
        return 2 * batch * tokens * tokens * dim


class DINOv3Block(nn.Module):
    """The block of models/deit.py (LayerScaleBlock) with rotary attention."""

    def __init__(self, config: DINOv3Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-5)
        self.attention = RotaryAttention(config.dim, config.heads, qkv_bias=config.qkv_bias)
        self.layer_scale1 = nn.Parameter(torch.empty(config.dim))  # lambda
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-5)
        mlp: Any = SwiGLU if config.swiglu else FeedForward
        self.mlp = mlp(config.dim, int(config.dim * config.mlp_ratio))
        self.layer_scale2 = nn.Parameter(torch.empty(config.dim))  # lambda'
        self.stochastic_depth = StochasticDepth(config.stochastic_depth)

    def forward(
        self, z: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, queries: int | None = None
    ) -> Tensor:
        """z_l, or of its first tokens alone (B, queries, dim)."""

        def branch(z: Tensor, mask: Tensor | None) -> Tensor:
            return self.attention(self.norm1(z), cos, sin, mask=mask, queries=queries)

        z = self.stochastic_depth.residual(z, branch, mask, scale=self.layer_scale1, first=queries)
        return self.stochastic_depth.residual(z, lambda z: self.mlp(self.norm2(z)), scale=self.layer_scale2)

    def attend(self, z: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """The same block on the readable attention path: (z_l, attention weights (B, h, N, N))."""
        branch, weights = self.attention(self.norm1(z), cos, sin, return_weights=True)
        z = add_scaled(z, self.layer_scale1, self.stochastic_depth(branch))
        return add_scaled(z, self.layer_scale2, self.stochastic_depth(self.mlp(self.norm2(z)))), weights


class DINOv3(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes).

    With ``classes=0`` the pooled feature, after the last norm (B, dim). Raises ValueError for images that are no whole
    number of patches.
    """

    def __init__(self, config: DINOv3Config) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.registers = nn.Parameter(torch.empty(1, config.registers, config.dim)) if config.registers else None
        self.encoder = nn.ModuleList(DINOv3Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-5)
        self.head = nn.Linear(config.dim, config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter, lambda to config.layer_scale; class token and registers are normal with std 0.02."""
        initialize(self, self.head)
        nn.init.normal_(self.class_token, std=0.02)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=0.02)
        for module in self.modules():
            if isinstance(module, KeylessBiasLinear):
                nn.init.zeros_(module.query_value_bias)
        reset_layer_scale(self.encoder, self.config.layer_scale)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("grid", self.config.dim, self.config.stride),)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_0 (B, 1 + registers + H * W / patch^2, dim), and cos and sin of the angles of its tokens."""
        config, (height, width) = self.config, images.shape[-2:]
        if height % config.patch_size or width % config.patch_size or not height * width:
            raise ValueError(f"images are {(height, width)}, no whole number of patches of {config.patch_size} px")
        z = patches(self.patch_embedding, images)  # (B, H * W / patch^2, dim)
        tokens = [self.class_token] if self.registers is None else [self.class_token, self.registers]
        z = torch.cat([*(token.expand(z.shape[0], -1, -1) for token in tokens), z], dim=1)
        period = periods(config.dim // config.heads, config.rope_base).to(z.device)
        return z, *rotations(height // config.patch_size, width // config.patch_size, period, 1 + config.registers)

    def encode(self, images: Tensor, queries: int | None = None) -> Tensor:
        """z_L, before the last norm; or of its first tokens alone (B, queries, dim)."""
        return encode_all(self.encoder, *self.embed(images), queries=queries)

    def pooled(self, images: Tensor) -> Tensor:
        """What the head is given: the class token, or the mean of the patches (B, dim)."""
        if self.config.pool == "token":
            return self.norm(self.encode(images, queries=1)[:, 0])
        return self.norm(self.encode(images)[:, 1 + self.config.registers :]).mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """The patches after the last norm, as a map: "grid" -> (B, dim, H / patch, W / patch)."""
        z = self.norm(self.encode(images)[:, 1 + self.config.registers :])
        height, width = (side // self.config.patch_size for side in images.shape[-2:])
        return {"grid": as_map(z, (height, width))}

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """The weights (B, heads, N, N) of every block, "encoder.0" first."""
        return attend_all(self.encoder, *self.embed(images))


# Siméoni et al. 2025, sections 3.2 (7B) and 5.2 (the sizes distilled from it); widths: the authors' hub/backbones.py.
SIZES: dict[str, dict[str, Any]] = {
    "vit_small_patch16_dinov3": {"dim": 384, "depth": 12, "heads": 6},
    "vit_small_plus_patch16_dinov3": {"dim": 384, "depth": 12, "heads": 6, "mlp_ratio": 6.0, "swiglu": True},
    "vit_base_patch16_dinov3": {"dim": 768, "depth": 12, "heads": 12},
    "vit_large_patch16_dinov3": {"dim": 1024, "depth": 24, "heads": 16},
    "vit_huge_plus_patch16_dinov3": {"dim": 1280, "depth": 32, "heads": 20, "mlp_ratio": 6.0, "swiglu": True},
    "vit_7b_patch16_dinov3": {
        "dim": 4096,
        "depth": 40,
        "heads": 32,
        "mlp_ratio": 3.0,
        "swiglu": True,
        "qkv_bias": False,
    },
}
