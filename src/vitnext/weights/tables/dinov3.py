"""DINOv3's ViTs in other libraries' names. The mask token is of pre-training alone and left behind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitnext.weights.rename import DERIVED, DROPPED, Layout, Table

# Names that timm and the authors share.
_BODY: Table = [
    ("cls_token", "class_token"),
    ("patch_embed.proj", "patch_embedding"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("blocks.{i}.attn.qkv.weight", "encoder.{i}.attention.qkv.weight"),
    ("blocks.{i}.attn.proj", "encoder.{i}.attention.output"),
    ("blocks.{i}.norm2", "encoder.{i}.norm2"),
    ("norm", "norm"),
    ("head", "head"),
]

_MLP: Table = [
    ("blocks.{i}.mlp.fc1", "encoder.{i}.mlp.expand"),
    ("blocks.{i}.mlp.fc2", "encoder.{i}.mlp.project"),
]

# With and without the biases: "..._qkvb" and the others.
_TIMM_BODY: Table = [
    *_BODY,
    ("reg_token", "registers"),
    (
        ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias"),
        "encoder.{i}.attention.qkv.query_value_bias",
    ),
    ("blocks.{i}.gamma_{j}", "encoder.{i}.layer_scale{j}"),
]

TIMM: Table = [*_TIMM_BODY, *_MLP]

TIMM_SWIGLU: Table = [
    *_TIMM_BODY,
    (("blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.fc1_x"), "encoder.{i}.mlp.expand"),
    ("blocks.{i}.mlp.fc2", "encoder.{i}.mlp.project"),
]


def _without_k(bias: Tensor) -> Tensor:
    of_q, _, of_v = bias.unflatten(0, (3, -1))
    return torch.cat([of_q, of_v])


def _with_k(bias: Tensor) -> Tensor:
    of_q, of_v = bias.unflatten(0, (2, -1))
    return torch.cat([of_q, torch.zeros_like(of_q), of_v])


def _bias_mask(numbers: dict[str, int], ours: Mapping[str, Tensor]) -> Tensor | None:
    bias = ours.get(f"encoder.{numbers['i']}.attention.qkv.query_value_bias")
    return None if bias is None else _with_k(torch.ones_like(bias))


def _periods(numbers: dict[str, int], ours: Mapping[str, Tensor]) -> Tensor:
    """100^(4 j / d); a head has d = 128 in the 7B network and 64 in all others."""
    width = 128 if ours["norm.weight"].shape == (4096,) else 64
    return 100.0 ** (torch.arange(width // 4, dtype=torch.float32) * 4 / width)


_ORIGINAL_BODY: Table = [
    *_BODY,
    ("storage_tokens", "registers"),
    ("blocks.{i}.attn.qkv.bias", "encoder.{i}.attention.qkv.query_value_bias", Layout(_without_k, _with_k)),
    ("blocks.{i}.attn.qkv.bias_mask", DERIVED(_bias_mask)),  # 0 for k, 1 for q and v
    ("blocks.{i}.ls{j}.gamma", "encoder.{i}.layer_scale{j}"),
    ("rope_embed.periods", DERIVED(_periods)),
    ("mask_token", DROPPED),
    ("local_cls_norm", DROPPED),  # of training on small crops
]

ORIGINAL: Table = [*_ORIGINAL_BODY, *_MLP]

ORIGINAL_SWIGLU: Table = [
    *_ORIGINAL_BODY,
    (("blocks.{i}.mlp.w1", "blocks.{i}.mlp.w2"), "encoder.{i}.mlp.expand"),
    ("blocks.{i}.mlp.w3", "encoder.{i}.mlp.project"),
]

_TRANSFORMERS_BODY: Table = [
    ("embeddings.cls_token", "class_token"),
    ("embeddings.mask_token", DROPPED),
    ("embeddings.register_tokens", "registers"),
    ("embeddings.patch_embeddings", "patch_embedding"),
    ("layer.{i}.norm1", "encoder.{i}.norm1"),
    (
        (
            "layer.{i}.attention.q_proj.weight",
            "layer.{i}.attention.k_proj.weight",
            "layer.{i}.attention.v_proj.weight",
        ),
        "encoder.{i}.attention.qkv.weight",
    ),
    (
        ("layer.{i}.attention.q_proj.bias", "layer.{i}.attention.v_proj.bias"),
        "encoder.{i}.attention.qkv.query_value_bias",
    ),
    ("layer.{i}.attention.o_proj", "encoder.{i}.attention.output"),
    ("layer.{i}.layer_scale{j}.lambda1", "encoder.{i}.layer_scale{j}"),
    ("layer.{i}.norm2", "encoder.{i}.norm2"),
    ("norm", "norm"),
]

TRANSFORMERS: Table = [
    *_TRANSFORMERS_BODY,
    ("layer.{i}.mlp.up_proj", "encoder.{i}.mlp.expand"),
    ("layer.{i}.mlp.down_proj", "encoder.{i}.mlp.project"),
]

TRANSFORMERS_SWIGLU: Table = [
    *_TRANSFORMERS_BODY,
    (("layer.{i}.mlp.gate_proj", "layer.{i}.mlp.up_proj"), "encoder.{i}.mlp.expand"),
    ("layer.{i}.mlp.down_proj", "encoder.{i}.mlp.project"),
]
