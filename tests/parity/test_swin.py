"""The same weights in timm's, torchvision's and transformers' Swin V1 and in ours give the same numbers, both ways.

The authors' code is not installed here: names and shapes of its files are taken from microsoft/Swin-Transformer,
models/swin_transformer.py, and the values of its buffers from timm, which computes them in the authors' way.
"""

from __future__ import annotations

import functools

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from references import same_outputs, with_weights
from vitnext.errors import InputError
from vitnext.models.swin import SIZES, SwinConfig, SwinTransformer
from vitnext.weights.rename import rename
from vitnext.weights.tables import swin as tables

SMALL = {"dim": 8, "depths": (2, 2, 3, 2), "heads": (1, 2, 4, 4), "window": 3, "classes": 7}


def filled(model):
    """The model with random values in every parameter: no zeros, no ones, positions that weigh as much as content."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "bias_table" in name:
            nn.init.normal_(parameter)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def timm_model(size=96, patch_size=4, channels=3, mlp_ratio=4.0, qkv_bias=True):
    return TimmSwin(
        img_size=size,
        patch_size=patch_size,
        in_chans=channels,
        num_classes=7,
        embed_dim=8,
        depths=(2, 2, 3, 2),
        num_heads=(1, 2, 4, 4),
        window_size=3,
        mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias,
    )


def torchvision_model(patch_size=4, mlp_ratio=4.0):
    return TorchvisionSwin([patch_size] * 2, 8, [2, 2, 3, 2], [1, 2, 4, 4], [3, 3], mlp_ratio, num_classes=7)


def transformers_model(patch_size=4, channels=3, mlp_ratio=4.0, qkv_bias=True):
    return transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=96,
            patch_size=patch_size,
            num_channels=channels,
            num_labels=7,
            embed_dim=8,
            depths=[2, 2, 3, 2],
            num_heads=[1, 2, 4, 4],
            window_size=3,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
        )
    )


def converted(theirs, table, **config):
    return with_weights(lambda: SwinTransformer(SwinConfig(**config)), theirs.state_dict(), table)


def reference_outputs(model, images):
    """Their logits, and the output of each stage before it is merged into the next: (B, C, H, W)."""
    if isinstance(model, TimmSwin):
        return model(images), model.forward_intermediates(images, intermediates_only=True)
    if isinstance(model, TorchvisionSwin):
        maps, x = [], images
        for i, layer in enumerate(model.features):
            x = layer(x)
            if i % 2:
                maps.append(x.permute(0, 3, 1, 2))
        return model(images), maps
    embedding, sides = model.swin.embeddings(images)
    encoded = model.swin.encoder(
        embedding, sides, output_hidden_states=True, output_hidden_states_before_downsampling=True
    )
    return model(images).logits, encoded.reshaped_hidden_states[1:]


def compare(ours, theirs, size):
    same_outputs(ours, theirs, reference_outputs, size)


# timm shifts a map before it pads it, so its sizes are those whose maps are whole windows: 24, 12, 6 and 3 at 96 px.
# torchvision leaves out the pixels of an incomplete patch, so its sizes are multiples of 4.
CASES = {
    "timm": (timm_model, tables.TIMM, {}, (96, 96)),
    "timm, wide: the last stage shifts along one side": (timm_model, tables.TIMM, {"size": (96, 192)}, (96, 192)),
    "timm, one channel": (timm_model, tables.TIMM, {"channels": 1}, (96, 96)),
    "timm, patches of 2": (timm_model, tables.TIMM, {"size": 48, "patch_size": 2}, (48, 48)),
    "timm, narrow mlp": (timm_model, tables.TIMM, {"mlp_ratio": 2.5}, (96, 96)),
    "timm, no qkv bias": (timm_model, tables.TIMM, {"qkv_bias": False}, (96, 96)),
    "torchvision": (torchvision_model, tables.TORCHVISION, {}, (96, 96)),
    "torchvision, padded": (torchvision_model, tables.TORCHVISION, {}, (116, 104)),
    "torchvision, wide": (torchvision_model, tables.TORCHVISION, {}, (96, 160)),
    "torchvision, patches of 2": (torchvision_model, tables.TORCHVISION, {"patch_size": 2}, (52, 60)),
    "transformers": (transformers_model, tables.TRANSFORMERS_5, {}, (96, 96)),
    "transformers, padded": (transformers_model, tables.TRANSFORMERS_5, {}, (131, 102)),
    "transformers, one channel": (transformers_model, tables.TRANSFORMERS_5, {"channels": 1}, (130, 130)),
    "transformers, narrow mlp": (transformers_model, tables.TRANSFORMERS_5, {"mlp_ratio": 2.5}, (96, 96)),
    "transformers, no qkv bias": (transformers_model, tables.TRANSFORMERS_5, {"qkv_bias": False}, (96, 96)),
}
LAYOUTS = ["timm", "torchvision", "transformers"]


@functools.cache
def pair(case):
    build, table, options, _ = CASES[case]
    theirs = filled(build(**options))
    return converted(theirs, table, **SMALL | {key: value for key, value in options.items() if key != "size"}), theirs


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.layout(CASES[case][1])) for case in CASES])
def test_small(case):
    compare(*pair(case), CASES[case][3])


def test_a_window_that_covers_the_map_takes_the_centre_of_the_bias_table():
    theirs = filled(TimmSwin(img_size=32, num_classes=7, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=8))
    ours = filled(SwinTransformer(SwinConfig(dim=8, depths=(2, 2), heads=(1, 2), window=8, classes=7)))
    state = rename(theirs.state_dict(), tables.TIMM)
    for name, tensor in state.items():
        if name == "stages.1.blocks.1.attention.bias_table":
            assert tensor.shape == (7 * 7, 2)  # timm has built a window of 4 there
        if name.startswith("stages.1") and name.endswith("bias_table"):
            table = ours.state_dict()[name].clone().unflatten(0, (15, 15))
            table[4:11, 4:11] = tensor.unflatten(0, (7, 7))
            state[name] = table.flatten(0, 1)
    ours.load_state_dict(state, strict=True)
    compare(ours, theirs, (32, 32))


@pytest.mark.layout(tables.TIMM)
def test_full_size():
    theirs = filled(timm.create_model("swin_tiny_patch4_window7_224"))
    compare(converted(theirs, tables.TIMM, **SIZES["swin_tiny"]), theirs, (224, 224))


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_the_reference_s_shapes(name):
    with torch.device("meta"):
        theirs = timm.create_model(f"{name}_patch4_window7_224")
        ours = SwinTransformer(SwinConfig(**SIZES[name]))
    expected = rename(theirs.state_dict(), tables.TIMM)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }


def original_state():
    """The state of a model as the authors' code keeps it, of one with windows of 2 for 64 px."""
    theirs = filled(
        TimmSwin(64, num_classes=7, embed_dim=8, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 4), window_size=2)
    )
    state = {}
    for key, tensor in theirs.state_dict().items():
        for i in (1, 2, 3):  # merging ends a stage
            key = key.replace(f"layers.{i}.downsample.", f"layers.{i - 1}.downsample!")
        state[key.replace("!", ".").replace("head.fc.", "head.")] = tensor
    for i, layer in enumerate(theirs.layers):
        for j, block in enumerate(layer.blocks):
            state[f"layers.{i}.blocks.{j}.attn.relative_position_index"] = block.attn.relative_position_index
            if block.attn_mask is not None:
                state[f"layers.{i}.blocks.{j}.attn_mask"] = block.attn_mask
    return theirs, state


@pytest.mark.layout(tables.ORIGINAL)
def test_the_authors_layout():
    theirs, state = original_state()
    assert {"layers.0.downsample.norm.weight", "head.weight"} < state.keys()
    assert [key for key in state if "mask" in key] == [f"layers.{i}.blocks.1.attn_mask" for i in (0, 1, 2)]
    ours = SwinTransformer(SwinConfig(**SMALL | {"window": 2}))
    ours.load_state_dict(rename(state, tables.ORIGINAL), strict=True)
    compare(ours.eval(), theirs, (64, 64))
    same(rename(ours.state_dict(), tables.ORIGINAL, reverse=True), state)


def test_a_mask_of_another_window_is_an_error():
    _, state = original_state()
    state["layers.0.blocks.1.attn_mask"] = state["layers.0.blocks.1.attn_mask"].roll(1, 0)
    with pytest.raises(InputError, match=r"layers\.0\.blocks\.1\.attn_mask is not what this model computes"):
        rename(state, tables.ORIGINAL)


@pytest.mark.layout(tables.TRANSFORMERS)
def test_transformers_files(tmp_path):
    ours, theirs = pair("transformers")
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert "swin.encoder.layers.0.blocks.0.attention.self.query.weight" in state
    same(rename(state, tables.TRANSFORMERS), ours.state_dict())
    back = rename(ours.state_dict(), tables.TRANSFORMERS, reverse=True)
    index = {key: back[key] for key in back if key.endswith("relative_position_index")}  # in files of transformers 4
    assert len(index) == 9
    for tensor in index.values():
        expected = theirs.swin.encoder.layers[0].blocks[0].attention.relative_position_bias.relative_position_index
        assert torch.equal(tensor, expected.view(9, 9))
    same(back, state | index)


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_way_there_and_back_is_exact(case):
    ours, theirs = pair(case)
    table = CASES[case][1]
    there = rename(ours.state_dict(), table, reverse=True)
    same(there, theirs.state_dict())
    same(rename(there, table), ours.state_dict())


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_entry_of_the_table_has_a_weight(case):
    _, theirs = pair(case)
    table = CASES[case][1]
    for entry in table:
        with pytest.raises(InputError, match="no place in this model"):
            rename(theirs.state_dict(), [other for other in table if other != entry])


def test_gradients():
    ours, theirs = (model.double() for model in pair.__wrapped__("timm"))
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for model in (ours, theirs):
        model(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, tables.TIMM)
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)


def test_stochastic_depth_follows_the_same_line():
    theirs = TimmSwin(img_size=96, embed_dim=8, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 4), drop_path_rate=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for layer in theirs.layers for block in layer.blocks]
    ours = SwinTransformer(SwinConfig(**SMALL, stochastic_depth=0.3))
    assert [block.stochastic_depth.rate for stage in ours.stages for block in stage.blocks] == pytest.approx(rates)
    assert rates[-1] == pytest.approx(0.3)
