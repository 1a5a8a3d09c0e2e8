from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.models.macs import count_macs
from vitnext.models.resnet import SIZES, BottleneckBlock, ResNet, ResNetConfig, TwoLayerBlock

TINY = {"channels": 2, "classes": 5, "stem_stride": 1, "depths": (2, 1), "widths": (4, 6)}
KINDS = pytest.mark.parametrize("bottleneck", [True, False])


@pytest.fixture
def build():
    """A tiny model with random values in every parameter and buffer, in float64 and evaluation mode."""

    def build(**config):
        model = ResNet(ResNetConfig(**TINY | config))
        torch.manual_seed(0)
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                nn.init.uniform_(tensor, 0.5, 1.5)
            elif not name.endswith("num_batches_tracked"):
                nn.init.normal_(tensor, std=0.4)
        return model.double().eval()

    return build


def images(height=12, width=None):
    shape = (2, 2, height, width or height)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norm(layer, x):
    shape = (1, -1, 1, 1)
    x = (x - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + 1e-5).sqrt()
    return x * layer.weight.view(shape) + layer.bias.view(shape)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [  # torchvision's documentation; resnet200: timm's count, table 11 of Liu et al. 2022
        ("resnet18", 11_689_512, 1.814),
        ("resnet34", 21_797_672, 3.664),
        ("resnet50", 25_557_032, 4.089),
        ("resnet101", 44_549_160, 7.801),
        ("resnet152", 60_192_808, 11.514),
        ("resnet200", 64_673_832, 15.007),
    ],
)
def test_published_sizes(name, parameters, gmacs):
    with torch.device("meta"):
        model = ResNet(ResNetConfig(**SIZES[name]))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert count_macs(model, 224) / 1e9 == pytest.approx(gmacs, abs=0.0006)


def test_the_layers_of_the_name():
    layers = {
        name: 2 + (3 if size.get("bottleneck", True) else 2) * sum(size["depths"]) for name, size in SIZES.items()
    }
    assert layers == {name: int(name.removeprefix("resnet")) for name in SIZES}


@pytest.mark.parametrize(("name", "expansion"), [("resnet34", 1), ("resnet50", 4)])
def test_shapes_of_table_1(name, expansion):
    with torch.device("meta"):
        model, x = ResNet(ResNetConfig(**SIZES[name])), torch.empty(2, 3, 224, 224)
    assert model.stem(x).shape == (2, 64, 56, 56)
    pyramid = model.pyramid(x)
    for i, stage in enumerate(model.stages):
        assert (stage.name, stage.channels, stage.stride) == (f"stage{i + 1}", expansion * 64 * 2**i, 4 * 2**i)
        assert pyramid[stage.name].shape == (2, stage.channels, 224 // stage.stride, 224 // stage.stride)
    assert model(x).shape == (2, 1000)


@KINDS
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_forward_is_the_paper(build, bottleneck, stem_stride):
    model = build(bottleneck=bottleneck, stem_stride=stem_stride)
    convolution, stem_norm = model.stem[:2]
    stride, padding = {1: (1, 1), 2: (2, 1), 4: (2, 3)}[stem_stride]
    x = F.relu(norm(stem_norm, F.conv2d(images(24), convolution.weight, None, stride, padding)))
    if stem_stride == 4:
        x = F.max_pool2d(x, 3, 2, 1)
    for name, blocks in model.body.items():
        for i, block in enumerate(blocks):
            stride = 2 if name == "stage2" and i == 0 else 1
            y = x
            layers = [(block.conv1, block.norm1, 1, 0), (block.conv2, block.norm2, stride, 1)]  # the 3x3 has the stride
            if not bottleneck:
                layers = [(block.conv1, block.norm1, stride, 1), (block.conv2, block.norm2, 1, 1)]
            for conv, batch_norm, its_stride, padding in layers:
                y = norm(batch_norm, F.conv2d(y, conv.weight, None, its_stride, padding))
                if bottleneck or conv is block.conv1:
                    y = F.relu(y)
            if bottleneck:
                y = norm(block.norm3, F.conv2d(y, block.conv3.weight))
            if len(block.shortcut):
                x = norm(block.shortcut[1], F.conv2d(x, block.shortcut[0].weight, None, stride))
            x = F.relu(y + x)
    torch.testing.assert_close(model(images(24)), x.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias)


def test_a_shortcut_is_a_convolution_only_where_the_shape_changes(build):
    assert [len(block.shortcut) for stage in build().body.values() for block in stage] == [2, 0, 2]
    assert [len(block.shortcut) for stage in build(bottleneck=False).body.values() for block in stage] == [0, 0, 2]


@KINDS
@pytest.mark.parametrize(
    ("stem_stride", "size", "maps"),
    [(1, (8, 8), ((8, 8), (4, 4))), (2, (28, 28), ((14, 14), (7, 7))), (4, (33, 50), ((9, 13), (5, 7)))],
)
def test_small_and_odd_images(build, bottleneck, stem_stride, size, maps):
    model = build(bottleneck=bottleneck, stem_stride=stem_stride)
    pyramid = model.pyramid(images(*size))
    assert tuple(tuple(features.shape[2:]) for features in pyramid.values()) == maps
    assert [stage.stride for stage in model.stages] == [stem_stride, 2 * stem_stride]
    assert model(images(*size)).isfinite().all()


@KINDS
def test_logits_pooled_feature_and_pyramid_agree(build, bottleneck):
    model = build(bottleneck=bottleneck)
    feature, pyramid = model.pooled(images()), model.pyramid(images())
    assert [stage.channels for stage in model.stages] == [features.shape[1] for features in pyramid.values()]
    torch.testing.assert_close(pyramid["stage2"].mean(dim=(2, 3)), feature)
    assert torch.equal(model(images()), model.head(feature))
    body = build(bottleneck=bottleneck, classes=0)
    body.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("head.")})
    assert isinstance(body.head, nn.Identity)
    assert torch.equal(body(images()), feature)


@KINDS
def test_blocks_start_as_the_identity(bottleneck):
    model = ResNet(ResNetConfig(**TINY, bottleneck=bottleneck))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    blocks = [module for module in model.modules() if isinstance(module, TwoLayerBlock | BottleneckBlock)]
    assert sum((layer.weight == 0).all().item() for layer in norms) == len(blocks) == 3
    assert all((layer.bias == 0).all() and (layer.running_var == 1).all() for layer in norms)
    x = torch.randn(3, model.stages[0].channels, 6, 6)
    assert torch.equal(model.body["stage1"][1](x), x.relu())


@KINDS
def test_stochastic_depth_and_dropout_act_in_training_alone(build, bottleneck):
    model = build(bottleneck=bottleneck, stochastic_depth=0.4)
    rates = [block.stochastic_depth.rate for stage in model.body.values() for block in stage]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    for field in ("stochastic_depth", "dropout"):
        model = build(bottleneck=bottleneck, **{field: 0.5})
        assert torch.equal(model(images()), model(images()))
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        many = images().repeat(16, 1, 1, 1)
        assert not torch.equal(model(many), model(many))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": (1,)}, "depths (1,) and widths (4, 6) must have one number for each stage"),
        ({"depths": (), "widths": ()}, "depths () and widths () must have one number for each stage"),
        ({"depths": (1, 0)}, "depths is (1, 0); it must be at least 1"),
        ({"widths": (8, -1)}, "widths is (8, -1); it must be at least 1"),
        ({"channels": 0}, "channels is 0; it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"stem_stride": 3}, "stem_stride is 3; it must be 1, 2 or 4"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in [0, 1)"),
        ({"stochastic_depth": -0.1}, "stochastic_depth is -0.1; it must be in [0, 1)"),
    ],
)
def test_impossible_configs(config, message):
    with pytest.raises(ValueError) as caught:
        ResNetConfig(**TINY | config)
    assert str(caught.value) == message
