"""What every network of the catalog offers, so that heads, fine-tuning and explanations need to know no family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """One level of the feature pyramid: a map of ``channels`` features, one position every ``stride`` pixels."""

    name: str
    channels: int
    stride: int


class Backbone(Protocol):
    """An image network: normalised floats (B, channels, H, W) in.

    config: the family's frozen config, with at least ``channels`` and ``classes``.
    head:   what makes logits of the pooled feature; Identity if ``classes`` is 0.
    stages: the levels of ``pyramid``, finest first: "stage1" to "stage4", or the single "grid" of a plain ViT.
    """

    config: Any
    head: nn.Module

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes); with ``classes=0`` the pooled feature."""
        ...

    def pooled(self, images: Tensor) -> Tensor:
        """The feature (B, C) that the head is given."""
        ...

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Stage name -> features (B, channels, H / stride, W / stride) as they leave the stage."""
        ...


class Attentive(Backbone, Protocol):
    """A backbone that attends."""

    def attention_weights(self, images: Tensor) -> dict[str, Tensor]:
        """Module name -> weights (B or B * windows, heads, queries, keys), first layer first; rows sum to one."""
        ...
