"""Vision Transformer: "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2021, arXiv:2010.11929).

    z_0   = [x_class; x_p^1 E; ...; x_p^N E] + E_pos           (eq. 1)
    z'_l  = MSA(LN(z_{l-1})) + z_{l-1}        l = 1 ... L      (eq. 2)
    z_l   = MLP(LN(z'_l)) + z'_l                               (eq. 3)
    y     = LN(z_L^0)                                          (eq. 4)

Paper -> here: E -> patch_embedding, x_class -> class_token, E_pos -> position_embedding, L -> depth, D -> dim,
MSA -> attention, MLP -> mlp, the head's tanh layer (section 3.1, appendix D.3) -> representation.
Deviations: none in the forward pass; for what the weights start from see layers.initialize.

AugReg (Steiner et al. 2021, arXiv:2106.10270), DeiT without distillation (Touvron et al. 2021, arXiv:2012.12877), DINO
(Caron et al. 2021, arXiv:2104.14294) and MAE (He et al. 2022, arXiv:2111.06377) train this network in other ways.
Fine-tuned MAE pools with ``pool="mean_norm"``; what MAE and DINO pre-train has no head (``classes=0``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitnext.models.attention import MultiHeadSelfAttention
from vitnext.models.backbone import Stage
from vitnext.models.layers import GELU, check_at_least, check_rates, initialize
from vitnext.models.patches import patches_linear
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates

Size = int | tuple[int, int]


@dataclass(frozen=True)
class ViTConfig:
    """Every choice that changes the network. The defaults are ViT-B/16 at 224 px (Table 1)."""

    image_size: Size = 224  # of a square, or (height, width)
    patch_size: int = 16
    patch_stride: int = 0  # 0: equal to patch_size, patches do not overlap
    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    class_token: bool = True
    pool: str = "token"  # "token": the class token; "mean": of the patches; "mean_norm": that, then the last norm
    representation: int = 0  # width of the head's Linear + tanh layer (ImageNet-21k training); 0: a single Linear
    dropout: float = 0.0  # after E_pos, after each MSA and after both Linears of each MLP (appendix B.1)
    attention_dropout: float = 0.0  # on the attention weights
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        check_at_least(1, self, "image_size", "patch_size", "channels", "dim", "depth", "heads")
        check_at_least(0, self, "patch_stride", "classes", "representation")
        check_rates(self, "dropout", "attention_dropout", "stochastic_depth")
        if not self.dim * self.mlp_ratio >= 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without a hidden unit")
        if self.representation and not self.classes:
            raise ValueError("representation is a layer of the head, and classes: 0 means no head")
        if self.pool not in ("token", "mean", "mean_norm"):
            raise ValueError(f'pool is "{self.pool}"; it must be "token", "mean" or "mean_norm"')
        if self.pool == "token" and not self.class_token:
            raise ValueError('pool "token" needs class_token: true')
        check_patches(self.image_size, self.patch_size, self.stride)

    @property
    def stride(self) -> int:
        return self.patch_stride or self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches: 14 x 14 at 224 px with 16-px patches."""
        return grid_of(self.image_size, self.patch_size, self.stride)


class Mlp(nn.Sequential):
    """Linear, GELU, Dropout, Linear, Dropout (section 3.1, appendix B.1)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, hidden), GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )


class EncoderBlock(nn.Module):
    """One pre-norm encoder block, eq. 2 and 3."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = MultiHeadSelfAttention(dim, heads, qkv_bias=qkv_bias, attention_dropout=attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden, dropout)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, z: Tensor, mask: Tensor | None = None, queries: int | None = None) -> Tensor:
        """z_l, or of its first tokens alone (B, queries, dim)."""

        def branch(z: Tensor, mask: Tensor | None) -> Tensor:
            return self.dropout(self.attention(self.norm1(z), mask=mask, queries=queries))

        z = self.stochastic_depth.residual(z, branch, mask, first=queries)
        return self.stochastic_depth.residual(z, lambda z: self.mlp(self.norm2(z)))

    def attend(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same block on the readable attention path: (z_l, attention weights (B, h, N, N))."""
        branch, weights = self.attention(self.norm1(z), return_weights=True)
        z = z + self.stochastic_depth(self.dropout(branch))
        return z + self.stochastic_depth(self.mlp(self.norm2(z))), weights


class VisionTransformer(nn.Module):
    """Images (B, channels, *image_size), normalised floats -> logits (B, classes).

    With ``classes=0`` the pooled feature (B, dim) after the last norm. Raises ValueError for another image size.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.stride)  # E
        self.class_token = nn.Parameter(torch.empty(1, 1, config.dim)) if config.class_token else None
        tokens = math.prod(config.grid) + config.class_token
        self.position_embedding = nn.Parameter(torch.empty(1, tokens, config.dim))  # E_pos
        self.dropout = nn.Dropout(config.dropout)
        rates = stochastic_depth_rates(config.stochastic_depth, config.depth)
        self.encoder = nn.ModuleList(
            EncoderBlock(
                config.dim,
                config.heads,
                int(config.dim * config.mlp_ratio),
                qkv_bias=config.qkv_bias,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                stochastic_depth=rate,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = head(config.dim, config.representation, config.classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; nothing keeps what construction left in it.

        Positions are normal with std 0.02, as in the authors' code; the class token is almost zero (theirs is zero).
        """
        initialize(self, self.head)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=1e-6)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("grid", self.config.dim, self.config.stride),)

    def embed(self, images: Tensor) -> Tensor:
        """z_0 of eq. 1: 224x224x3 -> 14x14x768 -> 196x768 -> 197x768 for ViT-B/16."""
        check_images(images, self.config.image_size)
        z = patches(self.patch_embedding, images)  # (B, N, dim)
        if self.class_token is not None:
            z = torch.cat([self.class_token.expand(z.shape[0], -1, -1), z], dim=1)  # (B, 1 + N, dim)
        return self.dropout(z + self.position_embedding)

    def encode(self, images: Tensor, queries: int | None = None) -> Tensor:
        """z_L, before the last norm; or of its first tokens alone (B, queries, dim)."""
        return encode_all(self.encoder, self.embed(images), queries=queries)

    def pool(self, z: Tensor) -> Tensor:
        """y of eq. 4, or the mean of the patches: (B, N, dim) -> (B, dim)."""
        if self.config.pool == "token":
            return self.norm(z[:, 0])
        z = z[:, int(self.config.class_token) :]
        return self.norm(z.mean(dim=1)) if self.config.pool == "mean_norm" else self.norm(z).mean(dim=1)

    def pooled(self, images: Tensor) -> Tensor:
        """What the head is given: (B, dim)."""
        return self.pool(self.encode(images, queries=1 if self.config.pool == "token" else None))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """The patches after the last norm, as a map; with ``pool="mean_norm"``, whose norm is no patch's, before it."""
        z = self.encode(images)[:, int(self.config.class_token) :]
        return {"grid": as_map(z if self.config.pool == "mean_norm" else self.norm(z), self.config.grid)}

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """The weights (B, heads, N, N) of every block, "encoder.0" first."""
        return attend_all(self.encoder, self.embed(images))


def head(dim: int, representation: int, classes: int) -> nn.Module:
    """Linear + tanh + Linear for pre-training, one Linear for fine-tuning (section 3.1); Identity for no classes."""
    if classes == 0:
        return nn.Identity()
    if representation:
        return nn.Sequential(nn.Linear(dim, representation), nn.Tanh(), nn.Linear(representation, classes))
    return nn.Linear(dim, classes)


# What the other vision transformers have too.


def sides(image_size: Size) -> tuple[int, int]:
    """Height and width."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def in_pixels(image_size: Size) -> str:
    """ "224 px" or "224 x 160 px"."""
    return f"{' x '.join(str(side) for side in dict.fromkeys(sides(image_size)))} px"


def grid_of(image_size: Size, patch_size: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = sides(image_size)
    return (height - patch_size) // stride + 1, (width - patch_size) // stride + 1


def check_patches(image_size: Size, patch_size: int, stride: int) -> None:
    """Raise ValueError if the image is not a whole number of patches."""
    if min(sides(image_size)) < patch_size:
        raise ValueError(f"patch_size {patch_size} is larger than image_size {image_size}")
    if any((side - patch_size) % stride for side in sides(image_size)):
        every = f" every {stride} px (patch_stride)" if stride != patch_size else ""
        raise ValueError(f"image_size {image_size} is not a whole number of patches of {patch_size} px{every}")


def check_images(images: Tensor, image_size: Size) -> None:
    """Raise ValueError for images of another size than that of the learned positions."""
    if images.shape[-2:] != sides(image_size):
        raise ValueError(f"images are {tuple(images.shape[-2:])}, the model was built for {in_pixels(image_size)}")


def patches(embedding: nn.Conv2d, images: Tensor) -> Tensor:
    """x_p E of every patch, row by row from the top left: (B, channels, H, W) -> (B, N, dim).

    Where patches do not overlap a GPU is faster with the product of matrices that it is: by 2 ms of ViT-B's step of
    38 ms on an H200 (benchmarks/gpu.py). Tokens come one after the other in memory, whatever layout a convolution
    gives: sums keep a layout, and every norm of every block would first have to change it.
    """
    if images.device.type == "cuda" and embedding.stride == embedding.kernel_size:
        z = patches_linear(images, embedding.weight, embedding.bias)
    else:
        z = embedding(images)  # (B, dim, H / stride, W / stride)
    return z.flatten(2).transpose(1, 2).contiguous()


def as_map(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches' tokens where the patches are: (B, N, dim) -> (B, dim, *grid)."""
    return z.transpose(1, 2).unflatten(2, grid)


def encode_all(encoder: nn.ModuleList, z: Tensor, *positions: Tensor, queries: int | None = None) -> Tensor:
    """z through every block: (B, N, dim). Of the last one nobody but the head sees the result; where that looks at the
    first ``queries`` tokens alone, they are all that attends there and goes through the MLP: (B, queries, dim)."""
    *blocks, last = encoder
    for block in blocks:
        z = block(z, *positions)
    out: Tensor = last(z, *positions, queries=queries)
    return out


def attend_all(encoder: nn.ModuleList, z: Tensor, *positions: Tensor) -> dict[str, Tensor]:
    """z through every block on the readable attention path: block name -> weights (B, h, N, N)."""
    weights: dict[str, Tensor] = {}
    for i, block in enumerate(encoder):
        attend: Any = block.attend
        z, weights[f"encoder.{i}"] = attend(z, *positions)
    return weights


# Tables 1 of Dosovitskiy et al. 2021 (base, large, huge) and of Touvron et al. 2021 (tiny, small): patch, D, L, heads.
SIZES: dict[str, dict[str, int]] = {
    "vit_tiny": {"patch_size": 16, "dim": 192, "depth": 12, "heads": 3},
    "vit_small": {"patch_size": 16, "dim": 384, "depth": 12, "heads": 6},
    "vit_base": {"patch_size": 16, "dim": 768, "depth": 12, "heads": 12},
    "vit_large": {"patch_size": 16, "dim": 1024, "depth": 24, "heads": 16},
    "vit_huge": {"patch_size": 14, "dim": 1280, "depth": 32, "heads": 16},
}
