"""From a table of several labels an image to a model that predicts, is measured and exported."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import vitnext
from colours import COLORS, journal, mistake, picture, same_weights, train
from vitnext import api
from vitnext.card import read_card
from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset
from vitnext.inference.multilabel import best_thresholds
from vitnext.weights.artifact import load_artifact, save_artifact

NAMES = sorted(COLORS)


def halves(labels, seed):
    """16 px: a half of each colour that is named, grey where none is."""
    random = np.random.default_rng(seed)
    image = np.clip(random.normal(128, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
    for half, name in zip((np.s_[:, :8], np.s_[:, 8:]), random.permutation(labels), strict=False):
        image[half] = picture(name, seed)[half]
    return image


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """60 images of no, one or two colours."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    lines = ["image,labels"]
    for i in range(60):
        labels = sorted(random.choice(NAMES, random.integers(0, 3), replace=False).tolist())
        Image.fromarray(halves(labels, i)).save(folder / "images" / f"{i:02}.png")
        lines.append(f"images/{i:02}.png,{';'.join(labels)}")
    (folder / "colours.csv").write_text("\n".join(lines) + "\n")
    return folder / "colours.csv"


@pytest.fixture(scope="session")
def several(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("runs") / "several", epochs=25)


def test_training_leaves_a_model_that_names_the_colours(several, table):
    card = read_card(several.artifact)
    assert (card.task, card.classes, card.data["kind"], card.data["name"]) == (
        "multilabel", tuple(NAMES), "table", "colours.csv",
    )  # fmt: skip
    assert several.metrics["task"] == "multilabel" and several.metrics["map"] > 0.9
    assert set(card.metrics) == {"val", "test", "epoch", "seconds"} and set(card.metrics["val"]) == {"map", "loss"}
    assert card.metrics["test"]["map"] == several.metrics["map"]
    written = json.loads((several.out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(several.metrics)) and written["split"] == "test"
    assert "Mean average precision" in (several.out / "report.html").read_text()


def test_the_epoch_with_the_highest_map_is_kept(several):
    epochs = [line for line in journal(several.out) if line["event"] == "epoch"]
    card = read_card(several.artifact)
    best = max(line["map"] for line in epochs)
    assert card.metrics["val"]["map"] == best
    assert card.metrics["epoch"] == max(line["epoch"] for line in epochs if line["map"] == best)


def test_the_thresholds_are_those_of_the_validation_images(several, table):
    card, predictor = read_card(several.artifact), vitnext.load(several.artifact)
    val = open_dataset(table).splits["val"]
    scores = np.stack([predictor.predict(val.image(i)).scores for i in range(len(val))])
    assert card.thresholds == pytest.approx(best_thresholds(scores, val.labels).tolist(), abs=1e-5)


def test_without_validation_images_every_threshold_is_one_half(table, tmp_path, heard):
    end = train(table, tmp_path / "run", "data.val_fraction=0", epochs=1, console=heard)
    assert read_card(end.artifact).thresholds == (0.5, 0.5, 0.5)
    text = heard.file.getvalue()
    assert "thresholds: 0.5 for every class, as there are no validation images" in text and "mAP" in text


def test_evaluating_again_gives_the_same_numbers(several, table, tmp_path, capsys):
    assert api.evaluate(several.artifact, table)["map"] == several.metrics["map"]
    assert main(["evaluate", str(several.artifact), str(table), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "mAP" in out and "micro F1" in out and "threshold" in out


def test_predictions_in_the_terminal_and_in_a_file(several, table, tmp_path, capsys):
    images = str(table.parent / "images")
    assert main(["predict", str(several.artifact), images, "--out", str(tmp_path / "labels.csv")]) == 0
    with open(tmp_path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    thresholds = dict(zip(NAMES, read_card(several.artifact).thresholds, strict=True))
    for row in rows:
        assert set(filter(None, row["labels"].split(";"))) == {
            name for name in NAMES if float(row[f"p_{name}"]) >= thresholds[name]
        }
    assert main(["predict", str(several.artifact), f"{images}/00.png"]) == 0
    assert "labels and scores" in capsys.readouterr().out


def test_the_export_agrees(several, table, tmp_path):
    report = api.export(several.artifact, out=tmp_path / "model.onnx", images=table.parent / "images")
    assert report.images == 60 and report.max_difference < 1e-4
    exported, eager = vitnext.load(tmp_path / "model.onnx"), vitnext.load(several.artifact)
    image = str(table.parent / "images" / "03.png")
    assert exported.predict(image).labels == eager.predict(image).labels
    assert api.evaluate(exported, table)["map"] == pytest.approx(several.metrics["map"])


def test_an_export_is_checked_on_the_held_out_images_of_a_table(several, table, tmp_path):
    held_out = open_dataset(table).splits["test"]
    assert api.export(several.artifact, out=tmp_path / "model.onnx", images=table).images == len(held_out)


def test_rows_without_a_file_stop_the_training_unless_they_are_skipped(table, tmp_path, heard):
    lines = table.read_text().replace("image,labels\n", "image,labels\ngone.png,red\n")
    other = table.with_name("gone.csv")
    other.write_text(lines)
    assert "1 row without a file: gone.png; mend or remove them" in mistake(train, other, tmp_path / "a", epochs=1)
    end = train(other, tmp_path / "b", epochs=1, skip_unreadable=True, console=heard)
    assert "skipped: 1 row without a file: gone.png" in heard.file.getvalue()
    assert sum(read_card(end.artifact).data["counts"].values()) == 60


def test_the_same_seed_gives_the_same_model_and_smoothing_another(table, tmp_path):
    first = train(table, tmp_path / "a", epochs=1)
    assert same_weights(first.artifact, train(table, tmp_path / "b", epochs=1).artifact)
    assert not same_weights(first.artifact, train(table, tmp_path / "c", "label_smoothing=0.3", epochs=1).artifact)


def test_photographs_are_batched_with_all_their_labels(table, tmp_path):
    """Above 64 px images are augmented one at a time, with their labels beside them."""
    sets = ("data.image_size=68", "workers=0", "schedule.steps=1")
    assert train(table, tmp_path / "run", *sets, epochs=1).metrics["task"] == "multilabel"


def test_models_and_data_of_another_kind_are_refused(several, trained, table, tree, tmp_path):
    assert "is a multi-label model, but my colours has class folders" in mistake(api.evaluate, several.artifact, tree)
    assert "is a classifier, but colours.csv has several labels an image" in mistake(
        api.evaluate, trained.artifact, table
    )
    name = "vit_small+linear"
    assert f"{name} is a segmenter, but colours.csv has labels" in mistake(
        api.train, table, model=name, out=tmp_path / "x"
    )
    assert "loss.dice is for segmentation" in mistake(train, table, tmp_path / "y", "loss.dice=1")


def test_the_data_may_list_its_classes_in_another_order_or_lack_some(several, table, tmp_path):
    dataset = open_dataset(table, whole=True).splits["all"]
    lines = ["image,red,blue"]
    for i in range(len(dataset)):
        blue, _, red = dataset.labels[i]
        lines.append(f"{dataset.image(i)},{red},{blue}")
    (tmp_path / "other.csv").write_text("\n".join(lines) + "\n")
    metrics = api.evaluate(several.artifact, tmp_path / "other.csv")
    rows = {row["class"]: row["n"] for row in metrics["per_class"]}
    assert rows == {"blue": dataset.labels[:, 0].sum(), "green": 0, "red": dataset.labels[:, 2].sum()}


def test_an_artifact_keeps_its_thresholds_when_it_is_converted(several, tmp_path):
    api.convert(several.artifact, tmp_path / "again.safetensors")
    assert read_card(tmp_path / "again.safetensors").thresholds == read_card(several.artifact).thresholds
    model, card = load_artifact(several.artifact)
    save_artifact(tmp_path / "half.safetensors", model, dataclasses.replace(card, thresholds=(1.0, 1.0, 1.0)))
    assert vitnext.load(tmp_path / "half.safetensors").predict(halves(["red"], 3)).labels == ()


def test_the_roadmap_wants_one_label_an_image(table, tmp_path):
    from vitnext import roadmap

    assert "the roadmap compares top-1" in mistake(roadmap.train, table, out=tmp_path)


def test_the_loss_is_binary_cross_entropy():
    from vitnext.training.losses import MultiLabelLoss

    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.tensor([[0, 1, 1, 0]] * 5, dtype=torch.uint8)
    p = logits.sigmoid()
    expected = -(truth * p.log() + (1 - truth.float()) * (1 - p).log()).mean()
    assert MultiLabelLoss(0.0)(torch.nn.Identity(), logits, truth, 0.0) == pytest.approx(float(expected), rel=1e-5)
    target = truth * 0.8 + 0.05
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert MultiLabelLoss(0.2)(torch.nn.Identity(), logits, truth, 0.0) == pytest.approx(float(expected), rel=1e-5)
