"""Mask2Former: "Masked-attention Mask Transformer" (Cheng et al. 2022, arXiv:2112.01527, section 3).

A pixel decoder refines the maps of a backbone by multi-scale deformable attention (Zhu et al. 2021, arXiv:2010.04159,
eq. 3) and gives an embedding of every pixel. K learned queries then look at one scale after the other, the coarsest
first, each at what its own mask so far holds:

    X_l = softmax(M_{l-1} + Q_l K_l^T) V_l + X_{l-1}     masked attention, eq. 2
    M   = 0 where the mask of layer l - 1 is at least 1/2, else minus infinity        eq. 3
    c_i = W_class q_i                                    classes and "no object"
    m_i = MLP(q_i)^T E_pixel                             at the resolution of the finest map

Then self-attention and a feed-forward network (section 3.2.3: in this order, with learned query features, without
dropout). Classes and masks are said before the first layer and after every one, which all are trained.

A query whose mask is empty sees everything, as in the authors' code. The mask that attention needs is made at the
scale's own resolution: interpolation is linear, so that of the pixels' embedding gives that of the masks.

Paper -> here: N = 100 queries -> queries, L = 9 layers -> layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.attention import fast_attention
from vitnext.models.backbone import Stage
from vitnext.models.heads.segformer import upsample
from vitnext.models.layers import check_at_least
from vitnext.models.windows import constant

POINTS = 4  # that a head looks at in each scale (Zhu et al. 2021, section 4.1)
GROUPS = 32  # of a group norm

Sides = tuple[tuple[int, int], ...]  # height and width of each scale, coarsest first
Decide = Callable[[Tensor], Tensor]  # logits of masks -> which pixels they hold


def at_least_half(logits: Tensor) -> Tensor:
    """The paper's threshold, eq. 3: the answers jump where a logit is near zero, by whatever rounding makes of it."""
    return logits >= 0


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Every choice that changes the head. The default is the paper's (section 4.1)."""

    width: int = 256
    queries: int = 100
    layers: int = 9
    hidden: int = 2048  # of a layer's feed-forward network
    pixel_layers: int = 6  # of the pixel decoder
    pixel_hidden: int = 1024
    heads: int = 8

    def __post_init__(self) -> None:
        check_at_least(1, self, "width", "queries", "layers", "hidden", "pixel_layers", "pixel_hidden", "heads")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width is {self.width}; it must be a multiple of 4 and of heads, {self.heads}")


class Mask2FormerHead(nn.Module):
    """Maps (B, C_i, H_i, W_i), finest first -> queries after each layer, normalised, (B, K, D), and pixels (B, D, H_1,
    W_1), of which `masks_and_classes` makes answers."""

    def __init__(self, stages: Sequence[Stage], classes: int, config: Mask2FormerConfig) -> None:
        super().__init__()
        width = config.width
        self.pixel_decoder = PixelDecoder(stages, config)
        self.scales = nn.Parameter(torch.empty(len(self.pixel_decoder.inputs), width))
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.positions = nn.Parameter(torch.empty(config.queries, width))  # of the queries
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.mask = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.classifier = nn.Linear(width, classes + 1)

    def reset_own_parameters(self) -> None:
        """What no general rule sets: queries and scales are normal, points begin around their query."""
        for parameter in (self.queries, self.positions, self.scales, self.pixel_decoder.scales):
            nn.init.normal_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_points()

    def forward(self, maps: Sequence[Tensor], decide: Decide = at_least_half) -> tuple[list[Tensor], Tensor]:
        scales, pixels = self.pixel_decoder(maps)
        features = [(x + scale[:, None, None]).flatten(2).mT for x, scale in zip(scales, self.scales, strict=True)]
        places = [constant(sine_positions, tuple(x.shape[-2:]), x.shape[1], like=x) for x in scales]  # (N_i, D) each
        thumbnails = [upsample(pixels, x).detach() for x in scales]
        x = self.queries.expand(pixels.shape[0], -1, -1)  # (B, K, D)
        found = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            scale = i % len(scales)
            inside = self.inside(found[-1], thumbnails[scale], decide)
            x = layer(x, self.positions, features[scale], places[scale], inside)
            found.append(self.norm(x))
        return found, pixels

    def inside(self, queries: Tensor, pixels: Tensor, decide: Decide = at_least_half) -> Tensor:
        """(B, K, N): which of the N pixels each query may see, those of its mask or, if it is empty, all of them."""
        held = decide(torch.einsum("bqd,bdhw->bqhw", self.mask(queries.detach()), pixels).flatten(2))
        return held | ~held.any(dim=-1, keepdim=True)

    def masks_and_classes(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, H_1, W_1) and (B, K, classes + 1)."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask(queries), pixels), self.classifier(queries)


class DecoderLayer(nn.Module):
    """Masked attention to one scale, self-attention, feed-forward network; a norm after each."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.masked_attention = Attention(config.width, config.heads)
        self.norm1 = nn.LayerNorm(config.width)
        self.self_attention = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = feed_forward(config.width, config.hidden)
        self.norm3 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, positions: Tensor, features: Tensor, places: Tensor, inside: Tensor) -> Tensor:
        """x (B, K, D) and its positions (K, D); features (B, N, D) at places (N, D), of which inside (B, K, N) are
        seen -> (B, K, D)."""
        x = self.norm1(x + self.masked_attention(x + positions, features + places, features, inside))
        placed = x + positions
        x = self.norm2(x + self.self_attention(placed, placed, x))
        out: Tensor = self.norm3(x + self.mlp(x))
        return out


class Attention(nn.Module):
    """Multi-head attention of queries (B, K, D) to keys and values (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = zip((queries, keys, values), self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(2, (self.heads, -1)).transpose(1, 2) for x, w, b in weights)
        out: Tensor = self.output(fast_attention(q, k, v, mask=mask).transpose(1, 2).flatten(2))  # (B, K, h * d)
        return out


class PixelDecoder(nn.Module):
    """Maps (B, C_i, H_i, W_i), finest first -> all but the finest, coarsest first, as (B, D, H_i, W_i), and the
    embedding of pixels (B, D, H_1, W_1). (Section 4.1: deformable attention over the three coarser ones of four.)"""

    def __init__(self, stages: Sequence[Stage], config: Mask2FormerConfig) -> None:
        super().__init__()
        finest, *coarser = stages
        width = config.width
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(stage.channels, width, 1), GroupNorm(width)) for stage in reversed(coarser)
        )
        self.scales = nn.Parameter(torch.empty(len(coarser), width))
        self.layers = nn.ModuleList(PixelDecoderLayer(config, len(coarser)) for _ in range(config.pixel_layers))
        self.lateral = nn.Sequential(nn.Conv2d(finest.channels, width, 1, bias=False), GroupNorm(width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), GroupNorm(width), nn.ReLU(inplace=True)
        )
        self.output = nn.Conv2d(width, width, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        finest, *coarser = maps
        scales = [project(x) for project, x in zip(self.inputs, reversed(coarser), strict=True)]
        sides: Sides = tuple((x.shape[-2], x.shape[-1]) for x in scales)
        counts = [height * width for height, width in sides]
        places = [constant(sine_positions, of_scale, self.scales.shape[1], like=finest) for of_scale in sides]
        positions = torch.cat([place + scale for place, scale in zip(places, self.scales, strict=True)])  # (N, D)
        z = torch.cat([x.flatten(2) for x in scales], dim=2).mT  # (B, N, D), N = sum of H_i W_i
        for layer in self.layers:
            z = layer(z, positions, sides)
        parts = z.mT.split(counts, dim=2)
        scales = [part.unflatten(2, of_scale) for part, of_scale in zip(parts, sides, strict=True)]
        lateral = self.lateral(finest)
        return scales, self.output(self.smooth(lateral + upsample(scales[-1], lateral)))


class PixelDecoderLayer(nn.Module):
    """Deformable attention among all positions of all scales, and a feed-forward network; a norm after each."""

    def __init__(self, config: Mask2FormerConfig, scales: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(config.width, config.heads, scales)
        self.norm1 = nn.LayerNorm(config.width)
        self.mlp = feed_forward(config.width, config.pixel_hidden)
        self.norm2 = nn.LayerNorm(config.width)

    def forward(self, z: Tensor, positions: Tensor, sides: Sides) -> Tensor:
        z = self.norm1(z + self.attention(z, z + positions, sides))
        out: Tensor = self.norm2(z + self.mlp(z))
        return out


class DeformableAttention(nn.Module):
    """Each query sees POINTS points of each scale around its own place (Zhu et al. 2021, eq. 3):

        sum_m W_m sum_l sum_k A_mlqk W'_m x^l(phi_l(p_q) + dp_mlqk)

    where the weights A, which sum to one over scales and points, and the offsets dp, in cells of the scale, are Linears
    of the query; x is interpolated bilinearly, and zero outside. Sums are taken point by point over whole maps, which
    is faster than query by query, with the few points last.
    """

    def __init__(self, width: int, heads: int, scales: int) -> None:
        super().__init__()
        self.heads, self.scales = heads, scales
        self.offsets = nn.Linear(width, heads * scales * POINTS * 2)  # x before y
        self.weights = nn.Linear(width, heads * scales * POINTS)
        self.value = nn.Linear(width, width)  # the W'_m of all heads
        self.output = nn.Linear(width, width)  # the W_m of all heads

    def reset_points(self) -> None:
        """A head's points lie in its own direction, 1 to POINTS cells away, and weigh the same (appendix A.4)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, POINTS + 1)[:, None]
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        with torch.no_grad():
            points = (directions[:, None, None] * steps).expand(-1, self.scales, -1, -1)
            self.offsets.bias.copy_(points.flatten())

    def forward(self, z: Tensor, queries: Tensor, sides: Sides) -> Tensor:
        """z, queries: (B, N, D), the positions of all scales one after the other -> (B, N, D)."""
        heads, scales = self.heads, self.scales
        values = self.value(z).unflatten(2, (heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)  # (B * h, d, N)
        weights = self.weights(queries).unflatten(2, (heads, -1)).softmax(dim=-1).unflatten(3, (scales, POINTS))
        weights = weights.permute(3, 0, 2, 4, 1).flatten(1, 2)  # (S, B * h, P, N)
        offsets = self.offsets(queries).unflatten(2, (heads, scales, POINTS, 2))
        offsets = offsets.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (S, B * h, P, N, 2)
        own = constant(own_places, sides, like=z)  # (N, 2)
        counts = [height * width for height, width in sides]
        found = z.new_zeros(())
        for side, value, weight, offset in zip(sides, values.split(counts, dim=2), weights, offsets, strict=True):
            points = own + offset * constant(of_a_cell, side, like=z)
            seen = F.grid_sample(value.unflatten(2, side), points, align_corners=False)  # (B * h, d, P, N)
            found = found + (seen * weight[:, None]).sum(dim=2)
        out: Tensor = self.output(found.unflatten(0, (-1, heads)).flatten(1, 2).mT)  # (B, N, h * d)
        return out


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))


class GroupNorm(nn.GroupNorm):
    """In 32 groups, or as many as there can be. Of channels-last maps torch's loses three digits on the CPU."""

    def __init__(self, width: int) -> None:
        super().__init__(math.gcd(GROUPS, width), width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


def own_places(sides: Sides) -> np.ndarray:
    """phi(p_q): where each position of each scale lies, from -1 to 1, x before y: (N, 2)."""
    grids = [np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in side[::-1])) for side in sides]
    return np.concatenate([np.stack(grid, axis=-1).reshape(-1, 2) for grid in grids]).astype(np.float32)


def of_a_cell(side: tuple[int, int]) -> np.ndarray:
    """The width and the height of one cell, where the map goes from -1 to 1: (2,)."""
    height, width = side
    return np.array([2 / width, 2 / height], np.float32)


def sine_positions(side: tuple[int, int], width: int) -> np.ndarray:
    """The position embedding of Carion et al. 2020 (arXiv:2005.12872, appendix A.4): half of the features tell y, half
    x, as sines and cosines of 1/10000 to 1 turns over the map: (H * W, width)."""
    frequencies = 10_000.0 ** -(np.arange(width // 4) * 4 / width)
    along = [2 * np.pi * np.arange(1, n + 1)[:, None] / (n + 1e-6) * frequencies for n in side]
    y, x = (np.stack([np.sin(a), np.cos(a)], axis=-1).reshape(len(a), -1) for a in along)  # (H, D / 2), (W, D / 2)
    whole = np.concatenate([y[:, None].repeat(side[1], 1), x[None].repeat(side[0], 0)], axis=-1)
    return whole.reshape(-1, width).astype(np.float32)
