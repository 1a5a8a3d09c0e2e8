from __future__ import annotations

import functools

import pytest
import timm
import torch

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.models.macs import count_macs

PARAMETERS = {
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
    "vit_large": 304_326_632,
    "vit_huge": 632_045_800,
    "convnext_atto": 3_695_520,
    "convnext_femto": 5_217_784,
    "convnext_pico": 9_045_672,
    "convnext_nano": 15_593_560,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_xlarge": 350_196_968,
}

# As printed, in millions: ViT in Dosovitskiy et al. 2021, table 1, and Touvron et al. 2021, table 1; ConvNeXt in Liu et
# al. 2022, table 1; atto to nano in timm's results. ViT's authors print the network without the 1000-class head.
PUBLISHED_MILLIONS = {
    "vit_tiny": 5,
    "vit_small": 22,
    "vit_base": 86,
    "vit_large": 307,
    "vit_huge": 632,
    "convnext_atto": 3.7,
    "convnext_femto": 5.22,
    "convnext_pico": 9.05,
    "convnext_nano": 15.59,
    "convnext_tiny": 28.6,
    "convnext_small": 50.2,
    "convnext_base": 88.6,
    "convnext_large": 197.8,
    "convnext_xlarge": 350.2,
}

# At 224 px, in 10^9 multiply-adds: ViT and the small ConvNeXts in timm's results, the others in Liu et al. 2022.
PUBLISHED_GMACS = {
    "vit_tiny": 1.26,
    "vit_small": 4.61,
    "vit_base": 17.58,
    "vit_large": 61.6,
    "vit_huge": 167.4,
    "convnext_atto": 0.55,
    "convnext_femto": 0.78,
    "convnext_pico": 1.37,
    "convnext_nano": 2.45,
    "convnext_tiny": 4.46,
    "convnext_small": 8.69,
    "convnext_base": 15.36,
    "convnext_large": 34.37,
    "convnext_xlarge": 60.92,
}

EVERY_NAME = pytest.mark.parametrize("name", catalog.NAMES)
row = functools.cache(catalog.describe)


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


def test_every_row_has_its_numbers_here():
    assert list(PARAMETERS) == list(PUBLISHED_MILLIONS) == list(PUBLISHED_GMACS) == catalog.NAMES


@EVERY_NAME
def test_parameters_are_exact(name):
    assert row(name).parameters == PARAMETERS[name]
    assert row(name).parameters / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], rel=0.01, abs=0.75)


@EVERY_NAME
def test_parameters_are_those_of_timm(name):
    patch = "patch14" if name == "vit_huge" else "patch16"
    with torch.device("meta"):
        model = timm.create_model(f"{name}_{patch}_224" if name.startswith("vit") else name, num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@EVERY_NAME
def test_macs_are_the_formula_and_the_published_number(name):
    formula = vit_macs if name.startswith("vit") else convnext_macs
    assert row(name).macs == formula(name)
    assert row(name).macs / 1e9 == pytest.approx(PUBLISHED_GMACS[name], rel=0.01)


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


def test_macs_of_an_impossible_size():
    with torch.device("meta"):
        model = catalog.build("vit_tiny")
    with pytest.raises(ValueError, match=r"images are \(96, 96\), the model was built for 224 px"):
        count_macs(model, 96)


def test_rows_carry_what_the_papers_say():
    tiny = row("convnext_tiny")
    assert (tiny.name, tiny.family, tiny.image_size, tiny.paper) == (
        "convnext_tiny",
        "convnext",
        224,
        "Liu et al. 2022",
    )
    assert {name: row(name).top1 for name in catalog.NAMES if row(name).top1} == {
        "vit_tiny": 72.2,
        "vit_small": 79.9,
        "vit_base": 81.8,
        "convnext_tiny": 82.1,
        "convnext_small": 83.1,
        "convnext_base": 83.8,
        "convnext_large": 84.3,
    }
    assert row("vit_huge").top1 is None


@pytest.mark.parametrize(
    ("name", "patch"), [("vit_small", 16), ("vit_huge", 14), ("vit_small_patch8", 8), ("vit_patch32", 32), ("vit", 16)]
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
        ("mobilenetv9", "vitnext models lists them all"),
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
        ("vit_tiny", {"depth": 3.0}, "model.config.depth is 3.0: give a value like 12"),
        ("vit_tiny", {"depth": True}, "model.config.depth is True: give a value like 12"),
        ("vit_tiny", {"dropout": False}, "model.config.dropout is False: give a value like 0.0"),
        ("vit_tiny", {"class_token": 1}, "model.config.class_token is 1: give a value like True"),
        ("vit_tiny", {"pool": None}, "model.config.pool is None: give a value like 'token'"),
        ("convnext_atto", {"depths": 3}, "model.config.depths is 3: give a value like [3, 3, 9, 3]"),
        ("convnext_atto", {"depths": [2, "2"]}, "model.config.depths is [2, '2']: give a value like [3, 3, 9, 3]"),
        ("convnext_atto", {"depths": [2, 2]}, "convnext_atto: depths (2, 2) and widths (40, 80, 160, 320) must "),
        ("vit_tiny", {"pool": "max"}, 'vit_tiny: pool is "max"; it must be "token" or "mean"'),
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
