"""Segmenters' weights from files: whole ones beside transformers' logits, and a classifier's under a new head."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import mm_swin
import vitnext
from vitnext.card import Card, read_card
from vitnext.cli.main import main
from vitnext.errors import InputError
from vitnext.models import catalog, create
from vitnext.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitnext.weights import pretrained
from vitnext.weights.artifact import load_artifact, save_artifact
from vitnext.weights.recognise import recognise
from vitnext.weights.rename import rename
from vitnext.weights.tables import SEGMENTERS, segmenter

LARGEST = 1e-5
STAGES = ["stage1", "stage2", "stage3", "stage4"]
CONVNEXT = {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32)}
SWIN = {"dim": 8, "depths": (1, 2, 1, 2), "heads": (1, 2, 2, 4)}
MIT = {"depths": (1, 2, 1, 1), "widths": (8, 16, 20, 32), "heads": (1, 2, 5, 8)}
EOMT = {"dim": 16, "depth": 4, "heads": 2, "registers": 2}


def fill(model):
    """Random values in every weight."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif "lambda" in name:
            nn.init.normal_(tensor)
        elif name == "attn_mask_probs":
            tensor.zero_()  # as it is when the training is done
        elif tensor.dtype != torch.int64:
            nn.init.normal_(tensor, std=(tensor[0].numel() if tensor.ndim in (2, 4) else 4) ** -0.5)
    return model.eval()


def filled(model, path):
    """The model, with random values in every weight, saved at ``path`` as transformers does."""
    fill(model).save_pretrained(path)
    return model


def upernet(backbone, **options):
    given = {"hidden_size": 16, "auxiliary_channels": 12, "auxiliary_in_channels": None, "num_labels": 7, **options}
    return transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(backbone_config=backbone, **given))


def upernet_convnext(depths=CONVNEXT["depths"], widths=CONVNEXT["widths"], **options):
    return upernet(
        transformers.ConvNextConfig(depths=list(depths), hidden_sizes=list(widths), out_features=STAGES), **options
    )


def upernet_swin():
    return upernet(
        transformers.SwinConfig(
            embed_dim=8, depths=[1, 2, 1, 2], num_heads=[1, 2, 2, 4], window_size=3, out_features=STAGES
        )
    )


def segformer(**options):
    given = {"depths": MIT["depths"], "hidden_sizes": MIT["widths"], "num_attention_heads": MIT["heads"], **options}
    config = transformers.SegformerConfig(**given, decoder_hidden_size=16, num_labels=7)
    return transformers.SegformerForSemanticSegmentation(config)


SMALL_EOMT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_blocks": 2,
    "num_queries": 5,
    "image_size": 64,
    "patch_size": 16,
    "num_register_tokens": 2,
    "num_labels": 7,
}


def eomt_dinov2(**options):
    config = transformers.EomtConfig(**{**SMALL_EOMT, **options}, mlp_ratio=4)
    return transformers.EomtForUniversalSegmentation(config)


def eomt_dinov3():
    config = transformers.EomtDinov3Config(**SMALL_EOMT, intermediate_size=64, layer_norm_eps=1e-5)
    return transformers.EomtDinov3ForUniversalSegmentation(config)


MASK2FORMER = {"width": 32, "queries": 5, "layers": 4, "hidden": 40, "pixel_layers": 2, "pixel_hidden": 24, "heads": 4}


def mask2former_swin():
    swin = transformers.SwinConfig(
        embed_dim=8, depths=[1, 2, 1, 2], num_heads=[1, 2, 2, 4], window_size=3, out_features=STAGES
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_queries=5,
        decoder_layers=5,  # predictions
        dim_feedforward=40,
        encoder_layers=2,
        encoder_feedforward_dim=24,
        num_attention_heads=4,
        num_labels=7,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def agree(ours, theirs, *size):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, out = ours.eval()(images), theirs(images)
        if isinstance(found, tuple):
            expected = (out.masks_queries_logits, out.class_queries_logits)
        else:
            found, expected = (found,), (F.interpolate(out.logits, size=size, mode="bilinear"),)
    for mine, other in zip(found, expected, strict=True):
        assert other.std() > 0.05 and (mine - other).abs().max() <= LARGEST


def create_said(caplog, *arguments, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="vitnext"):
        model = vitnext.create_model(*arguments, **options)
    return model, caplog.messages


def message(*arguments, **options):
    with pytest.raises(InputError) as caught:
        vitnext.create_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HEADS = "7 classes, head of 16, auxiliary head of 12"
QUERIES = "5 queries, in the last 2 blocks"


@pytest.mark.parametrize(
    ("make", "name", "config", "size", "line"),
    [
        (upernet_convnext, "convnext+upernet", CONVNEXT, (64, 96), HEADS),
        (upernet_swin, "swin+upernet", SWIN, (128, 160), HEADS.replace("head", "windows of 3, head", 1)),
        (mask2former_swin, "swin+mask2former", SWIN, (128, 160), "7 classes, windows of 3, head of 32, 5 queries"),
        (segformer, "segformer_b0", MIT, (64, 96), "7 classes, head of 16"),
        (eomt_dinov2, "dinov2+eomt", EOMT, (64, 64), f"7 classes, 64 px, patches of 16 px, {QUERIES}"),
        (eomt_dinov3, "dinov3+eomt", EOMT, (64, 64), f"7 classes, {QUERIES}"),
    ],
    ids=["upernet-convnext", "upernet-swin", "mask2former-swin", "segformer", "eomt-dinov2", "eomt-dinov3"],
)
def test_transformers_files(tmp_path, caplog, make, name, config, size, line):
    theirs = filled(make(), tmp_path)
    ours, lines = create_said(caplog, name, pretrained=tmp_path / "model.safetensors", **config)
    agree(ours, theirs, *size)
    assert lines[1].startswith(f"recognised: transformers' layout of {name}, {line}")
    # The artifact is read back, and read as somebody's weights.
    save_artifact(tmp_path / "own.safetensors", ours, card_of(ours, name))
    loaded, _ = load_artifact(tmp_path / "own.safetensors")
    agree(loaded, theirs, *size)
    assert {key: tensor.dtype for key, tensor in loaded.state_dict().items()} == {
        key: tensor.dtype for key, tensor in ours.state_dict().items()
    }
    again, lines = create_said(caplog, name, pretrained=tmp_path / "own.safetensors")
    agree(again, theirs, *size)
    assert lines[1].startswith(f"recognised: vitnext's own layout of {name}, {line}")
    other, lines = create_said(caplog, name, classes=list("ab"), pretrained=tmp_path / "model.safetensors", **config)
    assert lines[2] == "head: new classifiers for 2 classes; those of 7 are left out"
    changed = {key for key, tensor in other.state_dict().items() if not torch.equal(tensor, ours.state_dict()[key])}
    assert other.config.classes == 2 and changed and all("classifier" in key or key in HEAD for key in changed)


HEAD = ("head.weight", "head.bias")


def card_of(model, name, classes=tuple("abcdefg")):
    config = create.config_dict(model)
    return Card(create.task_of(name), name, config, classes, Preprocess((64, 64)), {}, {}, {}, {}, "CC0-1.0")


@pytest.mark.parametrize(
    ("make", "theirs", "source", "name", "config", "size"),
    [
        (upernet_convnext, segmenter.UPERNET_CONVNEXT, "mmsegmentation", "convnext+upernet", CONVNEXT, (64, 96)),
        (upernet_convnext, segmenter.UPERNET_CONVNEXT, "original", "convnext+upernet", CONVNEXT, (64, 96)),
        (upernet_swin, segmenter.UPERNET_SWIN, "mmsegmentation", "swin+upernet", SWIN, (128, 160)),
        (upernet_swin, segmenter.UPERNET_SWIN, "original", "swin+upernet", SWIN, (128, 160)),
        (segformer, segmenter.SEGFORMER, "original", "segformer_b0", {**MIT, "norm_eps": 1e-5}, (64, 96)),
    ],
    ids=["mmsegmentation-convnext", "original-convnext", "mmsegmentation-swin", "original-swin", "original-segformer"],
)
def test_checkpoints_of_mmsegmentation(tmp_path, caplog, make, theirs, source, name, config, size):
    reference = filled(make(), tmp_path)
    family, head = create.family_of(name), create.head_of(name)
    [stored] = SEGMENTERS[head][family][source]
    state = rename(rename(load_file(tmp_path / "model.safetensors"), theirs), stored.table, reverse=True)
    if head == "segformer":
        state["decode_head.conv_seg.weight"] = torch.zeros(7, 16, 1, 1)  # the base class's, which nobody uses
    optimizer = {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1}]}
    path = tmp_path / "iter_3.pth"
    torch.save({"meta": {"CLASSES": ("sky", "road"), "epoch": 1}, "state_dict": state, "optimizer": optimizer}, path)
    ours, lines = create_said(caplog, name, pretrained=path, **config)
    agree(ours, reference, *size)
    whose = {"mmsegmentation": "mmsegmentation's", "original": "the authors'"}[source]
    assert lines[1] == "the weights are in state_dict"
    assert lines[2].startswith(f"recognised: {whose} layout of {name}, 7 classes")


@pytest.mark.parametrize(
    ("head", "family", "source", "name"),
    [
        ("upernet", "convnext", "transformers", "convnext_small+upernet"),
        ("upernet", "convnext", "mmsegmentation", "convnext_atto+upernet"),
        ("upernet", "swin", "mmsegmentation", "swin_tiny+upernet"),
        ("upernet", "swin", "original", "swin_tiny+upernet"),
        ("mask2former", "swin", "transformers", "swin_tiny+mask2former"),
        ("segformer", "mit", "transformers", "segformer_b0"),
        ("segformer", "mit", "original", "segformer_b0"),
        ("eomt", "dinov2", "transformers", "vit_large_patch14_reg4_dinov2+eomt"),
        ("eomt", "dinov3", "transformers", "vit_small_patch16_dinov3+eomt"),
    ],
)
def test_the_size_is_recognised(head, family, source, name):
    [stored] = SEGMENTERS[head][family][source]
    asked = {"classes": 19, **({"image_size": 640, "patch_size": 16} if family == "dinov2" else {}), **stored.config}
    with torch.device("meta"):
        theirs = rename(create.build(name, **asked).state_dict(), stored.table, reverse=True)
    theirs = {key: torch.empty_like(tensor, device="meta") for key, tensor in theirs.items()}
    found = recognise(theirs, "FILE")
    assert found.name == name and create.resolve(name, **found.config) == create.resolve(name, **asked)
    untold = "; queries in the last 3 blocks are taken, which these weights do not tell"
    assert found.line.endswith(untold) == (head == "eomt")
    told = {**theirs, "attn_mask_probs": torch.zeros(4)}
    assert head != "eomt" or recognise(told, "FILE").config["blocks"] == 4
    assert recognise(theirs, "FILE", name).config == found.config
    own = recognise(found.state, "FILE")
    assert (own.name, own.naming.source) == (name, "vitnext")


def test_upernet_without_an_auxiliary_head(tmp_path, caplog):
    theirs = filled(upernet_convnext(use_auxiliary_head=False), tmp_path / "without")
    ours, lines = create_said(
        caplog, "convnext+upernet", pretrained=tmp_path / "without" / "model.safetensors", **CONVNEXT
    )
    agree(ours, theirs, 64, 64)
    assert ours.auxiliary is None and lines[1].endswith("7 classes, head of 16, no auxiliary head")
    filled(upernet_convnext(), tmp_path / "with")
    ours, lines = create_said(
        caplog,
        "convnext+upernet",
        pretrained=tmp_path / "with" / "model.safetensors",
        head={"auxiliary_width": 0, "dropout": 0.3},
        **CONVNEXT,
    )
    assert ours.auxiliary is None and ours.config.head.dropout == 0.3 and ours.config.head.width == 16
    assert lines[2] == "auxiliary head: none; that of the weights is left out"


def test_images_of_another_size(tmp_path, caplog):
    filled(eomt_dinov2(), tmp_path)
    path = tmp_path / "model.safetensors"
    ours, lines = create_said(caplog, "dinov2+eomt", pretrained=path, image_size=96, resize="plain", **EOMT)
    assert lines[2] == "position embedding: 4x4 -> 6x6 patches, bicubic"
    assert ours(torch.zeros(1, 3, 96, 96))[0].shape == (1, 5, 24, 24)
    grey, lines = create_said(caplog, "dinov2+eomt", pretrained=path, channels=1, **EOMT)
    assert lines[2] == "patch_embedding.weight: summed over its 3 channels"
    assert grey.backbone.patch_embedding.weight.shape == (16, 1, 16, 16)
    filled(eomt_dinov3(), tmp_path)
    named, lines = create_said(caplog, "dinov3_patch20+eomt", pretrained=path, **EOMT)
    assert lines[2] == "patch embedding: 16 -> 20 px, resized by pseudo-inverse"
    assert named.backbone.patch_embedding.weight.shape[-1] == 20


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """timm's ConvNeXt of three classes: the model and its file."""
    torch.manual_seed(0)
    theirs = timm.create_model("convnext_atto", num_classes=3).eval()
    path = tmp_path_factory.mktemp("classifier") / "classifier.pth"
    torch.save(theirs.state_dict(), path)
    return theirs, path


def test_a_classifier_under_a_new_head(classifier, caplog):
    theirs, path = classifier
    model, lines = create_said(
        caplog, "convnext_atto+upernet", classes=["a", "b"], pretrained=path, head={"width": 16}, stochastic_depth=0.1
    )
    assert lines == [
        f"weights: {path}",
        "recognised: timm's layout of convnext_atto, 3 classes",
        "head: new, for 2 classes, on the backbone of these weights; their head of 3 classes is left out",
        "licence of the weights: unknown: that of classifier.pth",
    ]
    config = model.config
    assert (config.classes, config.head.width, config.backbone.stochastic_depth) == (2, 16, 0.1)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.forward_intermediates(images, intermediates_only=True)
        for mine, other in zip(model.eval().backbone.pyramid(images).values(), expected, strict=True):
            assert (mine - other).abs().max() <= LARGEST
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in model.norms)


def test_backbones_of_every_kind(tmp_path):
    """timm's DINOv2 and transformers' MiT."""
    torch.manual_seed(0)
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=56, num_classes=0, **small).state_dict()
    save_file(theirs, tmp_path / "dinov2.safetensors")
    for name, more in (("dinov2+linear", {}), ("dinov2+eomt", {"queries": 9, "blocks": 1})):
        config = {"dim": 16, "depth": 2, "heads": 2, **more}
        model = vitnext.create_model(name, 5, pretrained=tmp_path / "dinov2.safetensors", **config)
        assert model.config.classes == 5 and model.config.backbone.image_size == 56
        assert torch.equal(model.backbone.norm.weight, theirs["norm.weight"])
        assert torch.equal(model.backbone.position_embedding, theirs["pos_embed"])
    assert (model.config.queries, model.config.blocks) == (9, 1)
    mit = transformers.SegformerForImageClassification(transformers.SegformerConfig(num_labels=4))
    mit.save_pretrained(tmp_path)
    model = vitnext.create_model("segformer_b0", 5, pretrained=tmp_path / "model.safetensors")
    assert model.config.backbone.norm_eps == 1e-5  # transformers'
    weight = load_file(tmp_path / "model.safetensors")["segformer.encoder.patch_embeddings.0.proj.weight"]
    assert torch.equal(model.backbone.levels[0].patch_embedding.projection.weight, weight)


def test_a_classifier_of_ours_and_a_detector(tmp_path, caplog):
    torch.manual_seed(0)
    small = {"dim": 16, "depth": 2, "heads": 2, "image_size": 16, "patch_size": 4, "classes": 2, "dropout": 0.3}
    own = create.build("vit", **small, pool="mean_norm")
    save_artifact(tmp_path / "own.safetensors", own, card_of(own, "vit", ("cat", "dog")))
    model, lines = create_said(caplog, "vit+linear", classes=3, pretrained=tmp_path / "own.safetensors")
    assert (model.config.backbone.dim, model.config.backbone.dropout, model.config.backbone.pool) == (16, 0.0, "token")
    assert torch.equal(model.backbone.norm.weight, own.norm.weight)
    assert torch.equal(model.backbone.position_embedding, own.position_embedding)
    assert lines[2].endswith("their head of 2 classes is left out")
    loaded = pretrained.load(tmp_path / "own.safetensors", "vit+linear", {"classes": 2}, classes=("dog", "cat"))
    assert loaded.new_head and loaded.classes is None and loaded.licence == "CC0-1.0"
    assert not [line for line in loaded.lines if "cat" in line]
    detector = {f"backbone.{key}": tensor for key, tensor in own.state_dict().items() if not key.startswith("head")}
    torch.save({"state_dict": {**detector, "rpn.weight": torch.ones(1)}}, tmp_path / "detector.pth")
    fields = {key: value for key, value in small.items() if key != "classes"}
    model, lines = create_said(caplog, "vit+linear", pretrained=tmp_path / "detector.pth", **fields)
    assert '"backbone." taken off the names; left out: rpn.weight' in lines
    assert lines[-2] == "head: new, for 150 classes, on the backbone of these weights"
    assert torch.equal(model.backbone.norm.weight, own.norm.weight)


def test_classes_of_an_artifact(tmp_path):
    torch.manual_seed(0)
    model = create.build("convnext+upernet", **CONVNEXT, classes=2, head={"width": 8, "dropout": 0.4})
    path = tmp_path / "own.safetensors"
    save_artifact(path, model, card_of(model, "convnext+upernet", ("cat", "dog")))
    same = pretrained.load(path, "convnext+upernet", {"classes": 2}, classes=("cat", "dog"))
    assert same.classes == ("cat", "dog") and same.model.config.head.dropout == 0.1 and not same.new_head
    assert torch.equal(same.model.head.classifier.weight, model.head.classifier.weight)
    swapped = pretrained.load(path, "convnext+upernet", {"classes": 2}, classes=("dog", "cat"))
    assert "head: that of cat, dog is left out" in swapped.lines and swapped.classes is None
    assert not torch.equal(swapped.model.head.classifier.weight, model.head.classifier.weight)
    assert not torch.equal(swapped.model.auxiliary.classifier.weight, model.auxiliary.classifier.weight)
    assert torch.equal(swapped.model.head.fuse[0].weight, model.head.fuse[0].weight)


@pytest.mark.parametrize(
    ("name", "config"),
    [("convnext+upernet", {**CONVNEXT, "head": {"width": 8}}), ("vit+eomt", {"dim": 8, "depth": 3, "heads": 2})],
)
def test_an_artifact_with_another_number_of_classes_is_refused(tmp_path, name, config):
    model = create.build(name, **config, classes=3)
    card = card_of(model, name, ("a", "b", "c"))
    save_artifact(tmp_path / "a.safetensors", model, card)
    assert load_artifact(tmp_path / "a.safetensors")[0].config == model.config
    save_artifact(tmp_path / "a.safetensors", model, dataclasses.replace(card, classes=tuple("abcd")))
    with pytest.raises(InputError, match="does not fit its card: 3 outputs for 4 class names"):
        load_artifact(tmp_path / "a.safetensors")


@pytest.fixture(scope="module")
def atto(tmp_path_factory):
    """transformers' UPerNet on a published size."""
    folder = tmp_path_factory.mktemp("atto")
    return filled(upernet_convnext((2, 2, 6, 2), (40, 80, 160, 320)), folder), folder / "model.safetensors"


def test_convert_upernet(atto, capsys, tmp_path):
    theirs, path = atto
    out = tmp_path / "upernet.safetensors"
    assert main(["convert", str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [
        "recognised: transformers' layout of convnext_atto+upernet, 7 classes, head of 16, auxiliary head of 12",
        "licence of the weights: unknown: that of model.safetensors",
        "images: how these weights want them is not known; customary is taken: stretched to 512 x 512 px, "
        "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)",
        "the classes have no names: they are numbered 0 to 6 (--classes FILE names them)",
    ]
    card = read_card(out)
    assert (card.task, card.architecture, card.classes) == ("semantic", "convnext_atto+upernet", tuple("0123456"))
    assert (card.preprocess.image_size, card.preprocess.resize) == ((512, 512), "stretch")
    agree(load_artifact(out)[0], theirs, 64, 64)
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    assert main(["convert", str(path), "--out", str(out), "--classes", str(names)]) == 2
    assert "2 class names for a head of 7" in capsys.readouterr().err
    names.write_text("\n".join("gfedcba"))
    assert main(["convert", str(out), "--out", str(tmp_path / "named.safetensors"), "--classes", str(names)]) == 0
    named = read_card(tmp_path / "named.safetensors")
    assert (named.classes, named.task, named.config) == (tuple("gfedcba"), "semantic", card.config)


def test_convert_swin_of_mmsegmentation(capsys, tmp_path, monkeypatch):
    """A checkpoint as its training leaves it, of a backbone in plain PyTorch: recognised, and it segments."""
    monkeypatch.setitem(catalog.FAMILIES["swin"].sizes, "swin_mini", SWIN)
    theirs = upernet_swin()
    theirs.backbone = mm_swin.SwinTransformer(**SWIN, window=3)
    fill(theirs)
    path, out = tmp_path / "iter_3.pth", tmp_path / "own.safetensors"
    torch.save({"meta": {"iter": 3}, "state_dict": mm_swin.checkpoint(theirs), "optimizer": {"state": {}}}, path)
    assert main(["convert", str(path), "--image-size", "128x160", "--out", str(out)]) == 0
    recognised = "recognised: mmsegmentation's layout of swin_mini+upernet, 7 classes, windows of 3, head of 16, "
    assert capsys.readouterr().err.splitlines()[2] == recognised + "auxiliary head of 12"
    model, card = load_artifact(out)
    assert (card.task, card.architecture) == ("semantic", "swin_mini+upernet")
    agree(model, theirs, 128, 160)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        logits = theirs(((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]).logits[0]
    best, second = logits.topk(2, dim=0).values
    clear = (best - second).numpy() > 1e-3
    assert clear.mean() > 0.9
    assert (vitnext.load(out).predict(pixels).mask == logits.argmax(dim=0).numpy())[clear].all()


def test_convert_segformer(capsys, tmp_path):
    published = {"depths": (2, 2, 2, 2), "hidden_sizes": (32, 64, 160, 256)}
    theirs = filled(segformer(**published), tmp_path)
    assert main(["convert", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "own.safetensors")]) == 0
    model, card = load_artifact(tmp_path / "own.safetensors")
    assert (card.task, card.architecture, card.config["norm_eps"]) == ("semantic", "segformer_b0", 1e-5)
    agree(model, theirs, 64, 96)


def test_another_window_leaves_out_what_was_measured_at_the_former(capsys, tmp_path):
    first, again, wide = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "wide"))
    filled(segformer(depths=(2, 2, 2, 2), hidden_sizes=(32, 64, 160, 256)), tmp_path)
    assert main(["convert", str(tmp_path / "model.safetensors"), "--image-size", "64", "--out", str(first)]) == 0
    model, card = load_artifact(first)
    save_artifact(first, model, dataclasses.replace(card, metrics={"test": {"miou": 0.5}}))
    assert main(["convert", str(first), "--out", str(again)]) == 0
    assert read_card(again).metrics == {"test": {"miou": 0.5}} and "scores" not in capsys.readouterr().err
    assert main(["convert", str(first), "--image-size", "64x96", "--out", str(wide)]) == 0
    said = "the network sees 64 x 96 px at a time (height x width), no longer 64 x 64; the scores are left out, vitnext"
    assert said in capsys.readouterr().err
    assert read_card(wide).metrics == {} and read_card(wide).preprocess.image_size == (64, 96)


def test_convert_eomt(capsys, tmp_path, monkeypatch):
    sizes = catalog.FAMILIES["dinov2"].sizes
    monkeypatch.setitem(sizes, "vit_mini_patch14_dinov2", {"dim": 16, "depth": 4, "heads": 2, "registers": 2})
    theirs = filled(eomt_dinov2(image_size=32, num_blocks=4), tmp_path)
    assert main(["convert", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "own.safetensors")]) == 0
    assert "customary is taken: stretched to 32 x 32 px" in capsys.readouterr().err
    model, card = load_artifact(tmp_path / "own.safetensors")
    assert (card.task, card.architecture) == ("panoptic", "vit_mini_patch14_dinov2+eomt")
    assert len(card.classes) == 7 and card.preprocess.image_size == (32, 32)
    assert (card.config["blocks"], card.config["queries"], card.config["patch_size"]) == (4, 5, 16)
    agree(model, theirs, 32, 32)
    named = vitnext.create_model(card.architecture, pretrained=tmp_path / "model.safetensors")
    agree(named, theirs, 32, 32)  # in patches of 16 px, as in the weights


def test_mistakes(atto, classifier, tmp_path, capsys):
    _, path = atto
    whole = f"{path} is not {{}}, it holds transformers' layout of convnext_atto+upernet, 7 classes, head of 16"
    assert message("convnext_pico+upernet", pretrained=path).startswith(whole.format("convnext_pico+upernet"))
    assert message("convnext_atto+linear", pretrained=path).startswith(whole.format("convnext_atto+linear"))
    assert message("segformer_b0", pretrained=path).startswith(whole.format("segformer_b0"))
    assert message("convnext_pico+upernet", pretrained=classifier[1]).startswith(
        f"{classifier[1]} is not convnext_pico, it holds timm's layout of convnext_atto"
    )
    state = load_file(path)
    del state["decode_head.fpn_bottleneck.conv.weight"]
    state["decode_head.extra"] = torch.zeros(1)
    state["decode_head.lateral_convs.0.conv.weight"] = torch.zeros(16, 41, 1, 1)
    save_file(state, tmp_path / "broken.safetensors")
    nearest = "fits no model; the nearest is transformers' layout of convnext_atto+upernet: "
    text = message("convnext_atto+upernet", pretrained=tmp_path / "broken.safetensors")
    assert text == (
        f"{tmp_path / 'broken.safetensors'} {nearest}left over: decode_head.extra; "
        "missing: decode_head.fpn_bottleneck.conv.weight; decode_head.lateral_convs.0.conv.weight is (16, 41, 1, 1) "
        "as head.laterals.0.0.weight, convnext_atto+upernet has (16, 40, 1, 1)"
    )
    assert main(["convert", str(tmp_path / "broken.safetensors"), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert text in capsys.readouterr().err
    assert message("convnext_atto+upernet", pretrained=path, head={"wide": 3}) == (
        "convnext_atto+upernet has no model.config.head.wide; there are width, dropout, auxiliary_width"
    )
    assert "model.config.head is 3" in message("convnext_atto+upernet", pretrained=path, head=3)
    text = message("convnext_atto+upernet", pretrained=path, head={"width": 32})
    assert text.startswith(f"{path} {nearest}decode_head.psp_modules.0.1.conv.weight is (16, 320, 1, 1) as head.pools.")
    bare = ["convert", str(classifier[1]), "--out", str(tmp_path / "x.safetensors"), "--model", "convnext_atto+upernet"]
    assert main(bare) == 2
    assert "has no head of a convnext_atto+upernet, which would predict nothing" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
