"""Weights in timm's layout: one literal table a family, (timm's name, ours); ``{i}`` and ``{j}`` stand for numbers.

ConvNeXt's W_1 and W_2 are Linears here. timm keeps them as 1x1 convolutions in atto to nano: flatten (C, C', 1, 1).
"""

from __future__ import annotations

VIT = [
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

CONVNEXT = [
    ("stem.{i}", "stem.{i}"),
    ("stages.{i}.downsample.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.blocks.{j}.gamma", "stages.{i}.blocks.{j}.layer_scale"),
    ("stages.{i}.blocks.{j}.conv_dw", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.blocks.{j}.norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.expand"),
    ("stages.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.project"),
    ("head.norm", "norm"),
    ("head.fc", "head"),
]
