"""ConvNeXt V2 in other libraries' names."""

from __future__ import annotations

from torch import Tensor

from vitnext.weights.rename import CONV1X1, Layout, Table


def _of_channels(tensor: Tensor) -> Tensor:
    if tensor.shape[:-1] != (1, 1, 1):
        raise ValueError(f"has the shape {tuple(tensor.shape)}; GRN has (1, 1, 1, C)")
    return tensor.flatten()


GRN = Layout(_of_channels, lambda tensor: tensor[None, None, None, :])  # (1, 1, 1, C) | (C,)

TIMM: Table = [
    ("stem.{i}", "stem.{i}"),
    ("stages.{i}.downsample.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.blocks.{j}.conv_dw", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.blocks.{j}.norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.expand"),
    ("stages.{i}.blocks.{j}.mlp.grn.weight", "stages.{i}.blocks.{j}.response_norm.gamma"),
    ("stages.{i}.blocks.{j}.mlp.grn.bias", "stages.{i}.blocks.{j}.response_norm.beta"),
    ("stages.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.project"),
    ("head.norm", "norm"),
    ("head.fc", "head"),
]

# timm keeps W_1 and W_2 of atto to nano as 1x1 convolutions.
TIMM_CONV_MLP: Table = [
    ("stem.{i}", "stem.{i}"),
    ("stages.{i}.downsample.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.blocks.{j}.conv_dw", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.blocks.{j}.norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.expand", CONV1X1),
    ("stages.{i}.blocks.{j}.mlp.grn.weight", "stages.{i}.blocks.{j}.response_norm.gamma"),
    ("stages.{i}.blocks.{j}.mlp.grn.bias", "stages.{i}.blocks.{j}.response_norm.beta"),
    ("stages.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.project", CONV1X1),
    ("head.norm", "norm"),
    ("head.fc", "head"),
]

TRANSFORMERS: Table = [
    ("convnextv2.embeddings.patch_embeddings", "stem.0"),
    ("convnextv2.embeddings.layernorm", "stem.1"),
    ("convnextv2.encoder.stages.{i}.downsampling_layer.{j}", "stages.{i}.downsample.{j}"),
    ("convnextv2.encoder.stages.{i}.layers.{j}.dwconv", "stages.{i}.blocks.{j}.depthwise"),
    ("convnextv2.encoder.stages.{i}.layers.{j}.layernorm", "stages.{i}.blocks.{j}.norm"),
    ("convnextv2.encoder.stages.{i}.layers.{j}.pwconv1", "stages.{i}.blocks.{j}.expand"),
    ("convnextv2.encoder.stages.{i}.layers.{j}.grn.weight", "stages.{i}.blocks.{j}.response_norm.gamma", GRN),
    ("convnextv2.encoder.stages.{i}.layers.{j}.grn.bias", "stages.{i}.blocks.{j}.response_norm.beta", GRN),
    ("convnextv2.encoder.stages.{i}.layers.{j}.pwconv2", "stages.{i}.blocks.{j}.project"),
    ("convnextv2.layernorm", "norm"),
    ("classifier", "head"),
]

# facebookresearch/ConvNeXt-V2
ORIGINAL: Table = [
    ("downsample_layers.0.{j}", "stem.{j}"),
    ("downsample_layers.{i}.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.{j}.dwconv", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.{j}.norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.{j}.pwconv1", "stages.{i}.blocks.{j}.expand"),
    ("stages.{i}.{j}.grn.gamma", "stages.{i}.blocks.{j}.response_norm.gamma", GRN),
    ("stages.{i}.{j}.grn.beta", "stages.{i}.blocks.{j}.response_norm.beta", GRN),
    ("stages.{i}.{j}.pwconv2", "stages.{i}.blocks.{j}.project"),
    ("norm", "norm"),
    ("head", "head"),
]
