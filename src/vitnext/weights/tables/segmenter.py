"""Segmenters in other libraries' names: their backbone's table behind a prefix, and their heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from vitnext.weights.rename import CONV1X1, DERIVED, DROPPED, Entry, Table
from vitnext.weights.tables import convnext, mit, swin

POOLED = ("norm", "head")  # of a classifier alone


def _inside(table: Table, before: str, after: str) -> Iterable[Entry]:
    """A backbone's entries as a segmenter's, where its names begin with ``after`` instead of ``before``."""

    def renamed(name: str) -> str:
        return after + name.removeprefix(before)

    def made(derived: DERIVED) -> DERIVED:
        return DERIVED(lambda numbers, ours: derived.make(numbers, _of_the_backbone(ours)))

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

# The authors' own files, trained with mmsegmentation: their backbone under their own names.
ORIGINAL_UPERNET_CONVNEXT: Table = [*_inside(convnext.ORIGINAL, "", "backbone."), *_MM_NORMS, *_MM_UPERNET]
ORIGINAL_UPERNET_SWIN: Table = [*_inside(swin.ORIGINAL, "", "backbone."), *_MM_NORMS, *_MM_UPERNET]

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
