from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn import metrics as sklearn_metrics

from vitnext.card import Card
from vitnext.errors import InputError, WorkError
from vitnext.evaluation.classification import classification_metrics, wilson_interval
from vitnext.evaluation.evaluate import evaluate
from vitnext.preprocess import Preprocess
from vitnext.types import Classification, Failure


def probabilities(rng: np.random.Generator, n: int, classes: int, decimals: int | None = None) -> np.ndarray:
    """(n, classes) float32; with ``decimals``, coarse values, so that many are equal."""
    scores = rng.random((n, classes)) + 0.1
    if decimals is not None:
        scores = np.round(scores, decimals) + 0.1
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


def naive(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The definitions as loops over images and classes."""
    n, count = scores.shape
    first, among_five, confusion = [], [], [[0] * count for _ in range(count)]
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    nll = 0.0
    for row, truth in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(count), key=lambda index: (-row[index], index))
        first.append(order[0] == truth)
        among_five.append(truth in order[:5])
        confusion[truth][order[0]] += 1
        for m in range(15):
            if m / 15 < row[order[0]] <= (m + 1) / 15:
                bins[m].append((row[order[0]], order[0] == truth))
        nll -= math.log(row[truth])
    f1 = []
    for c in range(count):
        true_positive = confusion[c][c]
        false_negative = sum(confusion[c]) - true_positive
        false_positive = sum(row[c] for row in confusion) - true_positive
        if sum(confusion[c]):
            f1.append(2 * true_positive / (2 * true_positive + false_positive + false_negative))
    ece = sum(len(b) / n * abs(sum(c for c, _ in b) / len(b) - sum(ok for _, ok in b) / len(b)) for b in bins if b)
    return {
        "top1": sum(first) / n,
        "top5": sum(among_five) / n,
        "macro_f1": sum(f1) / len(f1),
        "ece": ece,
        "nll": nll / n,
    }


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([None, 1, 0]), st.integers(0, 2**32 - 1))
def test_agrees_with_naive_loops(n: int, count: int, decimals: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = probabilities(rng, n, count, decimals), rng.integers(0, count, n)
    measured = classification_metrics(scores, labels, names(count))
    for key, value in naive(scores, labels).items():
        assert measured[key] == pytest.approx(value, abs=1e-9), key
    low, high = measured["top1_interval"]
    assert 0 <= low <= measured["top1"] <= high <= 1
    assert sum(b["count"] for b in measured["reliability"]) == n == measured["n"]
    json.dumps(measured, allow_nan=False)


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = probabilities(rng, 400, 12)
    labels = rng.integers(0, 11, 400)  # class 11 has no image
    measured = classification_metrics(scores, labels, names(12))
    predicted, everything = scores.argmax(axis=1), list(range(12))
    precision, recall, f1, n = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=everything, zero_division=np.nan
    )
    for row, *expected in zip(measured["per_class"][:11], precision, recall, f1, n, strict=False):
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx(expected)
    assert measured["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, labels=everything[:11], average="macro")
    )
    assert measured["top5"] == pytest.approx(
        sklearn_metrics.top_k_accuracy_score(labels, scores, k=5, labels=everything)
    )
    assert measured["confusion"] == sklearn_metrics.confusion_matrix(labels, predicted, labels=everything).tolist()
    exact = scores.astype(np.float64) / scores.astype(np.float64).sum(axis=1, keepdims=True)
    assert measured["nll"] == pytest.approx(sklearn_metrics.log_loss(labels, exact, labels=everything), abs=1e-6)


def test_calibration_by_hand() -> None:
    # Bins of width 1/15: 0.95 and 0.97 share ((14/15, 1]), 0.6 = 9/15 belongs to (8/15, 9/15].
    scores = np.array([[0.95, 0.05], [0.97, 0.03], [0.6, 0.4], [0.6, 0.4]])
    measured = classification_metrics(scores, np.array([0, 1, 0, 0]), ["a", "b"])
    last, ninth = measured["reliability"][14], measured["reliability"][8]
    assert (last["count"], last["confidence"], last["accuracy"]) == (2, pytest.approx(0.96), 0.5)
    assert (ninth["count"], ninth["confidence"], ninth["accuracy"]) == (2, pytest.approx(0.6), 1.0)
    assert measured["reliability"][0] == {"lower": 0, "upper": 1 / 15, "count": 0, "confidence": None, "accuracy": None}
    assert measured["ece"] == pytest.approx(2 / 4 * 0.46 + 2 / 4 * 0.4)


def test_undefined_is_none_and_absent_classes_do_not_pull_the_macro_down() -> None:
    scores = np.array([[0.9, 0.1, 0, 0], [0.9, 0, 0.1, 0], [0, 0.2, 0.8, 0]])
    measured = classification_metrics(scores, np.array([0, 1, 0]), ["a", "b", "c", "d"])
    a, b, c, d = measured["per_class"]
    assert a == {"class": "a", "n": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert b == {"class": "b", "n": 1, "precision": None, "recall": 0.0, "f1": 0.0}  # never predicted
    assert c == {"class": "c", "n": 0, "precision": 0.0, "recall": None, "f1": None}  # predicted, never true
    assert d == {"class": "d", "n": 0, "precision": None, "recall": None, "f1": None}
    assert measured["macro_f1"] == 0.25
    assert measured["nll"] == pytest.approx(-(math.log(0.9) + 2 * math.log(np.finfo(np.float32).tiny)) / 3)


def test_of_more_than_a_thousand_classes_only_confusions_are_listed() -> None:
    truth, predicted = [3, 3, 3, 1000, 0, 7], [3, 9, 9, 0, 0, 6]
    measured = classification_metrics(np.eye(1001)[predicted], np.array(truth), names(1001))
    assert measured["confusion_cells"] == [[3, 9, 2], [7, 6, 1], [1000, 0, 1]] and "confusion" not in measured
    assert measured["per_class"][3] == {
        "class": "class 3", "n": 3, "precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5,
    }  # fmt: skip
    assert measured["per_class"][9]["precision"] == 0 and measured["per_class"][9]["recall"] is None
    assert len(classification_metrics(np.eye(1000)[[5]], np.array([5]), names(1000))["confusion"]) == 1000
    right = classification_metrics(np.eye(1001)[truth], np.array(truth), names(1001))
    assert right["confusion_cells"] == []


def test_certain_and_right_costs_no_nats() -> None:
    for certain in (1.0, 1.0000001):  # as rounding makes it
        measured = classification_metrics(np.array([[certain, 0.0]]), np.array([0]), ["a", "b"])
        assert str(measured["nll"]) == "0.0"  # no -0.0, and nothing below


def test_equal_scores_rank_by_class_index() -> None:
    scores = np.full((8, 8), 1 / 8, dtype=np.float32)
    measured = classification_metrics(scores, np.arange(8), names(8))
    assert (measured["top1"], measured["top5"]) == (1 / 8, 5 / 8)


def test_the_interval_is_that_of_top1() -> None:
    right = np.arange(200) < 170
    scores = np.where(right[:, None], [[0.8, 0.2]], [[0.3, 0.7]])
    measured = classification_metrics(scores, np.zeros(200, dtype=np.int64), ["a", "b"])
    assert measured["top1_interval"] == pytest.approx(
        list(binomtest(170, 200).proportion_ci(0.95, method="wilson")), abs=1e-12
    )


def test_of_none_and_of_all_right_one_bound_is_sharp() -> None:
    for n in range(1, 400):
        low, high = wilson_interval(n, n)
        assert low == pytest.approx(n / (n + 1.959964**2)) and high == 1
        assert wilson_interval(0, n) == pytest.approx([0, 1 - low]) and wilson_interval(0, n)[0] == 0


@pytest.mark.parametrize("n", [5, 20, 100, 1000])
def test_the_interval_holds_the_true_share_as_often_as_it_says(n: int) -> None:
    low, high = np.array([wilson_interval(right, n) for right in range(n + 1)]).T
    shares = np.linspace(0.5, 0.995, 100)  # of a model that names this share of all images right
    inside = (low <= shares[:, None]) & (shares[:, None] <= high)
    coverage = (inside * binom.pmf(np.arange(n + 1), n, shares[:, None])).sum(axis=1)
    # The number right jumps by whole images, and the coverage with it: 95% is its mean over the shares.
    assert coverage.min() > 0.83 and coverage.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.ones((2, 3)) / 3, [0, 1], "do not fit 2 classes"),
        (np.ones((2, 2)) / 2, [0], "do not fit"),
        (np.ones(2) / 2, [0, 1], "do not fit"),
        (np.ones((0, 2)), np.zeros(0, int), "empty"),
        (np.ones((2, 2)) / 2, [0, 2], "from 0 to 1"),
        (np.ones((2, 2)) / 2, [0, -1], "from 0 to 1"),
        (np.ones((2, 2)) / 2, [0.0, 1.0], "whole numbers"),
        ([[0.5, 0.5], [3.0, -1.0]], [0, 1], "image 1 sum to 2"),
        ([[0.5, 0.5], [1.5, -0.5]], [0, 1], "image 1"),
        ([[0.5, np.nan], [0.5, 0.5]], [0, 1], "image 0 sum to nan"),
    ],
)
def test_what_does_not_fit_is_one_line(scores: object, labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        classification_metrics(np.asarray(scores), np.asarray(labels), ["a", "b"])
    assert "\n" not in str(error.value)


class FakeSplit:
    """Images of one colour, which says what a FakePredictor answers."""

    def __init__(self, classes: list[str], labels: list[int], files: list[str] | None = None) -> None:
        self.classes, self.labels = tuple(classes), np.array(labels, dtype=np.int64)
        self.files = files or [f"folder/{index}.png" for index in range(len(labels))]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> np.ndarray:
        return np.full((8, 8), i, dtype=np.uint8)

    def name(self, i: int) -> str:
        return self.files[i]


class FakePredictor:
    path, tta = "runs/a/model.safetensors", False

    def __init__(self, classes: list[str], answers: list[list[float] | None], task: str = "classification") -> None:
        self.answers = answers
        preprocess = Preprocess((8, 8), color="L", mean=(0.5,), std=(0.5,))
        self.card = Card(
            task, "vit_tiny", {}, tuple(classes), preprocess, {}, {}, {}, {"vitnext": "0.1.0"}, "Apache-2.0"
        )

    def predict_many(self, sources: Iterable[np.ndarray], batch: int = 32) -> Iterator[Classification | Failure]:
        for image in sources:
            answer = self.answers[image[0, 0]]
            if answer is None:
                yield Failure("array", f"{image[0, 0]}.png: the file is empty (0 bytes)")
            else:
                yield Classification("array", self.card.classes, np.array(answer, dtype=np.float32))


CAT_DOG_EEL = [[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6], [0.0, 0.4, 0.6]]


def test_evaluate_matches_classes_by_name_and_writes_both_files(tmp_path) -> None:
    # The data lists its classes in another order than the model, and has no eel.
    split = FakeSplit(["dog", "cat"], [1, 0, 1, 0])
    seen: list[tuple[int, int]] = []
    metrics = evaluate(
        FakePredictor(["cat", "dog", "eel"], CAT_DOG_EEL),
        split,
        out=tmp_path / "deep" / "out",
        name="pets",
        split_name="test",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert metrics["confusion"] == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert (metrics["n"], metrics["top1"], metrics["skipped"]) == (4, 0.5, [])
    assert (metrics["data"], metrics["split"], metrics["model"]) == ("pets", "test", "model.safetensors")
    assert metrics["architecture"] == "vit_tiny"
    assert metrics["seconds"] >= 0 and metrics["images_per_second"] > 0
    assert [(row["file"], row["truth"], row["predicted"]) for row in metrics["mistakes"]] == [
        ("folder/2.png", "cat", "eel"),
        ("folder/3.png", "dog", "eel"),
    ]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(file.name for file in (tmp_path / "deep" / "out").iterdir()) == ["metrics.json", "report.html"]
    text = (tmp_path / "deep" / "out" / "metrics.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse) == metrics
    assert "    [1, 0, 1],\n" in text  # a row of the matrix is a line
    assert "vit_tiny on pets" in (tmp_path / "deep" / "out" / "report.html").read_text(encoding="utf-8")


def test_augmentation_is_recorded(tmp_path) -> None:
    split, said = FakeSplit(["cat"], [0, 0]), "the mean over the image and its mirror image"
    predictor = FakePredictor(["cat", "dog", "eel"], CAT_DOG_EEL)
    for tta in (False, True):
        predictor.tta = tta
        assert evaluate(predictor, split, out=tmp_path, name="pets", split_name="val")["tta"] is tta
        assert (said in (tmp_path / "report.html").read_text(encoding="utf-8")) is tta


def test_evaluate_without_out_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate(
        FakePredictor(["cat", "dog", "eel"], CAT_DOG_EEL), FakeSplit(["cat"], [0, 0]), name="pets", split_name="val"
    )
    assert not list(tmp_path.iterdir())


def test_the_most_confident_mistakes_come_first_and_are_24_at_most() -> None:
    confidences = [0.51 + 0.01 * (7 * index % 30) for index in range(30)]
    predictor = FakePredictor(["a", "b"], [[1 - c, c] for c in confidences])
    metrics = evaluate(predictor, FakeSplit(["a"], [0] * 30), name="x", split_name="val")
    shown = [row["confidence"] for row in metrics["mistakes"]]
    assert shown == pytest.approx(sorted(confidences, reverse=True)[:24])


def test_a_class_that_the_model_lacks_is_named() -> None:
    predictor = FakePredictor(["cat", "dog", "eel"], CAT_DOG_EEL)
    with pytest.raises(InputError, match="^pets: the model does not know 'fox'; its classes are 'cat', 'dog', 'eel'"):
        evaluate(predictor, FakeSplit(["cat", "fox"], [0, 1]), name="pets", split_name="test")


def test_unreadable_images_stop_or_are_reported(tmp_path) -> None:
    predictor = FakePredictor(["cat", "dog", "eel"], [CAT_DOG_EEL[0], None, CAT_DOG_EEL[2], None, None, None])
    split = FakeSplit(["cat", "eel"], [0, 0, 1, 0, 0, 0])
    with pytest.raises(
        InputError, match=r"^4 of 6 images cannot be read .*--skip-unreadable\): 1.png: .*; 3.png: .*; \.\.\.$"
    ):
        evaluate(predictor, split, out=tmp_path, name="pets", split_name="test")
    assert not list(tmp_path.iterdir())
    metrics = evaluate(predictor, split, out=tmp_path, name="pets", split_name="test", skip_unreadable=True)
    assert (metrics["n"], metrics["top1"]) == (2, 1.0)
    assert metrics["skipped"][0] == {"file": "folder/1.png", "error": "1.png: the file is empty (0 bytes)"}
    assert [row["file"] for row in metrics["skipped"]] == [f"folder/{index}.png" for index in (1, 3, 4, 5)]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "4 unreadable, left out" in page and "5.png: the file is empty" in page


def test_nothing_readable_is_an_error_even_when_skipping() -> None:
    predictor = FakePredictor(["cat"], [None, None])
    with pytest.raises(InputError, match="^2 of 2 images cannot be read: 0.png"):
        evaluate(predictor, FakeSplit(["cat"], [0, 0]), name="pets", split_name="test", skip_unreadable=True)


def test_a_score_that_is_not_finite_names_the_image() -> None:
    predictor = FakePredictor(["cat", "dog"], [[0.5, 0.5], [math.nan, 0.5]])
    with pytest.raises(WorkError, match="^folder/1.png: the model gives a score that is not finite"):
        evaluate(predictor, FakeSplit(["cat"], [0, 0]), name="pets", split_name="test")


def test_another_task_an_empty_split_and_a_bad_folder_are_refused_before_any_prediction(tmp_path) -> None:
    predictor = FakePredictor(["cat"], [], task="semantic")  # has no answer, so predicting would be an IndexError
    with pytest.raises(
        InputError, match="model.safetensors: this is a semantic model, and pets has one label an image$"
    ):
        evaluate(predictor, FakeSplit(["cat"], [0]), name="pets", split_name="test")
    (tmp_path / "file").write_text("")
    predictor = FakePredictor(["cat"], [])
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            evaluate(predictor, FakeSplit(["cat"], [0]), out=out, name="pets", split_name="test")
    with pytest.raises(InputError, match="empty"):
        evaluate(predictor, FakeSplit(["cat"], []), name="pets", split_name="test")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch) -> None:
    def refuse(dir):  # chmod does not stop root, who runs many a container
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match="cannot write to .*: Permission denied"):
        evaluate(FakePredictor(["cat"], []), FakeSplit(["cat"], [0]), out=tmp_path, name="p", split_name="val")


def test_a_failed_write_keeps_the_previous_result(tmp_path, monkeypatch) -> None:
    (tmp_path / "metrics.json").write_text("previous")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WorkError, match="metrics.json: cannot be written .No space left on device"):
        evaluate(
            FakePredictor(["cat", "dog", "eel"], CAT_DOG_EEL),
            FakeSplit(["cat"], [0]),
            out=tmp_path,
            name="p",
            split_name="val",
        )
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "previous"


def test_a_file_name_that_is_no_valid_text_is_written(tmp_path) -> None:
    split = FakeSplit(["cat", "dog"], [1], ["caf\udce9/été.png"])  # what os.fsdecode makes of the byte 0xE9
    evaluate(FakePredictor(["cat", "dog", "eel"], CAT_DOG_EEL), split, out=tmp_path, name="p", split_name="val")
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["mistakes"][0]["file"] == "caf\udce9/été.png"
    assert "été.png" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_importing_needs_neither_torch_nor_scikit_learn_nor_matplotlib() -> None:
    code = "import sys, vitnext.evaluation.evaluate; print({'torch', 'sklearn', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
