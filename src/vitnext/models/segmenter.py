"""Segmenters: a backbone of the catalog and a head on its feature pyramid.

A name is ``BACKBONE+HEAD`` ("convnext_tiny+upernet", "vit_small+linear", "mit_b2+segformer") or a size of SegFormer
("segformer_b0": mit_b0+segformer). The fields of the backbone's config are given as for the backbone alone, those of
the head's as ``head={...}``.

Where a backbone's stages end in a residual sum, a LayerNorm stands between each stage and the head, as Swin's and
ConvNeXt's authors have it for dense prediction. A plain ViT's patches are normalised already; for a head that wants
several resolutions it gets a simple feature pyramid.

Deviation: where a window of Swin covers a side of the map, it is as long as the side and not shifted, as in our
classifier; transformers' and the authors' segmenters fill the window up. Maps larger than their windows are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.models.heads.feature_pyramid import SimpleFeaturePyramid
from vitnext.models.heads.linear import LinearConfig, LinearHead
from vitnext.models.heads.mask2former import Decide, Mask2FormerConfig, Mask2FormerHead, at_least_half
from vitnext.models.heads.panoptic_deeplab import PanopticDeepLabConfig, PanopticDeepLabHead
from vitnext.models.heads.segformer import SegFormerConfig, SegFormerHead, upsample
from vitnext.models.heads.upernet import FCNHead, UPerNetConfig, UPerNetHead
from vitnext.models.layers import ChannelLayerNorm, initialize
from vitnext.models.queries import semantic

HeadConfig = LinearConfig | UPerNetConfig | SegFormerConfig | PanopticDeepLabConfig | Mask2FormerConfig
HEADS: dict[str, tuple[type[HeadConfig], type[nn.Module]]] = {
    "linear": (LinearConfig, LinearHead),
    "upernet": (UPerNetConfig, UPerNetHead),
    "segformer": (SegFormerConfig, SegFormerHead),
    "panoptic_deeplab": (PanopticDeepLabConfig, PanopticDeepLabHead),
    "mask2former": (Mask2FormerConfig, Mask2FormerHead),
}

STAGE_NORMS = {"convnext": 1e-6, "convnextv2": 1e-6, "swin": 1e-5, "swinv2": 1e-5}  # epsilon, as in the authors' code
ONLY_POOLED = {"mobilenet": "features"} | dict.fromkeys((*STAGE_NORMS, "roadmap"), "norm")  # no part of the pyramid

# Xie et al. 2021, section 3.2 and the authors' configs: the width of the head.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    f"segformer_b{i}": (f"mit_b{i}+segformer", {"width": 256 if i < 2 else 768}) for i in range(6)
}


@dataclass(frozen=True)
class SegmenterConfig:
    """Every choice that changes the network. family: of the backbone, whose config has no classes."""

    family: str
    backbone: Any
    head: HeadConfig
    classes: int = 150

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes is {self.classes}; it must be at least 1")

    @property
    def channels(self) -> int:
        """Of the images."""
        channels: int = self.backbone.channels
        return channels


class Segmenter(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes, H, W); with Panoptic-DeepLab's heads the
    centres' heat and two offsets behind them, (B, classes + 3, H, W)."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = catalog.FAMILIES[config.family].module(config.backbone)
        if config.family in ONLY_POOLED:
            setattr(self.backbone, ONLY_POOLED[config.family], nn.Identity())
        stages: tuple[Any, ...] = tuple(self.backbone.stages)  # type: ignore[arg-type]
        epsilon = STAGE_NORMS.get(config.family)
        seen = stages[-1:] if isinstance(config.head, LinearConfig) else stages  # by the head
        self.norms = nn.ModuleList(
            ChannelLayerNorm(stage.channels, eps=epsilon) if epsilon and stage in seen else nn.Identity()
            for stage in stages
        )
        self.neck = None
        if len(stages) == 1 and not isinstance(config.head, LinearConfig):
            self.neck = SimpleFeaturePyramid(stages[0])
            stages = self.neck.stages
        head = HEADS[head_name(config.head)][1]
        self.head = head(stages, config.classes, config.head)
        self.auxiliary: FCNHead | None = None
        if isinstance(config.head, UPerNetConfig) and config.head.auxiliary_width:
            width_in = stages[max(len(stages) - 2, 0)].channels
            self.auxiliary = FCNHead(width_in, config.head.auxiliary_width, config.classes, config.head.dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every parameter; nothing keeps what construction left in it. The classifiers start at a std of 0.02."""
        for part in (self.norms, self.neck, self.head, self.auxiliary):
            if part is not None:
                initialize(part, nn.Identity())
        reset: Any = self.backbone.reset_parameters
        reset()
        for head in (self.head, self.auxiliary):
            if head is not None:
                classifier: Any = head.classifier
                nn.init.normal_(classifier.weight, std=0.02)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the head is given, finest first."""
        pyramid: Any = self.backbone.pyramid
        maps: list[Tensor] = [norm(x) for norm, x in zip(self.norms, pyramid(images).values(), strict=True)]
        return maps if self.neck is None else self.neck(maps[0])

    def forward(self, images: Tensor) -> Tensor:
        return upsample(self.head(self.maps(images)), images)

    def forward_with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a training step needs: the logits, and those of the auxiliary head, both (B, classes, H, W)."""
        maps = self.maps(images)
        auxiliary = None
        if self.auxiliary is not None:
            auxiliary = upsample(self.auxiliary(maps[max(len(maps) - 2, 0)]), images)
        return upsample(self.head(maps), images), auxiliary


class Mask2Former(Segmenter):
    """Images (B, channels, H, W), normalised floats -> masks (B, K, H_1, W_1), at the resolution of the finest map (a
    quarter of H and W), and classes (B, K, classes + 1), logits of K queries."""

    head: Mask2FormerHead

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.head.reset_own_parameters()

    def forward(  # type: ignore[override]
        self, images: Tensor, decide: Decide = at_least_half
    ) -> tuple[Tensor, Tensor]:
        queries, pixels = self.head(self.maps(images), decide)
        return self.head.masks_and_classes(queries[-1], pixels)

    def predictions(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(masks, classes) before the first layer and after each."""
        queries, pixels = self.head(self.maps(images))
        return [self.head.masks_and_classes(of_layer, pixels) for of_layer in queries]

    def training_predictions(self, images: Tensor, done: float) -> list[tuple[Tensor, Tensor]]:
        """As `QuerySegmenter` wants them: attention is masked at any time."""
        return self.predictions(images)

    def semantic(self, images: Tensor) -> Tensor:
        """Scores of each class at each pixel (B, classes, H, W)."""
        return semantic(self(images), images)


def head_name(config: HeadConfig) -> str:
    """ "upernet" of an UPerNetConfig."""
    return next(name for name, (kind, _) in HEADS.items() if isinstance(config, kind))


def resolve(name: str, /, **overrides: Any) -> SegmenterConfig:
    """The full config of a name. Raises InputError for an unknown name, field or value."""
    composed, of_head = SIZES.get(name, (name, {}))
    backbone, _, head = composed.partition("+")
    if head not in HEADS:
        raise InputError(
            f'there is no model "{name}": a segmenter is BACKBONE+HEAD, with the head {", ".join(HEADS)} '
            "or eomt, or it is segformer_b0 to segformer_b5"
        )
    given = overrides.pop("head", {})
    if not isinstance(given, Mapping):
        raise InputError(f"model.config.head is {given!r}: give the head's fields, {{width: 256}}")
    kind = HEADS[head][0]
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in given if key not in known]:
        raise InputError(f"{name} has no model.config.head.{unknown[0]}; there are {', '.join(known)}")
    classes = overrides.pop("classes", SegmenterConfig.classes)
    _, network = catalog.resolve(backbone, **overrides, classes=0)
    try:
        return SegmenterConfig(catalog.family_of(backbone), network, kind(**{**of_head, **given}), classes)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error


def build(name: str, /, **overrides: Any) -> Segmenter:
    """A freshly initialised segmenter. Raises InputError for an unknown name, field or value."""
    config = resolve(name, **overrides)
    return Mask2Former(config) if isinstance(config.head, Mask2FormerConfig) else Segmenter(config)
