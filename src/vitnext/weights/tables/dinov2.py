"""DINOv2 in other libraries' names. The mask token is of pre-training alone and left behind."""

from __future__ import annotations

import torch
from torch import Tensor

from vitnext.weights.rename import DROPPED, Layout, Table

_TIMM_BODY: Table = [
    ("cls_token", "class_token"),
    ("patch_embed.proj", "patch_embedding"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("blocks.{i}.attn.qkv", "encoder.{i}.attention.qkv"),
    ("blocks.{i}.attn.proj", "encoder.{i}.attention.output"),
    ("blocks.{i}.ls{j}.gamma", "encoder.{i}.layer_scale{j}"),
    ("blocks.{i}.norm2", "encoder.{i}.norm2"),
    ("norm", "norm"),
]

_TIMM_MLP: Table = [
    ("blocks.{i}.mlp.fc1", "encoder.{i}.mlp.expand"),
    ("blocks.{i}.mlp.fc2", "encoder.{i}.mlp.project"),
]


def _to_timm(positions: Tensor) -> Tensor:
    if not positions.is_meta and positions[:, 0].any():
        raise ValueError("has a position for the class token, which timm has added to the class token itself")
    return positions[:, 1:]


# With registers timm has no position for the class token. Ours, and the authors', has one: zero.
_NO_CLASS_POSITION = Layout(lambda t: torch.cat([torch.zeros_like(t[:, :1]), t], dim=1), _to_timm)

TIMM: Table = [*_TIMM_BODY, *_TIMM_MLP, ("pos_embed", "position_embedding"), ("head", "head")]

TIMM_REGISTERS: Table = [
    *_TIMM_BODY,
    *_TIMM_MLP,
    ("pos_embed", "position_embedding", _NO_CLASS_POSITION),
    ("reg_token", "registers"),
    ("head", "head"),
]

_ORIGINAL_BODY: Table = [
    *_TIMM_BODY,
    ("pos_embed", "position_embedding"),
    ("register_tokens", "registers"),
    ("mask_token", DROPPED),
]

ORIGINAL: Table = [*_ORIGINAL_BODY, *_TIMM_MLP]

ORIGINAL_SWIGLU: Table = [
    *_ORIGINAL_BODY,
    ("blocks.{i}.mlp.w12", "encoder.{i}.mlp.expand"),
    ("blocks.{i}.mlp.w3", "encoder.{i}.mlp.project"),
]


def _transformers(network: str) -> Table:
    layer = network + ".encoder.layer.{i}"
    return [
        (f"{network}.embeddings.cls_token", "class_token"),
        (f"{network}.embeddings.mask_token", DROPPED),
        (f"{network}.embeddings.position_embeddings", "position_embedding"),
        (f"{network}.embeddings.patch_embeddings.projection", "patch_embedding"),
        (f"{layer}.norm1", "encoder.{i}.norm1"),
        (
            (
                f"{layer}.attention.attention.query",
                f"{layer}.attention.attention.key",
                f"{layer}.attention.attention.value",
            ),
            "encoder.{i}.attention.qkv",
        ),
        (f"{layer}.attention.output.dense", "encoder.{i}.attention.output"),
        (f"{layer}.layer_scale{{j}}.lambda1", "encoder.{i}.layer_scale{j}"),
        (f"{layer}.norm2", "encoder.{i}.norm2"),
        (f"{network}.layernorm", "norm"),
        ("classifier", "head"),
    ]


def _mlp(network: str) -> Table:
    return [
        (f"{network}.encoder.layer.{{i}}.mlp.fc1", "encoder.{i}.mlp.expand"),
        (f"{network}.encoder.layer.{{i}}.mlp.fc2", "encoder.{i}.mlp.project"),
    ]


def _swiglu(network: str) -> Table:
    return [
        (f"{network}.encoder.layer.{{i}}.mlp.weights_in", "encoder.{i}.mlp.expand"),
        (f"{network}.encoder.layer.{{i}}.mlp.weights_out", "encoder.{i}.mlp.project"),
    ]


_PLAIN, _WITH = "dinov2", "dinov2_with_registers"
_REGISTERS: Table = [(f"{_WITH}.embeddings.register_tokens", "registers")]

TRANSFORMERS: Table = [*_transformers(_PLAIN), *_mlp(_PLAIN)]
TRANSFORMERS_SWIGLU: Table = [*_transformers(_PLAIN), *_swiglu(_PLAIN)]
TRANSFORMERS_REGISTERS: Table = [*_transformers(_WITH), *_REGISTERS, *_mlp(_WITH)]
TRANSFORMERS_REGISTERS_SWIGLU: Table = [*_transformers(_WITH), *_REGISTERS, *_swiglu(_WITH)]
