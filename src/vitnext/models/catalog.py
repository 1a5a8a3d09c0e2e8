"""Every model by name: what it is built from, what it costs, what its paper says it scores.

A name is a family and a size (``vit_small``, ``convnext_tiny``) or a family alone (``vit``, ``convnext``), whose whole
configuration is then given. Any field of the family's config can be overridden.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitnext.errors import InputError
from vitnext.models import convnext, vit
from vitnext.models.macs import count_macs


@dataclass(frozen=True)
class Family:
    """One architecture: how it is built, its published sizes, its paper."""

    config: type
    module: type[nn.Module]
    sizes: dict[str, dict[str, Any]]
    paper: str
    channels_last: bool  # the memory layout that its operations prefer


FAMILIES = {
    "vit": Family(vit.ViTConfig, vit.VisionTransformer, vit.SIZES, "Dosovitskiy et al. 2021", False),
    "convnext": Family(convnext.ConvNeXtConfig, convnext.ConvNeXt, convnext.SIZES, "Liu et al. 2022", True),
}

NAMES = [f"{name}_{size}" for name, family in FAMILIES.items() for size in family.sizes]

IMAGE_SIZE = 224  # what every published size was trained and counted at

# ImageNet-1k top-1 of training on ImageNet-1k alone at 224 px. ViT: DeiT without distillation, as its authors'
# repository lists it (table 7 of Touvron et al. 2021 has 79.8 for small); ConvNeXt: Liu et al. 2022, table 1.
PUBLISHED_TOP1 = {
    "vit_tiny": 72.2,
    "vit_small": 79.9,
    "vit_base": 81.8,
    "convnext_tiny": 82.1,
    "convnext_small": 83.1,
    "convnext_base": 83.8,
    "convnext_large": 84.3,
}


@dataclass(frozen=True)
class Row:
    """One line of ``vitnext models``: parameters and multiply-adds of the 1000-class model at ``image_size`` pixels."""

    name: str
    family: str
    parameters: int
    macs: int
    image_size: int
    paper: str
    top1: float | None


def resolve(name: str, /, **overrides: Any) -> tuple[Family, Any]:
    """The family and the full config of a name. Raises InputError for an unknown name, field or value."""
    family_name, size, patch = _parse(name)
    family = FAMILIES[family_name]
    values = dict(family.sizes[size]) if size else {}
    if patch is not None:
        values["patch_size"] = patch
    known = [field.name for field in dataclasses.fields(family.config)]
    for key, value in overrides.items():
        if key not in known:
            raise InputError(f"{name} has no model.config.{key}; there are {', '.join(known)}")
        values[key] = tuple(value) if isinstance(value, list) else value
    defaults = family.config()
    for key, value in values.items():
        default = getattr(defaults, key)
        if not _fits(value, default):
            raise InputError(f"model.config.{key} is {_plain(value)!r}: give a value like {_plain(default)!r}")
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
    config = model.config
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}  # type: ignore[arg-type]


def describe(name: str) -> Row:
    """Count parameters and multiply-adds without allocating the weights. Raises InputError for an unknown name."""
    family_name, _, _ = _parse(name)
    with torch.device("meta"):
        model = build(name)
    parameters = sum(p.numel() for p in model.parameters())
    macs = count_macs(model, IMAGE_SIZE)
    return Row(name, family_name, parameters, macs, IMAGE_SIZE, FAMILIES[family_name].paper, PUBLISHED_TOP1.get(name))


def _parse(name: str) -> tuple[str, str, int | None]:
    """ "vit_small_patch8" -> ("vit", "small", 8)."""
    match = re.fullmatch(r"([a-z0-9]+?)(?:_([a-z]+))?(?:_patch(\d+))?", name)
    if match and match[1] in FAMILIES:
        family, size, patch = match[1], match[2] or "", int(match[3]) if match[3] else None
        has_patches = any(field.name == "patch_size" for field in dataclasses.fields(FAMILIES[family].config))
        if (not size or size in FAMILIES[family].sizes) and (patch is None or has_patches):
            return family, size, patch
    known = [*FAMILIES, *NAMES]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "vitnext models lists them all"
    raise InputError(f'there is no model "{name}": {hint}')


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the default's type; a whole number does for a fraction."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(item, default[0]) for item in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float if isinstance(default, float) else type(default))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
