"""Probes end to end: ordinary artifacts, made of frozen features."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vitnext
from colours import COLORS, mistake, plant
from masks import mask_set
from shared_data import SHARED, shared_data
from vitnext import api
from vitnext.card import read_card
from vitnext.data.dataset import open_dataset
from vitnext.errors import InputError
from vitnext.weights.artifact import load_artifact

TINY = ("model.config.dim=32", "model.config.depth=1", "model.config.heads=2")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Both probes of the digits."""
    folder = tmp_path_factory.mktemp("probes")
    return {
        kind: api.train("digits", model="vit", probe=kind, overrides=TINY, out=folder / kind)
        for kind in ("linear", "knn")
    }


def features_of(artifact, split):
    """What the network of an artifact sees in a split, and its logits."""
    network, card = load_artifact(artifact)
    images = torch.from_numpy(card.preprocess.normalize(np.stack([card.preprocess.pixels(x) for x in split.arrays])))
    with torch.no_grad():
        return network.pooled(images).numpy(), network(images).numpy()


def test_the_logits_of_a_linear_probe_are_scikit_learns(probed):
    artifact, splits = probed["linear"].artifact, open_dataset("digits").splits
    card = read_card(artifact)
    regression = LogisticRegression(C=card.recipe["C"], tol=1e-8, max_iter=10_000)
    features, _ = features_of(artifact, splits["train"])
    theirs = make_pipeline(StandardScaler(), regression).fit(features.astype(np.float64), splits["train"].labels)
    held, logits = features_of(artifact, splits["test"])
    np.testing.assert_allclose(logits, theirs.decision_function(held), rtol=1e-4, atol=1e-4)
    assert probed["linear"].metrics["top1"] == pytest.approx(theirs.score(held, splits["test"].labels))


def test_the_card_says_what_it_is(probed):
    cards = {kind: read_card(result.artifact) for kind, result in probed.items()}
    assert cards["linear"].architecture == "vit" and cards["knn"].architecture == "vit+knn"
    for kind, card in cards.items():
        assert card.task == "classification" and card.recipe["probe"] == kind and "optimizer" not in card.recipe
        assert card.recipe["model"]["config"]["dim"] == 32 and card.recipe["data"]["image_size"] == 8
        assert card.metrics["test"]["top1"] == probed[kind].metrics["top1"] and card.metrics["seconds"] > 0
        assert set(card.metrics["val"]) == {"loss", "top1"}
        page = (probed[kind].out / "report.html").read_text(encoding="utf-8")
        assert "the backbone is frozen, and random" in page
        assert ("most similar" in page) == (kind == "knn") and ("logistic regression" in page) == (kind == "linear")
    assert cards["knn"].recipe["neighbours"] in (5, 10, 20) and cards["knn"].config["head"]["samples"] == 1295


def test_probes_tell_digits_apart(probed):
    for result in probed.values():
        assert result.metrics["top1"] > 0.7
    random = np.random.default_rng(0)
    split = open_dataset("digits").splits["test"]
    for i in random.integers(0, len(split), 5):
        assert vitnext.load(probed["knn"].artifact).predict(split.arrays[i]).classes == split.classes


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_they_predict_and_measure_as_exports_too(probed, kind, tmp_path):
    report = api.export(probed[kind].artifact, "onnx", out=tmp_path / "m.onnx", images="digits")
    assert report.images == 359 and report.max_difference < 1e-4
    metrics = api.evaluate(tmp_path / "m.onnx", "digits", out=tmp_path / "evaluation")
    assert metrics["top1"] == probed[kind].metrics["top1"]


def test_the_second_probe_computes_nothing(tmp_path, heard):
    for kind in ("linear", "knn"):
        api.train("digits", model="vit", probe=kind, overrides=TINY, out=tmp_path / kind, console=heard)
    text = heard.file.getvalue()
    assert "the features are those of a random network" in text and text.count("0 of them computed now") == 2
    assert "probe knn:" in text and "nearest neighbours of 1,295: val top-1" in text


def test_training_goes_on_from_a_probe(probed, tmp_path):
    for kind, result in probed.items():
        again = api.train(
            "digits", pretrained=result.artifact, probe="linear", overrides=["data.image_size=8"], out=tmp_path / kind
        )
        assert read_card(again.artifact).architecture == "vit"
        theirs, ours = (load_artifact(found)[0].state_dict() for found in (result.artifact, again.artifact))
        assert all(torch.equal(theirs[key], ours[key]) for key in ours if not key.startswith("head."))
    assert again.metrics["top1"] == pytest.approx(probed["linear"].metrics["top1"], abs=0.02)
    converted = api.convert(probed["knn"].artifact, tmp_path / "converted.safetensors")
    assert (read_card(converted).task, read_card(converted).classes) == ("features", ())


def test_of_several_labels_each_is_decided(tmp_path):
    plant(tmp_path / "images", dict.fromkeys(COLORS, 12))
    rows = [f"images/{name}/{i:02}.png,{name};{'even' if i % 2 else ''}" for name in COLORS for i in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    result = api.train(tmp_path / "table.csv", model="vit", probe="linear", overrides=TINY, out=tmp_path / "run")
    card = read_card(result.artifact)
    assert card.task == "multilabel" and len(card.thresholds) == 4 and result.metrics["map"] > 0.5
    assert "several labels" in mistake(api.train, tmp_path / "table.csv", probe="knn", out=tmp_path / "other")


def test_validation_images_without_a_label_have_no_average_precision(tmp_path, heard, recwarn):
    plant(tmp_path / "images", dict.fromkeys(COLORS, 6))
    rows = [
        f"images/{name}/{i:02}.png,{split},{'' if split == 'val' else name}"
        for name in COLORS
        for i, split in enumerate(("train", "train", "train", "train", "val", "test"))
    ]
    (tmp_path / "table.csv").write_text("\n".join(["image,split,labels", *rows]) + "\n")
    overrides = [*TINY, "data.image_size=16"]
    result = api.train(
        tmp_path / "table.csv", model="vit", probe="linear", overrides=overrides, out=tmp_path / "run", console=heard
    )
    card = read_card(result.artifact)
    assert card.metrics["val"]["map"] is None and card.thresholds == (0.5,) * 3
    assert "val mAP undefined, no label is true" in heard.file.getvalue()
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_without_validation_images_nothing_is_chosen(tree, tmp_path, heard):
    for kind, field, value in (("linear", "C", 1.0), ("knn", "neighbours", 20)):
        overrides = [*TINY, "data.val_fraction=0"]
        out = tmp_path / kind
        result = api.train(tree, model="vit", probe=kind, overrides=overrides, out=out, console=heard)
        assert read_card(result.artifact).recipe[field] == value and "val" not in read_card(result.artifact).metrics
    assert heard.file.getvalue().count("not chosen, as there are no validation images") == 2


def test_images_that_cannot_be_read(damaged, tmp_path):
    said = mistake(api.train, damaged, model="vit", probe="linear", overrides=TINY, out=tmp_path / "run")
    assert "2 images cannot be read" in said and not (tmp_path / "run").exists()
    result = api.train(damaged, model="vit", probe="linear", overrides=TINY, out=tmp_path / "run", skip_unreadable=True)
    assert sum(read_card(result.artifact).data["counts"].values()) == 37


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"probe": "svm"}, 'there is no probe "svm": give knn or linear'),
        ({"epochs": 3}, "--epochs is for training, and --probe trains no network"),
        ({"minutes": 3.0}, "--time is for training"),
        ({"resume": True}, "--resume is for training"),
        ({"recipe": "digits_vit"}, "--recipe is for training"),
        ({"overrides": ["optimizer.learning_rate=1"]}, "optimizer.learning_rate is for training"),
        ({"overrides": ["data.class_sampling=0"]}, "data.class_sampling is for training"),
        ({"overrides": ["data.image_sice=4"]}, "data.image_sice is for training"),
        ({"model": "vit+knn"}, "vit.knn is not trained, a probe makes it: give --model vit --probe knn"),
        ({"model": "vit+linear"}, "is a segmenter"),
        ({"data": "masks"}, "--probe is for images with labels, and masks has masks"),
    ],
)
def test_what_a_probe_is_not_is_one_line(given, message, tmp_path):
    if given.get("data") == "masks":
        given["data"] = mask_set(tmp_path / "masks", count=1)
    with pytest.raises(InputError, match=message) as caught:
        api.train(given.pop("data", "digits"), **{"probe": "linear", "out": tmp_path / "run", **given})
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_training_makes_no_neighbours(tmp_path):
    assert "a probe makes it" in mistake(api.train, "digits", model="vit+knn", out=tmp_path / "run")


def test_a_folder_that_holds_a_model_is_left_alone(probed):
    folder = probed["linear"].out
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "holds a model already" in mistake(api.train, "digits", probe="knn", out=folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_is_stopped_leaves_no_model_that_blocks_the_folder(tmp_path, monkeypatch):
    def stop(*arguments, **given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vitnext.api.probe.evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            api.train("digits", model="vit", probe="linear", overrides=TINY, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
    api.train("digits", model="vit", probe="linear", overrides=TINY, out=tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_of_pretrained_weights(tmp_path, heard):
    """A few photographs: they are told apart far better than chance, and as the neighbours' vote of the export."""
    weights = SHARED / "weights" / "vits14_dinov2_saliency" / "backbone_fp16.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} is not there (VITNEXT_SHARED names the folder that holds weights/)")
    photos = open_dataset(shared_data("clothing10")).splits["train"]
    for label in (0, 3, 6):
        (tmp_path / "photos" / photos.classes[label]).mkdir(parents=True)
        for i in np.flatnonzero(photos.labels == label)[:12]:
            (tmp_path / "photos" / photos.classes[label] / f"{i}.jpg").symlink_to(photos.image(i))
    result = api.train(
        tmp_path / "photos", probe="knn", pretrained=weights, overrides=["data.image_size=56"], out=tmp_path / "run",
        console=heard,
    )  # fmt: skip
    card = read_card(result.artifact)
    assert card.architecture == "vit_small_patch14_dinov2+knn" and "random" not in heard.file.getvalue()
    assert card.preprocess.mean == (0.485, 0.456, 0.406) and card.licence.startswith("unknown: that of")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["n"] == 3
    assert dataclasses.asdict(card)["recipe"]["model"]["pretrained"] == str(weights.resolve())


def test_the_doctor_shows_doubted_labels(probed, tmp_path, capsys, monkeypatch):
    from vitnext.cli.main import main
    from vitnext.training import label_noise

    def first(features, labels):
        one = np.array([0])
        return label_noise.Doubts(
            one, labels[one], labels[one] + 1, np.array([0.1]), np.array([0.9]), len(labels), 0.875
        )

    monkeypatch.setattr(label_noise, "doubtful", first)
    folder = plant(tmp_path / "photos", dict.fromkeys(COLORS, 4))
    name, model = open_dataset(folder).splits["train"].name(0), str(probed["linear"].artifact)
    assert main(["check", str(folder), "--model", model, "--out", str(tmp_path / "check")]) == 0
    out = capsys.readouterr().out
    assert f"1 label that features contradict: {name} (blue, perhaps green)" in out
    assert "probe of the model's features: 87.5% right, cross-validated" in out
    page = (tmp_path / "check" / "check.html").read_text(encoding="utf-8")
    assert "Labels that features contradict" in page and "blue, perhaps green" in page and "87.5%" in page
    assert main(["check", str(folder), "--model", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    [doubt] = facts["doubtful_labels"]
    assert facts["probe_accuracy"] == 0.875
    assert (doubt["file"], doubt["probability"], doubt["other_probability"]) == (name, 0.1, 0.9)
    assert main(["check", str(mask_set(tmp_path / "masks", count=1)), "--model", model]) == 2
    assert "--model is for images with one label each" in capsys.readouterr().err
