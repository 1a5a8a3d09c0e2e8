"""Swin Transformer V2 in other libraries' names. Ours has one bias for q and v together; k has none."""

from __future__ import annotations

import torch
from torch import Tensor

from vitnext.weights.rename import DERIVED, Layout, Table
from vitnext.weights.tables.swin import position_index


def _without_k(bias: Tensor) -> Tensor:
    if bias.ndim != 1 or bias.shape[0] % 3:
        raise ValueError(f"has the shape {tuple(bias.shape)}; a bias of q, k and v has (3 C,)")
    q, _, v = bias.chunk(3)
    return torch.cat([q, v])


def _with_zero_k(bias: Tensor) -> Tensor:
    if bias.ndim != 1 or bias.shape[0] % 2:
        raise ValueError(f"has the shape {tuple(bias.shape)}; a bias of q and v has (2 C,)")
    q, v = bias.chunk(2)
    return torch.cat([q, torch.zeros_like(q), v])


ZERO_K = Layout(_without_k, _with_zero_k)  # (3 C,), of which the network ignores k's C | (2 C,)


def log_offsets(window: int) -> Tensor:
    """The offsets that the bias MLP is given: (1, 2 M - 1, 2 M - 1, 2)."""
    offsets = torch.arange(1 - window, window, dtype=torch.float32)
    table = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)[None]
    table = table / (window - 1) * 8
    return torch.sign(table) * torch.log2(torch.abs(table) + 1) / 3


# Buffers that depend on M, which is a choice of the config (``recognise`` reads it from their shape): the authors' code
# makes them again when it loads a file.
UNKNOWN = DERIVED(lambda numbers, ours: None)

_BLOCK: Table = [
    ("layers.{i}.blocks.{j}.attn.logit_scale", "stages.{i}.blocks.{j}.attention.logit_scale"),
    ("layers.{i}.blocks.{j}.attn.cpb_mlp.{k}", "stages.{i}.blocks.{j}.attention.bias_network.{k}"),
    ("layers.{i}.blocks.{j}.attn.qkv.weight", "stages.{i}.blocks.{j}.attention.qkv.weight"),
    (
        ("layers.{i}.blocks.{j}.attn.q_bias", "layers.{i}.blocks.{j}.attn.v_bias"),
        "stages.{i}.blocks.{j}.attention.qv_bias",
    ),
    ("layers.{i}.blocks.{j}.attn.proj", "stages.{i}.blocks.{j}.attention.output"),
    ("layers.{i}.blocks.{j}.norm1", "stages.{i}.blocks.{j}.norm1"),
    ("layers.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.mlp.0"),
    ("layers.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.mlp.3"),
    ("layers.{i}.blocks.{j}.norm2", "stages.{i}.blocks.{j}.norm2"),
]

TIMM: Table = [
    ("patch_embed.proj", "patch_embedding"),
    ("patch_embed.norm", "embedding_norm"),
    ("layers.{i}.downsample.reduction", "stages.{i}.merging.reduction"),
    ("layers.{i}.downsample.norm", "stages.{i}.merging.norm"),
    *_BLOCK,
    ("norm", "norm"),
    ("head.fc", "head"),
]

# microsoft/Swin-Transformer: merging is the end of a stage there, the start of the next one here.
ORIGINAL: Table = [
    ("patch_embed.proj", "patch_embedding"),
    ("patch_embed.norm", "embedding_norm"),
    *(
        (f"layers.{i - 1}.downsample.{layer}", f"stages.{i}.merging.{layer}")
        for i in (1, 2, 3)
        for layer in ("reduction", "norm")
    ),
    *_BLOCK,
    ("layers.{i}.blocks.{j}.attn.relative_coords_table", UNKNOWN),
    ("layers.{i}.blocks.{j}.attn.relative_position_index", UNKNOWN),
    ("layers.{i}.blocks.{j}.attn_mask", UNKNOWN),
    ("norm", "norm"),
    ("head", "head"),
]

# features: embedding, stage 1, merging, stage 2, merging ... All of torchvision's have windows of 8.
TORCHVISION: Table = [
    ("features.0.0", "patch_embedding"),
    ("features.0.2", "embedding_norm"),
    *(
        (f"features.{2 * i}.{layer}", f"stages.{i}.merging.{layer}")
        for i in (1, 2, 3)
        for layer in ("reduction", "norm")
    ),
    *(
        (f"features.{2 * i + 1}.{{j}}.{theirs}", f"stages.{i}.blocks.{{j}}.{ours}")
        for i in (0, 1, 2, 3)
        for theirs, ours in (
            ("norm1", "norm1"),
            ("attn.logit_scale", "attention.logit_scale"),
            ("attn.qkv.weight", "attention.qkv.weight"),
            ("attn.proj", "attention.output"),
            ("attn.cpb_mlp.{k}", "attention.bias_network.{k}"),
            ("norm2", "norm2"),
            ("mlp.0", "mlp.0"),
            ("mlp.3", "mlp.3"),
        )
    ),
    *(
        (f"features.{2 * i + 1}.{{j}}.attn.qkv.bias", f"stages.{i}.blocks.{{j}}.attention.qv_bias", ZERO_K)
        for i in (0, 1, 2, 3)
    ),
    ("features.{i}.{j}.attn.relative_coords_table", DERIVED(lambda numbers, ours: log_offsets(8))),
    ("features.{i}.{j}.attn.relative_position_index", DERIVED(lambda numbers, ours: position_index(8).flatten())),
    ("norm", "norm"),
    ("head", "head"),
]

_SELF = "swinv2.encoder.layers.{i}.blocks.{j}.attention.self"

TRANSFORMERS: Table = [
    ("swinv2.embeddings.patch_embeddings.projection", "patch_embedding"),
    ("swinv2.embeddings.norm", "embedding_norm"),
    *(
        (f"swinv2.encoder.layers.{i - 1}.downsample.{layer}", f"stages.{i}.merging.{layer}")
        for i in (1, 2, 3)
        for layer in ("reduction", "norm")
    ),
    (f"{_SELF}.logit_scale", "stages.{i}.blocks.{j}.attention.logit_scale"),
    (f"{_SELF}.continuous_position_bias_mlp.{{k}}", "stages.{i}.blocks.{j}.attention.bias_network.{k}"),
    (
        (f"{_SELF}.query.weight", f"{_SELF}.key.weight", f"{_SELF}.value.weight"),
        "stages.{i}.blocks.{j}.attention.qkv.weight",
    ),
    ((f"{_SELF}.query.bias", f"{_SELF}.value.bias"), "stages.{i}.blocks.{j}.attention.qv_bias"),
    ("swinv2.encoder.layers.{i}.blocks.{j}.attention.output.dense", "stages.{i}.blocks.{j}.attention.output"),
    ("swinv2.encoder.layers.{i}.blocks.{j}.layernorm_before", "stages.{i}.blocks.{j}.norm1"),
    ("swinv2.encoder.layers.{i}.blocks.{j}.intermediate.dense", "stages.{i}.blocks.{j}.mlp.0"),
    ("swinv2.encoder.layers.{i}.blocks.{j}.output.dense", "stages.{i}.blocks.{j}.mlp.3"),
    ("swinv2.encoder.layers.{i}.blocks.{j}.layernorm_after", "stages.{i}.blocks.{j}.norm2"),
    ("swinv2.layernorm", "norm"),
    ("classifier", "head"),
]
