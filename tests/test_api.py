"""From a folder of images to a model file that predicts, through the functions a user calls."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

import vitnext
from vitnext import api
from vitnext.card import read_card
from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset
from vitnext.errors import InputError, WorkError
from vitnext.recipe import read
from vitnext.training import loop
from vitnext.training.console import ConsoleWatcher

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
# Small and quick: 3 steps an epoch on the tree below.
TINY = (
    *("model.config.patch_size=4", "model.config.dim=16", "model.config.depth=1", "model.config.heads=2"),
    *("precision=fp32", "batch_size=10", "schedule.warmup_epochs=1", "optimizer.learning_rate=5e-3"),
)


def picture(name, seed):
    random = np.random.default_rng(seed)
    return np.clip(np.array(COLORS[name]) + random.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)


def plant(root, counts, seed=0):
    """Class folders of noisy 16-px images of one colour each."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(name, [seed, i, *name.encode()])).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """One tree: 3 classes of 13 images, to be divided 11/1/1."""
    return plant(tmp_path_factory.mktemp("data") / "my colours", dict.fromkeys(COLORS, 13))


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """train/, val/ and test/."""
    root = tmp_path_factory.mktemp("data") / "given"
    for seed, (split, count) in enumerate({"train": 10, "val": 3, "test": 4}.items(), start=5):
        plant(root / split, dict.fromkeys(COLORS, count), seed)
    return root


def train(data, out, *sets, epochs=2, model="vit", **more):
    return api.train(data, model=model, out=out, epochs=epochs, overrides=[*TINY, *sets], **more)


@pytest.fixture(scope="session")
def trained(tree, tmp_path_factory):
    """A run that was long enough to learn the colours."""
    return train(tree, tmp_path_factory.mktemp("runs") / "run", epochs=15)


@pytest.fixture
def heard():
    """A console that remembers."""
    return Console(file=io.StringIO(), width=1000)


def weights(path):
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def journal(folder):
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def mistake(call, *arguments, **more):
    with pytest.raises(InputError) as caught:
        call(*arguments, **more)
    message = str(caught.value)
    assert message and len(message.splitlines()) == 1
    return message


def on_step(monkeypatch, action):
    """Call ``action(step)`` when a step of a run has passed."""
    step = ConsoleWatcher.step

    def watched(self, state, *others):
        step(self, state, *others)
        action(state.step)

    monkeypatch.setattr(ConsoleWatcher, "step", watched)


def press_at(wanted):
    return lambda step: os.kill(os.getpid(), signal.SIGINT) if step == wanted else None


# ---- train


def test_training_leaves_a_model_that_knows_the_colours(trained, tree):
    assert trained.artifact == trained.out / "model.safetensors"
    found = {path.name for path in trained.out.iterdir()}
    assert found == {"model.safetensors", "last.pt", "recipe.yaml", "journal.jsonl", "metrics.json", "report.html"}
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
    monkeypatch.setattr("vitnext.training.validation.Validator.__call__", lambda *_: {"top1": 0.5, "loss": 1.0})
    train(given, tmp_path / "run", "schedule.patience=2", epochs=9, console=heard)
    assert "stopped early: no better validation top-1 since epoch 1" in heard.file.getvalue()
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


@pytest.fixture
def damaged(tree, tmp_path):
    copy = shutil.copytree(tree, tmp_path / "damaged")
    (copy / "red" / "03.png").write_bytes(b"no image")
    (copy / "blue" / "07.png").write_bytes((tree / "blue" / "07.png").read_bytes()[:60])
    return copy


def test_unreadable_images_stop_the_run_and_are_named(damaged, tmp_path):
    message = mistake(train, damaged, tmp_path / "run")
    assert "2 images cannot be read" in message and "--skip-unreadable" in message
    assert "03.png" in message and "07.png" in message
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_left_out_if_asked(damaged, tmp_path, heard):
    end = train(damaged, tmp_path / "run", skip_unreadable=True, console=heard)
    assert "skipped: 2 images cannot be read" in heard.file.getvalue()
    assert sum(read_card(end.artifact).data["counts"].values()) == 37
    again = train(damaged, tmp_path / "run", resume=True, skip_unreadable=True, epochs=None, model=None)
    assert same_weights(end.artifact, again.artifact)


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
    assert f"none of the {3 * (3 if lost == 'val' else 4)} {lost} images can be read" in message


def test_a_class_without_images_stops_the_run(given, tmp_path):
    copy = shutil.copytree(given, tmp_path / "copy")
    for path in (copy / "train" / "red").iterdir():
        path.unlink()
    assert "red" in mistake(train, copy, tmp_path / "run", skip_unreadable=True)


# ---- stopped and resumed


def test_ctrl_c_says_how_to_go_on_and_that_is_how(tree, tmp_path, monkeypatch, capsys):
    whole = train(tree, tmp_path / "whole")
    out = tmp_path / "a folder" / "stopped"
    with monkeypatch.context() as patched:
        on_step(patched, press_at(4))
        with pytest.raises(KeyboardInterrupt) as caught:
            train(tree, out)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    saved, command = message.split("; go on with: ")
    assert saved == "stopped and saved"
    assert shlex.split(command) == ["vitnext", "train", str(tree), "--out", str(out), "--resume"]
    assert main(shlex.split(command)[1:]) == 0
    assert "going on after step 5 of 6" in capsys.readouterr().err
    assert same_weights(whole.artifact, out / "model.safetensors")
    assert journal(out)[-1] == journal(whole.out)[-1]
    of_whole, of_resumed = (read_card(folder / "model.safetensors") for folder in (whole.out, out))
    for card in (of_whole, of_resumed):
        card.metrics.pop("seconds")
    assert of_whole == of_resumed


def test_what_it_says_includes_what_the_run_needs(damaged, tmp_path, monkeypatch):
    on_step(monkeypatch, press_at(1))
    with pytest.raises(KeyboardInterrupt, match="--resume --skip-unreadable$"):
        train(damaged, tmp_path / "run", skip_unreadable=True)


KILLED = """
import os, signal, sys
from vitnext import api
from vitnext.training.console import ConsoleWatcher
ConsoleWatcher.step = lambda self, state, *_: os.kill(os.getpid(), signal.SIGKILL) if state.step == 5 else None
api.train(sys.argv[1], model="vit", out=sys.argv[2], epochs=3, overrides=sys.argv[3:])
"""


def test_a_run_that_was_killed_goes_on_from_its_last_epoch(tree, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, tree, tmp_path / "killed", *TINY], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["progress"]["step"] == 3
    resumed = api.train(tree, out=tmp_path / "killed", resume=True)
    whole = train(tree, tmp_path / "whole", epochs=3)
    assert same_weights(resumed.artifact, whole.artifact)
    assert journal(resumed.out) == journal(whole.out)


def test_resuming_a_finished_run_measures_it_again_and_changes_nothing_else(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    again = api.train(tree, out=copy, resume=True)
    assert same_weights(again.artifact, trained.artifact)
    assert again.metrics["top1"] == trained.metrics["top1"]
    assert read_card(again.artifact) == read_card(trained.artifact)
    assert journal(copy) == journal(trained.out)


def test_a_refused_change_leaves_the_run_as_it_was(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        on_step(patched, press_at(2))
        with pytest.raises(KeyboardInterrupt):
            train(tree, tmp_path / "run")
    message = mistake(api.train, tree, out=tmp_path / "run", resume=True, epochs=7)
    assert "schedule.epochs was 2, is 7" in message
    resumed = api.train(tree, out=tmp_path / "run", resume=True)  # without it, all is well
    assert same_weights(resumed.artifact, train(tree, tmp_path / "whole").artifact)


def test_what_was_said_the_first_time_may_be_said_again(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    assert same_weights(train(tree, copy, epochs=15, resume=True).artifact, trained.artifact)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "convnext"}, "trains vit, not convnext: leave --model out"),
        ({"recipe": "digits_vit"}, "leave --recipe out"),
        ({"seed": 4}, "have changed"),  # another seed is another division of the tree
        ({"overrides": ["optimizer.weight_decay=0.5"]}, "optimizer.weight_decay was 0.05, is 0.5"),
        ({"overrides": ["optimizer.decay=0.5"]}, "there is no field optimizer.decay"),
    ],
)
def test_resuming_with_something_else_is_refused(given, message, trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert message in mistake(api.train, tree, out=copy, resume=True, **given)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_resuming_on_other_images_is_refused(trained, tree, tmp_path):
    copy, other = shutil.copytree(trained.out, tmp_path / "copy"), shutil.copytree(tree, tmp_path / "my colours")
    (other / "red" / "12.png").unlink()
    assert "the images or labels have changed" in mistake(api.train, other, out=copy, resume=True)


def test_resuming_nothing_is_refused(tree, tmp_path):
    assert "there is no run in" in mistake(api.train, tree, out=tmp_path / "run", resume=True)
    (tmp_path / "run").mkdir()
    shutil.copy(loop.__file__, tmp_path / "run" / "recipe.yaml")
    assert "recipe.yaml" in mistake(api.train, tree, out=tmp_path / "run", resume=True)


# ---- evaluate


def test_the_tree_it_was_trained_on_gives_the_images_held_out(trained, tree, tmp_path, heard):
    metrics = api.evaluate(trained.artifact, tree, out=tmp_path / "out", console=heard)
    assert (metrics["split"], metrics["n"]) == ("test", 3)
    assert heard.file.getvalue().strip() == "my colours: test split, 3 images"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "report.html"}
    assert metrics["top1"] == trained.metrics["top1"] and metrics["nll"] == pytest.approx(trained.metrics["nll"])


def test_it_is_the_images_and_not_the_folder_that_count(trained, tree, tmp_path):
    moved = shutil.copytree(tree, tmp_path / "elsewhere")
    assert api.evaluate(trained.artifact, moved)["n"] == 3


def test_the_division_of_another_seed_is_found_again(tree, tmp_path):
    end = train(tree, tmp_path / "run", "data.val_fraction=0.25", seed=7, epochs=1)
    assert read_card(end.artifact).data["counts"] == {"train": 27, "val": 9, "test": 3}
    metrics = api.evaluate(end.artifact, tree)
    assert (metrics["split"], metrics["n"]) == ("test", 3)
    assert [row["file"] for row in metrics["mistakes"]] == [row["file"] for row in end.metrics["mistakes"]]
    assert api.evaluate(end.artifact, tree, split="val")["n"] == 9


def test_another_tree_is_measured_whole(trained, tmp_path):
    other = plant(tmp_path / "other", {"blue": 4, "green": 5, "red": 6}, seed=3)
    metrics = api.evaluate(trained.artifact, other)
    assert (metrics["split"], metrics["n"]) == ("all", 15)
    assert [sum(row) for row in metrics["confusion"]] == [4, 5, 6]
    assert metrics["top1"] == 1.0


def test_given_splits_are_measured_on_test_and_others_by_name(trained, given):
    metrics = api.evaluate(trained.artifact, given)
    assert (metrics["split"], metrics["n"]) == ("test", 12)
    assert api.evaluate(trained.artifact, given, split="train")["n"] == 30
    assert "has no dev split; there are train, val, test" in mistake(api.evaluate, trained.artifact, given, split="dev")


def test_a_predictor_is_as_good_as_a_path(trained, tree):
    metrics = api.evaluate(vitnext.load(trained.artifact), tree)
    assert metrics["nll"] == pytest.approx(trained.metrics["nll"])


def test_classes_the_model_does_not_know_are_named(trained, tmp_path):
    other = plant(tmp_path / "other", {"blue": 3, "green": 3, "red": 3})
    (other / "red").rename(other / "crimson")
    message = mistake(api.evaluate, trained.artifact, other)
    assert "does not know 'crimson'" in message and "'red'" in message


def test_a_tree_with_fewer_classes_is_measured_by_name(trained, tmp_path):
    """ "green" is class 1 of the model and class 0 of this tree."""
    other = plant(tmp_path / "other", {"green": 4, "red": 4}, seed=4)
    metrics = api.evaluate(trained.artifact, other)
    assert metrics["top1"] == 1.0
    assert metrics["confusion"] == [[0, 0, 0], [0, 4, 0], [0, 0, 4]]


def test_unreadable_images_of_an_evaluation(trained, tmp_path):
    other = plant(tmp_path / "other", {"blue": 3, "green": 3, "red": 3}, seed=5)
    (other / "red" / "01.png").write_bytes(b"no image")
    assert "1 of 9 images cannot be read" in mistake(api.evaluate, trained.artifact, other)
    metrics = api.evaluate(trained.artifact, other, skip_unreadable=True)
    assert metrics["n"] == 8 and len(metrics["skipped"]) == 1


# ---- export


@pytest.fixture(scope="session")
def exported(trained, tree, tmp_path_factory):
    return api.export(trained.artifact, out=tmp_path_factory.mktemp("export") / "model.onnx", images=tree)


def test_the_export_gives_the_model_s_answers(exported, trained, tree):
    assert exported.images == 39 and not exported.synthetic and exported.max_difference <= 1e-4
    model, onnx = vitnext.load(trained.artifact), vitnext.load(exported.path)
    assert onnx.card == model.card
    paths = sorted(tree.glob("*/*.png"))
    for ours, theirs in zip(model.predict_many(paths), onnx.predict_many(paths), strict=True):
        assert ours.label == theirs.label
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5)
    assert api.evaluate(onnx, tree)["nll"] == pytest.approx(trained.metrics["nll"], abs=1e-5)


def test_what_cannot_be_exported_is_one_line(trained, tmp_path):
    assert 'cannot export to "tflite": give onnx' in mistake(api.export, trained.artifact, "tflite")
    assert "no such" in mistake(api.export, trained.artifact, out=tmp_path / "x.onnx", images=tmp_path / "none")


# ---- create_model


@pytest.mark.parametrize(("classes", "outputs"), [(7, 7), (["a", "b"], 2), (("a", "b", "c"), 3), (0, 16), (None, 1000)])
def test_create_model_gives_as_many_outputs_as_there_are_classes(classes, outputs):
    config = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
    model = vitnext.create_model("vit", classes, **config)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 8, 8)).shape == (2, outputs)


def test_create_model_knows_the_published_sizes():
    with torch.device("meta"):
        assert vitnext.create_model("convnext_tiny", classes=10).config.widths == (96, 192, 384, 768)


@pytest.mark.parametrize("given", [{"name": "vti_tiny"}, {"name": "vit", "dime": 3}, {"name": "vit", "dim": "8"}])
def test_create_model_refuses_what_does_not_exist(given):
    assert mistake(vitnext.create_model, **given)


def test_a_result_cannot_be_changed(trained):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trained.out = None


def test_a_single_name_is_not_a_list_of_classes():
    with pytest.raises(InputError, match="classes is 'cat'"):
        api.create_model("vit_tiny", classes="cat")
