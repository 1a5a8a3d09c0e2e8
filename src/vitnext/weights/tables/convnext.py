"""ConvNeXt in other libraries' names. Its W_1 and W_2 are Linears here, and in timm from tiny on."""

from __future__ import annotations

from torch import Tensor

from vitnext.weights.rename import CONV1X1, DERIVED, Layout, Table


def _of_channels(tensor: Tensor) -> Tensor:
    if tensor.shape[1:] != (1, 1):
        raise ValueError(f"has the shape {tuple(tensor.shape)}; a scale of channels has (C, 1, 1)")
    return tensor.flatten()


SCALE = Layout(_of_channels, lambda tensor: tensor[:, None, None])  # (C, 1, 1) | (C,)

TIMM: Table = [
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

# timm keeps W_1 and W_2 of atto to nano as 1x1 convolutions.
TIMM_CONV_MLP: Table = [
    ("stem.{i}", "stem.{i}"),
    ("stages.{i}.downsample.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.blocks.{j}.gamma", "stages.{i}.blocks.{j}.layer_scale"),
    ("stages.{i}.blocks.{j}.conv_dw", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.blocks.{j}.norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.expand", CONV1X1),
    ("stages.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.project", CONV1X1),
    ("head.norm", "norm"),
    ("head.fc", "head"),
]

# torchvision counts stem, stages and downsampling layers in one row: stage i is features.{2 i + 1}.
TORCHVISION: Table = [
    ("features.0.{i}", "stem.{i}"),
    *((f"features.{2 * i}.{{j}}", f"stages.{i}.downsample.{{j}}") for i in (1, 2, 3)),
    *(
        entry
        for i in (0, 1, 2, 3)
        for entry in (
            (f"features.{2 * i + 1}.{{j}}.layer_scale", f"stages.{i}.blocks.{{j}}.layer_scale", SCALE),
            (f"features.{2 * i + 1}.{{j}}.block.0", f"stages.{i}.blocks.{{j}}.depthwise"),
            (f"features.{2 * i + 1}.{{j}}.block.2", f"stages.{i}.blocks.{{j}}.norm"),
            (f"features.{2 * i + 1}.{{j}}.block.3", f"stages.{i}.blocks.{{j}}.expand"),
            (f"features.{2 * i + 1}.{{j}}.block.5", f"stages.{i}.blocks.{{j}}.project"),
        )
    ),
    ("classifier.0", "norm"),
    ("classifier.2", "head"),
]

TRANSFORMERS: Table = [
    ("convnext.embeddings.patch_embeddings", "stem.0"),
    ("convnext.embeddings.layernorm", "stem.1"),
    ("convnext.encoder.stages.{i}.downsampling_layer.{j}", "stages.{i}.downsample.{j}"),
    ("convnext.encoder.stages.{i}.layers.{j}.layer_scale_parameter", "stages.{i}.blocks.{j}.layer_scale"),
    ("convnext.encoder.stages.{i}.layers.{j}.dwconv", "stages.{i}.blocks.{j}.depthwise"),
    ("convnext.encoder.stages.{i}.layers.{j}.layernorm", "stages.{i}.blocks.{j}.norm"),
    ("convnext.encoder.stages.{i}.layers.{j}.pwconv1", "stages.{i}.blocks.{j}.expand"),
    ("convnext.encoder.stages.{i}.layers.{j}.pwconv2", "stages.{i}.blocks.{j}.project"),
    ("convnext.layernorm", "norm"),
    ("classifier", "head"),
]

# DINOv3ConvNextModel: the stem is the first stage's downsampling.
TRANSFORMERS_DINOV3: Table = [
    ("stages.0.downsample_layers.{j}", "stem.{j}"),
    ("stages.{i}.downsample_layers.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.layers.{j}.gamma", "stages.{i}.blocks.{j}.layer_scale"),
    ("stages.{i}.layers.{j}.depthwise_conv", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.layers.{j}.layer_norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.layers.{j}.pointwise_conv1", "stages.{i}.blocks.{j}.expand"),
    ("stages.{i}.layers.{j}.pointwise_conv2", "stages.{i}.blocks.{j}.project"),
    ("layer_norm", "norm"),
]

# facebookresearch/ConvNeXt
ORIGINAL: Table = [
    ("downsample_layers.0.{j}", "stem.{j}"),
    ("downsample_layers.{i}.{j}", "stages.{i}.downsample.{j}"),
    ("stages.{i}.{j}.gamma", "stages.{i}.blocks.{j}.layer_scale"),
    ("stages.{i}.{j}.dwconv", "stages.{i}.blocks.{j}.depthwise"),
    ("stages.{i}.{j}.norm", "stages.{i}.blocks.{j}.norm"),
    ("stages.{i}.{j}.pwconv1", "stages.{i}.blocks.{j}.expand"),
    ("stages.{i}.{j}.pwconv2", "stages.{i}.blocks.{j}.project"),
    ("norm", "norm"),
    ("head", "head"),
]

# facebookresearch/dinov3 has the last norm under a second name.
ORIGINAL_DINOV3: Table = [
    ("norms.3.weight", DERIVED(lambda _, ours: ours["norm.weight"])),
    ("norms.3.bias", DERIVED(lambda _, ours: ours["norm.bias"])),
    *ORIGINAL,
]
