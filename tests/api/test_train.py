"""From a folder of images to a model file."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import vitnext
from colours import COLORS, journal, mistake, picture, same_weights, train, weights
from vitnext import api
from vitnext.api import checks
from vitnext.api.checks import checked
from vitnext.card import read_card
from vitnext.data.dataset import open_dataset
from vitnext.errors import WorkError
from vitnext.recipe import read


def test_training_leaves_a_model_that_knows_the_colours(trained, tree):
    assert trained.artifact == trained.out / "model.safetensors"
    found = {path.name for path in trained.out.iterdir()}
    measured = {"metrics.json", "report.html", "curves.png"}
    assert found == {"model.safetensors", "last.pt", "recipe.yaml", "card.json", "journal.jsonl"} | measured
    assert trained.metrics["top1"] == 1.0
    predictor = vitnext.load(trained.artifact)
    for name in COLORS:
        assert predictor.predict(picture(name, 12345)).label == name


def test_the_card_says_all_there_is_to_say(trained, tree):
    card, dataset = read_card(trained.artifact), open_dataset(tree)
    assert (card.task, card.architecture, card.classes) == ("classification", "vit", ("blue", "green", "red"))
    assert card.data == {
        "name": "my colours",
        "kind": "image_folder",
        "fingerprint": dataset.fingerprint,
        "split": {"rule": "stratified", "seed": 0, "fractions": {"train": 0.8, "val": 0.1, "test": 0.1}},
        "counts": {"train": 33, "val": 3, "test": 3},
    }
    assert (card.config["dim"], card.config["classes"], card.config["image_size"]) == (16, 3, 16)
    assert read(trained.out / "recipe.yaml").to_dict() == card.recipe
    assert card.recipe["schedule"]["epochs"] == 15 and card.recipe["data"]["color"] == "RGB"
    assert card.versions["torch"] == importlib.metadata.version("torch")
    assert {"torchvision", "numpy", "pillow"} <= set(card.versions)
    assert "trained from scratch" in card.licence
    preprocess = card.preprocess
    assert (preprocess.image_size, preprocess.color, preprocess.resize) == ((16, 16), "RGB", "stretch")
    pixels = np.stack([picture(name, 0) for name in COLORS]) / 255
    assert preprocess.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=0.02)
    assert preprocess.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=0.02)
    metrics = card.metrics
    assert set(metrics) == {"val", "test", "epoch", "seconds"}
    assert set(metrics["val"]) == {"top1", "loss"}
    assert metrics["test"]["top1"] == trained.metrics["top1"] and metrics["test"]["n"] == 3
    assert 1 <= metrics["epoch"] <= 15 and metrics["seconds"] > 0


def test_the_metrics_are_those_of_the_held_out_images(trained):
    written = json.loads((trained.out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(trained.metrics))
    assert {"task", "n", "top1", "top5", "macro_f1", "ece", "per_class", "confusion"} <= set(written)
    assert (written["data"], written["split"], written["n"]) == ("my colours", "test", 3)
    assert np.array(written["confusion"]).sum() == 3
    assert "<html" in (trained.out / "report.html").read_text()


def test_the_best_epoch_is_the_model_that_is_left(trained):
    epochs = [line for line in journal(trained.out) if line["event"] == "epoch"]
    best = max(epochs, key=lambda line: (line["top1"], -line["loss"]))
    card = read_card(trained.artifact)
    assert card.metrics["epoch"] == best["epoch"]
    assert card.metrics["val"] == {"top1": best["top1"], "loss": best["loss"]}
    last = torch.load(trained.out / "last.pt", weights_only=True)["model"]
    kept = weights(trained.artifact)
    is_last = all(np.array_equal(kept[name], tensor.numpy()) for name, tensor in last.items())
    assert is_last == (best["epoch"] == 15)


def test_with_nothing_said_the_choice_is_printed_and_the_images_are_learnt(tree, tmp_path, heard):
    end = api.train(tree, out=tmp_path / "run", overrides=["schedule.epochs=8"], console=heard)
    text = heard.file.getvalue()
    assert "my colours: class folders, 3 classes, train 33, val 3, test 3 images" in text
    assert "recipe digits_convnext: the images' short side is 16 px" in text
    assert "model convnext:" in text and "33 images in memory" in text
    assert "epoch   8/8" in text and "test top-1" in text
    decided = read(tmp_path / "run" / "recipe.yaml").precision  # not "auto", so that the recipe repeats the run
    assert f"precision {decided}: measured" in text and decided in ("fp32", "bf16")
    assert read_card(end.artifact).recipe["precision"] == decided
    assert str(end.out / "report.html") in text
    assert end.metrics["top1"] == 1.0


def test_a_terminal_shows_what_is_waited_for(tree, tmp_path):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    train(tree, tmp_path / "run", console=terminal)
    shown = terminal.file.getvalue()
    for what in ("loading torch", f"opening {tree}", "looking at the images", "39/39"):
        assert what in shown


def test_the_same_seed_gives_the_same_file_and_another_one_another(tree, tmp_path):
    first = train(tree, tmp_path / "a")
    assert same_weights(first.artifact, train(tree, tmp_path / "b").artifact)
    other = train(tree, tmp_path / "c", seed=1)
    assert not same_weights(first.artifact, other.artifact)
    assert read_card(other.artifact).data["split"]["seed"] == 1
    # --set seed=1 and --seed 1 are the same
    assert same_weights(other.artifact, train(tree, tmp_path / "d", "seed=1").artifact)


def test_images_just_above_the_small_ones_are_trained_on(tmp_path):
    """65 to 95 px: photographs' augmentation at 64 px, the size of small images."""
    for name in ("green", "red"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            large = np.asarray(Image.fromarray(picture(name, i)).resize((70, 80)))
            Image.fromarray(large).save(tmp_path / "data" / name / f"{i}.png")
    end = api.train(tmp_path / "data", out=tmp_path / "run", epochs=1, overrides=["precision=fp32", "workers=0"])
    card = read_card(end.artifact)
    assert (card.architecture, card.preprocess.image_size) == ("convnext_atto", (64, 64))
    assert card.recipe["augment"]["trivial_augment"] is True


def test_grey_images_train_a_model_of_one_channel(tmp_path):
    for name, value in (("dark", 40), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(value - 20, value + 20, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    end = train(tmp_path / "data", tmp_path / "run", epochs=1)
    assert read_card(end.artifact).preprocess.color == "L"
    rgb = train(tmp_path / "data", tmp_path / "rgb", "data.color=RGB", epochs=1)
    preprocess = read_card(rgb.artifact).preprocess
    assert preprocess.color == "RGB" and len(set(preprocess.mean)) == 1 and len(preprocess.mean) == 3


def test_early_stopping_is_said(given, tmp_path, heard, monkeypatch):
    monkeypatch.setattr(
        "vitnext.training.validation.Validator.__call__", lambda *_: {"top1": 0.5, "score_error": 0.1, "loss": 1.0}
    )
    train(given, tmp_path / "run", "schedule.patience=2", epochs=9, console=heard)
    said = heard.file.getvalue()
    assert "since epoch 1; epoch 3 is kept, and a higher schedule.patience would train on" in said
    heard.file.truncate(0)
    api.train(given, out=tmp_path / "run", resume=True, console=heard)
    said = heard.file.getvalue()
    assert "the run has ended, after step 9, and is measured again; a higher schedule.patience would train on" in said
    assert [line["epoch"] for line in journal(tmp_path / "run") if line["event"] == "epoch"] == [1, 2, 3]


def test_a_loss_that_is_not_finite_is_one_line(tree, tmp_path):
    with pytest.raises(WorkError) as caught:
        train(tree, tmp_path / "run", "optimizer.learning_rate=1e30", "schedule.warmup_epochs=0", epochs=5)
    assert "learning rate" in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.color=L"], 'data.color is "L", but the images have colours'),
        (["model.config.patch_size=5"], "image_size 16 is not a whole number of patches"),
        (["model.config.dime=3"], "vit has no model.config.dime"),
        (["model.config.heads=3"], "heads"),
        (["model.config.classes=5"], "model.config.classes is 5, but the data makes it 3"),
        (["data.val_fraction=0.9"], "val_fraction is 0.9"),
        (["data.crop_fraction=0.5"], "crop_fraction"),
        (["optimizer.train_blocks=1"], "the network has 1 block: give fewer, or null"),
        (["device=gpu"], "device is 'gpu'"),
        (["data.val_fraction=0", "schedule.patience=3"], "schedule.patience needs validation images"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(sets, message, tree, tmp_path):
    assert message in mistake(train, tree, tmp_path / "run", *sets)
    assert not (tmp_path / "run").exists()


def test_a_network_too_deep_for_its_images_is_one_line(tree, tmp_path):
    sets = ["data.image_size=8", "model.config.stem_stride=4"]
    assert "stride of 32 px" in mistake(api.train, tree, model="convnext_atto", out=tmp_path / "run", overrides=sets)


def test_a_folder_that_holds_a_run_or_a_model_is_left_alone(trained, tree, tmp_path):
    before = trained.artifact.read_bytes()
    assert "holds a run already: add --resume" in mistake(train, tree, trained.out)
    assert trained.artifact.read_bytes() == before
    shutil.copy(trained.artifact, tmp_path)
    assert "holds a model already: choose another --out" in mistake(train, tree, tmp_path)


def test_mistakes_are_said_in_the_order_of_the_time_they_take(trained, damaged, tmp_path, monkeypatch):
    """Arguments, then the data's layout, then --out, then each image."""
    taken, nothing = trained.out, tmp_path / "nothing"
    assert 'no model "vti"' in mistake(api.train, nothing, model="vti", out=taken)
    assert "there is no recipe mine" in mistake(api.train, nothing, recipe="mine", out=taken)
    assert "there is no field lr; did you mean" in mistake(api.train, nothing, overrides=["lr=1"], out=taken)
    assert "schedule.epochs is 0" in mistake(api.train, nothing, epochs=0, out=taken)
    assert "no such folder" in mistake(api.train, nothing, out=taken)
    assert "holds a run already" in mistake(api.train, damaged, out=taken)
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in mistake(api.train, damaged, out=tmp_path / "file" / "run")
    assert "2 images cannot be read" in mistake(api.train, damaged, out=tmp_path / "run")


def test_two_trainings_do_not_write_to_one_folder(trained, tree, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "run"
    copy = shutil.copytree(trained.out, tmp_path / "copy")

    def taken(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "lockf", taken)
        message = f"another training is writing to {out}: choose another --out"
        assert mistake(train, tree, out) == message
        assert f"another training is writing to {copy}" in mistake(api.train, tree, out=copy, resume=True)
    assert [path.name for path in out.iterdir()] == ["last.pt.lock"]
    assert train(tree, out).artifact.exists()
    assert not (out / "last.pt.lock").exists()


def test_a_run_that_another_began_meanwhile_is_left_alone(trained, tree, tmp_path, monkeypatch):

    def slowly(*arguments):
        shutil.copytree(trained.out, tmp_path / "run")
        return checked(*arguments)

    monkeypatch.setattr("vitnext.api.plan.checked", slowly)
    assert "holds a run already" in mistake(train, tree, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == (trained.out / "recipe.yaml").read_bytes()


def test_a_result_cannot_be_changed(trained):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trained.out = None


# ---- no validation images


def test_without_validation_the_last_epoch_is_the_model(tree, tmp_path, monkeypatch):
    watched = iter([{"top1": 0.9, "loss": 0.1}, {"top1": 0.5, "loss": 1.0}, {"top1": 0.4, "loss": 2.0}])
    monkeypatch.setattr("vitnext.training.validation.Validator.__call__", lambda *_: next(watched))
    end = train(tree, tmp_path / "run", "data.val_fraction=0", epochs=3)
    card = read_card(end.artifact)
    assert card.data["counts"] == {"train": 36, "test": 3}
    assert card.data["split"]["fractions"] == {"train": 0.9, "test": 0.1}
    assert card.metrics["epoch"] == 3 and set(card.metrics) == {"test", "epoch", "seconds"}
    last = torch.load(end.out / "last.pt", weights_only=True)["model"]
    assert all(np.array_equal(weights(end.artifact)[name], tensor.numpy()) for name, tensor in last.items())
    # The same division is found again: only what was held out is measured.
    metrics = api.evaluate(end.artifact, tree)
    assert (metrics["split"], metrics["n"]) == ("test", 3)


# ---- images that cannot be read


def test_unreadable_images_stop_the_run_and_are_named(damaged, tmp_path):
    message = mistake(train, damaged, tmp_path / "run")
    assert "2 images cannot be read" in message and "--skip-unreadable" in message
    assert "03.png" in message and "07.png" in message
    assert not (tmp_path / "run").exists()


def test_of_many_images_some_are_looked_at_before_training(damaged, tmp_path, heard, monkeypatch):
    monkeypatch.setattr(checks, "LOOKED_AT", 2)
    message = mistake(train, damaged, tmp_path / "run", console=heard)
    assert "looked at 2 of 39 images; vitnext check looks at all of them" in heard.file.getvalue()
    assert "03.png" in message or "07.png" in message  # met in training
    end = train(damaged, tmp_path / "other", skip_unreadable=True, console=heard)  # all are looked at
    assert sum(read_card(end.artifact).data["counts"].values()) == 37


def test_unreadable_images_are_left_out_if_asked(damaged, tmp_path, heard):
    end = train(damaged, tmp_path / "run", skip_unreadable=True, console=heard)
    assert "skipped: 2 images cannot be read" in heard.file.getvalue()
    assert sum(read_card(end.artifact).data["counts"].values()) == 37
    assert read(end.out / "recipe.yaml").data.skip_unreadable
    again = api.train(damaged, out=tmp_path / "run", resume=True)  # the run remembers
    assert same_weights(end.artifact, again.artifact)
    repeated = api.train(damaged, out=tmp_path / "repeated", recipe=str(end.out / "recipe.yaml"))
    assert same_weights(end.artifact, repeated.artifact)


def test_images_may_not_be_left_out_half_way(trained, damaged, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    assert "2 images cannot be read" in mistake(api.train, damaged, out=copy, resume=True)
    assert "have changed" in mistake(api.train, damaged, out=copy, resume=True, skip_unreadable=True)


@pytest.mark.parametrize("lost", ["train", "val", "test"])
def test_what_is_left_must_be_enough(lost, given, tmp_path):
    copy = shutil.copytree(given, tmp_path / "copy")
    for path in (copy / lost / "red").iterdir():
        path.write_bytes(b"no image")
    if lost == "train":  # a class without a training image
        assert "red" in mistake(train, copy, tmp_path / "run", skip_unreadable=True)
        return
    for path in copy.glob(f"{lost}/*/*.png"):
        path.write_bytes(b"no image")
    message = mistake(train, copy, tmp_path / "run", skip_unreadable=True)
    assert f"none of the {3 * (3 if lost == 'val' else 4)} {lost} images can be used" in message


def test_a_class_without_images_stops_the_run(given, tmp_path):
    copy = shutil.copytree(given, tmp_path / "copy")
    for path in (copy / "train" / "red").iterdir():
        path.unlink()
    assert "red" in mistake(train, copy, tmp_path / "run", skip_unreadable=True)


def test_weights_are_fetched_after_the_images_were_checked(tmp_path, monkeypatch, heard):
    """Of photographs: those of the other tests are too small to ask for weights."""
    asked = []

    def fail(name):
        asked.append(name)
        raise WorkError(f"{name} is not there: look elsewhere")

    monkeypatch.setattr("vitnext.weights.hub.fetch", fail)
    for name in ("green", "red"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            large = np.asarray(Image.fromarray(picture(name, i)).resize((100, 80)))
            Image.fromarray(large).save(tmp_path / "data" / name / f"{i}.png")
    broken = tmp_path / "data" / "red" / "0.png"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    sets = ["precision=fp32", "workers=0", "data.image_size=32"]
    for given in ({}, {"pretrained": "someone/weights"}):
        assert "1 image cannot be read" in mistake(api.train, tmp_path / "data", out=tmp_path / "run", **given)
    assert asked == []
    broken.write_bytes(content)
    end = api.train(tmp_path / "data", out=tmp_path / "run", epochs=1, overrides=sets, console=heard)
    assert asked == ["timm/convnext_atto.d2_in1k"] and read(end.out / "recipe.yaml").model.pretrained == "none"
    text = heard.file.getvalue()
    assert (
        "from scratch: timm/convnext_atto.d2_in1k is not there; --pretrained none does not ask for it\nrecipe " in text
    )
    with pytest.raises(WorkError, match="look elsewhere"):
        api.train(tmp_path / "data", pretrained="someone/weights", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
