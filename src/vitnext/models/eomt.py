"""EoMT: "Your ViT is Secretly an Image Segmentation Model" (Kerssies et al. 2025, arXiv:2503.19108, section 3).

A plain ViT whose last L_2 blocks process K learned queries together with the patches. After the last norm each query
gives a class and, as dot products with the upscaled patches, a mask:

    X_L1 = [q_1; ...; q_K; ViT's first L_1 blocks]      the queries join the tokens
    c_i  = W_class q_i                                  classes and "no object"
    m_i  = MLP(q_i)^T Upscale(patches)                  at a quarter of the image's resolution

In training the same is predicted before each of the last blocks too, and the next attention of query i may see the
patches inside of m_i alone (masked attention, Cheng et al. 2022, eq. 2-3), with a probability that is annealed to 0
("mask annealing", section 3.4), so that inference needs no masks.

Paper -> here: K -> queries, L_2 -> blocks. Deviation: of a ViT with learned positions the class token keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.models.layers import GELU, ChannelLayerNorm, check_at_least, initialize
from vitnext.models.queries import semantic

ANNEALING_POWER = 0.9  # section 3.4
PLAIN = ("vit", "deit3", "dinov2", "dinov3")  # families whose blocks see every token; DeiT's second token is its own


@dataclass(frozen=True)
class EoMTConfig:
    """Every choice that changes the network. family: of the backbone, whose config has no classes."""

    family: str
    backbone: Any
    classes: int = 150
    queries: int = 100
    blocks: int = 3  # L_2; 4 of ViT-L's 24 in the published weights

    def __post_init__(self) -> None:
        check_at_least(1, self, "classes", "queries", "blocks")
        if self.family not in PLAIN:
            raise ValueError(f"EoMT is for plain ViTs ({', '.join(PLAIN)}), {self.family} is none")
        if self.blocks > self.backbone.depth:
            raise ValueError(f"blocks is {self.blocks}; the backbone has {self.backbone.depth}")

    @property
    def channels(self) -> int:
        """Of the images."""
        channels: int = self.backbone.channels
        return channels


class Upscale(nn.Sequential):
    """Twice the resolution: (B, C, H, W) -> (B, C, 2 H, 2 W)."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
            GELU(),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            ChannelLayerNorm(dim, eps=1e-6),
        )


class EoMT(nn.Module):
    """Images (B, channels, H, W), normalised floats -> masks (B, K, H_m, W_m) and classes (B, K, classes + 1), logits.

    H_m and W_m are about a quarter of H and W: the grid of patches, doubled until a position is 4 px or less.
    """

    def __init__(self, config: EoMTConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = catalog.FAMILIES[config.family].module(config.backbone)
        dim, stride = config.backbone.dim, config.backbone.stride
        self.queries = nn.Parameter(torch.empty(1, config.queries, dim))
        doublings = max((stride // 4).bit_length() - 1, 0)  # 1 of patches of 14 px, 2 of 16
        self.upscale = nn.Sequential(*(Upscale(dim) for _ in range(doublings)))
        self.mask = nn.Sequential(nn.Linear(dim, dim), GELU(), nn.Linear(dim, dim), GELU(), nn.Linear(dim, dim))
        self.head = nn.Linear(dim, config.classes + 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; nothing keeps what construction left in it. Queries are normal with std 0.02."""
        initialize(self, self.head)
        self.backbone.reset_parameters()
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictions(images)[-1]

    def predictions(self, images: Tensor, masked: Sequence[float] | Tensor = ()) -> list[tuple[Tensor, Tensor]]:
        """(masks, classes) before each of the last blocks, if ``masked`` is given, and after them.

        masked: for each of these blocks the probability with which a query's attention is masked (1: of every query).
        """
        z, *positions = self._embed(images)
        first, found = len(self.backbone.encoder) - self.config.blocks, []
        height, width = self._grid(images)
        for i, block in enumerate(self.backbone.encoder):
            mask = None
            if i == first:
                z = torch.cat([self.queries.expand(z.shape[0], -1, -1), z], dim=1)
                positions = [_before(position, self.config.queries) for position in positions]
            if i >= first and len(masked):
                found.append(self._predict(z, height, width))
                mask = self._may_attend(found[-1][0], z.shape[1], height, width, masked[i - first])
            z = block(z, *positions, mask=mask)
        return [*found, self._predict(z, height, width)]

    def training_predictions(self, images: Tensor, done: float) -> list[tuple[Tensor, Tensor]]:
        """As `QuerySegmenter` wants them: attention is masked with probabilities that fall during the run."""
        # As a tensor: torch.compile would compile anew for each number.
        return self.predictions(images, torch.tensor(annealed(done, self.config.blocks), device=images.device))

    def semantic(self, images: Tensor) -> Tensor:
        """Scores of each class at each pixel (B, classes, H, W)."""
        return semantic(self(images), images)

    def _embed(self, images: Tensor) -> tuple[Tensor, ...]:
        """z_0, and of DINOv3 the cosines and sines of its angles."""
        z = self.backbone.embed(images)
        return z if isinstance(z, tuple) else (z,)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        config = self.config.backbone
        if hasattr(config, "grid"):
            grid: tuple[int, int] = config.grid
            return grid
        return images.shape[-2] // config.stride, images.shape[-1] // config.stride

    def _predict(self, z: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        z = self.backbone.norm(z)
        queries, patches = z[:, : self.config.queries], z[:, -height * width :]
        maps = self.upscale(patches.transpose(1, 2).unflatten(2, (height, width)))  # (B, D, H_m, W_m)
        return torch.einsum("bqd,bdhw->bqhw", self.mask(queries), maps), self.head(queries)

    def _may_attend(self, masks: Tensor, tokens: int, height: int, width: int, probability: float | Tensor) -> Tensor:
        """(B, tokens, tokens): everyone sees everyone, but a masked query only those patches that are in its mask."""
        inside = F.interpolate(masks.detach(), size=(height, width), mode="bilinear", align_corners=False) > 0
        free = torch.rand(masks.shape[:2], device=masks.device) >= probability  # (B, K)
        may = masks.new_ones((masks.shape[0], tokens, tokens), dtype=torch.bool)
        may[:, : self.config.queries, -height * width :] = inside.flatten(2) | free[..., None]
        return may


def _before(position: Tensor, queries: int) -> Tensor:
    """cos or sin of tokens (N, d), behind those of ``queries`` tokens that are not turned, as the first is not."""
    return torch.cat([position[:1].expand(queries, -1), position])


def annealed(done: float, blocks: int) -> list[float]:
    """Probability of masked attention before each of the last blocks: 1 at first, then falling to 0 one block after
    the other, so that the last part of a run, like inference, has none (Kerssies et al. 2025, section 3.4).

    Of a run divided in blocks + 2 parts, block i falls during part i + 1, as (1 - t)^0.9.
    """
    parts = blocks + 2
    return [max(0.0, 1 - max(0.0, done * parts - (i + 1))) ** ANNEALING_POWER for i in range(blocks)]


def resolve(name: str, /, **overrides: Any) -> EoMTConfig:
    """The full config of "vit_small+eomt". Raises InputError for an unknown name, field or value."""
    backbone = name.removesuffix("+eomt")
    own = {key: overrides.pop(key) for key in ("classes", "queries", "blocks") if key in overrides}
    _, network = catalog.resolve(backbone, **overrides, classes=0)
    try:
        return EoMTConfig(catalog.family_of(backbone), network, **own)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error


def build(name: str, /, **overrides: Any) -> EoMT:
    """A freshly initialised "vit_small+eomt". Raises InputError for an unknown name, field or value."""
    return EoMT(resolve(name, **overrides))
