"""The roadmap's two ends in other names: step 0 is torchvision's ResNet, the last step is our ConvNeXt."""

from __future__ import annotations

from vitnext.weights.rename import CONV1X1, Layout, Table

MATRIX = Layout(CONV1X1.to_theirs, CONV1X1.to_ours)  # (C, C') | (C, C', 1, 1)

# "... 00" and "... 01"
TORCHVISION: Table = [
    ("conv1", "stem.convolution"),
    ("bn1", "stem.norm"),
    ("layer{i}.{j}.conv1", "body.stage{i}.blocks.{j}.pointwise1.convolution"),
    ("layer{i}.{j}.bn1", "body.stage{i}.blocks.{j}.pointwise1.norm"),
    ("layer{i}.{j}.conv2", "body.stage{i}.blocks.{j}.spatial.convolution"),
    ("layer{i}.{j}.bn2", "body.stage{i}.blocks.{j}.spatial.norm"),
    ("layer{i}.{j}.conv3", "body.stage{i}.blocks.{j}.pointwise2.convolution"),
    ("layer{i}.{j}.bn3", "body.stage{i}.blocks.{j}.pointwise2.norm"),
    ("layer{i}.{j}.downsample.0", "body.stage{i}.blocks.{j}.shortcut.convolution"),
    ("layer{i}.{j}.downsample.1", "body.stage{i}.blocks.{j}.shortcut.norm"),
    ("fc", "head"),
]

TIMM = TORCHVISION

# "... 16": theirs are the names of models/convnext.py, which counts stages from 0.
CONVNEXT: Table = [
    ("stem.0", "stem.convolution"),
    ("stem.1", "stem.norm"),
    *(
        entry
        for i in (1, 2, 3, 4)
        for entry in (
            (f"stages.{i - 1}.downsample.{{k}}", f"body.stage{i}.downsample.{{k}}"),
            (f"stages.{i - 1}.blocks.{{j}}.depthwise", f"body.stage{i}.blocks.{{j}}.spatial.convolution"),
            (f"stages.{i - 1}.blocks.{{j}}.norm", f"body.stage{i}.blocks.{{j}}.spatial.norm"),
            (f"stages.{i - 1}.blocks.{{j}}.expand", f"body.stage{i}.blocks.{{j}}.pointwise1.convolution", MATRIX),
            (f"stages.{i - 1}.blocks.{{j}}.project", f"body.stage{i}.blocks.{{j}}.pointwise2.convolution", MATRIX),
            (f"stages.{i - 1}.blocks.{{j}}.layer_scale", f"body.stage{i}.blocks.{{j}}.layer_scale"),
        )
    ),
    ("norm", "norm"),
    ("head", "head"),
]
