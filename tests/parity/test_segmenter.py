"""Segmenters beside transformers' with the same random weights: logits of the head and of the auxiliary one."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import mm_swin
from references import LARGEST
from vitnext.models import segmenter
from vitnext.weights.rename import rename
from vitnext.weights.tables import segmenter as tables

STAGES = ["stage1", "stage2", "stage3", "stage4"]
WIDTHS, DEPTHS = [8, 16, 24, 32], [1, 2, 1, 1]
MIT = {
    "depths": (1, 2, 1, 1),
    "widths": (8, 16, 20, 32),
    "heads": (1, 2, 5, 8),
    "reductions": (8, 4, 2, 1),
    "mlp_ratios": (4.0, 4.0, 4.0, 4.0),
}
SWIN = {"dim": 8, "depths": (1, 2, 1, 2), "heads": (1, 2, 2, 4), "window": 3}
CONVNEXT = {"depths": tuple(DEPTHS), "widths": tuple(WIDTHS)}
HEAD = {"width": 16, "auxiliary_width": 12}


def filled(model):
    """Random values in every parameter and buffer."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.int64:
            continue
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        else:
            fan_in = tensor[0].numel() if tensor.ndim in (2, 4) else 4
            nn.init.normal_(tensor, std=fan_in**-0.5)
    return model.eval()


def upernet(backbone):
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=12, auxiliary_in_channels=None, num_labels=7
    )
    return filled(transformers.UperNetForSemanticSegmentation(config))


def upernet_convnext():
    return upernet(transformers.ConvNextConfig(depths=DEPTHS, hidden_sizes=WIDTHS, out_features=STAGES))


def upernet_swin():
    settings = {"embed_dim": 8, "depths": [1, 2, 1, 2], "num_heads": [1, 2, 2, 4], "window_size": 3}
    return upernet(transformers.SwinConfig(**settings, out_features=STAGES))


def segformer():
    settings = {"depths": list(MIT["depths"]), "hidden_sizes": list(MIT["widths"])}
    settings |= {"num_attention_heads": list(MIT["heads"]), "decoder_hidden_size": 16, "num_labels": 7}
    return filled(transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**settings)))


def saved(model, folder):
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def converted(state, table, name, **config):
    """Our model with these weights, after the way back has given them again, bit for bit."""
    model = segmenter.build(name, classes=7, **config)
    ours = rename(state, table)
    model.load_state_dict(ours, strict=True)
    back = rename(ours, table, reverse=True)
    index = "relative_position_index"  # what transformers 5 does not write any more, but published files hold
    assert all(torch.equal(back[key], state[key]) for key in back if key in state or not key.endswith(index))
    assert all("conv_seg" in key or "swin.layernorm" in key for key in state.keys() - back.keys())
    return model.eval()


def images(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def compare(ours, theirs, size=(64, 96)):
    batch = images(*size)
    with torch.inference_mode():
        expected = theirs(batch).logits
        if expected.shape[-2:] != batch.shape[-2:]:  # SegFormer's are those of the finest stage
            expected = F.interpolate(expected, size=batch.shape[-2:], mode="bilinear", align_corners=False)
        found = ours(batch)
        assert expected.std() > 0.05 and found.shape == (2, 7, *size)
        assert (found - expected).abs().max() <= LARGEST
        if ours.auxiliary is not None:
            maps = theirs.backbone(batch).feature_maps
            expected = F.interpolate(theirs.auxiliary_head(maps), size=size, mode="bilinear", align_corners=False)
            both = ours.forward_with_auxiliary(batch)
            assert torch.equal(both[0], found)
            assert (both[1] - expected).abs().max() <= LARGEST
            for ours_, theirs_ in zip(ours.maps(batch), maps, strict=True):
                assert (ours_ - theirs_).abs().max() <= LARGEST


@pytest.mark.layout(tables.UPERNET_CONVNEXT)
@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_upernet_on_convnext(tmp_path, size):
    theirs = upernet_convnext()
    state = saved(theirs, tmp_path)
    compare(converted(state, tables.UPERNET_CONVNEXT, "convnext_tiny+upernet", **CONVNEXT, head=HEAD), theirs, size)


@pytest.mark.layout(tables.UPERNET_SWIN)
@pytest.mark.parametrize("size", [(128, 160), (136, 168)])  # the last map is larger than the windows of 3
def test_upernet_on_swin(tmp_path, size):
    theirs = upernet_swin()
    compare(
        converted(saved(theirs, tmp_path), tables.UPERNET_SWIN, "swin_tiny+upernet", **SWIN, head=HEAD), theirs, size
    )


@pytest.mark.layout(tables.SEGFORMER)
@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_segformer(tmp_path, size):
    theirs = segformer()
    ours = converted(
        saved(theirs, tmp_path), tables.SEGFORMER, "segformer_b0", **MIT, norm_eps=1e-5, head={"width": 16}
    )
    compare(ours, theirs, size)


@pytest.mark.layout(tables.MM_UPERNET_SWIN)
@pytest.mark.parametrize("size", [(128, 160), (133, 167)])  # the second has odd maps to merge, and patches to fill up
def test_upernet_on_swin_as_mmsegmentation_has_it(size):
    """Its backbone in plain PyTorch: the weights of merging differ from all others in more than their names."""
    theirs = upernet_swin()
    theirs.backbone = mm_swin.SwinTransformer(**SWIN)
    state = mm_swin.checkpoint(filled(theirs))
    compare(converted(state, tables.MM_UPERNET_SWIN, "swin_tiny+upernet", **SWIN, head=HEAD), theirs, size)


# mmsegmentation and the authors' repositories have no installed reference: transformers' weights under their names.


def mm_head(key):
    key = re.sub(r"(decode_head|auxiliary_head)\.classifier", r"\1.conv_seg", key).replace("batch_norm", "bn")
    return re.sub(r"hidden_states_norms\.stage(\d)", lambda match: f"norm{int(match[1]) - 1}", key)


def convnext_names(depthwise, first, second):
    def renamed(key):
        key = mm_head(key).replace("backbone.embeddings.patch_embeddings", "backbone.downsample_layers.0.0")
        key = key.replace("backbone.embeddings.layernorm", "backbone.downsample_layers.0.1")
        key = re.sub(r"encoder\.stages\.(\d)\.downsampling_layer\.(\d)", r"downsample_layers.\1.\2", key)
        key = re.sub(r"encoder\.stages\.(\d)\.layers\.(\d)", r"stages.\1.\2", key)
        key = key.replace("layer_scale_parameter", "gamma").replace("layernorm", "norm")
        return key.replace("dwconv", depthwise).replace("pwconv1", first).replace("pwconv2", second)

    return renamed


@pytest.mark.layout(tables.MM_UPERNET_CONVNEXT, tables.ORIGINAL_UPERNET_CONVNEXT)
@pytest.mark.parametrize(
    ("table", "names"),
    [
        (tables.MM_UPERNET_CONVNEXT, ("depthwise_conv", "pointwise_conv1", "pointwise_conv2")),
        (tables.ORIGINAL_UPERNET_CONVNEXT, ("dwconv", "pwconv1", "pwconv2")),
    ],
    ids=["mmsegmentation", "the authors"],
)
def test_upernet_on_convnext_in_the_names_of_mmsegmentation(tmp_path, table, names):
    theirs = upernet_convnext()
    renamed = convnext_names(*names)
    state = {renamed(key): tensor for key, tensor in saved(theirs, tmp_path).items()}
    assert {
        "backbone.norm3.weight",
        "decode_head.conv_seg.bias",
        f"backbone.stages.1.1.{names[0]}.bias",
    } <= state.keys()
    compare(converted(state, table, "convnext_tiny+upernet", **CONVNEXT, head=HEAD), theirs)


@pytest.mark.layout(tables.ORIGINAL_UPERNET_SWIN)
def test_upernet_on_swin_in_the_authors_names(tmp_path):
    """SwinTransformer/Swin-Transformer-Semantic-Segmentation, mmseg/models/backbones/swin_transformer.py."""
    theirs = upernet_swin()
    names = {
        "backbone.embeddings.patch_embeddings.projection": "backbone.patch_embed.proj",
        "backbone.embeddings.norm": "backbone.patch_embed.norm",
        "backbone.encoder.": "backbone.",
        "attention.self.relative": "attn.relative",
        "attention.output.dense": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    state = {}
    for key, tensor in saved(theirs, tmp_path).items():
        if key.startswith("backbone.swin.layernorm"):  # of the classifier
            continue
        for old, new in names.items():
            key = key.replace(old, new)
        state[mm_head(key)] = tensor
    for key in [key for key in state if ".self.query." in key]:
        parts = [state.pop(key.replace("query", name)) for name in ("query", "key", "value")]
        state[key.replace("attention.self.query", "attn.qkv")] = torch.cat(parts)
    assert {
        *("backbone.layers.1.blocks.1.attn.qkv.bias", "backbone.layers.0.downsample.reduction.weight"),
        *("backbone.layers.3.blocks.0.mlp.fc2.weight", "backbone.norm3.weight", "decode_head.conv_seg.bias"),
    } <= state.keys()
    ours = converted(state, tables.ORIGINAL_UPERNET_SWIN, "swin_tiny+upernet", **SWIN, head=HEAD)
    compare(ours, theirs, (128, 160))


@pytest.mark.layout(tables.ORIGINAL_SEGFORMER)
def test_segformer_in_the_authors_names(tmp_path):
    theirs = segformer()
    for module in theirs.segformer.modules():  # the authors' epsilon, but for the norms of patches and of keys
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    for name, module in theirs.segformer.named_modules():
        if name.endswith(("patch_embeddings.layer_norm", "self.layer_norm")) or re.search(
            r"(patch_embeddings\.\d|self|sequence_reduction)\.layer_norm$", name
        ):
            module.eps = 1e-5
    state = {}
    for key, tensor in saved(theirs, tmp_path).items():
        key = re.sub(
            r"segformer\.encoder\.patch_embeddings\.(\d)", lambda m: f"backbone.patch_embed{int(m[1]) + 1}", key
        )
        key = re.sub(r"segformer\.encoder\.block\.(\d)", lambda m: f"backbone.block{int(m[1]) + 1}", key)
        key = re.sub(r"segformer\.encoder\.layer_norm\.(\d)", lambda m: f"backbone.norm{int(m[1]) + 1}", key)
        key = re.sub(r"linear_c\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}", key)
        key = key.replace("decode_head.linear_fuse", "decode_head.linear_fuse.conv")
        key = key.replace("decode_head.batch_norm", "decode_head.linear_fuse.bn")
        key = key.replace("decode_head.classifier", "decode_head.linear_pred")
        key = key.replace("attention.self.query", "attn.q").replace("attention.self.sr", "attn.sr")
        key = key.replace("attention.self.layer_norm", "attn.norm").replace("attention.output.dense", "attn.proj")
        key = key.replace("mlp.dense1", "mlp.fc1").replace("mlp.dense2", "mlp.fc2")
        key = key.replace("layer_norm_1", "norm1").replace("layer_norm_2", "norm2").replace(".layer_norm.", ".norm.")
        state[key] = tensor
    for key in [key for key in state if ".attention.self.key." in key]:
        kv = torch.cat([state.pop(key), state.pop(key.replace("self.key", "self.value"))])
        state[key.replace("attention.self.key", "attn.kv")] = kv
    state |= {"decode_head.conv_seg.weight": torch.randn(7, 16, 1, 1), "decode_head.conv_seg.bias": torch.randn(7)}
    ours = converted(state, tables.ORIGINAL_SEGFORMER, "segformer_b0", **MIT, head={"width": 16})
    compare(ours, theirs)
