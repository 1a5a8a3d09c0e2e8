"""ResNet in other libraries' names. timm's are torchvision's. (resnet50d and its kin are other networks.)"""

from __future__ import annotations

from vitnext.weights.rename import Table

TORCHVISION: Table = [
    ("conv1", "stem.0"),
    ("bn1", "stem.1"),
    ("layer{i}.{j}.conv{k}", "body.stage{i}.{j}.conv{k}"),
    ("layer{i}.{j}.bn{k}", "body.stage{i}.{j}.norm{k}"),
    ("layer{i}.{j}.downsample.{k}", "body.stage{i}.{j}.shortcut.{k}"),
    ("fc", "head"),
]

TIMM = TORCHVISION

# transformers counts stages and convolutions from 0.
TRANSFORMERS: Table = [
    ("resnet.embedder.embedder.convolution", "stem.0"),
    ("resnet.embedder.embedder.normalization", "stem.1"),
    *(
        (f"resnet.encoder.stages.{i - 1}.layers.{{j}}.{theirs}", f"body.stage{i}.{{j}}.{ours}")
        for i in (1, 2, 3, 4)
        for theirs, ours in (
            ("layer.0.convolution", "conv1"),
            ("layer.0.normalization", "norm1"),
            ("layer.1.convolution", "conv2"),
            ("layer.1.normalization", "norm2"),
            ("layer.2.convolution", "conv3"),
            ("layer.2.normalization", "norm3"),
            ("shortcut.convolution", "shortcut.0"),
            ("shortcut.normalization", "shortcut.1"),
        )
    ),
    ("classifier.1", "head"),
]
