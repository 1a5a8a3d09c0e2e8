"""DeiT with a distillation token, and DeiT III, in other libraries' names."""

from __future__ import annotations

from vitnext.weights.rename import Table

# The authors' names too.
TIMM: Table = [
    ("cls_token", "class_token"),
    ("dist_token", "distillation_token"),
    ("pos_embed", "position_embedding"),
    ("patch_embed.proj", "patch_embedding"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("blocks.{i}.attn.qkv", "encoder.{i}.attention.qkv"),
    ("blocks.{i}.attn.proj", "encoder.{i}.attention.output"),
    ("blocks.{i}.norm2", "encoder.{i}.norm2"),
    ("blocks.{i}.mlp.fc1", "encoder.{i}.mlp.0"),
    ("blocks.{i}.mlp.fc2", "encoder.{i}.mlp.3"),
    ("norm", "norm"),
    ("head", "head.label"),
    ("head_dist", "head.teacher"),
]

ORIGINAL = TIMM

TRANSFORMERS: Table = [
    ("deit.embeddings.cls_token", "class_token"),
    ("deit.embeddings.distillation_token", "distillation_token"),
    ("deit.embeddings.position_embeddings", "position_embedding"),
    ("deit.embeddings.patch_embeddings.projection", "patch_embedding"),
    ("deit.encoder.layer.{i}.layernorm_before", "encoder.{i}.norm1"),
    (
        (
            "deit.encoder.layer.{i}.attention.attention.query",
            "deit.encoder.layer.{i}.attention.attention.key",
            "deit.encoder.layer.{i}.attention.attention.value",
        ),
        "encoder.{i}.attention.qkv",
    ),
    ("deit.encoder.layer.{i}.attention.output.dense", "encoder.{i}.attention.output"),
    ("deit.encoder.layer.{i}.layernorm_after", "encoder.{i}.norm2"),
    ("deit.encoder.layer.{i}.intermediate.dense", "encoder.{i}.mlp.0"),
    ("deit.encoder.layer.{i}.output.dense", "encoder.{i}.mlp.3"),
    ("deit.layernorm", "norm"),
    ("cls_classifier", "head.label"),
    ("distillation_classifier", "head.teacher"),
]

_DEIT3_BODY: Table = [
    ("cls_token", "class_token"),
    ("pos_embed", "position_embedding"),
    ("patch_embed.proj", "patch_embedding"),
    ("blocks.{i}.norm1", "encoder.{i}.norm1"),
    ("blocks.{i}.attn.qkv", "encoder.{i}.attention.qkv"),
    ("blocks.{i}.attn.proj", "encoder.{i}.attention.output"),
    ("blocks.{i}.norm2", "encoder.{i}.norm2"),
    ("blocks.{i}.mlp.fc1", "encoder.{i}.mlp.0"),
    ("blocks.{i}.mlp.fc2", "encoder.{i}.mlp.3"),
    ("norm", "norm"),
    ("head", "head"),
]

DEIT3_TIMM: Table = [
    *_DEIT3_BODY,
    ("blocks.{i}.ls{j}.gamma", "encoder.{i}.layer_scale{j}"),
]

DEIT3_ORIGINAL: Table = [
    *_DEIT3_BODY,
    ("blocks.{i}.gamma_{j}", "encoder.{i}.layer_scale{j}"),
]
