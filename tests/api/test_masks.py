"""Segmenters from a folder of masks to predictions."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from colours import journal, mistake, on_step, plant, press_at, same_weights
from vitnext import api
from vitnext.card import read_card
from vitnext.cli.predict import predict as predict_command
from vitnext.data import scenes
from vitnext.data.dataset import open_dataset
from vitnext.inference.predictor import load
from vitnext.models import create
from vitnext.recipe import builtin_names, override, read
from vitnext.training import loop
from vitnext.training.mask_validation import MaskValidator
from vitnext.training.task import require_suitable

CLASSES = {"ground": (90, 90, 90), "fire": (220, 60, 30), "water": (30, 60, 220)}
NETWORK = "stem_stride: 2, depths: [1, 1], widths: [8, 12], layer_scale: 0.0"
TINY = (
    f"model.config={{{NETWORK}, head: {{width: 8, dropout: 0.0}}}}",
    *("precision=fp32", "batch_size=4", "schedule.warmup_epochs=1", "optimizer.name=adamw", "loss.hardest=1"),
    "optimizer.learning_rate=1e-2",
)


def scene(random, size):
    mask = np.zeros(size, np.uint8)
    for label in (1, 2):
        y, x = random.integers(0, size[0] - 12), random.integers(0, size[1] - 12)
        mask[y : y + 12, x : x + 12] = label
    colors = np.array(list(CLASSES.values()))
    return np.clip(colors[mask] + random.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8), mask


def plant_masks(root, count=20, size=(32, 32), seed=0, classes=None):
    random = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for i in range(count):
        image, mask = scene(random, size)
        Image.fromarray(image).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    lines = classes or [f"{i} {name} #{bytes(color).hex()}" for i, (name, color) in enumerate(CLASSES.items())]
    (root / "classes.txt").write_text("\n".join([*lines, "255 void"]) + "\n")
    return root


def train(data, out, *sets, epochs=2, model="convnext+segformer", **more):
    return api.train(data, model=model, out=out, epochs=epochs, overrides=[*TINY, *sets], **more)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return plant_masks(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="module")
def trained(masks, tmp_path_factory):
    sets = ("ema=0.5", "loss.balanced=true", "optimizer.learning_rate=4e-2")
    return train(masks, tmp_path_factory.mktemp("runs") / "run", *sets, epochs=12)


def test_training_leaves_a_model_that_tells_the_blocks_apart(trained, masks):
    assert trained.metrics["miou"] > 0.8 and trained.metrics["n"] == 2
    card = read_card(trained.artifact)
    assert (card.task, card.classes, card.preprocess.resize) == ("semantic", tuple(CLASSES), "window")
    assert card.colors == tuple("#" + bytes(color).hex() for color in CLASSES.values())
    assert card.metrics["test"]["miou"] == trained.metrics["miou"]
    again = api.evaluate(trained.artifact, masks)
    assert (again["split"], again["n"], again["confusion"]) == ("test", 2, trained.metrics["confusion"])
    written = json.loads((trained.out / "metrics.json").read_text())
    assert written["miou"] == again["miou"] and (trained.out / "report.html").is_file()


def test_the_kept_epoch_is_the_one_with_the_best_masks(trained):
    epochs = [line for line in journal(trained.out) if line["event"] == "epoch"]
    best = max(epochs, key=lambda line: line["miou"])
    kept = [line for line in epochs if line["kept"]][-1]
    card = read_card(trained.artifact)
    assert card.metrics["epoch"] == kept["epoch"] and kept["miou"] == best["miou"] == card.metrics["val"]["miou"]


def test_validation_measures_what_evaluation_measures(trained, masks):
    from vitnext.training.hardware import Precision
    from vitnext.weights.artifact import load_artifact

    torch = pytest.importorskip("torch")
    model, card = load_artifact(trained.artifact)
    split = open_dataset(masks).splits["val"]
    found = MaskValidator(split, card.preprocess)(model, Precision(torch.float32))
    measured = api.evaluate(trained.artifact, masks, split="val")
    assert found["miou"] == pytest.approx(measured["miou"], abs=1e-3)
    assert found["miou"] == pytest.approx(card.metrics["val"]["miou"], abs=1e-6)
    assert found["loss"] == pytest.approx(card.metrics["val"]["loss"], rel=1e-4)


def test_predicting_larger_images_and_writing_masks(trained, tmp_path, capsys):
    image, truth = scene(np.random.default_rng(9), (50, 71))
    Image.fromarray(image).save(tmp_path / "large.png")
    found = load(trained.artifact).predict(tmp_path / "large.png")
    assert found.mask.shape == (50, 71) and (found.mask == truth).mean() > 0.9
    predict_command(trained.artifact, [str(tmp_path / "large.png")], tmp_path / "p.csv", tmp_path / "masks")
    with Image.open(tmp_path / "masks" / "large.png") as mask:
        assert np.array_equal(np.asarray(mask), found.mask)
    assert (tmp_path / "p.csv").read_text().startswith("source,width,height,confidence,error,share_ground")


def test_the_same_seed_gives_the_same_weights_and_a_stopped_run_too(masks, tmp_path, monkeypatch):
    whole = train(masks, tmp_path / "whole", "ema=0.9")
    on_step(monkeypatch, press_at(3))
    with pytest.raises(KeyboardInterrupt):
        train(masks, tmp_path / "stopped", "ema=0.9")
    monkeypatch.undo()
    resumed = api.train(masks, out=tmp_path / "stopped", resume=True)
    assert same_weights(whole.artifact, resumed.artifact)
    assert resumed.metrics["confusion"] == whole.metrics["confusion"]
    # The run is over: its model, if it was that of the last epoch, can be had again.
    if read_card(whole.artifact).metrics["epoch"] == 2:
        (tmp_path / "stopped" / "model.safetensors").unlink()
        assert same_weights(whole.artifact, api.train(masks, out=tmp_path / "stopped", resume=True).artifact)


def test_steps_end_a_run_within_an_epoch_and_it_resumes_the_same(masks, tmp_path, monkeypatch):
    whole = train(masks, tmp_path / "whole", epochs=None, steps=6)
    lines = journal(tmp_path / "whole")
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [1, 2]  # 4 steps, then 2
    assert lines[-1]["step"] == 6
    on_step(monkeypatch, press_at(5))
    with pytest.raises(KeyboardInterrupt):
        train(masks, tmp_path / "stopped", epochs=None, steps=6)
    monkeypatch.undo()
    resumed = api.train(masks, out=tmp_path / "stopped", resume=True)
    assert same_weights(whole.artifact, resumed.artifact)
    before = journal(tmp_path / "stopped")
    assert same_weights(api.train(masks, out=tmp_path / "stopped", resume=True).artifact, whole.artifact)
    assert journal(tmp_path / "stopped") == before  # a finished run trains no more


def test_time_ends_a_run_and_its_rate_has_fallen(masks, tmp_path, monkeypatch):
    clock = itertools.count(0, 0.02)  # seconds between one look at it and the next, however busy the machine is
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    end = train(masks, tmp_path / "run", "schedule.warmup_epochs=1000", epochs=None, minutes=0.02)
    assert 1.1 <= read_card(end.artifact).metrics["seconds"] < 60
    rates = [line["learning_rate"] for line in journal(tmp_path / "run") if line["event"] == "step"]
    assert rates[-1] < max(rates)


def test_the_last_validation_is_within_the_time(masks, tmp_path, monkeypatch):
    now = [0.0]

    def look():
        now[0] += 0.01
        return now[0]

    def slowly(self, *arguments):
        now[0] += 0.4
        return validate(self, *arguments)

    validate = MaskValidator.__call__
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=look))
    monkeypatch.setattr(MaskValidator, "__call__", slowly)
    train(masks, tmp_path / "run", epochs=None, minutes=0.05)
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    epochs = [line["seconds"] for line in lines if line["event"] == "epoch"]
    assert len(epochs) > 2 and 2.4 < epochs[-1] <= 3.02
    rates = [line["learning_rate"] for line in lines if line["event"] == "step"]
    assert rates[-1] < max(rates) / 2  # and has fallen with the time that there is for training


def test_classes_are_merged_and_ignored_in_training_and_evaluation(masks, tmp_path):
    sets = ("data.merge={hot or wet: [fire, water]}",)
    end = train(masks, tmp_path / "run", *sets, epochs=1)
    assert read_card(end.artifact).classes == ("ground", "hot or wet")
    assert api.evaluate(end.artifact, masks)["confusion"] == end.metrics["confusion"]
    merged = plant_masks(tmp_path / "merged", classes=["0 ground", "1 hot or wet", "2 steam"])
    assert "does not know the class 'steam'" in mistake(api.evaluate, end.artifact, merged)
    fewer = plant_masks(tmp_path / "fewer", classes=["0 ground", "1 fire", "2 void"])
    assert api.evaluate(end.artifact, fewer)["pixels"] > 0


@pytest.mark.parametrize(
    "model, sets",
    [
        ("convnext", ()),  # the recipe's head
        ("convnext+upernet", (f"model.config={{{NETWORK}, head: {{width: 8, auxiliary_width: 4}}}}",)),
        ("vit_tiny_patch8+linear", ("model.config={dim: 16, depth: 1, heads: 2}",)),
        ("vit_tiny+segformer", ("model.config={patch_size: 8, dim: 16, depth: 1, heads: 2, head: {width: 8}}",)),
        (
            "swin_tiny+upernet",
            (
                "model.config={patch_size: 2, dim: 8, depths: [1, 2], heads: [1, 2], window: 3, "
                "head: {width: 8, auxiliary_width: 4}}",
            ),
        ),
    ],
)
def test_backbones_and_heads(model, sets, masks, tmp_path):
    end = train(masks, tmp_path / "run", *sets, model=model, epochs=1)
    card = read_card(end.artifact)
    assert card.architecture == ("convnext+segformer" if model == "convnext" else model)
    assert load(end.artifact).predict(np.zeros((45, 20, 3), np.uint8)).mask.shape == (45, 20)


def test_grey_images_train_a_segmenter_of_one_channel(tmp_path):
    root = plant_masks(tmp_path / "grey", count=10)
    for file in (root / "images").iterdir():
        Image.open(file).convert("L").save(file)
    sets = ("data.color=L", "augment.color_jitter=0.3", "data.short_side=24", "data.image_size=16")
    end = train(root, tmp_path / "run", *sets, epochs=1)
    assert read_card(end.artifact).preprocess.channels == 1
    assert end.metrics["pixels"] == end.metrics["n"] * 32 * 32


@pytest.mark.parametrize(
    "sets, message",
    [
        (("augment.crop_scale=[0.5, 1.0]",), "augment.crop_scale is for classification"),
        (("data.resize=stretch",), "data.resize is for classification"),
        (("augment.mixup=0.8",), "augment.mixup is for classification"),
        (("loss.binary=true",), "loss.binary is for classification"),
        (("loss.cross_entropy=0", "loss.dice=0"), "every loss has the weight 0"),
        (("loss.cross_entropy=0", "loss.dice=1", "loss.hardest=0.5"), "loss.hardest belongs to the cross-entropy"),
        (("loss.auxiliary=0.1",), "segformer has none"),
        (("model.name=convnext",), "the model is convnext+segformer, and model.name=convnext: leave one of them out"),
        (("data.ignore=[snow]",), 'there is no class "snow"'),
    ],
)
def test_a_mistake_is_one_line_and_comes_before_the_images_are_decoded(sets, message, masks, tmp_path, monkeypatch):
    monkeypatch.setattr("vitnext.api.plan.checked", lambda *_: pytest.fail("the images were decoded"))
    assert message in mistake(train, masks, tmp_path / "run", *sets)
    assert not (tmp_path / "run").exists()


def test_batches_of_one_are_refused_where_batch_norm_cannot_be(masks, tmp_path):
    sets = (f"model.config={{{NETWORK}, head: {{width: 8}}}}", "batch_size=1")
    assert "batches of 2" in mistake(train, masks, tmp_path / "run", *sets, model="convnext+upernet")
    assert train(masks, tmp_path / "one", *sets, epochs=1).metrics["n"] == 2  # of segformer they may be


def test_labels_and_masks_are_told_apart(trained, masks, tmp_path):
    tree = plant(tmp_path / "tree", dict.fromkeys(("blue", "red"), 10))
    tiny = [f"model.config={{{NETWORK}}}", "precision=fp32"]
    for given in ({"model": "convnext+linear"}, {"recipe": "masks_convnext"}):
        assert "class folders, not masks" in mistake(api.train, tree, out=tmp_path / "a", pretrained="none", **given)
    assert "has masks" in mistake(api.train, masks, out=tmp_path / "b", pretrained="none", recipe="photos_convnext")
    assert "loss.dice is for segmentation" in mistake(
        api.train, tree, out=tmp_path / "c", pretrained="none", overrides=[*tiny, "loss.dice=1"]
    )
    assert "is a segmenter, but tree has class folders" in mistake(api.evaluate, trained.artifact, tree)
    classifier = api.train(tree, model="convnext", out=tmp_path / "d", epochs=1, overrides=tiny)
    assert "is a classifier, but blocks has masks" in mistake(api.evaluate, classifier.artifact, masks)


@pytest.mark.parametrize("name", builtin_names())
def test_every_recipe_of_the_package_suits_its_task(name, masks, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "COUNTS", {"train": 4, "val": 1, "test": 1})
    monkeypatch.setattr(scenes, "splits", scenes.splits.__wrapped__)  # which remembers nothing
    recipe = override(read(name), [])
    tree = plant(tmp_path / "tree", dict.fromkeys(("blue", "red"), 4))
    data = "digit-scenes" if "panoptic" in name else masks if create.is_segmenter(recipe.model.name) else tree
    require_suitable(recipe, open_dataset(data, whole=True))
