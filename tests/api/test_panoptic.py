"""Networks that tell objects apart, from a folder of masks and instance maps to predictions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from colours import mistake, on_step, press_at, same_weights
from masks import split_of_objects
from vitnext import api
from vitnext.api import plan
from vitnext.api.console import Say
from vitnext.card import read_card
from vitnext.cli.main import main
from vitnext.data.coco import Category, CocoImage
from vitnext.data.coco_panoptic import read_panoptic, write_panoptic
from vitnext.data.dataset import open_dataset
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.inference.predictor import load
from vitnext.training.task import task_name
from vitnext.types import PanopticSegmentation, Segmentation, Segments

NETWORK = "stem_stride: 2, depths: [1, 1], widths: [8, 12], layer_scale: 0.0, head: {width: 8, dropout: 0.0}"
DEEPLAB = (f"model.config={{{NETWORK}}}", "optimizer.name=adamw")
QUERIES = ("model.config={patch_size: 4, dim: 16, depth: 2, heads: 2, queries: 6, blocks: 1}", "data.image_size=32")
TINY = ("precision=fp32", "batch_size=4", "schedule.warmup_epochs=1", "optimizer.learning_rate=1e-2")
HEAD = "{width: 8, queries: 6, layers: 1, hidden: 8, pixel_layers: 1, pixel_hidden: 8, heads: 2}"
MASKED = (f"model.config={{{NETWORK[: NETWORK.index('head')]}head: {HEAD}}}", "data.image_size=32")
MODELS = {"convnext+panoptic_deeplab": DEEPLAB, "vit+eomt": QUERIES, "convnext+mask2former": MASKED}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "objects"
    for folder in ("images", "masks", "instances"):
        (root / folder).mkdir(parents=True)
    split = split_of_objects(20, (32, 40))
    for i in range(len(split)):
        for folder, array in (("images", split.arrays), ("masks", split.masks), ("instances", split.instances)):
            Image.fromarray(array[i]).save(root / folder / f"{i:02}.png")
    (root / "classes.txt").write_text("0 ground stuff\n1 red thing\n2 blue thing\n")
    return root


def train(data, out, model, *sets, epochs=2, **more):
    return api.train(data, model=model, out=out, epochs=epochs, overrides=[*TINY, *MODELS[model], *sets], **more)


@pytest.mark.parametrize("model", MODELS)
def test_from_a_folder_to_segments(objects, tmp_path, model):
    result = train(objects, tmp_path / "run", model)
    card = read_card(result.artifact)
    assert (card.task, card.things, card.classes) == ("panoptic", (False, True, True), ("ground", "red", "blue"))
    assert card.preprocess.resize == ("window" if model.endswith("deeplab") else "fit")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["task"] == "panoptic" and metrics["n"] == 2 and 0 <= metrics["pq"] <= 1
    assert {row["class"] for row in metrics["per_class"]} == set(card.classes)
    again = api.evaluate(result.artifact, objects)  # the test images that training held out
    assert again["pq"] == metrics["pq"] and again["miou"] == metrics["miou"]
    found = load(result.artifact).predict(objects / "images" / "03.png")
    assert isinstance(found, PanopticSegmentation) and found.segments.ids.shape == (32, 40)
    [one, failed] = load(result.artifact).predict_many([objects / "images" / "03.png", objects / "classes.txt"])
    assert np.array_equal(one.segments.ids, found.segments.ids) and "classes.txt" in failed.error
    assert (found.detections is None) == model.endswith("deeplab")


def test_from_coco_to_coco(objects, tmp_path):
    """What a model of COCO's data predicts has COCO's ids, and is read as data again."""
    split = open_dataset(objects, whole=True).splits["all"]
    categories = (Category(90, "red"), Category(5, "ground", False), Category(31, "blue"))
    order = np.array([1, 0, 2])  # ground, red and blue among them
    (tmp_path / "coco").mkdir()
    for part, indices in (("train", range(8)), ("val", range(8, 10))):
        shutil.copytree(objects / "images", tmp_path / "coco" / part)
        found = [(CocoImage(i, f"{i:02}.png", 32, 40), split.segments(i)) for i in indices]
        renamed = [(image, Segments(s.ids, order[s.labels], s.crowd)) for image, s in found]
        json_file = tmp_path / "coco" / f"panoptic_{part}.json"
        write_panoptic(json_file, json_file.with_suffix(""), categories, renamed)
    result = train(tmp_path / "coco", tmp_path / "run", "convnext+panoptic_deeplab", epochs=1)
    assert read_card(result.artifact).data["category_ids"] == [90, 5, 31]
    images = [str(objects / "images" / f"{i:02}.png") for i in (8, 9)]
    flags = ["--masks", str(tmp_path / "masks"), "--format", "png,rle"]
    assert main(["predict", str(result.artifact), *images, *flags]) == 0
    read = read_panoptic(tmp_path / "masks" / "panoptic.json")
    assert [(category.id, category.name, category.isthing) for category in read.categories] == [
        (category.id, category.name, category.isthing) for category in categories
    ]
    quality = PanopticQuality(read.classes, read.things)
    for i in range(2):
        truth = split.segments(8 + i)
        quality.update(Segments(truth.ids, order[truth.labels], truth.crowd), read.segments(i))
    assert quality.result()["pq"] == result.metrics["pq"]
    written = json.loads((tmp_path / "masks" / "detections.json").read_text())
    assert {entry["image_id"] for entry in written} <= {8, 9} and {e["category_id"] for e in written} <= {90, 5, 31}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_repeats_and_resumes_bit_for_bit(objects, tmp_path, model):
    whole = train(objects, tmp_path / "whole", model)
    with pytest.MonkeyPatch.context() as patch:
        on_step(patch, press_at(3))
        with pytest.raises(KeyboardInterrupt):
            train(objects, tmp_path / "stopped", model)
    other = "convnext+upernet"
    assert f"trains {model}, not {other}: leave --model out" in mistake(
        lambda: api.train(objects, out=tmp_path / "stopped", model=other, resume=True)
    )
    resumed = api.train(objects, out=tmp_path / "stopped", model=model, resume=True)
    assert same_weights(whole.artifact, resumed.artifact)


@pytest.mark.parametrize("model", ["vit+eomt", "convnext+mask2former"])
def test_queries_learn_masks_of_classes_where_objects_are_not_told_apart(objects, tmp_path, model):
    plain = tmp_path / "plain"
    for folder in ("images", "masks"):
        (plain / folder).mkdir(parents=True)
        for file in (objects / folder).iterdir():
            (plain / folder / file.name).symlink_to(file)
    (plain / "classes.txt").write_text("0 ground\n1 red\n2 blue\n")
    result = train(plain, tmp_path / "run", model)
    assert read_card(result.artifact).task == "semantic" and result.metrics["task"] == "semantic"
    assert isinstance(load(result.artifact).predict(plain / "images" / "03.png"), Segmentation)
    said = mistake(lambda: train(plain, tmp_path / "no", "convnext+panoptic_deeplab"))
    assert "the masks of plain do not: give instances/" in said
    panoptic = train(objects, tmp_path / "panoptic", "convnext+panoptic_deeplab", epochs=1)
    assert "the masks of plain do not" in mistake(lambda: api.evaluate(panoptic.artifact, plain))


@pytest.mark.parametrize(
    ("model", "field", "says"),
    [
        ("vit+eomt", "loss.dice=1", "its own loss of queries"),
        ("vit+eomt", "data.window=[32, 32]", "sees whole images"),
        ("vit+eomt", "data.short_side=16", "sees whole images"),
        ("convnext+mask2former", "loss.dice=1", "its own loss of queries"),
        ("convnext+mask2former", "data.window=[32, 32]", "sees whole images"),
        ("convnext+panoptic_deeplab", "loss.auxiliary=0.1", "panoptic_deeplab has none"),
        ("convnext+panoptic_deeplab", "data.resize=fit", "data.resize is for classification"),
    ],
)
def test_fields_that_do_nothing_are_refused(objects, tmp_path, model, field, says):
    assert says in mistake(lambda: train(objects, tmp_path / "run", model, field))


def test_semantic_models_of_the_same_data(objects, tmp_path):
    sets = [*TINY, *DEEPLAB]
    result = api.train(objects, model="convnext+segformer", out=tmp_path / "run", epochs=1, overrides=sets)
    assert read_card(result.artifact).task == "semantic" and result.metrics["task"] == "semantic"


@pytest.mark.parametrize("number", [0, 2])
def test_a_kept_model_that_finds_no_object_is_said(objects, tmp_path, heard, monkeypatch, number):
    def found(pixels, size, *_):
        ids = np.ones(size, np.int32)  # ground
        ids[0, :number] = np.arange(number) + 2
        labels = np.array([0] + [1] * number)
        return Segments(ids, labels, labels < 0, np.ones(len(labels), np.float32)), None

    monkeypatch.setattr("vitnext.training.panoptic_validation.segment_objects", found)
    result = train(objects, tmp_path / "run", "convnext+panoptic_deeplab", epochs=1, console=heard)
    warning = "warning: the model that is kept, of epoch 1, finds no object at all in the val images: train longer"
    assert (warning in heard.file.getvalue()) == (number == 0)
    assert read_card(result.artifact).metrics["val"]["objects"] == 2 * number  # of two images


@pytest.mark.parametrize("told", ["instances", "coco"])
def test_queries_on_objects_that_are_all_ignored_learn_classes(objects, tmp_path, told):
    """Without a thing left there is nothing to tell apart: the data is what a semantic segmenter takes."""
    split = split_of_objects(8, (32, 40))
    if told == "coco":
        for part, indices in (("train", range(4)), ("val", range(4, 8))):
            (tmp_path / "data" / part).mkdir(parents=True)
            for i in indices:
                Image.fromarray(split.arrays[i]).save(tmp_path / "data" / part / f"{i:02}.png")
            found = [(CocoImage(i, f"{i:02}.png", 32, 40), split.segments(i)) for i in indices]
            kinds = tuple(Category(i + 1, name, i == 2) for i, name in enumerate(split.classes))
            json_file = tmp_path / "data" / f"panoptic_{part}.json"
            write_panoptic(json_file, json_file.with_suffix(""), kinds, found)
    else:
        shutil.copytree(objects, tmp_path / "data")
        (tmp_path / "data" / "classes.txt").write_text("0 ground stuff\n1 red stuff\n2 blue thing\n")
    given = {"model": "vit+eomt", "pretrained": "none", "recipe": None}
    for sets, resize, task in (([], "fit", "panoptic"), (["data.ignore=[blue]"], "window", "semantic")):
        said = [*TINY, *QUERIES, *sets]
        recipe, dataset, _ = plan.begin(tmp_path / "data", tmp_path / "run", **given, overrides=said, say=Say())
        assert (recipe.data.window is None) == (resize == "fit") == (recipe.data.resize == "fit")
        assert task_name(dataset, recipe.model.name) == task
