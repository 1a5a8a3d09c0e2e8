"""Which images are measured, and what comes of it."""

from __future__ import annotations

import shutil

import pytest

import vitnext
from colours import mistake, plant, train
from vitnext import api
from vitnext.card import read_card


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


@pytest.mark.parametrize("split", [None, "test"])
def test_images_that_are_not_the_trainings_are_warned_of_whatever_their_name(
    trained, tree, given, tmp_path, heard, split
):
    more = shutil.copytree(tree, tmp_path / "another name")
    shutil.copy(more / "red" / "00.png", more / "red" / "new.png")
    metrics = api.evaluate(trained.artifact, more, out=tmp_path / "out", split=split, console=heard)
    assert (metrics["split"], metrics["n"]) == (("test", 3) if split else ("all", 40))
    assert metrics["warning"].startswith("these are not the very images of the training")
    assert f"warning: {metrics['warning']}" in heard.file.getvalue()
    for name in ("metrics.json", "report.html"):
        assert metrics["warning"] in (tmp_path / "out" / name).read_text()
    for data in (tree, given):  # held out; or a test split of its own
        assert "warning" not in api.evaluate(trained.artifact, data, split=split)


def test_a_tree_too_small_to_be_divided_is_measured_whole(trained, tmp_path):
    other = plant(tmp_path / "other", {"blue": 1, "green": 2, "red": 1}, seed=3)
    metrics = api.evaluate(trained.artifact, other)
    assert (metrics["split"], metrics["n"], metrics["top1"]) == ("all", 4, 1.0)
    assert "too few to split" in mistake(api.evaluate, trained.artifact, other, split="test")


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
