"""Literal tables of names: one file a family, one table for each source of its weights.

TABLES has those of the catalog's networks, SEGMENTERS those of a backbone with a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitnext.weights.rename import Table
from vitnext.weights.tables import (
    convnext,
    convnextv2,
    deit,
    dinov2,
    dinov3,
    mit,
    mobilenet,
    resnet,
    roadmap,
    segmenter,
    swin,
    swinv2,
    vit,
)


@dataclass(frozen=True)
class Stored:
    """One way in which a source stores a family: the names, and what of the config these names tell.

    ``classifier`` is what they tell of a network with a head alone.
    """

    table: Table
    config: Mapping[str, Any] = field(default_factory=dict)
    classifier: Mapping[str, Any] = field(default_factory=dict)


MEAN_NORM = {"pool": "mean_norm"}
TOKEN_MEAN = {"pool": "token_mean"}  # DINOv2's classifiers: the head takes the class token and the patches' mean
MEAN = {"pool": "mean"}  # timm's default for DINOv3, where the published networks have no head
TENSORFLOW = {"same_padding": True, "norm_eps": 1e-3}  # what transformers has of MobileNetV2 was trained so

# Family, as in catalog.FAMILIES -> source -> the ways in which it stores the family.
TABLES: dict[str, dict[str, tuple[Stored, ...]]] = {
    "vit": {
        "timm": (Stored(vit.TIMM), Stored(vit.TIMM_MEAN_NORM, MEAN_NORM)),
        "torchvision": (Stored(vit.TORCHVISION), Stored(vit.TORCHVISION_REPRESENTATION)),
        "transformers": (Stored(vit.TRANSFORMERS),),
        "original": (
            Stored(vit.TIMM),  # DeiT, DINO
            Stored(vit.TIMM_MEAN_NORM, MEAN_NORM),  # MAE
            Stored(vit.ORIGINAL_MAE),
            Stored(vit.ORIGINAL),  # Google's .npz
            Stored(vit.ORIGINAL_REPRESENTATION),
        ),
    },
    "deit": {
        "timm": (Stored(deit.TIMM),),
        "transformers": (Stored(deit.TRANSFORMERS),),
        "original": (Stored(deit.ORIGINAL),),
    },
    "deit3": {
        "timm": (Stored(deit.DEIT3_TIMM),),
        "original": (Stored(deit.DEIT3_ORIGINAL),),
    },
    "dinov2": {
        "timm": (Stored(dinov2.TIMM), Stored(dinov2.TIMM_REGISTERS)),
        "transformers": (
            Stored(dinov2.TRANSFORMERS),
            Stored(dinov2.TRANSFORMERS, TOKEN_MEAN),
            Stored(dinov2.TRANSFORMERS_SWIGLU),
            Stored(dinov2.TRANSFORMERS_SWIGLU, TOKEN_MEAN),
            Stored(dinov2.TRANSFORMERS_REGISTERS),
            Stored(dinov2.TRANSFORMERS_REGISTERS, TOKEN_MEAN),
            Stored(dinov2.TRANSFORMERS_REGISTERS_SWIGLU),
            Stored(dinov2.TRANSFORMERS_REGISTERS_SWIGLU, TOKEN_MEAN),
        ),
        "original": (Stored(dinov2.ORIGINAL), Stored(dinov2.ORIGINAL_SWIGLU)),
    },
    "dinov3": {
        "timm": (Stored(dinov3.TIMM, classifier=MEAN), Stored(dinov3.TIMM_SWIGLU, classifier=MEAN)),
        "transformers": (Stored(dinov3.TRANSFORMERS), Stored(dinov3.TRANSFORMERS_SWIGLU)),
        "original": (Stored(dinov3.ORIGINAL), Stored(dinov3.ORIGINAL_SWIGLU)),
    },
    "swin": {
        "timm": (Stored(swin.TIMM),),
        "torchvision": (Stored(swin.TORCHVISION),),
        "transformers": (Stored(swin.TRANSFORMERS), Stored(swin.TRANSFORMERS_5)),
        "original": (Stored(swin.ORIGINAL),),
    },
    "swinv2": {
        "timm": (Stored(swinv2.TIMM),),
        "torchvision": (Stored(swinv2.TORCHVISION),),
        "transformers": (Stored(swinv2.TRANSFORMERS),),
        "original": (Stored(swinv2.ORIGINAL),),
    },
    "convnext": {
        "timm": (Stored(convnext.TIMM), Stored(convnext.TIMM_CONV_MLP)),
        "torchvision": (Stored(convnext.TORCHVISION),),
        "transformers": (Stored(convnext.TRANSFORMERS), Stored(convnext.TRANSFORMERS_DINOV3)),
        "original": (Stored(convnext.ORIGINAL), Stored(convnext.ORIGINAL_DINOV3)),
    },
    "convnextv2": {
        "timm": (Stored(convnextv2.TIMM), Stored(convnextv2.TIMM_CONV_MLP)),
        "transformers": (Stored(convnextv2.TRANSFORMERS),),
        "original": (Stored(convnextv2.ORIGINAL),),
    },
    "resnet": {
        "torchvision": (Stored(resnet.TORCHVISION),),
        "timm": (Stored(resnet.TIMM),),
        "transformers": (Stored(resnet.TRANSFORMERS),),
    },
    "mobilenet": {
        "timm": (Stored(mobilenet.TIMM),),
        "torchvision": (Stored(mobilenet.TORCHVISION),),
        "transformers": (Stored(mobilenet.TRANSFORMERS, TENSORFLOW),),
    },
    "mit": {
        "transformers": (Stored(mit.TRANSFORMERS, {"norm_eps": 1e-5}),),  # torch's default in every norm
        "original": (Stored(mit.ORIGINAL),),
    },
}

# Head, as in a model's name -> family of the backbone -> source -> the ways in which it stores them.
SEGMENTERS: dict[str, dict[str, dict[str, tuple[Stored, ...]]]] = {
    "upernet": {
        "convnext": {
            "transformers": (Stored(segmenter.UPERNET_CONVNEXT),),
            "mmsegmentation": (Stored(segmenter.MM_UPERNET_CONVNEXT),),
            "original": (Stored(segmenter.ORIGINAL_UPERNET_CONVNEXT),),
        },
        "swin": {
            "transformers": (Stored(segmenter.UPERNET_SWIN),),
            "mmsegmentation": (Stored(segmenter.MM_UPERNET_SWIN),),
            "original": (Stored(segmenter.ORIGINAL_UPERNET_SWIN),),
        },
    },
    "segformer": {
        "mit": {
            "transformers": (Stored(segmenter.SEGFORMER, {"norm_eps": 1e-5}),),
            "original": (Stored(segmenter.ORIGINAL_SEGFORMER),),
        },
    },
    "mask2former": {
        "swin": {"transformers": (Stored(segmenter.MASK2FORMER_SWIN),)},
    },
    "eomt": {
        "dinov2": {"transformers": (Stored(segmenter.EOMT_DINOV2),)},
        "dinov3": {"transformers": (Stored(segmenter.EOMT_DINOV3),)},
    },
}

# Recognised if the model is named: by themselves these are another family's.
NAMED_ONLY: dict[str, dict[str, tuple[Stored, ...]]] = {"roadmap": {"torchvision": (Stored(roadmap.TORCHVISION),)}}
