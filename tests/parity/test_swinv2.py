"""The same weights in timm's, torchvision's and transformers' Swin V2 and in ours give the same numbers, both ways.

The authors' code is not installed here: names and shapes of its files are taken from microsoft/Swin-Transformer,
models/swin_transformer_v2.py, and the values of its buffers from timm, which computes them in the authors' way.
"""

from __future__ import annotations

import functools
import math

import pytest
import timm
import torch
import transformers
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwin
from torch import nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from references import same_outputs, with_weights
from vitnext.errors import InputError
from vitnext.models.swinv2 import SIZES, SwinTransformerV2, SwinV2Config
from vitnext.weights.rename import rename
from vitnext.weights.tables import swinv2 as tables

SMALL = {"dim": 16, "depths": (2, 2, 3, 2), "heads": (1, 2, 4, 4), "window": 3, "classes": 7}


def filled(model, sharpness=10.0, spread=0.3):
    """The model with random values in every parameter: no zeros, no ones. sharpness: of the heads, 1 / tau."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale"):
            nn.init.normal_(parameter, mean=math.log(sharpness), std=spread)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("weight"):
            nn.init.uniform_(parameter, 0.25, 0.75)
        else:
            nn.init.normal_(parameter, std=0.3)
        if isinstance(model, TorchvisionSwin) and name.endswith("qkv.bias"):
            with torch.no_grad():
                parameter.chunk(3)[1].zero_()  # k's: as it is built, and it gets no gradient
    return model.eval()


def timm_model(size=96, window=3, depths=(2, 2, 3, 2), heads=(1, 2, 4, 4), channels=3, **options):
    return TimmSwin(
        img_size=size,
        in_chans=channels,
        num_classes=7,
        embed_dim=16,
        depths=depths,
        num_heads=heads,
        window_size=window,
        **options,
    )


def torchvision_model():
    return TorchvisionSwin(
        [4, 4],
        16,
        [2, 2, 3, 2],
        [1, 2, 4, 4],
        [8, 8],
        num_classes=7,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )


def transformers_model(channels=3, pretrained_windows=(0, 0, 0, 0), mlp_ratio=4.0, qkv_bias=True, window=3, size=96):
    return transformers.Swinv2ForImageClassification(
        transformers.Swinv2Config(
            image_size=size,
            patch_size=4,
            num_channels=channels,
            num_labels=7,
            embed_dim=16,
            depths=[2, 2, 3, 2],
            num_heads=[1, 2, 4, 4],
            window_size=window,
            pretrained_window_sizes=list(pretrained_windows),
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
        )
    )


def converted(theirs, table, **config):
    return with_weights(lambda: SwinTransformerV2(SwinV2Config(**config)), theirs.state_dict(), table)


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
    embedding, sides = model.swinv2.embeddings(images)
    encoded = model.swinv2.encoder(
        embedding, sides, output_hidden_states=True, output_hidden_states_before_downsampling=True
    )
    return model(images).logits, encoded.reshaped_hidden_states[1:]


def compare(ours, theirs, size):
    same_outputs(ours, theirs, reference_outputs, size)


# timm shifts a map before it pads it, so its sizes are those whose maps are whole windows. torchvision leaves out the
# pixels of an incomplete patch, so its sizes are multiples of 4; it does not shrink windows, so all maps are 8 or more.
# transformers sets a window's size when it is built, and for a square.
CASES = {
    "timm": (timm_model, tables.TIMM, {}, (96, 96)),
    "timm, wide: the last stage shifts along one side": (timm_model, tables.TIMM, {"size": (96, 192)}, (96, 192)),
    "timm, windows as large as the map": (timm_model, tables.TIMM, {"window": 12}, (96, 96)),
    "timm, trained with other windows": (
        timm_model,
        tables.TIMM,
        {"window": 6, "pretrained_windows": (4, 4, 4, 3)},
        (96, 96),
    ),
    "timm, windows of one": (timm_model, tables.TIMM, {"window": 1, "size": 32}, (32, 32)),
    "timm, one channel": (timm_model, tables.TIMM, {"channels": 1}, (96, 96)),
    "timm, narrow mlp": (timm_model, tables.TIMM, {"mlp_ratio": 2.5}, (96, 96)),
    "timm, no qkv bias": (timm_model, tables.TIMM, {"qkv_bias": False}, (96, 96)),
    "torchvision": (torchvision_model, tables.TORCHVISION, {"window": 8}, (256, 256)),
    "torchvision, padded": (torchvision_model, tables.TORCHVISION, {"window": 8}, (268, 260)),
    "transformers": (transformers_model, tables.TRANSFORMERS, {}, (96, 96)),
    "transformers, padded": (transformers_model, tables.TRANSFORMERS, {"size": 128}, (131, 102)),
    "transformers, one channel": (transformers_model, tables.TRANSFORMERS, {"channels": 1}, (96, 96)),
    "transformers, windows as large as the map": (transformers_model, tables.TRANSFORMERS, {"window": 12}, (96, 96)),
    "transformers, trained with other windows": (
        transformers_model,
        tables.TRANSFORMERS,
        {"window": 6, "pretrained_windows": (4, 4, 4, 3)},
        (96, 96),
    ),
    "transformers, narrow mlp": (transformers_model, tables.TRANSFORMERS, {"mlp_ratio": 2.5}, (96, 96)),
    "transformers, no qkv bias": (transformers_model, tables.TRANSFORMERS, {"qkv_bias": False}, (96, 96)),
}
LAYOUTS = ["timm", "torchvision", "transformers"]


@functools.cache
def pair(case):
    build, table, options, _ = CASES[case]
    changed = {key: value for key, value in options.items() if key != "size"}
    if build is timm_model and "pretrained_windows" in options:
        options = {**options, "pretrained_window_sizes": options["pretrained_windows"]}
        del options["pretrained_windows"]
    theirs = filled(build(**(options if build is not torchvision_model else {})))
    return converted(theirs, table, **SMALL | changed), theirs


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.layout(CASES[case][1])) for case in CASES])
def test_small(case):
    compare(*pair(case), CASES[case][3])


def test_torchvision_s_bias_of_k_counts_for_nothing():
    theirs = filled(torchvision_model())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("qkv.bias"):
                parameter.chunk(3)[1].normal_()
    compare(converted(theirs, tables.TORCHVISION, **SMALL | {"window": 8}), theirs, (256, 256))


@pytest.mark.layout(tables.TIMM)
def test_full_size():
    theirs = filled(timm.create_model("swinv2_tiny_window8_256"))
    compare(converted(theirs, tables.TIMM, **SIZES["swinv2_tiny"]), theirs, (256, 256))


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_the_reference_s_shapes(name):
    with torch.device("meta"):
        # SwinV2-L is published with wider windows alone, and windows change no weight.
        theirs = f"{name}_window12_192" if name == "swinv2_large" else f"{name}_window8_256"
        theirs = timm.create_model(theirs, num_classes=1000)
        ours = SwinTransformerV2(SwinV2Config(**SIZES[name]))
    expected = rename(theirs.state_dict(), tables.TIMM)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }


@pytest.mark.layout(tables.ORIGINAL)
def test_the_authors_layout():
    theirs = filled(timm_model(size=64, window=2))
    state = {}
    for key, tensor in theirs.state_dict().items():
        for i in (1, 2, 3):  # merging ends a stage
            key = key.replace(f"layers.{i}.downsample.", f"layers.{i - 1}.downsample!")
        state[key.replace("!", ".").replace("head.fc.", "head.")] = tensor
    buffers = {}
    for i, layer in enumerate(theirs.layers):
        for j, block in enumerate(layer.blocks):
            buffers[f"layers.{i}.blocks.{j}.attn.relative_position_index"] = block.attn.relative_position_index
            buffers[f"layers.{i}.blocks.{j}.attn.relative_coords_table"] = block.attn.relative_coords_table
            if block.attn_mask is not None:
                buffers[f"layers.{i}.blocks.{j}.attn_mask"] = block.attn_mask
    assert {"layers.0.downsample.norm.weight", "head.weight"} < state.keys() and len(buffers) == 9 + 9 + 3
    ours = SwinTransformerV2(SwinV2Config(**SMALL | {"window": 2}))
    ours.load_state_dict(rename(state | buffers, tables.ORIGINAL), strict=True)
    compare(ours.eval(), theirs, (64, 64))
    same(rename(ours.state_dict(), tables.ORIGINAL, reverse=True), state)  # the buffers do not come back


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


@pytest.mark.parametrize("shape", [(8,), (3, 3)])
def test_a_bias_that_is_not_of_q_k_and_v_is_an_error(shape):
    state = {"features.1.0.attn.qkv.bias": torch.zeros(shape)}
    with pytest.raises(InputError, match=r"attn\.qkv\.bias has the shape \(.*\); a bias of q, k and v has \(3 C,\)"):
        rename(state, tables.TORCHVISION)
    state = {"stages.0.blocks.0.attention.qv_bias": torch.zeros(7)}
    with pytest.raises(InputError, match=r"qv_bias has the shape \(7,\); a bias of q and v has \(2 C,\)"):
        rename(state, tables.TORCHVISION, reverse=True)


def in_float64(theirs):
    theirs = theirs.double()
    for module in theirs.modules():
        if hasattr(module, "relative_coords_table"):
            module._init_buffers()  # timm rounds them to the weights' precision when it makes them
    return theirs


def test_sharp_heads_up_to_the_limit():
    """With 1 / tau up to 100, float32 rounds too coarsely to tell a small mistake from none."""
    theirs = filled(timm_model(), sharpness=50.0, spread=1.0)
    scale = torch.cat([block.attn.logit_scale for layer in theirs.layers for block in layer.blocks])
    assert 0.1 < (scale > math.log(100)).double().mean() < 0.8
    ours, theirs = converted(theirs, tables.TIMM, **SMALL).double(), in_float64(theirs)
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert (ours(images) - theirs(images)).abs().max() <= 1e-6  # ours rounds the offsets, d^, to float32


def test_gradients():
    ours, theirs = pair.__wrapped__("timm")
    ours, theirs = ours.double(), in_float64(theirs)
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for model in (ours, theirs):
        model(images).square().sum().backward()
    expected = rename({name: parameter.grad for name, parameter in theirs.named_parameters()}, tables.TIMM)
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-6, msg=name)


def test_stochastic_depth_follows_the_same_line():
    theirs = timm_model(drop_path_rate=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for layer in theirs.layers for block in layer.blocks]
    ours = SwinTransformerV2(SwinV2Config(**SMALL, stochastic_depth=0.3))
    assert [block.stochastic_depth.rate for stage in ours.stages for block in stage.blocks] == pytest.approx(rates)
    assert rates[-1] == pytest.approx(0.3)


def test_blocks_start_as_the_identity_as_the_authors_do():
    ours, theirs = SwinTransformerV2(SwinV2Config(**SMALL)), timm_model()
    for layer, stage in zip(theirs.layers, ours.stages, strict=True):
        layer._init_respostnorm()
        for block, mine in zip(layer.blocks, stage.blocks, strict=True):
            for name in ("norm1", "norm2"):
                assert torch.equal(getattr(mine, name).weight, getattr(block, name).weight)
            assert torch.allclose(mine.attention.logit_scale, block.attn.logit_scale)
    x = torch.randn(1, 6, 6, 16)
    assert torch.equal(ours.stages[0].blocks[0](x), x)
