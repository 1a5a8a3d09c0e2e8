"""Segmenters in other libraries' names: their backbone's table behind a prefix, and their heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vitnext.weights.rename import CONV1X1, DERIVED, DROPPED, Entry, Layout, Table
from vitnext.weights.tables import convnext, mit, swin

POOLED = ("norm", "head")  # of a classifier alone


def _inside(table: Table, before: str, after: str) -> Iterable[Entry]:
    """A backbone's entries as a segmenter's, where its names begin with ``after`` instead of ``before``."""

    def renamed(name: str) -> str:
        return after + name.removeprefix(before)

    def made(derived: DERIVED) -> DERIVED:
        return DERIVED(lambda numbers, ours: derived.make(numbers, _of_the_backbone(ours)), derived.of_images)

    for names, ours, *layout in table:
        theirs = renamed(names) if isinstance(names, str) else tuple(map(renamed, names))
        if isinstance(ours, DERIVED):
            yield (theirs, made(ours))  # type: ignore[misc]
        elif isinstance(ours, str) and ours not in POOLED:
            yield (theirs, f"backbone.{ours}", *layout)  # type: ignore[misc]


def _of_the_backbone(ours: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {key.removeprefix("backbone."): tensor for key, tensor in ours.items() if key.startswith("backbone.")}


def _upernet(norm: str, classifier: str) -> Table:
    """The head and the auxiliary head, which transformers has from mmsegmentation but for two names."""
    return [
        (f"decode_head.{classifier}", "head.classifier"),
        ("decode_head.psp_modules.{i}.1.conv", "head.pools.{i}.0"),
        (f"decode_head.psp_modules.{{i}}.1.{norm}", "head.pools.{i}.1"),
        ("decode_head.bottleneck.conv", "head.pooled.0"),
        (f"decode_head.bottleneck.{norm}", "head.pooled.1"),
        ("decode_head.lateral_convs.{i}.conv", "head.laterals.{i}.0"),
        (f"decode_head.lateral_convs.{{i}}.{norm}", "head.laterals.{i}.1"),
        ("decode_head.fpn_convs.{i}.conv", "head.smooth.{i}.0"),
        (f"decode_head.fpn_convs.{{i}}.{norm}", "head.smooth.{i}.1"),
        ("decode_head.fpn_bottleneck.conv", "head.fuse.0"),
        (f"decode_head.fpn_bottleneck.{norm}", "head.fuse.1"),
        ("auxiliary_head.convs.0.conv", "auxiliary.convolution.0"),
        (f"auxiliary_head.convs.0.{norm}", "auxiliary.convolution.1"),
        (f"auxiliary_head.{classifier}", "auxiliary.classifier"),
    ]


_STAGE_NORMS: Table = [(f"backbone.hidden_states_norms.stage{i + 1}", f"norms.{i}") for i in range(4)]
_MM_NORMS: Table = [(f"backbone.norm{i}", f"norms.{i}") for i in range(4)]
_UPERNET, _MM_UPERNET = _upernet("batch_norm", "classifier"), _upernet("bn", "conv_seg")

UPERNET_CONVNEXT: Table = [*_inside(convnext.TRANSFORMERS, "convnext.", "backbone."), *_STAGE_NORMS, *_UPERNET]
UPERNET_SWIN: Table = [
    *_inside(swin.TRANSFORMERS, "swin.", "backbone."),
    ("backbone.swin.layernorm", DROPPED),  # of the classifier; transformers 5 writes it
    *_STAGE_NORMS,
    *_UPERNET,
]

# mmsegmentation has ConvNeXt from mmpretrain, which has some names of its own.
MM_UPERNET_CONVNEXT: Table = [
    ("backbone.downsample_layers.0.{j}", "backbone.stem.{j}"),
    ("backbone.downsample_layers.{i}.{j}", "backbone.stages.{i}.downsample.{j}"),
    ("backbone.stages.{i}.{j}.gamma", "backbone.stages.{i}.blocks.{j}.layer_scale"),
    ("backbone.stages.{i}.{j}.depthwise_conv", "backbone.stages.{i}.blocks.{j}.depthwise"),
    ("backbone.stages.{i}.{j}.norm", "backbone.stages.{i}.blocks.{j}.norm"),
    ("backbone.stages.{i}.{j}.pointwise_conv1", "backbone.stages.{i}.blocks.{j}.expand"),
    ("backbone.stages.{i}.{j}.pointwise_conv2", "backbone.stages.{i}.blocks.{j}.project"),
    *_MM_NORMS,
    *_MM_UPERNET,
]

MM_UPERNET_SWIN: Table = [*_inside(swin.MMSEGMENTATION, "", "backbone."), *_MM_NORMS, *_MM_UPERNET]

# The authors' own files, trained with mmsegmentation: their backbone under their own names.
ORIGINAL_UPERNET_CONVNEXT: Table = [*_inside(convnext.ORIGINAL, "", "backbone."), *_MM_NORMS, *_MM_UPERNET]
# Their segmenter makes a window's mask anew for every image, and stores none.
_SWIN = [entry for entry in swin.ORIGINAL if entry[1] is not swin.MASK]
ORIGINAL_UPERNET_SWIN: Table = [*_inside(_SWIN, "", "backbone."), *_MM_NORMS, *_MM_UPERNET]

SEGFORMER: Table = [
    *_inside(mit.TRANSFORMERS, "", ""),
    ("decode_head.linear_c.{i}.proj", "head.projections.{i}"),
    ("decode_head.linear_fuse", "head.fuse", CONV1X1),
    ("decode_head.batch_norm", "head.norm"),
    ("decode_head.classifier", "head.classifier"),
]

# NVlabs/SegFormer, which counts from 1 and keeps an unused classifier of mmsegmentation's base class.
ORIGINAL_SEGFORMER: Table = [
    *_inside(mit.ORIGINAL, "", "backbone."),
    *((f"decode_head.linear_c{i + 1}.proj", f"head.projections.{i}") for i in range(4)),
    ("decode_head.linear_fuse.conv", "head.fuse", CONV1X1),
    ("decode_head.linear_fuse.bn", "head.norm"),
    ("decode_head.linear_pred", "head.classifier"),
    ("decode_head.conv_seg", DROPPED),
]


def _with_class_row(positions: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(positions[:1]), positions])[None]


WITHOUT_CLASS_ROW = Layout(_with_class_row, lambda tensor: tensor[0, 1:])  # (N, D) | (1, 1 + N, D), the first row 0
ONE_MORE = Layout(lambda tensor: tensor[None], lambda tensor: tensor[0])  # (K, D) | (1, K, D)

_EOMT: Table = [
    ("query.weight", "queries", ONE_MORE),
    ("embeddings.cls_token", "backbone.class_token"),
    ("embeddings.register_tokens", "backbone.registers"),
    ("layers.{i}.norm1", "backbone.encoder.{i}.norm1"),
    ("layers.{i}.norm2", "backbone.encoder.{i}.norm2"),
    ("layers.{i}.layer_scale1.lambda1", "backbone.encoder.{i}.layer_scale1"),
    ("layers.{i}.layer_scale2.lambda1", "backbone.encoder.{i}.layer_scale2"),
    ("layernorm", "backbone.norm"),
    ("upscale_block.block.{i}.conv1", "upscale.{i}.0"),
    ("upscale_block.block.{i}.conv2", "upscale.{i}.2"),
    ("upscale_block.block.{i}.layernorm2d", "upscale.{i}.3"),
    ("mask_head.fc1", "mask.0"),
    ("mask_head.fc2", "mask.2"),
    ("mask_head.fc3", "mask.4"),
    ("class_predictor", "head"),
    ("attn_mask_probs", DERIVED(lambda numbers, ours: None)),  # of the training: where the annealing stood
    ("criterion.empty_weight", DERIVED(lambda numbers, ours: None)),
]

# transformers' EomtForUniversalSegmentation: on DINOv2, whose class token has no position there.
EOMT_DINOV2: Table = [
    *_EOMT,
    ("embeddings.patch_embeddings.projection", "backbone.patch_embedding"),
    ("embeddings.position_embeddings.weight", "backbone.position_embedding", WITHOUT_CLASS_ROW),
    (
        tuple(f"layers.{{i}}.attention.{part}_proj" for part in "qkv"),
        "backbone.encoder.{i}.attention.qkv",
    ),
    ("layers.{i}.attention.out_proj", "backbone.encoder.{i}.attention.output"),
    ("layers.{i}.mlp.fc1", "backbone.encoder.{i}.mlp.expand"),
    ("layers.{i}.mlp.fc2", "backbone.encoder.{i}.mlp.project"),
]

# The norms' epsilon is timm's DINOv3's, 1e-5, on which the authors build; the default of transformers' config is 1e-6,
# and no weight tells which of them a checkpoint was trained with.
EOMT_DINOV3: Table = [
    *_EOMT,
    ("embeddings.patch_embeddings", "backbone.patch_embedding"),
    (
        tuple(f"layers.{{i}}.attention.{part}_proj.weight" for part in "qkv"),
        "backbone.encoder.{i}.attention.qkv.weight",
    ),
    (
        ("layers.{i}.attention.q_proj.bias", "layers.{i}.attention.v_proj.bias"),
        "backbone.encoder.{i}.attention.qkv.query_value_bias",
    ),
    ("layers.{i}.attention.o_proj", "backbone.encoder.{i}.attention.output"),
    ("layers.{i}.mlp.up_proj", "backbone.encoder.{i}.mlp.expand"),
    ("layers.{i}.mlp.down_proj", "backbone.encoder.{i}.mlp.project"),
]

_PIXELS = "model.pixel_level_module.decoder"
_PIXEL_LAYER, _DECODER_LAYER = f"{_PIXELS}.encoder.layers.{{i}}", "model.transformer_module.decoder.layers.{i}"

# transformers' Mask2FormerForUniversalSegmentation, on Swin: of three coarser maps and one finer.
MASK2FORMER_SWIN: Table = [
    *_inside(swin.TRANSFORMERS, "swin.", "model.pixel_level_module.encoder."),
    ("model.pixel_level_module.encoder.swin.layernorm", DROPPED),  # of the classifier; transformers 5 writes it
    *((f"model.pixel_level_module.encoder.hidden_states_norms.stage{i + 1}", f"norms.{i}") for i in range(4)),
    (f"{_PIXELS}.input_projections.{{i}}.{{j}}", "head.pixel_decoder.inputs.{i}.{j}"),
    (f"{_PIXELS}.level_embed", "head.pixel_decoder.scales"),
    (f"{_PIXEL_LAYER}.self_attn.sampling_offsets", "head.pixel_decoder.layers.{i}.attention.offsets"),
    (f"{_PIXEL_LAYER}.self_attn.attention_weights", "head.pixel_decoder.layers.{i}.attention.weights"),
    (f"{_PIXEL_LAYER}.self_attn.value_proj", "head.pixel_decoder.layers.{i}.attention.value"),
    (f"{_PIXEL_LAYER}.self_attn.output_proj", "head.pixel_decoder.layers.{i}.attention.output"),
    (f"{_PIXEL_LAYER}.self_attn_layer_norm", "head.pixel_decoder.layers.{i}.norm1"),
    (f"{_PIXEL_LAYER}.fc1", "head.pixel_decoder.layers.{i}.mlp.0"),
    (f"{_PIXEL_LAYER}.fc2", "head.pixel_decoder.layers.{i}.mlp.2"),
    (f"{_PIXEL_LAYER}.final_layer_norm", "head.pixel_decoder.layers.{i}.norm2"),
    (f"{_PIXELS}.adapter_1.{{i}}", "head.pixel_decoder.lateral.{i}"),
    (f"{_PIXELS}.layer_1.{{i}}", "head.pixel_decoder.smooth.{i}"),
    (f"{_PIXELS}.mask_projection", "head.pixel_decoder.output"),
    ("model.transformer_module.level_embed.weight", "head.scales"),
    ("model.transformer_module.queries_features.weight", "head.queries"),
    ("model.transformer_module.queries_embedder.weight", "head.positions"),
    *(
        (f"{_DECODER_LAYER}.cross_attn.in_proj_{part}", f"head.layers.{{i}}.masked_attention.qkv.{part}")
        for part in ("weight", "bias")
    ),
    (f"{_DECODER_LAYER}.cross_attn.out_proj", "head.layers.{i}.masked_attention.output"),
    (f"{_DECODER_LAYER}.cross_attn_layer_norm", "head.layers.{i}.norm1"),
    (
        tuple(f"{_DECODER_LAYER}.self_attn.{part}_proj" for part in "qkv"),
        "head.layers.{i}.self_attention.qkv",
    ),
    (f"{_DECODER_LAYER}.self_attn.out_proj", "head.layers.{i}.self_attention.output"),
    (f"{_DECODER_LAYER}.self_attn_layer_norm", "head.layers.{i}.norm2"),
    (f"{_DECODER_LAYER}.fc1", "head.layers.{i}.mlp.0"),
    (f"{_DECODER_LAYER}.fc2", "head.layers.{i}.mlp.2"),
    (f"{_DECODER_LAYER}.final_layer_norm", "head.layers.{i}.norm3"),
    ("model.transformer_module.decoder.layernorm", "head.norm"),
    *((f"model.transformer_module.decoder.mask_predictor.mask_embedder.{i}.0", f"head.mask.{2 * i}") for i in range(3)),
    ("class_predictor", "head.classifier"),
    ("criterion.empty_weight", DERIVED(lambda numbers, ours: None)),  # of the loss
]
