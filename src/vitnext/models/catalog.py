"""Every model by name: what it is built from, what it costs, what its paper says it scores.

A name is a published size (``vit_small``, ``convnext_tiny``), with ``_patchN`` behind it where a network has patches,
or a family alone (``vit``, ``convnext``), whose whole configuration is then given. Any field of the family's config can
be overridden.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitnext.errors import InputError
from vitnext.models import (
    convnext,
    convnextv2,
    deit,
    dinov2,
    dinov3,
    mit,
    mobilenet,
    resnet,
    roadmap,
    swin,
    swinv2,
    vit,
)
from vitnext.models.macs import count_macs


@dataclass(frozen=True)
class Family:
    """One architecture: how it is built, its published sizes (name -> config fields), its paper."""

    config: type
    module: type[nn.Module]
    sizes: dict[str, dict[str, Any]]
    paper: str
    channels_last: bool  # the memory layout that its operations prefer
    recipe: str  # whose default recipes suit it: vit or convnext
    image_size: int = 224  # what its sizes were trained and counted at, where the config does not say

    def has(self, field: str) -> bool:
        """Whether the family's config has this field."""
        return any(known.name == field for known in dataclasses.fields(self.config))


VIT_SIZES = {**vit.SIZES, **deit.PLAIN_SIZES}  # without distillation DeiT is a ViT

FAMILIES = {
    "vit": Family(vit.ViTConfig, vit.VisionTransformer, VIT_SIZES, "Dosovitskiy et al. 2021", False, "vit"),
    "deit": Family(deit.DeiTConfig, deit.DeiT, deit.SIZES, "Touvron et al. 2021", False, "vit"),
    "deit3": Family(deit.DeiT3Config, deit.DeiT3, deit.DEIT3_SIZES, "Touvron et al. 2022", False, "vit"),
    "dinov2": Family(dinov2.DINOv2Config, dinov2.DINOv2, dinov2.SIZES, "Oquab et al. 2023", False, "vit"),
    "dinov3": Family(dinov3.DINOv3Config, dinov3.DINOv3, dinov3.SIZES, "Simeoni et al. 2025", False, "vit"),
    "swin": Family(swin.SwinConfig, swin.SwinTransformer, swin.SIZES, "Liu et al. 2021", False, "convnext"),
    "swinv2": Family(
        swinv2.SwinV2Config, swinv2.SwinTransformerV2, swinv2.SIZES, "Liu et al. 2022 (V2)", False, "convnext", 256
    ),
    "mit": Family(mit.MiTConfig, mit.MixTransformer, mit.SIZES, "Xie et al. 2021", False, "convnext"),
    "convnext": Family(convnext.ConvNeXtConfig, convnext.ConvNeXt, convnext.SIZES, "Liu et al. 2022", True, "convnext"),
    "convnextv2": Family(
        convnextv2.ConvNeXtV2Config, convnextv2.ConvNeXtV2, convnextv2.SIZES, "Woo et al. 2023", True, "convnext"
    ),
    "resnet": Family(resnet.ResNetConfig, resnet.ResNet, resnet.SIZES, "He et al. 2016", True, "convnext"),
    "mobilenet": Family(
        mobilenet.MobileNetV2Config, mobilenet.MobileNetV2, mobilenet.SIZES, "Sandler et al. 2018", True, "convnext"
    ),
    "roadmap": Family(roadmap.Design, roadmap.Roadmap, roadmap.SIZES, "Liu et al. 2022", True, "convnext"),
}

NAMES = [name for family in FAMILIES.values() for name in family.sizes]

# ImageNet-1k top-1 of training on ImageNet-1k alone at the family's image size. ViT: DeiT without distillation, as its
# authors' repository lists it (table 7 of Touvron et al. 2021 has 79.8 for small), and so with it; Swin: Liu et al.
# 2021, table 1; V2: its authors' repository (SwinV2-L was trained on ImageNet-22k first); ConvNeXt: Liu et al. 2022,
# table 1; V2: Woo et al. 2023, with its self-supervised start.
PUBLISHED_TOP1 = {
    "vit_tiny": 72.2,
    "vit_small": 79.9,
    "vit_base": 81.8,
    "convnext_tiny": 82.1,
    "convnext_small": 83.1,
    "convnext_base": 83.8,
    "convnext_large": 84.3,
    "deit_tiny": 72.2,
    "deit_small": 79.9,
    "deit_base": 81.8,
    "deit_tiny_distilled": 74.5,
    "deit_small_distilled": 81.2,
    "deit_base_distilled": 83.4,
    "swin_tiny": 81.2,
    "swin_small": 83.2,
    "swin_base": 83.5,
    "swinv2_tiny": 81.8,
    "swinv2_small": 83.7,
    "swinv2_base": 84.2,
    "convnextv2_atto": 76.7,
    "convnextv2_femto": 78.5,
    "convnextv2_pico": 80.3,
    "convnextv2_nano": 81.9,
    "convnextv2_tiny": 83.0,
    "convnextv2_base": 84.9,
    "convnextv2_large": 85.8,
    "convnextv2_huge": 86.3,
    **{
        f"roadmap_{column}_{i:02d}": step.top1
        for column, steps in roadmap.STEPS.items()
        for i, step in enumerate(steps)
    },
}


@dataclass(frozen=True)
class Row:
    """One line of ``vitnext models``: parameters and multiply-adds of the published model at ``image_size`` pixels."""

    name: str
    family: str
    parameters: int
    macs: int
    image_size: int  # of a square
    paper: str
    top1: float | None


def resolve(name: str, /, **overrides: Any) -> tuple[Family, Any]:
    """The family and the full config of a name. Raises InputError for an unknown name, field or value."""
    family_name, values = _parse(name)
    family = FAMILIES[family_name]
    known = [field.name for field in dataclasses.fields(family.config)]
    for key, value in overrides.items():
        if key not in known:
            raise InputError(f"{name} has no model.config.{key}; there are {', '.join(known)}")
        values[key] = tuple(value) if isinstance(value, list) else value
        if key == "image_size" and _is_pair(values[key]) and len(set(values[key])) == 1:
            values[key] = values[key][0]
    defaults = family.config()
    for key, value in values.items():
        default = getattr(defaults, key)
        if not _fits(value, default) and not (key == "image_size" and _is_pair(value)):
            like = f"{default} or [{default}, 160]" if key == "image_size" else repr(_plain(default))
            raise InputError(f"model.config.{key} is {_plain(value)!r}: give a value like {like}")
    try:
        return family, family.config(**values)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def build(name: str, /, **overrides: Any) -> nn.Module:
    """A freshly initialised model. Raises InputError for an unknown name, field or value."""
    family, config = resolve(name, **overrides)
    try:
        return family.module(config)
    except (ValueError, OverflowError) as error:  # an infinite mlp_ratio overflows
        raise InputError(f"{name}: {error}") from error


def family_of(name: str) -> str:
    """ "vit_small_patch8" -> "vit". Raises InputError for an unknown name."""
    return _parse(name)[0]


def config_dict(model: nn.Module) -> dict[str, Any]:
    """The model's whole configuration as plain values, for the card."""
    return plain_fields(model.config)


def plain_fields(config: Any) -> dict[str, Any]:
    """A config as plain values."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def describe(name: str) -> Row:
    """Count parameters and multiply-adds without allocating the weights. Raises InputError for an unknown name."""
    family_name = family_of(name)
    with torch.device("meta"):
        model = build(name)
    parameters = sum(p.numel() for p in model.parameters())
    family = FAMILIES[family_name]
    image_size = getattr(model.config, "image_size", family.image_size)
    macs = count_macs(model, image_size)
    return Row(name, family_name, parameters, macs, image_size, family.paper, PUBLISHED_TOP1.get(name))


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """ "vit_small_patch8" -> ("vit", the fields of vit_small, with patch_size 8)."""
    base, _, patch = name.partition("_patch")
    for family_name, family in FAMILIES.items():
        if name == family_name:
            return family_name, {}
        if name in family.sizes:
            return family_name, dict(family.sizes[name])
        if patch.isdecimal() and family.has("patch_size") and base in (family_name, *family.sizes):
            return family_name, {**family.sizes.get(base, {}), "patch_size": int(patch)}
    if "+" in name or name.startswith("segformer"):
        raise InputError(f"{name} is a segmenter, and this needs a classifier: give a backbone's name alone")
    known = [*FAMILIES, *NAMES]
    close = [base] if base in known else difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "vitnext models lists them all"
    raise InputError(f'there is no model "{name}": {hint}')


def _is_pair(value: Any) -> bool:
    """Whether it is a height and a width."""
    return isinstance(value, tuple) and [type(side) for side in value] == [int, int]


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the default's type; a whole number does for a fraction."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(item, default[0]) for item in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float if isinstance(default, float) else type(default))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":  # make catalog
    print("[")
    print(",\n".join(json.dumps(dataclasses.asdict(describe(name))) for name in NAMES))
    print("]")
