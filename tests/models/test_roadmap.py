from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.models import listing
from vitnext.models.macs import count_macs
from vitnext.models.roadmap import PUBLISHED, SIZES, STEPS, Design, Roadmap, RoadmapBlock, scaled

# 10^9 multiply-adds of convolutions and linears at 224 px, counted by hand from the description of the steps; they are
# the paper's numbers but for the last two of ResNet-50's column, where the paper prints 4.46 and 4.49.
COUNTS = {
    "r50": (
        *(4.089, 4.089, 4.526, 4.418, 2.350, 5.268, 4.644, 4.065),
        *(4.097, 4.146, 4.210, 4.291, 4.146, 4.146, 4.146, 4.146, 4.456),
    ),
    "r200": (
        *(15.007, 15.007, 14.518, 14.376, 7.234, 16.764, 15.679, 14.627),
        *(14.699, 14.807, 14.950, 15.130, 14.807, 14.807, 14.807, 14.807, 15.355),
    ),
}
ARTEFACTS = {("r50", "LayerNorm"): (4.146, 4.46), ("r50", "separate downsampling"): (4.456, 4.49)}

# The fields that each step changes, against the last step before it that was kept.
CHANGES = {
    "ResNet": set(),
    "modern recipe": set(),
    "stage ratio": {"depths"},
    "patchify stem": {"patchify"},
    "depthwise convolution": {"depthwise"},
    "wider": {"widths"},
    "inverted bottleneck": {"inverted"},
    "depthwise first": {"depthwise_first"},
    "kernel 5": {"kernel_size"},
    "kernel 7": {"kernel_size"},
    "kernel 9": {"kernel_size"},
    "kernel 11": {"kernel_size"},
    "GELU": {"activation"},
    "fewer activations": {"activations"},
    "fewer norms": {"norms"},
    "LayerNorm": {"norm"},
    "separate downsampling": {"separate_downsampling", "layer_scale"},
}

# A block of each step: P1, P2: 1x1 convolutions, K: the k x k one, N: norm, a: activation, s: add the shortcut.
BOTTLENECK = "P1 N a K N a P2 N s a"
MOVED_UP = "K N a P1 N a P2 N s a"
END = ["K N P1 N a P2 N s", "K N P1 a P2 s", "K N P1 a P2 s", "K N P1 a P2 gamma s"]
BLOCKS = 7 * [BOTTLENECK] + 6 * [MOVED_UP] + END
KERNELS = 8 * [3] + [5, 7, 9, 11] + 5 * [7]

EVERY_STEP = pytest.mark.parametrize(("column", "i"), [(column, i) for column in STEPS for i in range(17)])
EVERY_STEP_OF_R50 = pytest.mark.parametrize("i", range(17))


def small(i, column="r50", **changes):
    """Step i for 8 x 8 pixels: 1/8 of the widths, a third of the depths, two stages."""
    design = scaled(STEPS[column][i].design, width=1 / 8, depth=1 / 3, stages=2, stem_stride=1)
    return dataclasses.replace(design, **{"channels": 2, "classes": 5} | changes)


def randomised(model):
    """Random values in every parameter and buffer, in float64 and evaluation mode."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif not name.endswith("num_batches_tracked"):
            nn.init.normal_(tensor, std=0.4)
    return model.double().eval()


def images(size=8, channels=2):
    shape = (2, channels, size, size)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@functools.cache
def gmacs(design):
    with torch.device("meta"):
        return count_macs(Roadmap(design), 224) / 1e9


def test_the_listing_has_these_counts():
    rows = {row["name"]: row for row in listing.rows()}  # else: make catalog
    for column, counts in COUNTS.items():
        for i, count in enumerate(counts):
            assert rows[f"roadmap_{column}_{i:02d}"]["macs"] / 1e9 == pytest.approx(count, abs=0.0006)


@EVERY_STEP
def test_multiply_adds(column, i):
    step = STEPS[column][i]
    count = gmacs(step.design)
    assert count == pytest.approx(COUNTS[column][i], abs=0.0006)
    ours, printed = ARTEFACTS.get((column, step.name), (count, count))
    assert count == pytest.approx(ours, abs=0.0006)
    assert step.gmacs == pytest.approx(printed, abs=0.005)


@pytest.mark.parametrize("column", STEPS)
def test_neighbours_differ_in_what_the_paper_names(column):
    before = STEPS[column][0].design
    for step in STEPS[column]:
        changed = {
            f.name for f in dataclasses.fields(Design) if getattr(before, f.name) != getattr(step.design, f.name)
        }
        extra = {"widths"} if (column, step.name) == ("r200", "stage ratio") else set()  # 64 to 84 in table 11
        assert changed == CHANGES[step.name] | extra, step.name
        if step.kept:
            before = step.design
    assert [step.name for step in STEPS[column] if not step.kept] == ["kernel 9", "kernel 11"]


def test_the_values_of_section_2():
    r50, r200 = ([step.design for step in STEPS[column]] for column in ("r50", "r200"))
    assert (r50[0].depths, r50[2].depths) == ((3, 4, 6, 3), (3, 3, 9, 3))
    assert (r200[0].depths, r200[2].depths) == ((3, 24, 36, 3), (3, 3, 27, 3))
    assert [design.widths[0] for design in r50] == 5 * [64] + 12 * [96]
    assert [design.widths[0] for design in r200] == 2 * [64] + 3 * [84] + 12 * [128]
    for design in r50 + r200:
        assert design.widths == tuple(design.widths[0] * 2**i for i in range(4))
    for column in (r50, r200):
        assert [design.kernel_size for design in column] == KERNELS
        assert [design.activation for design in column] == 12 * ["relu"] + 5 * ["gelu"]
        assert column[-1].layer_scale == 1e-6


def test_accuracies_rise_to_the_published_end():
    for place, column in enumerate(STEPS):
        assert [step.name for step in STEPS[column]] == [row[0] for row in PUBLISHED]
        assert [(step.top1, step.gmacs) for step in STEPS[column]] == [row[2][place] for row in PUBLISHED]
    assert (STEPS["r50"][0].top1, STEPS["r50"][-1].top1) == (76.13, 81.97)
    assert (STEPS["r200"][0].top1, STEPS["r200"][-1].top1) == (78.20, 83.60)


def test_names():
    assert list(SIZES) == [f"roadmap_{column}_{i:02d}" for column in ("r50", "r200") for i in range(17)]
    assert SIZES["roadmap_r50_00"] == {} and SIZES["roadmap_r50_02"] == {"depths": (3, 3, 9, 3)}
    for name, fields in SIZES.items():
        _, column, i = name.split("_")
        assert Design(**fields) == STEPS[column][int(i)].design


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("roadmap_r50_00", 25_557_032),  # torchvision's resnet50
        ("roadmap_r50_16", 28_589_128),  # ConvNeXt-T
        ("roadmap_r200_00", 64_673_832),  # timm's resnet200
        ("roadmap_r200_16", 88_591_464),  # ConvNeXt-B
    ],
)
def test_parameters_of_the_ends(name, parameters):
    with torch.device("meta"):
        model = Roadmap(Design(**SIZES[name]))
    assert sum(p.numel() for p in model.parameters()) == parameters


def norm(layer, x):
    """BN with its running statistics, or LN over the channels of each position."""
    shape = (1, -1, 1, 1)
    if isinstance(layer, nn.BatchNorm2d):
        mean, variance, eps = layer.running_mean.view(shape), layer.running_var.view(shape), 1e-5
    else:
        mean, variance, eps = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False), 1e-6
    return (x - mean) / (variance + eps).sqrt() * layer.weight.view(shape) + layer.bias.view(shape)


def block_by_hand(block, x, recipe, activation, kernel, groups, stride):
    """The operations of ``recipe`` in order, on the block's weights."""
    layers = {"P1": block.pointwise1, "K": block.spatial, "P2": block.pointwise2}
    y, layer = x, None
    for operation in recipe.split():
        if operation in layers:
            layer = layers[operation]
            weight, bias = layer.convolution.weight, layer.convolution.bias
            assert weight.shape[-1] == (kernel if operation == "K" else 1)
            if operation == "K":
                channels = len(weight)
                y = F.conv2d(y, weight, bias, stride, kernel // 2, groups=channels if groups else 1)
            else:
                y = F.conv2d(y, weight, bias)
        elif operation == "N":
            y = norm(layer.norm, y)
        elif operation == "a":
            y = activation(y)
        elif operation == "gamma":
            y = block.layer_scale.view(1, -1, 1, 1) * y
        elif len(block.shortcut):
            weight, bias = block.shortcut.convolution.weight, block.shortcut.convolution.bias
            y = y + norm(block.shortcut.norm, F.conv2d(x, weight, bias, stride))
        else:
            y = y + x
    return y


@EVERY_STEP_OF_R50
def test_forward_is_the_paper(i):
    model = randomised(Roadmap(small(i)))
    activation = F.relu if i < 12 else F.gelu
    convolution = model.stem.convolution
    if i < 3:
        x = F.relu(norm(model.stem.norm, F.conv2d(images(), convolution.weight, None, padding=1)))
    else:  # patches of one pixel
        x = F.conv2d(images(), convolution.weight, convolution.bias)
        x = norm(model.stem.norm, x) if i == 16 else x
    w = 8 if i < 5 else 12
    for name, stage in model.body.items():
        last = i == 16
        if last and name == "stage2":
            before, downsample = stage.downsample
            x = F.conv2d(norm(before, x), downsample.weight, downsample.bias, stride=2)
        else:
            assert len(stage.downsample) == 0
        for j, block in enumerate(stage.blocks):
            hidden, out = (4 * w, w) if i >= 6 else (w, 4 * w)
            stride = 2 if name == "stage2" and j == 0 and not last else 1
            assert block.pointwise1.convolution.weight.shape[:2] == (hidden, x.shape[1])
            assert block.pointwise2.convolution.weight.shape[:2] == (out, hidden)
            assert len(block.shortcut) == (2 if x.shape[1] != out or stride == 2 else 0)
            expected = block_by_hand(block, x, BLOCKS[i], activation, KERNELS[i], i >= 4, stride)
            torch.testing.assert_close(block(x), expected)
            x = expected
        w *= 2
    assert x.shape[2:] == (4, 4)
    feature = x.mean(dim=(2, 3), keepdim=True)
    feature = (norm(model.norm, feature) if i == 16 else feature).flatten(1)
    torch.testing.assert_close(model.pooled(images()), feature)
    torch.testing.assert_close(model(images()), feature @ model.head.weight.T + model.head.bias)


@EVERY_STEP_OF_R50
def test_a_convolution_has_a_bias_unless_batch_norm_follows(i):
    with torch.device("meta"):
        model = Roadmap(STEPS["r50"][i].design)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            followed = isinstance(getattr(parent, "norm", None), nn.BatchNorm2d)
            assert (module.bias is None) == followed, name


@pytest.mark.parametrize(
    ("i", "stem_stride", "kernel", "size"),
    [(0, 4, 7, 8), (0, 2, 3, 16), (0, 1, 3, 32), (3, 4, 4, 8), (3, 2, 2, 16), (3, 1, 1, 32), (3, 8, 8, 4)],
)
def test_the_stem_keeps_small_images(i, stem_stride, kernel, size):
    model = Roadmap(small(i, stem_stride=stem_stride))
    assert model.stem.convolution.kernel_size == (kernel, kernel)
    assert model.stem(torch.zeros(1, 2, 32, 32)).shape[2:] == (size, size)


@pytest.mark.parametrize(("size", "stem_stride", "stages", "last"), [(8, 1, 3, 2), (28, 1, 3, 7), (28, 2, 2, 7)])
@EVERY_STEP
def test_small_variants_of_every_step(column, i, size, stem_stride, stages, last):
    full = STEPS[column][i].design
    design = scaled(full, width=1 / 16, depth=1 / 9, stages=stages, stem_stride=stem_stride)
    assert {
        field for field in SIZES[f"roadmap_{column}_{i:02d}"] if getattr(design, field) != getattr(full, field)
    } <= {
        "depths",
        "widths",
    }
    model = Roadmap(dataclasses.replace(design, channels=1, classes=3))
    pyramid = model.pyramid(torch.zeros(2, 1, size, size))
    assert list(pyramid) == [f"stage{n + 1}" for n in range(stages)]
    for stage in model.stages:
        assert pyramid[stage.name].shape == (2, stage.channels, size // stage.stride, size // stage.stride)
    assert pyramid[f"stage{stages}"].shape[-1] == last


def test_scaled_keeps_what_the_steps_change():
    r50 = [scaled(step.design, width=1 / 4, depth=1 / 3, stages=3, stem_stride=1) for step in STEPS["r50"]]
    assert (r50[0].depths, r50[2].depths) == ((1, 1, 2), (1, 1, 3))
    assert (r50[0].widths, r50[5].widths) == ((16, 32, 64), (24, 48, 96))
    assert r50[0].stride == 4
    two = [scaled(step.design, width=1 / 4, depth=1 / 3, stages=2).depths for step in STEPS["r50"]]
    assert (two[0], two[2]) == ((1, 2), (1, 3))  # so that no step is another one's copy
    assert scaled(Design()) == Design()
    assert scaled(Design(), width=1e-9, depth=1e-9).widths == (1, 1, 1, 1)
    assert scaled(Design(), width=1e-9, depth=1e-9).depths == (1, 1, 1, 1)


@EVERY_STEP_OF_R50
def test_every_parameter_is_trained(i):
    model = randomised(Roadmap(small(i))).train()
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if parameter.ndim > 1:
            assert parameter.grad.abs().max() > 1e-9, name


@EVERY_STEP_OF_R50
def test_reset_parameters_sets_everything(i):
    model, states = Roadmap(small(i)), []
    for before in (torch.nan, 7.0):
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data.fill_(0 if tensor.dtype == torch.int64 else before)
        torch.manual_seed(0)
        model.reset_parameters()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in states[0].items():
        assert tensor.isfinite().all() and torch.equal(tensor, states[1][name]), name


@EVERY_STEP_OF_R50
def test_blocks_start_next_to_the_identity(i):
    model = Roadmap(small(i, depths=(2, 2))).eval()
    x = torch.randn(2, model.stages[0].channels, 8, 8)
    moved = (model.body.stage1.blocks[1](x.relu()) - x.relu()).abs().max()
    if i < 12 or i == 13:  # the last norm is 0
        assert moved == 0
    elif i == 16:  # gamma is 1e-6
        assert 0 < moved < 1e-4
    elif i > 13:  # one norm, and no layer scale yet
        assert moved > 0.1
    gammas = [block.layer_scale for block in model.modules() if isinstance(block, RoadmapBlock)]
    assert all((gamma is None) if i < 16 else (gamma == 1e-6).all() for gamma in gammas)


@pytest.mark.parametrize("i", [0, 16])
def test_logits_pooled_feature_and_pyramid_agree(i):
    model = randomised(Roadmap(small(i)))
    feature, pyramid = model.pooled(images()), model.pyramid(images())
    assert torch.equal(model(images()), model.head(feature))
    expected = [(32, 1), (64, 2)] if i == 0 else [(12, 1), (24, 2)]
    assert [(stage.channels, stage.stride) for stage in model.stages] == expected
    torch.testing.assert_close(pyramid["stage2"], model.body.stage2(pyramid["stage1"]))
    body = Roadmap(small(i, classes=0)).double().eval()
    body.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("head.")})
    assert isinstance(body.head, nn.Identity)
    assert torch.equal(body(images()), feature)


def test_stochastic_depth_and_dropout_act_in_training_alone():
    rates = [
        block.stochastic_depth.rate
        for block in Roadmap(small(9, depths=(2, 3), stochastic_depth=0.4)).modules()
        if isinstance(block, RoadmapBlock)
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    for field in ("stochastic_depth", "dropout"):
        model = randomised(Roadmap(small(16, **{field: 0.5})))
        assert torch.equal(model(images()), model(images()))
        model.train()
        many = images().repeat(16, 1, 1, 1)
        assert not torch.equal(model(many), model(many))


def test_images_below_the_stride_are_an_error_that_says_what_to_lower():
    message = "images are (16, 40), smaller than the network's stride of 32 px: lower stem_stride or use fewer stages"
    for i in (0, 16):
        with torch.device("meta"):
            model, x = Roadmap(STEPS["r50"][i].design), torch.empty(1, 3, 16, 40)
        with pytest.raises(ValueError) as caught:
            model(x)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (1,)}, "depths (1,) and widths (64, 128, 256, 512) must have one number for each stage"),
        ({"depths": (), "widths": ()}, "depths () and widths () must have one number for each stage"),
        ({"depths": (1, 0, 1, 1)}, "depths is (1, 0, 1, 1); it must be at least 1"),
        ({"classes": -1}, "classes is -1; it must be at least 0"),
        ({"kernel_size": 4}, "kernel_size 4 is even; the padding needs an odd one"),
        ({"stem_stride": 3}, "stem_stride is 3; it must be 1, 2 or 4, or the stem patchify"),
        ({"activation": "tanh"}, "activation is 'tanh'; it must be 'relu' or 'gelu'"),
        ({"activations": 2}, "activations is 2; it must be 3 or 1"),
        ({"norms": 0}, "norms is 0; it must be 3 or 1"),
        ({"norm": "group"}, "norm is 'group'; it must be 'batch' or 'layer'"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it must be in [0, 1)"),
        ({"layer_scale": -1.0}, "layer_scale is -1.0; it must be at least 0"),
    ],
)
def test_impossible_designs(changes, message):
    with pytest.raises(ValueError) as caught:
        Design(**changes)
    assert str(caught.value) == message
