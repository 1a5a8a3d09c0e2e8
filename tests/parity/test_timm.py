"""The same weights in timm's models and in ours give the same logits, in either direction of the rename tables."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from vitnext.errors import InputError
from vitnext.models import catalog, convnext, vit
from vitnext.weights.rename import rename
from vitnext.weights.tables.convnext import TIMM as CONVNEXT
from vitnext.weights.tables.vit import TIMM as VIT

TABLES = {"vit": VIT, "convnext": CONVNEXT}
LOGITS = 1e-5  # the largest difference allowed, in fp32

# One tiny case for each option that timm has too: what changes in our config, and in timm's.
MEAN = {"global_pool": "avg", "fc_norm": False}
TINY = {
    "vit": ({}, {}),
    "vit mean": ({"pool": "mean"}, MEAN),
    "vit no token": ({"pool": "mean", "class_token": False}, MEAN | {"class_token": False}),
    "vit no qkv bias": ({"qkv_bias": False}, {"qkv_bias": False}),
    "vit narrow mlp": ({"mlp_ratio": 2.5}, {"mlp_ratio": 2.5}),
    "vit one channel": ({"channels": 1}, {"in_chans": 1}),
    "convnext": ({}, {}),
    "convnext stem 1": ({"stem_stride": 1}, {"patch_size": 1}),
    "convnext kernel 3": ({"kernel_size": 3}, {"kernel_sizes": 3}),
    "convnext one channel": ({"channels": 1}, {"in_chans": 1}),
}


def timm_name(name):
    return f"{name}_{'patch14' if name == 'vit_huge' else 'patch16'}_224" if name.startswith("vit") else name


def reference(name, **options):
    """timm's model with random weights in every parameter: norms, biases, tokens, positions and layer scale too."""
    with torch.device("meta"):
        model = timm.create_model(timm_name(name), **options)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()


def converted(theirs, name, **config):
    """Our model with timm's weights."""
    with torch.device("meta"):
        model = catalog.build(name, **config)
    state = rename(theirs.state_dict(), TABLES[catalog.family_of(name)])
    model.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, strict=True, assign=True)
    return model.eval()


def compare(ours, theirs, size, channels=3):
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, expected = ours(images), theirs(images)
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() <= LOGITS


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("name", vit.SIZES)
def test_every_vit_at_reduced_depth(name, pool):
    image_size = 4 * vit.SIZES[name]["patch_size"]
    theirs = reference(name, depth=2, img_size=image_size, num_classes=10, **MEAN if pool == "mean" else {})
    ours = converted(theirs, name, depth=2, image_size=image_size, classes=10, pool=pool)
    compare(ours, theirs, image_size)


@pytest.mark.parametrize("name", [name for name in convnext.SIZES if not name.endswith("_dinov3")])
def test_every_convnext_at_reduced_depth(name):
    theirs = reference(name, depths=(1, 1, 2, 1), num_classes=10, conv_mlp=False)
    ours = converted(theirs, name, depths=(1, 1, 2, 1), classes=10)
    compare(ours, theirs, 64)


@pytest.mark.parametrize("name", ["vit_tiny", "vit_base", "convnext_tiny"])
def test_full_size(name):
    theirs = reference(name)
    compare(converted(theirs, name), theirs, 224)


@pytest.mark.parametrize("case", TINY)
def test_every_shared_option(case):
    ours, theirs = tiny(case)
    compare(ours, theirs, 32, channels=ours.config.channels)


def tiny(case):
    """Our model and timm's, with the same random weights."""
    changed, its_changed = TINY[case]
    if case.startswith("vit"):
        sizes = {"dim": 24, "depth": 3, "heads": 2, "image_size": 32, "patch_size": 8, "classes": 7}
        its = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 7}
    else:
        sizes = {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "classes": 7}
        its = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 7}
    name = "vit_tiny" if case.startswith("vit") else "convnext_tiny"
    theirs = reference(name, **its | its_changed)
    return converted(theirs, name, **sizes | changed), theirs


def test_atto_to_nano_come_with_1x1_convolutions():
    theirs = reference("convnext_atto", depths=(1, 1, 1, 1), num_classes=10)
    state = {key: t.flatten(1) if ".mlp." in key and t.ndim == 4 else t for key, t in theirs.state_dict().items()}
    ours = catalog.build("convnext_atto", depths=(1, 1, 1, 1), classes=10).eval()
    ours.load_state_dict(rename(state, CONVNEXT), strict=True)
    compare(ours, theirs, 64)


@pytest.mark.parametrize("case", ["vit", "vit mean", "convnext"])
def test_gradients(case):
    ours, theirs = (model.double().train() for model in tiny(case))
    images = torch.randn(16, 3, 32, 32, dtype=torch.float64)
    for model in (ours, theirs):
        model(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, TABLES[case.split()[0]])
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", ["vit", "convnext"])
def test_the_way_there_and_back_is_exact(case):
    ours, theirs = tiny(case)
    table = TABLES[case]
    state = ours.state_dict()
    there = rename(state, table, reverse=True)
    theirs.load_state_dict(there, strict=True)
    back = rename(theirs.state_dict(), table)
    assert list(there) == list(theirs.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("case", ["vit", "convnext"])
def test_every_entry_of_the_table_has_a_weight(case):
    _, theirs = tiny(case)
    for entry in TABLES[case]:
        with pytest.raises(InputError, match="no place in this model"):
            rename(theirs.state_dict(), [other for other in TABLES[case] if other != entry])


def test_weights_of_another_architecture_are_named():
    with pytest.raises(InputError) as caught:
        rename(timm.create_model("vit_tiny_patch16_224", depth=1, init_values=0.1).state_dict(), VIT)
    assert str(caught.value) == "2 weights have no place in this model: blocks.0.ls1.gamma, blocks.0.ls2.gamma"
    with pytest.raises(InputError, match=r"weights have no place in this model: blocks\.0\.attn\.proj\.bias, "):
        rename(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), CONVNEXT)


def test_stochastic_depth_follows_the_same_line():
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in timm_blocks("vit_tiny_patch16_224", depth=4)]
    ours = catalog.build("vit_tiny", depth=4, stochastic_depth=0.3)
    assert [block.stochastic_depth.rate for block in ours.encoder] == pytest.approx(rates)
    stages = timm_blocks("convnext_atto", depths=(1, 2, 1, 1))
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in stages for block in stage.blocks]
    ours = catalog.build("convnext_atto", depths=(1, 2, 1, 1), stochastic_depth=0.3)
    assert [block.stochastic_depth.rate for stage in ours.stages for block in stage.blocks] == pytest.approx(rates)
    assert rates[-1] == pytest.approx(0.3)


def timm_blocks(name, **options):
    model = timm.create_model(name, drop_path_rate=0.3, **options)
    return model.blocks if name.startswith("vit") else model.stages
