"""Segmenters of every family and head: shapes, gradients, initialisation, names."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.models import catalog, segmenter
from vitnext.models.heads.segformer import SegFormerConfig, SegFormerHead
from vitnext.models.heads.upernet import UPerNetConfig
from vitnext.models.macs import count_macs

HEADS = {
    "linear": {},
    "upernet": {"width": 12, "auxiliary_width": 8},
    "segformer": {"width": 12},
    "panoptic_deeplab": {"width": 12},
}
EVERY = pytest.mark.parametrize(("family", "head"), [(family, head) for family in catalog.FAMILIES for head in HEADS])


@pytest.fixture
def build(tiny):
    def build(family, head, **more):
        torch.manual_seed(0)
        config = {key: value for key, value in tiny[family].items() if key != "classes"}
        return segmenter.build(f"{family}+{head}", **config, classes=5, head={**HEADS[head], **more})

    return build


def images(batch=2):
    return torch.randn(batch, 2, 12, 12, generator=torch.Generator().manual_seed(1))


@EVERY
def test_every_family_with_every_head(build, randomise, family, head):
    model = randomise(build(family, head)).train()
    logits, auxiliary = model.forward_with_auxiliary(images(4))
    assert logits.shape == (4, 5 + 3 * (head == "panoptic_deeplab"), 12, 12)  # the centres' heat, and offsets
    assert (auxiliary is None) == (head != "upernet")
    loss = logits.square().mean() + (0 if auxiliary is None else auxiliary.square().mean())
    loss.backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in idle if not name.endswith("mask_token")]
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(images()), model.forward_with_auxiliary(images())[0])


@EVERY
def test_reset_parameters_sets_everything(build, family, head):
    model, states = build(family, head), []
    for before in (torch.nan, 7.0):
        for tensor in model.state_dict().values():
            tensor.fill_(3 if tensor.dtype == torch.int64 else before)
        torch.manual_seed(0)
        model.reset_parameters()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in states[0].items():
        assert tensor.isfinite().all() and torch.equal(tensor, states[1][name]), name
    assert model.head.classifier.weight.std().item() == pytest.approx(0.02, rel=0.4)


def test_segformer_is_the_paper(randomise):
    """Upsample, concatenate from the coarsest on, fuse: the order of eq. 4."""
    head = randomise(SegFormerHead(catalog.build("mit_b0").stages, 7, SegFormerConfig(width=12))).eval()
    maps = [torch.randn(2, width, size, size) for width, size in zip((32, 64, 160, 256), (16, 8, 4, 2), strict=True)]
    wide = [
        F.interpolate(F.linear(x.permute(0, 2, 3, 1), p.weight, p.bias).permute(0, 3, 1, 2), (16, 16), mode="bilinear")
        for x, p in zip(maps, head.projections, strict=True)
    ]
    fused = F.conv2d(torch.cat(wide[::-1], dim=1), head.fuse.weight[:, :, None, None])
    expected = head.classifier(head.norm(fused).relu())
    with torch.no_grad():
        torch.testing.assert_close(head(maps), expected, rtol=1e-4, atol=1e-4)


# Millions of parameters: Xie et al. 2021, table 1 (encoder and decoder, for ADE20K's 150 classes).
@pytest.mark.parametrize(
    ("name", "millions"),
    [("segformer_b0", 3.8), ("segformer_b1", 13.7), ("segformer_b2", 27.5), ("segformer_b5", 84.7)],
)
def test_published_sizes(name, millions):
    with torch.device("meta"):
        model = segmenter.build(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.015)


def test_macs_count_the_fusing_layer_and_the_products_of_its_matrices():
    model = segmenter.build("segformer_b0", classes=7)
    positions = [(64 // stride) ** 2 for stride in (4, 8, 16, 32)]
    head = sum((n + 256) * width * 256 for n, width in zip(positions, (32, 64, 160, 256), strict=True))
    head += positions[0] * 256 * 7
    assert count_macs(model, 64) == head + count_macs(catalog.build("mit_b0", classes=0), 64)


def test_every_field_of_the_heads_changes_something(build):
    changes = {
        ("linear", "dropout"): 0.5,
        ("segformer", "width"): 16,
        ("segformer", "dropout"): 0.9,
        ("upernet", "width"): 16,
        ("upernet", "auxiliary_width"): 0,
        ("upernet", "dropout"): 0.9,
        ("panoptic_deeplab", "width"): 16,
        ("panoptic_deeplab", "dropout"): 0.9,
    }
    known = {(head, field.name) for head in HEADS for field in dataclasses.fields(segmenter.HEADS[head][0])}
    assert known == set(changes)
    for (head, field), value in changes.items():
        base, changed = build("convnext", head), build("convnext", head, **{field: value})
        shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (base, changed)]
        if field != "dropout":
            assert shapes[0] != shapes[1]
            continue
        results = []
        for model in (base, changed):
            torch.manual_seed(2)
            results.append((model.eval()(images()), model.train()(images())))
        assert torch.equal(results[0][0], results[1][0]) and not torch.equal(results[0][1], results[1][1])


def test_the_head_decides_on_the_neck(build):
    assert build("vit", "linear").neck is None
    assert [stage.stride for stage in build("vit", "upernet").neck.stages] == [1, 2, 4, 8]
    assert build("swin", "upernet").neck is None
    assert isinstance(build("convnext", "upernet").backbone.norm, nn.Identity)


def test_segformer_b2_is_mit_b2_with_a_wide_head():
    config = segmenter.resolve("segformer_b2", classes=19)
    assert config.backbone == catalog.resolve("mit_b2", classes=0)[1]
    assert config.head == SegFormerConfig(width=768) and config.classes == 19
    assert segmenter.resolve("convnext_tiny+upernet").head == UPerNetConfig()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("vit_small+fcn", {}, 'there is no model "vit_small+fcn": a segmenter is BACKBONE+HEAD, with the head linear'),
        ("segformer_b7", {}, 'there is no model "segformer_b7": a segmenter is BACKBONE+HEAD'),
        ("vit_smal+linear", {}, 'there is no model "vit_smal": did you mean vit_small?'),
        ("vit_small+linear", {"head": {"widht": 3}}, "vit_small+linear has no model.config.head.widht; there are drop"),
        ("segformer_b0", {"head": {"width": 0}}, "segformer_b0: width is 0; it must be at least 1"),
        ("segformer_b0", {"head": 3}, "model.config.head is 3: give the head's fields, {width: 256}"),
        ("segformer_b0", {"classes": 0}, "segformer_b0: classes is 0; it must be at least 1"),
        ("segformer_b0", {"dims": 3}, "mit_b0 has no model.config.dims; there are channels"),
    ],
)
def test_impossible_ones_are_one_line(name, config, message):
    with pytest.raises(InputError) as caught:
        segmenter.build(name, **config)
    assert str(caught.value).startswith(message)
