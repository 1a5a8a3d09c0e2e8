"""Swin Transformer V1 in other libraries' names."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vitnext.weights.rename import DERIVED, Layout, Table


def window_of(ours: Mapping[str, Tensor]) -> int:
    """M, from B-hat's (2 M - 1)^2 rows, which every block has alike."""
    return (math.isqrt(ours["stages.0.blocks.0.attention.bias_table"].shape[0]) + 1) // 2


def position_index(window: int) -> Tensor:
    """The row of B-hat for each pair of a window's tokens: (M * M, M * M)."""
    row, column = (grid.flatten() for grid in torch.meshgrid([torch.arange(window)] * 2, indexing="ij"))
    down, right = (place[:, None] - place[None, :] + window - 1 for place in (row, column))
    return down * (2 * window - 1) + right


def shift_mask(window: int, stage: int, block: int) -> Tensor | None:
    """The mask of a block in the authors' files: (windows, M * M, M * M), at 32 M pixels as all of them were trained.

    Only shifted blocks have one, and the last stage, one window at that size, is not shifted.
    """
    side = 8 // 2**stage  # windows
    if block % 2 == 0 or side <= 1:
        return None
    other_end = (torch.arange(side * window) >= side * window - window // 2).long()  # in the shifted map
    region = (2 * other_end[:, None] + other_end).reshape(side, window, side, window).transpose(1, 2)
    region = region.reshape(side * side, 1, window * window)
    return torch.where(region == region.transpose(1, 2), 0.0, -100.0)


def _turned(tensor: Tensor, *sizes: int) -> Tensor:
    """The 4 C channels of 2 x 2 neighbours, stored as three axes of ``sizes``, with the axes in the opposite order."""
    if tensor.ndim not in (1, 2) or tensor.shape[-1] % 4:
        raise ValueError(f"has the shape {tuple(tensor.shape)}; 2 x 2 neighbours have 4 C channels")
    return tensor.unflatten(-1, sizes).transpose(-3, -1).flatten(-3)


# torch's Unfold gives 2 x 2 neighbours as (C, row, column), the authors' code as (column, row, C).
UNFOLDED = Layout(lambda tensor: _turned(tensor, -1, 2, 2), lambda tensor: _turned(tensor, 2, 2, -1))

INDEX = DERIVED(lambda numbers, ours: position_index(window_of(ours)))
FLAT_INDEX = DERIVED(lambda numbers, ours: position_index(window_of(ours)).flatten())
MASK = DERIVED(lambda numbers, ours: shift_mask(window_of(ours), numbers["i"], numbers["j"]), of_images=True)

_BLOCK: Table = [
    ("layers.{i}.blocks.{j}.norm1", "stages.{i}.blocks.{j}.norm1"),
    ("layers.{i}.blocks.{j}.attn.relative_position_bias_table", "stages.{i}.blocks.{j}.attention.bias_table"),
    ("layers.{i}.blocks.{j}.attn.qkv", "stages.{i}.blocks.{j}.attention.qkv"),
    ("layers.{i}.blocks.{j}.attn.proj", "stages.{i}.blocks.{j}.attention.output"),
    ("layers.{i}.blocks.{j}.norm2", "stages.{i}.blocks.{j}.norm2"),
    ("layers.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.mlp.0"),
    ("layers.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.mlp.3"),
]

TIMM: Table = [
    ("patch_embed.proj", "patch_embedding"),
    ("patch_embed.norm", "embedding_norm"),
    ("layers.{i}.downsample.norm", "stages.{i}.merging.norm"),
    ("layers.{i}.downsample.reduction", "stages.{i}.merging.reduction"),
    *_BLOCK,
    ("norm", "norm"),
    ("head.fc", "head"),
]

# microsoft/Swin-Transformer: merging is the end of a stage there, the start of the next one here and in the paper.
ORIGINAL: Table = [
    ("patch_embed.proj", "patch_embedding"),
    ("patch_embed.norm", "embedding_norm"),
    *(
        (f"layers.{i - 1}.downsample.{layer}", f"stages.{i}.merging.{layer}")
        for i in (1, 2, 3)
        for layer in ("norm", "reduction")
    ),
    *_BLOCK,
    ("layers.{i}.blocks.{j}.attn.relative_position_index", INDEX),
    ("layers.{i}.blocks.{j}.attn_mask", MASK),
    ("norm", "norm"),
    ("head", "head"),
]

# mmsegmentation's backbone, with a norm for each stage instead of the classifier's. Merging is the end of a stage there
# too; it takes the neighbours in another order, which its norm's parameters and its reduction's columns follow.
MMSEGMENTATION: Table = [
    ("patch_embed.projection", "patch_embedding"),
    ("patch_embed.norm", "embedding_norm"),
    *(
        (f"stages.{i - 1}.downsample.{parameter}", f"stages.{i}.merging.{parameter}", UNFOLDED)
        for i in (1, 2, 3)
        for parameter in ("norm.weight", "norm.bias", "reduction.weight")
    ),
    ("stages.{i}.blocks.{j}.norm1", "stages.{i}.blocks.{j}.norm1"),
    ("stages.{i}.blocks.{j}.attn.w_msa.relative_position_bias_table", "stages.{i}.blocks.{j}.attention.bias_table"),
    ("stages.{i}.blocks.{j}.attn.w_msa.relative_position_index", INDEX),
    ("stages.{i}.blocks.{j}.attn.w_msa.qkv", "stages.{i}.blocks.{j}.attention.qkv"),
    ("stages.{i}.blocks.{j}.attn.w_msa.proj", "stages.{i}.blocks.{j}.attention.output"),
    ("stages.{i}.blocks.{j}.norm2", "stages.{i}.blocks.{j}.norm2"),
    ("stages.{i}.blocks.{j}.ffn.layers.0.0", "stages.{i}.blocks.{j}.mlp.0"),
    ("stages.{i}.blocks.{j}.ffn.layers.1", "stages.{i}.blocks.{j}.mlp.3"),
]

# features: embedding, stage 1, merging, stage 2, merging ...
TORCHVISION: Table = [
    ("features.0.0", "patch_embedding"),
    ("features.0.2", "embedding_norm"),
    *(
        (f"features.{2 * i}.{layer}", f"stages.{i}.merging.{layer}")
        for i in (1, 2, 3)
        for layer in ("norm", "reduction")
    ),
    *(
        (f"features.{2 * i + 1}.{{j}}.{theirs}", f"stages.{i}.blocks.{{j}}.{ours}")
        for i in (0, 1, 2, 3)
        for theirs, ours in (
            ("norm1", "norm1"),
            ("attn.relative_position_bias_table", "attention.bias_table"),
            ("attn.qkv", "attention.qkv"),
            ("attn.proj", "attention.output"),
            ("norm2", "norm2"),
            ("mlp.0", "mlp.0"),
            ("mlp.3", "mlp.3"),
        )
    ),
    ("features.{i}.{j}.attn.relative_position_index", FLAT_INDEX),
    ("norm", "norm"),
    ("head", "head"),
]


def _transformers(attention: Table, mlp: tuple[str, str]) -> Table:
    return [
        ("swin.embeddings.patch_embeddings.projection", "patch_embedding"),
        ("swin.embeddings.norm", "embedding_norm"),
        *(
            (f"swin.encoder.layers.{i - 1}.downsample.{layer}", f"stages.{i}.merging.{layer}")
            for i in (1, 2, 3)
            for layer in ("norm", "reduction")
        ),
        ("swin.encoder.layers.{i}.blocks.{j}.layernorm_before", "stages.{i}.blocks.{j}.norm1"),
        *attention,
        ("swin.encoder.layers.{i}.blocks.{j}.layernorm_after", "stages.{i}.blocks.{j}.norm2"),
        (f"swin.encoder.layers.{{i}}.blocks.{{j}}.{mlp[0]}", "stages.{i}.blocks.{j}.mlp.0"),
        (f"swin.encoder.layers.{{i}}.blocks.{{j}}.{mlp[1]}", "stages.{i}.blocks.{j}.mlp.3"),
        ("swin.layernorm", "norm"),
        ("classifier", "head"),
    ]


_ATTENTION = "swin.encoder.layers.{i}.blocks.{j}.attention"

# The names in files, as published on the hub and as save_pretrained writes them.
TRANSFORMERS: Table = _transformers(
    [
        (f"{_ATTENTION}.self.relative_position_bias_table", "stages.{i}.blocks.{j}.attention.bias_table"),
        (f"{_ATTENTION}.self.relative_position_index", INDEX),
        (
            (f"{_ATTENTION}.self.query", f"{_ATTENTION}.self.key", f"{_ATTENTION}.self.value"),
            "stages.{i}.blocks.{j}.attention.qkv",
        ),
        (f"{_ATTENTION}.output.dense", "stages.{i}.blocks.{j}.attention.output"),
    ],
    ("intermediate.dense", "output.dense"),
)

# The names in a model of transformers 5.
TRANSFORMERS_5: Table = _transformers(
    [
        (
            f"{_ATTENTION}.relative_position_bias.relative_position_bias_table",
            "stages.{i}.blocks.{j}.attention.bias_table",
        ),
        (
            (f"{_ATTENTION}.q_proj", f"{_ATTENTION}.k_proj", f"{_ATTENTION}.v_proj"),
            "stages.{i}.blocks.{j}.attention.qkv",
        ),
        (f"{_ATTENTION}.o_proj", "stages.{i}.blocks.{j}.attention.output"),
    ],
    ("mlp.fc1", "mlp.fc2"),
)
