"""Any model by its name: a classifier of the catalog, a segmenter with a head on its pyramid, an EoMT, or a backbone
that remembers its training images."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from vitnext.errors import InputError
from vitnext.models import catalog, eomt, neighbours, segmenter
from vitnext.models.names import answers_with_queries

SEGMENTED = 512  # pixels a side that segmenters are customarily trained on, ADE20K's


def is_segmenter(name: str) -> bool:
    """Whether a model of this name answers with masks: "BACKBONE+HEAD" or "segformer_b0" to "segformer_b5"."""
    return head_of(name) not in ("", neighbours.NAME) or name.startswith("segformer")


def tells_objects_apart(name: str) -> bool:
    """Whether a model of this name can keep the objects of a class apart."""
    return answers_with_queries(name) or head_of(name) == "panoptic_deeplab"


def task_of(name: str) -> str:
    """What a model of this name is for, as its card says."""
    if tells_objects_apart(name):
        return "panoptic"
    return "semantic" if is_segmenter(name) else "classification"


def build(name: str, /, **config: Any) -> nn.Module:
    """A freshly initialised model. Raises InputError for an unknown name, field or value."""
    if head_of(name) == "eomt":
        return eomt.build(name, **config)
    if is_segmenter(name):
        return segmenter.build(name, **config)
    if head_of(name) == neighbours.NAME:
        return neighbours.build(name, **config)
    return catalog.build(name, **config)


def resolve(name: str, /, **config: Any) -> Any:
    """The full config of a name. Raises InputError for an unknown name, field or value."""
    if head_of(name) == "eomt":
        return eomt.resolve(name, **config)
    if is_segmenter(name):
        return segmenter.resolve(name, **config)
    return catalog.resolve(name, **config)[1]


def describe(name: str) -> catalog.Row:
    """Parameters and multiply-adds of a segmenter for ADE20K's 150 classes at about 512 px, or as ``catalog.describe``.

    Raises InputError for an unknown name.
    """
    if not is_segmenter(name):
        return catalog.describe(name)
    family_name = family_of(name)
    family, size = catalog.FAMILIES[family_name], SEGMENTED
    if family.has("image_size"):
        stride = catalog.resolve(backbone_of(name))[1].stride
        size = round(SEGMENTED / stride) * stride
    with torch.device("meta"):
        model = build(name, **({"image_size": size} if family.has("image_size") else {}))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return catalog.Row(name, family_name, parameters, catalog.count_macs(model, size), size, family.paper, None)


def backbone_of(name: str) -> str:
    """ "convnext_tiny" of "convnext_tiny+upernet", "mit_b0" of "segformer_b0"; a classifier is its own backbone."""
    return segmenter.SIZES.get(name, (name, {}))[0].partition("+")[0]


def head_of(name: str) -> str:
    """ "upernet" of "convnext_tiny+upernet", "segformer" of "segformer_b0", "" of a classifier."""
    return segmenter.SIZES.get(name, (name, {}))[0].partition("+")[2]


def composed(backbone: str, head: str) -> str:
    """The name of a backbone with a head: the inverse of ``backbone_of`` and ``head_of``."""
    name = f"{backbone}+{head}" if head else backbone
    return next((size for size, (of_size, _) in segmenter.SIZES.items() if of_size == name), name)


def family_of(name: str) -> str:
    """The family of its backbone. Raises InputError for an unknown name."""
    if is_segmenter(name) and head_of(name) not in ("eomt", *segmenter.HEADS):
        segmenter.resolve(name)  # says which there are
    family = catalog.family_of(backbone_of(name))
    if head_of(name) == "eomt" and family not in eomt.PLAIN:
        raise InputError(f"{name}: EoMT is for plain ViTs ({', '.join(eomt.PLAIN)}), {family} is none")
    return family


def config_dict(model: nn.Module) -> dict[str, Any]:
    """What ``build`` takes to build the model again, as plain values, for the card."""
    config: Any = model.config
    if not isinstance(config, segmenter.SegmenterConfig | eomt.EoMTConfig):
        return neighbours.config_of(model) or catalog.config_dict(model)
    of_backbone = catalog.plain_fields(config.backbone)
    del of_backbone["classes"]
    if isinstance(config, eomt.EoMTConfig):
        own: dict[str, Any] = {"queries": config.queries, "blocks": config.blocks}
    else:
        own = {"head": dataclasses.asdict(config.head)}
    return {**of_backbone, **own, "classes": config.classes}


def require_fit(network: nn.Module, name: str, channels: int, *sizes: tuple[int, int]) -> None:
    """Raises InputError with the network's reason if it does not take images of each size (height, width)."""
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            for size in dict.fromkeys(sizes):
                network.eval()(torch.zeros(1, channels, *size, device=device))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
