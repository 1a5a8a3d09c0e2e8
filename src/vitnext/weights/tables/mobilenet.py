"""MobileNetV2 in other libraries' names. torchvision and transformers number the blocks of table 2 through."""

from __future__ import annotations

from vitnext.weights.rename import Table

BLOCKS = [(row, j) for row, depth in enumerate((1, 2, 3, 4, 3, 3, 1)) for j in range(depth)]  # n of table 2

TIMM: Table = [
    ("conv_stem", "stem.0"),
    ("bn1", "stem.1"),
    ("blocks.0.{j}.bn1", "rows.0.{j}.depthwise.1"),
    ("blocks.0.{j}.conv_pw", "rows.0.{j}.project.0"),
    ("blocks.0.{j}.bn2", "rows.0.{j}.project.1"),
    ("blocks.{i}.{j}.conv_pw", "rows.{i}.{j}.expand.0"),
    ("blocks.{i}.{j}.bn1", "rows.{i}.{j}.expand.1"),
    ("blocks.{i}.{j}.conv_dw", "rows.{i}.{j}.depthwise.0"),
    ("blocks.{i}.{j}.bn2", "rows.{i}.{j}.depthwise.1"),
    ("blocks.{i}.{j}.conv_pwl", "rows.{i}.{j}.project.0"),
    ("blocks.{i}.{j}.bn3", "rows.{i}.{j}.project.1"),
    ("conv_head", "features.0"),
    ("bn2", "features.1"),
    ("classifier", "head"),
]

TORCHVISION: Table = [
    ("features.0.{i}", "stem.{i}"),
    ("features.1.conv.0.{i}", "rows.0.0.depthwise.{i}"),
    ("features.1.conv.1", "rows.0.0.project.0"),
    ("features.1.conv.2", "rows.0.0.project.1"),
    *(
        (f"features.{n}.conv.{theirs}", f"rows.{row}.{j}.{ours}")
        for n, (row, j) in enumerate(BLOCKS, start=1)
        for theirs, ours in (
            ("0.{i}", "expand.{i}"),
            ("1.{i}", "depthwise.{i}"),
            ("2", "project.0"),
            ("3", "project.1"),
        )
        if row > 0
    ),
    ("features.18.{i}", "features.{i}"),
    ("classifier.1", "head"),
]

TRANSFORMERS: Table = [
    ("mobilenet_v2.conv_stem.first_conv.convolution", "stem.0"),
    ("mobilenet_v2.conv_stem.first_conv.normalization", "stem.1"),
    ("mobilenet_v2.conv_stem.conv_3x3.convolution", "rows.0.0.depthwise.0"),
    ("mobilenet_v2.conv_stem.conv_3x3.normalization", "rows.0.0.depthwise.1"),
    ("mobilenet_v2.conv_stem.reduce_1x1.convolution", "rows.0.0.project.0"),
    ("mobilenet_v2.conv_stem.reduce_1x1.normalization", "rows.0.0.project.1"),
    *(
        (f"mobilenet_v2.layer.{n}.{theirs}", f"rows.{row}.{j}.{ours}")
        for n, (row, j) in enumerate(BLOCKS[1:])
        for theirs, ours in (
            ("expand_1x1.convolution", "expand.0"),
            ("expand_1x1.normalization", "expand.1"),
            ("conv_3x3.convolution", "depthwise.0"),
            ("conv_3x3.normalization", "depthwise.1"),
            ("reduce_1x1.convolution", "project.0"),
            ("reduce_1x1.normalization", "project.1"),
        )
    ),
    ("mobilenet_v2.conv_1x1.convolution", "features.0"),
    ("mobilenet_v2.conv_1x1.normalization", "features.1"),
    ("classifier", "head"),
]
