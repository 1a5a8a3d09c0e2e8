"""From a file in anybody's names to a model that computes."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

import vitnext
from vitnext.card import Card
from vitnext.errors import InputError, WorkError
from vitnext.models import catalog, create
from vitnext.preprocess import Preprocess
from vitnext.weights import hub, pretrained
from vitnext.weights.artifact import save_artifact
from vitnext.weights.recognise import recognise
from vitnext.weights.rename import rename
from vitnext.weights.sources import find
from vitnext.weights.tables import TABLES

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs():
    """timm's smallest ConvNeXt, every weight random."""
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save({"model": theirs.state_dict(), "epoch": 300}, path)
    return path


def agree(ours, theirs):
    with torch.inference_mode():
        return (ours.eval()(IMAGES) - theirs(IMAGES)).abs().max() <= 1e-5


def message(*arguments, **options):
    with pytest.raises(InputError) as caught:
        vitnext.create_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_create_model(theirs, file, caplog):
    with caplog.at_level(logging.INFO, logger="vitnext"):
        model = vitnext.create_model("convnext_atto", pretrained=file)
    assert agree(model, theirs) and model.config.classes == 7
    assert caplog.messages == [
        f"weights: {file}",
        "the weights are in model",
        "recognised: timm's layout of convnext_atto, 7 classes",
        "licence of the weights: unknown: that of theirs.pth",
    ]
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert agree(vitnext.create_model("convnext_atto", pretrained=str(file), classes=7), theirs)
    assert agree(vitnext.create_model("convnext_atto", pretrained=file, classes=list("abcdefg")), theirs)


def test_what_is_asked_for_is_made_of_it(theirs, file, caplog):
    with caplog.at_level(logging.INFO, logger="vitnext"):
        model = vitnext.create_model("convnext_atto", classes=3, channels=1, pretrained=file, stochastic_depth=0.1)
    assert model.config.stochastic_depth == 0.1
    assert model(IMAGES[:, :1]).shape == (2, 3)
    assert caplog.messages[3:5] == [
        "stem.0.weight: summed over its 3 channels",
        "head: new, for 3 classes; that of 7 classes is left out",
    ]
    feature = vitnext.create_model("convnext_atto", classes=0, pretrained=file).eval()
    with torch.inference_mode():
        assert (
            feature(IMAGES) - theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True)
        ).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("convnextv2_atto", "; published ones of convnextv2_atto: CC-BY-NC-4.0 (no commercial use)"),
        ("segformer_b0", "; published ones of mit_b0: NVIDIA Source Code License for SegFormer (research "),
        ("convnext_tiny", ""),
        ("roadmap_r50_03", ""),
    ],
)
def test_of_a_file_without_a_licence_it_is_said_when_all_published_ones_are_restricted(model, more):
    assert pretrained._unknown("some/w.pth", model).startswith(f"unknown: that of w.pth{more}")
    assert more or pretrained._unknown("some/w.pth", model).endswith("w.pth")


def test_every_kind_of_file_gives_the_same_model(theirs, tmp_path):
    state = rename(rename(theirs.state_dict(), TABLES["convnext"]["timm"][1].table), ORIGINAL, reverse=True)
    save_file(state, tmp_path / "original.safetensors")
    np.savez(tmp_path / "original.npz", **{key: tensor.numpy() for key, tensor in state.items()})
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "original.bin")
    for path in tmp_path.iterdir():
        assert agree(vitnext.create_model("convnext_atto", pretrained=path), theirs), path


ORIGINAL = TABLES["convnext"]["original"][0].table


def test_a_name_says_the_patches_and_the_weights_the_rest(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=96, patch_size=8, num_classes=2, in_chans=1)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    loaded = pretrained.load(tmp_path / "vit.pth")
    assert loaded.name == "vit_tiny_patch8" and loaded.model.config.image_size == 96
    assert loaded.lines[1].endswith("layout of vit_tiny_patch8, 2 classes, 96 px, 1 channel")
    model = vitnext.create_model("vit_tiny", pretrained=tmp_path / "vit.pth")
    assert (model.config.patch_size, model.config.image_size, model.config.channels) == (16, 96, 1)
    loaded = pretrained.load(tmp_path / "vit.pth", "vit_tiny_patch8", {"image_size": 64}, resize="offset")
    assert loaded.lines[2] == "position embedding: 12x12 -> 8x8 patches, bicubic, offset 0.1"
    ways = [
        vitnext.create_model("vit_tiny_patch8", pretrained=tmp_path / "vit.pth", image_size=64, resize=way)
        for way in ("antialias", "offset", "plain")
    ]
    assert not torch.equal(ways[0].position_embedding, ways[1].position_embedding)
    assert not torch.equal(ways[0].position_embedding, ways[2].position_embedding)


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}


@pytest.mark.parametrize(
    ("kind", "name", "how"),
    [
        ("Dinov2", "dinov2", "bicubic"),
        ("Dinov2WithRegisters", "dinov2", "bicubic, antialiased"),
        ("ViT", "vit", "bicubic"),
    ],
)
def test_at_another_size_the_numbers_are_those_of_transformers(kind, name, how, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**TINY)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    config = {"dim": 32, "depth": 1, "heads": 2, "patch_size": 14, "image_size": 28, "classes": 0}
    config |= {"mlp_ratio": 3072 / 32} if kind == "ViT" else {}
    config |= {"registers": 4} if "Registers" in kind else {}
    loaded = pretrained.load(tmp_path / "model.safetensors", name, config)
    assert f"position embedding: 4x4 -> 2x2 patches, {how}" in loaded.lines
    images = IMAGES[..., :28, :28]
    options = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    with torch.inference_mode():
        expected = theirs(images, **options).last_hidden_state
        assert (loaded.model.eval().norm(loaded.model.encode(images)) - expected).abs().max() <= 1e-5


def test_at_another_size_dinov2_is_resized_as_whoever_wrote_the_file_does_it(tmp_path):
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=56, depth=1, num_classes=0)
    config = {"depth": 1, "image_size": 28}
    for extra, how in [({}, "antialiased"), ({"mask_token": torch.zeros(1, 384)}, "offset 0.1")]:
        torch.save(theirs.state_dict() | extra, tmp_path / "dinov2.pth")
        loaded = pretrained.load(tmp_path / "dinov2.pth", "vit_small_patch14_dinov2", config)
        assert f"position embedding: 4x4 -> 2x2 patches, bicubic, {how}" in loaded.lines


OBLONG = {"dim": 16, "depth": 1, "heads": 2, "patch_size": 4, "classes": 2}


@pytest.mark.parametrize(("size", "patches"), [((36, 64), "9x16"), ((24, 40), "6x10")])
def test_positions_of_no_square_are_known_by_the_card(size, patches, tmp_path):
    """9x16 patches are as many as 12x12."""
    torch.manual_seed(0)
    model = catalog.build("vit", **OBLONG, image_size=size).eval()
    card = Card("classification", "vit", catalog.config_dict(model), ("a", "b"), Preprocess(size), {}, {}, {}, {}, "x")
    save_artifact(tmp_path / "m.safetensors", model, card)
    loaded = pretrained.load(tmp_path / "m.safetensors")
    assert loaded.model.config == model.config and not any("position embedding" in line for line in loaded.lines)
    assert f"2 classes, {size[0]} x {size[1]} px" in loaded.lines[1]
    images = torch.randn(1, 3, *size)
    assert torch.equal(loaded.model.eval()(images), model(images))
    other = pretrained.load(tmp_path / "m.safetensors", "vit", {"image_size": 48})
    assert f"position embedding: {patches} -> 12x12 patches, bicubic, antialiased" in other.lines
    assert other.model(torch.randn(1, 3, 48, 48)).shape == (1, 2)
    other = pretrained.load(tmp_path / "m.safetensors", "vit", {"image_size": (64, 36)})
    assert f"position embedding: {patches} -> 16x9 patches, bicubic, antialiased" in other.lines
    config = {"image_size": (48, 48), "classes": 3}
    segmenter = pretrained.load(tmp_path / "m.safetensors", "vit+linear", config)
    assert f"position embedding: {patches} -> 12x12 patches, bicubic, antialiased" in segmenter.lines


@pytest.mark.parametrize(("card_of", "asked"), [("deit_small", "vit_small"), ("vit_tiny+linear", "vit_tiny")])
def test_the_card_knows_the_positions_whatever_name_is_asked(card_of, asked, tmp_path):
    model = create.build(card_of, depth=1, patch_size=4, classes=2, image_size=(36, 64))
    config, preprocess = create.config_dict(model), Preprocess((36, 64))
    card = Card(create.task_of(card_of), card_of, config, ("a", "b"), preprocess, {}, {}, {}, {}, "x")
    save_artifact(tmp_path / "m.safetensors", model, card)
    loaded = pretrained.load(tmp_path / "m.safetensors", asked, {"depth": 1, "patch_size": 4})
    assert loaded.model.config.image_size == (36, 64)
    assert not any("position embedding" in line for line in loaded.lines)
    loaded = pretrained.load(tmp_path / "m.safetensors", asked, {"depth": 1, "patch_size": 4, "image_size": 48})
    assert "position embedding: 9x16 -> 12x12 patches, bicubic, antialiased" in loaded.lines


def test_positions_of_other_libraries_are_those_of_a_square_or_what_is_asked(tmp_path):
    square = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=48, patch_size=4, num_classes=2)
    oblong = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=(24, 40), patch_size=4, num_classes=2).eval()
    torch.save(square.state_dict(), tmp_path / "square.pth")
    torch.save(oblong.state_dict(), tmp_path / "oblong.pth")
    config = {"depth": 1}
    asked = {"patch_size": 4}
    loaded = pretrained.load(tmp_path / "square.pth", "vit_tiny", config | asked | {"image_size": (36, 64)})
    assert "position embedding: 12x12 -> 9x16 patches, bicubic, antialiased" in loaded.lines
    loaded = pretrained.load(tmp_path / "oblong.pth", "vit_tiny", config | asked | {"image_size": (24, 40)})
    assert not any("position embedding" in line for line in loaded.lines)
    images = torch.randn(1, 3, 24, 40)
    with torch.inference_mode():
        assert (loaded.model.eval()(images) - oblong(images)).abs().max() <= 1e-5
    with pytest.raises(InputError, match="61, 192.*, whose patches are no square: give the image size"):
        pretrained.load(tmp_path / "oblong.pth", "vit_tiny", config)
    with pytest.raises(InputError, match="61, 192.*, whose patches are no square, nor those of 36 x 64 px"):
        pretrained.load(tmp_path / "oblong.pth", "vit_tiny", config | {"image_size": (36, 64)})
    torch.save(loaded.model.state_dict(), tmp_path / "ours.pth")
    with pytest.raises(InputError, match="position_embedding is .1, 61, 192., whose patches are no square: give"):
        pretrained.load(tmp_path / "ours.pth", "vit_tiny", config)
    named = pretrained.load(tmp_path / "ours.pth", "vit_tiny_patch4", config | {"image_size": (24, 40)})
    assert torch.equal(named.model.eval()(images), loaded.model(images))


def test_an_artifact_is_a_start_too(tmp_path):
    torch.manual_seed(0)
    config = {"dim": 16, "depth": 1, "heads": 2, "image_size": 16, "patch_size": 4, "classes": 2}
    model = catalog.build("vit", **config)
    card = Card(
        task="classification",
        architecture="vit",
        config=catalog.config_dict(model),
        classes=("cat", "dog"),
        preprocess=Preprocess((16, 16)),
        metrics={},
        data={},
        recipe={},
        versions={},
        licence="CC0-1.0",
    )
    path = tmp_path / "model.safetensors"
    save_artifact(path, model, card)
    loaded = pretrained.load(path)
    assert (loaded.name, loaded.licence, loaded.classes) == ("vit", "CC0-1.0", ("cat", "dog"))
    assert loaded.preprocess == card.preprocess
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True))
    other = vitnext.create_model("vit", classes=5, pretrained=path)
    assert other.config.dim == 16 and other.head.weight.shape == (5, 16)
    assert torch.equal(other.norm.weight, model.norm.weight)
    assert pretrained.load(path, "vit", {"classes": 5}).classes is None
    # Named, it keeps its own patches; for other classes it gets another head; a card is believed, not a folder's name.
    named = pretrained.load(path, "vit", {"classes": 2}, classes=("cat", "dog"))
    assert named.model.config == model.config and torch.equal(named.model.head.weight, model.head.weight)
    swapped = pretrained.load(path, "vit", {"classes": 2}, classes=("dog", "cat"))
    assert not torch.equal(swapped.model.head.weight, model.head.weight) and swapped.classes is None
    assert "head: that of cat, dog is left out" in swapped.lines
    (tmp_path / "timm" / "convnext_atto.d2_in1k").mkdir(parents=True)
    elsewhere = shutil.copy(path, tmp_path / "timm" / "convnext_atto.d2_in1k" / "model.safetensors")
    loaded = pretrained.load(elsewhere)
    assert (loaded.licence, loaded.source, loaded.preprocess) == ("CC0-1.0", None, card.preprocess)
    assert loaded.card == card


def test_what_an_artifact_was_regularised_with_stays_behind(tmp_path):
    config = {"dim": 16, "depth": 1, "heads": 2, "image_size": 16, "patch_size": 4, "classes": 2}
    model = catalog.build("vit", **config, dropout=0.4, stochastic_depth=0.5)
    card = Card(
        "classification", "vit", catalog.config_dict(model), ("a", "b"), Preprocess((16, 16)), {}, {}, {}, {}, "x"
    )
    save_artifact(tmp_path / "m.safetensors", model, card)
    loaded = pretrained.load(tmp_path / "m.safetensors", "vit", {"classes": 5}).model.config
    assert (loaded.dropout, loaded.stochastic_depth, loaded.patch_size) == (0.0, 0.0, 4)


def test_a_way_of_resizing_that_is_not_there(file):
    assert message("convnext_atto", pretrained=file, resize="best") == (
        'position embeddings cannot be resized in the way "best": give antialias, offset, plain'
    )


def test_resnets_weights_in_the_roadmaps_first_step():
    theirs = timm.create_model("resnet50", num_classes=3).state_dict()
    ours = recognise(theirs, "FILE", "roadmap_r50_00")
    assert ours.line == "recognised: torchvision's layout of roadmap_r50_00, 3 classes"
    assert recognise(theirs, "FILE").name == "resnet50"


def test_an_artifact_of_a_late_step_of_the_roadmap(tmp_path):
    """Its first convolution is not the first by name."""
    small = {"widths": (8, 16), "depths": (1, 1), "classes": 2}
    model = catalog.build("roadmap_r50_16", **small)
    config = catalog.config_dict(model)
    card = Card("classification", "roadmap_r50_16", config, ("a", "b"), Preprocess((32, 32)), {}, {}, {}, {}, "x")
    save_artifact(tmp_path / "m.safetensors", model, card)
    loaded = pretrained.load(tmp_path / "m.safetensors", "roadmap_r50_16").model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_head_with_a_tanh_layer_goes_as_a_whole(tmp_path):
    state = catalog.build("vit_tiny", depth=12, representation=24, classes=4).state_dict()
    save_file(state, tmp_path / "in21k.safetensors")
    assert vitnext.create_model("vit_tiny", pretrained=tmp_path / "in21k.safetensors").config.representation == 24
    assert vitnext.create_model("vit_tiny", 4, pretrained=tmp_path / "in21k.safetensors").config.representation == 24
    model = vitnext.create_model("vit_tiny", 5, pretrained=tmp_path / "in21k.safetensors")
    assert model.config.representation == 0 and model.head.weight.shape == (5, 192)
    assert vitnext.create_model("vit_tiny", 0, pretrained=tmp_path / "in21k.safetensors").config.classes == 0


def test_old_files_without_the_counters_of_batch_norm(tmp_path):
    state = catalog.build("resnet18", classes=2).state_dict()
    theirs = rename(state, TABLES["resnet"]["torchvision"][0].table, reverse=True)
    torch.save({k: t for k, t in theirs.items() if "num_batches" not in k}, tmp_path / "resnet.pth")
    model = vitnext.create_model("resnet18", pretrained=tmp_path / "resnet.pth")
    assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items())


@pytest.fixture
def published(file, tmp_path, monkeypatch):
    """The hub has the weights under the name of somebody else's: nothing is downloaded."""
    path = tmp_path / "models--timm--convnext_atto.d2_in1k" / "snapshots" / "0" / "model.pth"
    path.parent.mkdir(parents=True)
    shutil.copy(file, path)
    fetched = []
    monkeypatch.setattr(hub, "fetch", lambda name: (fetched.append(name), path)[1])
    return path, fetched


def test_a_name_on_the_hub(theirs, published):
    path, fetched = published
    loaded = pretrained.load("timm/convnext_atto.d2_in1k")
    assert fetched == ["timm/convnext_atto.d2_in1k"] and agree(loaded.model, theirs)
    source = find("timm/convnext_atto.d2_in1k")
    assert (loaded.source, loaded.preprocess) == (source, source.preprocess)
    assert loaded.licence == "Apache-2.0; of timm/convnext_atto.d2_in1k"
    assert loaded.lines[0] == "weights: timm/convnext_atto.d2_in1k"
    assert loaded.lines[-1] == "licence of the weights: Apache-2.0"
    assert pretrained.load(path).source == source  # the hub's cache says it
    unlisted = pretrained.load("somebody/convnext")
    assert fetched[1:] == ["somebody/convnext"]
    assert unlisted.name == "convnext_atto" and unlisted.licence.startswith("unknown")


def test_a_licence_that_forbids_is_said(published):
    loaded = pretrained.load("timm/convnextv2_atto.fcmae_ft_in1k", "convnext_atto")
    assert loaded.lines[-1] == "licence of the weights: CC-BY-NC-4.0 (no commercial use)"
    assert loaded.licence == "CC-BY-NC-4.0 (no commercial use); of timm/convnextv2_atto.fcmae_ft_in1k"


def test_a_file_put_where_the_hubs_message_says(theirs, tmp_path, monkeypatch):
    folder = tmp_path / "timm" / "convnext_atto.d2_in1k"
    folder.mkdir(parents=True)
    save_file(theirs.state_dict(), folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    for where in ("timm/convnext_atto.d2_in1k", folder, folder / "model.safetensors"):
        assert pretrained.load(where).source == find("timm/convnext_atto.d2_in1k")


def test_images_of_the_published_size(tmp_path):
    theirs = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=140)
    folder = tmp_path / "facebook" / "dinov2-small"
    folder.mkdir(parents=True)
    save_file(theirs.state_dict(), folder / "model.safetensors")
    assert pretrained.load(folder).model.config.image_size == 140
    loaded = pretrained.load(folder, as_published=True)
    assert loaded.model.config.image_size == loaded.preprocess.image_size[0] == 224
    assert "position embedding: 10x10 -> 16x16 patches, bicubic, antialiased" in loaded.lines


def test_mistakes(file, tmp_path, monkeypatch):
    assert message("convnext_pico", pretrained=file).startswith(f"{file} is not convnext_pico, it holds timm's layout")
    assert message("convnext_atto", pretrained=tmp_path / "no.pth") == f"{tmp_path / 'no.pth'}: no such file"
    assert message("convnext_atto", pretrained="no.pth") == "no.pth: no such file"
    assert message("convnext_atto", pretrained=tmp_path) == f"{tmp_path} is a folder: name the file of weights in it"
    assert message("convnext_atto", pretrained="nothing").startswith("nothing: no such file, and no name on the hub")
    assert message("convnext_atto", pretrained=file, image_size=3).startswith(
        "convnext_atto has no model.config.image_size"
    )
    assert message("no_model", pretrained=file).startswith('there is no model "no_model"')
    assert message("convnext_atto", pretrained=file, kernel_size=5).startswith(f"{file} ")
    monkeypatch.setattr(hub, "fetch", fail)
    with pytest.raises(WorkError, match="offline"):
        vitnext.create_model("convnext_atto", pretrained="timm/convnext_atto.d2_in1k")


def fail(name):
    raise WorkError("offline")
