from __future__ import annotations

import math

import pytest
import timm
import torch
import transformers

from vitnext.errors import InputError
from vitnext.models import catalog, convnext, listing, vit
from vitnext.models.macs import count_macs

PARAMETERS = {
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
    "vit_large": 304_326_632,
    "vit_huge": 632_045_800,
    "deit_tiny": 5_717_416,
    "deit_small": 22_050_664,
    "deit_base": 86_567_656,
    "deit_tiny_distilled": 5_910_800,
    "deit_small_distilled": 22_436_432,
    "deit_base_distilled": 87_338_192,
    "deit3_small": 22_059_496,
    "deit3_medium": 38_849_512,
    "deit3_base": 86_585_320,
    "deit3_large": 304_374_760,
    "deit3_huge": 632_126_440,
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_large_patch14_dinov2": 304_367_616,
    "vit_giant_patch14_dinov2": 1_136_479_232,
    "vit_small_patch14_reg4_dinov2": 22_057_728,
    "vit_base_patch14_reg4_dinov2": 86_582_784,
    "vit_large_patch14_reg4_dinov2": 304_371_712,
    "vit_giant_patch14_reg4_dinov2": 1_136_485_376,
    "vit_small_patch16_dinov3": 21_596_160,
    "vit_small_plus_patch16_dinov3": 28_692_480,
    "vit_base_patch16_dinov3": 85_659_648,
    "vit_large_patch16_dinov3": 303_128_576,
    "vit_huge_plus_patch16_dinov3": 840_591_360,
    "vit_7b_patch16_dinov3": 6_716_030_976,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "swin_large": 196_532_476,
    "swinv2_tiny": 28_347_154,
    "swinv2_small": 49_728_418,
    "swinv2_base": 87_918_816,
    "swinv2_large": 196_739_932,
    "mit_b0": 3_576_392,
    "mit_b1": 13_664_424,
    "mit_b2": 24_709_288,
    "mit_b3": 44_585_128,
    "mit_b4": 61_355_688,
    "mit_b5": 81_956_008,
    "convnext_atto": 3_695_520,
    "convnext_femto": 5_217_784,
    "convnext_pico": 9_045_672,
    "convnext_nano": 15_593_560,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_xlarge": 350_196_968,
    "convnext_tiny_dinov3": 27_820_128,
    "convnext_small_dinov3": 49_454_688,
    "convnext_base_dinov3": 87_566_464,
    "convnext_large_dinov3": 196_230_336,
    "convnextv2_atto": 3_708_400,
    "convnextv2_femto": 5_233_240,
    "convnextv2_pico": 9_066_280,
    "convnextv2_nano": 15_623_800,
    "convnextv2_tiny": 28_635_496,
    "convnextv2_base": 88_717_800,
    "convnextv2_large": 197_956_840,
    "convnextv2_huge": 660_289_640,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet200": 64_673_832,
    "mobilenet_v2": 3_504_872,
}

# At the size of the row, in 10^9 multiply-adds. ViT, DeiT, DINOv2, the small ConvNeXts and ConvNeXt V2: timm's results;
# Swin: table 1 of Liu et al. 2021; V2: its authors' repository; ConvNeXt: Liu et al. 2022; ResNet: timm's results, 50
# and 200 Liu et al. 2022; MobileNetV2: table 4 of Sandler et al. 2018. None was found of DINOv3 at its rows' size;
# MiT's table 6 is of a wider Mix-FFN than the published weights have; SwinV2-L's are of wider windows, and timm's of
# DINOv2 with registers leave out the products of attention: both have a test of their own.
PUBLISHED_GMACS = {
    "vit_tiny": 1.26,
    "vit_small": 4.61,
    "vit_base": 17.58,
    "vit_large": 61.6,
    "vit_huge": 167.4,
    "deit_tiny": 1.26,
    "deit_small": 4.61,
    "deit_base": 17.58,
    "deit_tiny_distilled": 1.27,
    "deit_small_distilled": 4.63,
    "deit_base_distilled": 17.68,
    "deit3_small": 4.61,
    "deit3_medium": 8.0,
    "deit3_base": 17.58,
    "deit3_large": 61.6,
    "deit3_huge": 167.4,
    "vit_small_patch14_dinov2": 46.76,
    "vit_base_patch14_dinov2": 151.71,
    "vit_large_patch14_dinov2": 507.15,
    "vit_giant_patch14_dinov2": 1784.2,
    "swin_tiny": 4.5,
    "swin_small": 8.7,
    "swin_base": 15.4,
    "swin_large": 34.5,
    "swinv2_tiny": 5.9,
    "swinv2_small": 11.5,
    "swinv2_base": 20.3,
    "convnext_atto": 0.55,
    "convnext_femto": 0.78,
    "convnext_pico": 1.37,
    "convnext_nano": 2.45,
    "convnext_tiny": 4.46,
    "convnext_small": 8.69,
    "convnext_base": 15.36,
    "convnext_large": 34.37,
    "convnext_xlarge": 60.92,
    "convnextv2_atto": 0.55,
    "convnextv2_femto": 0.78,
    "convnextv2_pico": 1.37,
    "convnextv2_nano": 2.45,
    "convnextv2_tiny": 4.47,
    "convnextv2_base": 15.38,
    "convnextv2_large": 34.4,
    "convnextv2_huge": 115,
    "resnet18": 1.82,
    "resnet34": 3.67,
    "resnet50": 4.09,
    "resnet101": 7.83,
    "resnet152": 11.56,
    "resnet200": 15.01,
    "mobilenet_v2": 0.3,
}

# Of Swin V2 with other windows than its rows', at other sizes: its authors' repository.
PUBLISHED_GMACS_OF_WINDOWS = {
    ("swinv2_base", 16, 256): 21.8,
    ("swinv2_base", 24, 384): 54.7,
    ("swinv2_large", 16, 256): 47.5,
    ("swinv2_large", 24, 384): 115.4,
}

# timm's model cards, at 518 px: q k^T and A v, which we count (46.88 for small), are not in them. Its cards of DINOv2
# without registers have them.
PUBLISHED_GMACS_WITHOUT_PRODUCTS = {"vit_small_patch14_reg4_dinov2": 29.6, "vit_large_patch14_reg4_dinov2": 416.1}

# The roadmap's rows are in test_roadmap.py.
NAMES = [name for name in catalog.NAMES if not name.startswith("roadmap")]
EVERY_NAME = pytest.mark.parametrize("name", NAMES)
LISTED = {row["name"]: catalog.Row(**row) for row in listing.rows()}


def vit_macs(name, image_size=224):
    size = catalog.FAMILIES["vit"].sizes[name]
    patch, dim, depth = size["patch_size"], size["dim"], size["depth"]
    patches = (image_size // patch) ** 2
    tokens = patches + 1
    projections, products, mlp = 4 * tokens * dim**2, 2 * tokens**2 * dim, 8 * tokens * dim**2
    return patches * 3 * patch**2 * dim + depth * (projections + products + mlp) + dim * 1000


def convnext_macs(name, image_size=224):
    size = catalog.FAMILIES["convnext"].sizes[name]
    total, before, side = 0, 0, image_size // 4
    for depth, width in zip(size["depths"], size["widths"], strict=True):
        if before:
            side //= 2
            total += side**2 * 2 * 2 * before * width
        else:
            total += side**2 * 4 * 4 * 3 * width
        total += depth * side**2 * (7 * 7 * width + 2 * 4 * width**2)
        before = width
    return total + before * 1000


@EVERY_NAME
def test_the_listing_is_the_catalog(name):
    assert LISTED[name] == catalog.describe(name)  # else: make catalog


def test_the_listing_has_the_catalog_s_order():
    assert list(LISTED) == list(catalog.NAMES)


def test_every_row_has_its_numbers_here():
    assert list(PARAMETERS) == NAMES
    without = [name for name in NAMES if name not in PUBLISHED_GMACS]
    expected = ("mit_", "dinov3", "reg4", "swinv2_large")
    assert all(any(part in name for part in expected) for name in without)


def reference(name):
    """timm's or, for MiT, transformers' network of this row."""
    family, config = catalog.family_of(name), catalog.resolve(name)[1]
    if family == "mit":
        settings = transformers.SegformerConfig(
            depths=list(config.depths),
            hidden_sizes=list(config.widths),
            num_attention_heads=list(config.heads),
            sr_ratios=list(config.reductions),
            mlp_ratios=[int(ratio) for ratio in config.mlp_ratios],
            num_labels=1000,
        )
        return transformers.SegformerForImageClassification(settings)
    if "dinov" in name:
        theirs = name.removesuffix("_dinov3") if family == "convnext" else name
        return timm.create_model(theirs, num_classes=0)
    suffix = {
        "vit_huge": "_patch14_224",
        "deit3_huge": "_patch14_224",
        "swinv2_large": "_window12_192",  # windows change no weight
        "mobilenet_v2": "2_100",
    }.get(name)
    by_family = {"swin": "_patch4_window7_224", "swinv2": "_window8_256"}
    by_family |= dict.fromkeys(("vit", "deit", "deit3"), "_patch16_224")
    theirs = name.removesuffix("_v2") + "v" if name == "mobilenet_v2" else name
    return timm.create_model(theirs + (suffix or by_family.get(family, "")), num_classes=1000)


def kept_apart(name):
    """Parameters that timm folds away: the class token's position beside registers, and the biases of q and v that
    DINOv3's authors publish (timm has them in its _qkvb variants)."""
    family, config = catalog.resolve(name)
    if family is catalog.FAMILIES["dinov2"] and config.registers:
        return int(config.dim)
    if family is catalog.FAMILIES["dinov3"] and config.qkv_bias:
        return 2 * config.dim * config.depth
    return 0


@EVERY_NAME
def test_parameters_are_exact(name):
    assert LISTED[name].parameters == PARAMETERS[name]
    with torch.device("meta"):
        model = reference(name)
    assert sum(parameter.numel() for parameter in model.parameters()) + kept_apart(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_macs_are_the_published_number(name):
    assert LISTED[name].macs / 1e9 == pytest.approx(PUBLISHED_GMACS[name], rel=0.01)


@pytest.mark.parametrize(("name", "window", "size"), PUBLISHED_GMACS_OF_WINDOWS)
def test_macs_of_other_windows_are_the_published_number(name, window, size):
    with torch.device("meta"):
        model = catalog.build(name, window=window)
    published = PUBLISHED_GMACS_OF_WINDOWS[name, window, size]
    assert count_macs(model, size) / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED_GMACS_WITHOUT_PRODUCTS)
def test_macs_without_the_products_of_attention_are_the_published_number(name):
    _, config = catalog.resolve(name)
    tokens = math.prod(config.grid) + 1 + config.registers
    products = config.depth * 2 * tokens**2 * config.dim
    published = PUBLISHED_GMACS_WITHOUT_PRODUCTS[name]
    assert (LISTED[name].macs - products) / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", [*vit.SIZES, *(name for name in convnext.SIZES if "dinov3" not in name)])
def test_macs_are_the_formula(name):
    formula = vit_macs if name.startswith("vit") else convnext_macs
    assert LISTED[name].macs == formula(name)


@pytest.mark.parametrize("name", ["vit_tiny", "convnext_atto"])
def test_macs_at_another_size_leave_the_model_alone(name):
    size = {"image_size": 96} if name == "vit_tiny" else {}
    model = catalog.build(name, **size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    formula = vit_macs if name.startswith("vit") else convnext_macs
    assert count_macs(model, 96) == formula(name, 96)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_macs_of_an_image_that_is_no_square():
    with torch.device("meta"):
        model, half = (catalog.build("vit_tiny", image_size=size) for size in ((96, 192), (192, 96)))
    assert catalog.config_dict(model)["image_size"] == [96, 192]
    assert catalog.resolve("vit_tiny", image_size=[96, 96]) == catalog.resolve("vit_tiny", image_size=96)
    tokens, dim = 6 * 12, 192
    block = (4 + 8) * (tokens + 1) * dim**2 + 2 * (tokens + 1) ** 2 * dim
    assert count_macs(model, (96, 192)) == tokens * 3 * 16**2 * dim + 12 * block + dim * 1000
    assert count_macs(half, (192, 96)) == count_macs(model, (96, 192))


def test_macs_of_an_impossible_size():
    with torch.device("meta"):
        model = catalog.build("vit_tiny")
    with pytest.raises(ValueError, match=r"images are \(96, 96\), the model was built for 224 px"):
        count_macs(model, 96)


def test_rows_carry_what_the_papers_say():
    tiny = LISTED["convnext_tiny"]
    assert (tiny.name, tiny.family, tiny.image_size, tiny.paper) == (
        "convnext_tiny",
        "convnext",
        224,
        "Liu et al. 2022",
    )
    assert (tiny.top1, LISTED["vit_huge"].top1) == (82.1, None)
    assert set(catalog.PUBLISHED_TOP1) <= set(catalog.NAMES)


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("deit_tiny_patch8", 8),
        ("vit_small", 16),
        ("vit_huge", 14),
        ("vit_small_patch8", 8),
        ("vit_patch32", 32),
        ("vit", 16),
    ],
)
def test_a_suffix_names_the_patch(name, patch):
    family, config = catalog.resolve(name)
    assert family is catalog.FAMILIES["vit"]
    assert config.patch_size == patch
    assert catalog.family_of(name) == "vit"


def test_overrides_win_over_the_size():
    _, config = catalog.resolve("convnext_tiny", widths=[8, 16, 24, 32], dropout=0, layer_scale=1)
    assert (config.widths, config.depths, config.dropout) == ((8, 16, 24, 32), (3, 3, 9, 3), 0)
    assert catalog.resolve("vit_tiny_patch8", patch_size=4)[1].patch_size == 4


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit_tny", "did you mean vit_tiny?"),
        ("convnext_tiny_patch4", "did you mean convnext_tiny?"),
        ("ViT_tiny", "did you mean vit_tiny?"),
        ("vit_small_patch", "did you mean vit_small?"),
        ("vit_small_patch-8", "did you mean vit_small?"),
        ("vit_tiny\n", "did you mean vit_tiny?"),
        ("mobilenetv9", "did you mean mobilenet?"),
        ("gpt", "vitnext models lists them all"),
        ("", "vitnext models lists them all"),
    ],
)
def test_unknown_names(name, hint):
    for ask in (catalog.build, catalog.resolve, catalog.family_of, catalog.describe):
        with pytest.raises(InputError) as caught:
            ask(name)
        assert str(caught.value) == f'there is no model "{name}": {hint}'


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("vit_tiny", {"depht": 3}, "vit_tiny has no model.config.depht; there are image_size, patch_size, "),
        ("vit_tiny", {"name": "x"}, "vit_tiny has no model.config.name; there are image_size, patch_size, "),
        ("vit_tiny", {"depth": "3"}, "model.config.depth is '3': give a value like 12"),
        ("vit_tiny", {"image_size": [224]}, "model.config.image_size is [224]: give a value like 224 or [224, 160]"),
        (
            "vit_tiny",
            {"image_size": (9.0, 9)},
            "model.config.image_size is [9.0, 9]: give a value like 224 or [224, 160]",
        ),
        ("vit_tiny", {"depth": 3.0}, "model.config.depth is 3.0: give a value like 12"),
        ("vit_tiny", {"depth": True}, "model.config.depth is True: give a value like 12"),
        ("vit_tiny", {"dropout": False}, "model.config.dropout is False: give a value like 0.0"),
        ("vit_tiny", {"class_token": 1}, "model.config.class_token is 1: give a value like True"),
        ("vit_tiny", {"pool": None}, "model.config.pool is None: give a value like 'token'"),
        ("convnext_atto", {"depths": 3}, "model.config.depths is 3: give a value like [3, 3, 9, 3]"),
        ("convnext_atto", {"depths": [2, "2"]}, "model.config.depths is [2, '2']: give a value like [3, 3, 9, 3]"),
        ("convnext_atto", {"depths": [2, 2]}, "convnext_atto: depths (2, 2) and widths (40, 80, 160, 320) must "),
        ("vit_tiny", {"pool": "max"}, 'vit_tiny: pool is "max"; it must be "token", "mean" or "mean_norm"'),
        ("vit_tiny", {"heads": 5}, "vit_tiny: dim 192 is not a multiple of heads 5"),
        ("vit_tiny_patch0", {}, "vit_tiny_patch0: patch_size is 0; it must be at least 1"),
        ("vit_tiny_patch15", {}, "vit_tiny_patch15: image_size 224 is not a whole number of patches of 15 px"),
        ("convnext_atto", {"dropout": 1.5}, "convnext_atto: dropout is 1.5; it must be in [0, 1)"),
    ],
)
def test_bad_overrides(name, overrides, message):
    with pytest.raises(InputError) as caught:
        catalog.build(name, **overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
