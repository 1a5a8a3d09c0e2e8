from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.models.macs import count_macs
from vitnext.models.mobilenet import SIZES, InvertedResidual, MobileNetV2, MobileNetV2Config, SameConv2d

TINY = {
    "channels": 2,
    "classes": 5,
    "stem_stride": 1,
    "stem_width": 8,
    "expansions": (1, 2, 3),
    "widths": (8, 16, 16),
    "depths": (1, 2, 2),
    "strides": (1, 2, 1),
    "feature_width": 24,
}


@pytest.fixture
def build():
    """A tiny model with random values in every parameter and buffer, in float64 and evaluation mode."""

    def build(**config):
        model = MobileNetV2(MobileNetV2Config(**TINY | config))
        torch.manual_seed(0)
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                nn.init.uniform_(tensor, 0.5, 1.5)
            elif not name.endswith("num_batches_tracked"):
                nn.init.normal_(tensor, std=0.6)
        return model.double().eval()

    return build


def images(height=12, width=None):
    shape = (2, 2, height, width or height)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norm(layer, x):
    shape = (1, -1, 1, 1)
    x = (x - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + layer.eps).sqrt()
    return x * layer.weight.view(shape) + layer.bias.view(shape)


def test_published_size():
    with torch.device("meta"):
        model = MobileNetV2(MobileNetV2Config(**SIZES["mobilenet_v2"]))
    assert sum(p.numel() for p in model.parameters()) == 3_504_872  # 3.4 M in table 4
    assert count_macs(model, 224) / 1e6 == pytest.approx(300, rel=0.01)  # table 4


@pytest.mark.parametrize(
    ("multiplier", "mmacs"),
    [(0.35, 59), (0.5, 97), (0.75, 209), (1.4, 582)],  # the authors' repository; 1.4: 585 M in table 4
)
def test_width_multiplier(multiplier, mmacs):
    with torch.device("meta"):
        model = MobileNetV2(MobileNetV2Config(width_multiplier=multiplier))
    assert count_macs(model, 224) / 1e6 == pytest.approx(mmacs, rel=0.01)
    assert model.head.in_features == (1792 if multiplier == 1.4 else 1280)


def test_shapes_of_table_2():
    with torch.device("meta"):
        model, x = MobileNetV2(MobileNetV2Config()), torch.empty(2, 3, 224, 224)
    pyramid = model.pyramid(x)
    expected = [("stage1", 24, 4), ("stage2", 32, 8), ("stage3", 96, 16), ("stage4", 320, 32)]
    assert [(stage.name, stage.channels, stage.stride) for stage in model.stages] == expected
    for name, channels, stride in expected:
        assert pyramid[name].shape == (2, channels, 224 // stride, 224 // stride)
    maps = []
    y = model.stem(x)
    for row in model.rows:
        maps.append((y.shape[-1], y.shape[1], len(row)))
        y = row(y)
    assert maps == [(112, 32, 1), (112, 16, 2), (56, 24, 3), (28, 32, 4), (14, 64, 3), (14, 96, 3), (7, 160, 1)]
    assert model.pooled(x).shape == (2, 1280) and model(x).shape == (2, 1000)


@pytest.mark.parametrize(
    ("width", "multiplier", "rounded"),
    [(32, 1.0, 32), (24, 0.35, 8), (32, 0.35, 16), (96, 1.4, 136), (16, 0.01, 8), (1280, 1.4, 1792), (24, 0.5, 16)],
)
def test_widths_are_multiples_of_8_that_lose_at_most_a_tenth(width, multiplier, rounded):
    assert MobileNetV2Config(width_multiplier=multiplier).scaled(width) == rounded
    for m in range(1, 300):
        scaled = MobileNetV2Config(width_multiplier=m / 100).scaled(width)
        assert scaled % 8 == 0 and scaled >= max(8, 0.9 * width * m / 100)


def pad(x, weight, stride, same):
    """A pixel on every side; or, with a stride of 2 and TensorFlow's rule, to an even number, bottom right first."""
    if weight.shape[-1] == 1:
        return x
    if stride == 1 or not same:
        return F.pad(x, (1, 1, 1, 1))
    left, top = (size % 2 for size in (x.shape[3], x.shape[2]))
    return F.pad(x, (left, 1, top, 1))


def convolve(layers, x, stride=1, groups=1, same=False, active=True):
    weight = layers[0].weight
    x = norm(layers[1], F.conv2d(pad(x, weight, stride, same), weight, None, stride, groups=groups))
    return x.clamp(0, 6) if active else x


@pytest.mark.parametrize("size", [(12, 12), (11, 12), (12, 9)])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_forward_is_the_paper(build, same, stem_stride, size):
    model = build(same_padding=same, stem_stride=stem_stride, norm_eps=1e-3 if same else 1e-5)
    assert all(module.eps == (1e-3 if same else 1e-5) for module in model.modules() if hasattr(module, "running_var"))
    x = convolve(model.stem, images(*size), stem_stride, same=same)
    for row, blocks in enumerate(model.rows):
        for i, block in enumerate(blocks):
            stride = 2 if (row, i) == (1, 0) else 1
            y = convolve(block.expand, x) if row else x
            y = convolve(block.depthwise, y, stride, groups=y.shape[1], same=same)
            y = convolve(block.project, y, active=False)
            x = x + y if i or (row, i) in ((0, 0), (2, 0)) else y
    feature = convolve(model.features, x).mean(dim=(2, 3))
    torch.testing.assert_close(model.pooled(images(*size)), feature)
    torch.testing.assert_close(model(images(*size)), feature @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 2, 8), (3, 2, 7), (5, 2, 8), (5, 3, 10), (3, 4, 9), (1, 2, 5)]
)
def test_same_padding_is_tensorflows(kernel, stride, size):
    layer = SameConv2d(1, 1, kernel, stride=stride, bias=False)
    nn.init.ones_(layer.weight)
    x = torch.arange(1.0, size + 1)[None, None, None, :].expand(1, 1, size, size)
    positions = -(-size // stride)
    added = max((positions - 1) * stride + kernel - size, 0)  # tensorflow.org/api_docs/python/tf/nn, notes on padding
    left = added // 2
    column = [0.0] * left + list(range(1, size + 1)) + [0.0] * (added - left)
    rows = [0.0] * left + [1.0] * size + [0.0] * (added - left)
    sums = [[sum(line[p * stride : p * stride + kernel]) for p in range(positions)] for line in (rows, column)]
    torch.testing.assert_close(layer(x)[0, 0], torch.outer(*map(torch.tensor, sums)).float())


def test_a_shortcut_only_where_the_shape_stays(build):
    assert [[block.residual for block in row] for row in build().rows] == [[True], [False, True], [True, True]]
    with torch.device("meta"):
        rows = MobileNetV2(MobileNetV2Config()).rows
    assert [block.residual for row in rows for block in row] == [
        bool(i) for depth in (1, 2, 3, 4, 3, 3, 1) for i in range(depth)
    ]


@pytest.mark.parametrize(
    ("stem_stride", "strides", "size", "maps", "channels"),
    [
        (1, (1, 1, 2), 8, [8, 4], [16, 16]),
        (1, (1, 2, 2), 28, [14, 7], [16, 16]),
        (2, (1, 2, 1), 29, [8], [16]),
        (1, (2, 1, 1), 8, [4], [16]),
    ],
)
def test_small_and_odd_images(build, stem_stride, strides, size, maps, channels):
    model = build(stem_stride=stem_stride, strides=strides)
    pyramid = model.pyramid(images(size))
    assert [features.shape[-1] for features in pyramid.values()] == maps
    assert [stage.channels for stage in model.stages] == channels
    assert [-(-size // stage.stride) for stage in model.stages] == maps
    assert [stage.name for stage in model.stages] == list(pyramid) == [f"stage{i + 1}" for i in range(len(maps))]


def test_logits_pooled_feature_and_pyramid_agree(build):
    model = build()
    feature, pyramid = model.pooled(images()), model.pyramid(images())
    torch.testing.assert_close(model.features(pyramid["stage1"]).mean(dim=(2, 3)), feature)
    assert torch.equal(model(images()), model.head(feature))
    body = build(classes=0)
    body.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("head.")})
    assert isinstance(body.head, nn.Identity)
    assert torch.equal(body(images()), feature)


def test_stochastic_depth_and_dropout_act_in_training_alone(build):
    rates = [m.stochastic_depth.rate for m in build(stochastic_depth=0.4).modules() if isinstance(m, InvertedResidual)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    for field in ("stochastic_depth", "dropout"):
        model = build(**{field: 0.5})
        assert torch.equal(model(images()), model(images()))
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        many = images().repeat(16, 1, 1, 1)
        assert not torch.equal(model(many), model(many))


COLUMNS = "expansions, widths, depths and strides must have one number for each row of table 2"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (1,)}, COLUMNS),
        ({"expansions": (), "widths": (), "depths": (), "strides": ()}, COLUMNS),
        ({"strides": (1, 0, 1)}, "strides is (1, 0, 1); it must be at least 1"),
        ({"expansions": (1, 2, 0)}, "expansions is (1, 2, 0); it must be at least 1"),
        ({"stem_stride": 0}, "stem_stride is 0; it must be at least 1"),
        ({"feature_width": 0}, "feature_width is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"width_multiplier": 0.0}, "width_multiplier is 0.0; it must be above 0"),
        ({"width_multiplier": float("inf")}, "width_multiplier is inf; it must be above 0"),
        ({"norm_eps": -1.0}, "norm_eps is -1.0; it must be above 0"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        MobileNetV2Config(**TINY | config)
    assert str(caught.value) == message
