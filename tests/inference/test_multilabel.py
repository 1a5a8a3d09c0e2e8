"""Average precision, thresholds, and predictions of several labels."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from vitnext.card import Card
from vitnext.errors import InputError, WorkError
from vitnext.exporting.verify import verify
from vitnext.inference.activations import sigmoid
from vitnext.inference.multilabel import average_precision, best_thresholds, weighted_average_precision
from vitnext.inference.predictor import Predictor
from vitnext.inference.writers import write_predictions
from vitnext.preprocess import Preprocess
from vitnext.types import Failure, MultiLabel

CLASSES = ("dark", "bright; white")


def drawn(n, c, seed=0, decimals=2):
    """Scores with many ties, and truth that they tell something of."""
    random = np.random.default_rng(seed)
    truth = random.random((n, c)) < random.uniform(0.05, 0.6, c)
    scores = np.clip(0.3 * truth + random.random((n, c)) * 0.7, 0, 1).round(decimals).astype(np.float32)
    return scores, truth


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns(seed):
    scores, truth = drawn(80, 6, seed, decimals=1 + seed % 3)
    expected = [average_precision_score(truth[:, c], scores[:, c]) for c in range(6)]
    np.testing.assert_allclose(average_precision(scores, truth), expected, atol=1e-12)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 80)).astype(float)
    expected = [
        [average_precision_score(truth[:, c], scores[:, c], sample_weight=counts) for c in range(6)]
        for counts in weights
    ]
    np.testing.assert_allclose(weighted_average_precision(scores, truth, weights), expected, atol=1e-12)


def test_a_class_without_a_positive_has_no_average_precision():
    values = average_precision(np.float32([[0.1, 0.9], [0.2, 0.3]]), np.array([[0, 1], [0, 0]]))
    assert np.isnan(values[0]) and values[1] == 1.0
    weighted = weighted_average_precision(np.float32([[0.9], [0.3]]), np.array([[1], [0]]), np.eye(2))
    np.testing.assert_array_equal(weighted, [[1.0], [np.nan]])  # where the positive is not drawn


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1(seed):
    scores, truth = drawn(60, 4, seed)
    thresholds = best_thresholds(scores, truth)
    for c in range(4):
        said = scores[:, c] >= np.linspace(0, 1, 1001)[:, None]  # (thresholds, N)
        tries = 2 * (said & truth[:, c]).sum(1) / (said.sum(1) + truth[:, c].sum())
        assert f1_score(truth[:, c], scores[:, c] >= thresholds[c]) == pytest.approx(max(tries))
        assert np.abs(scores[:, c] - thresholds[c]).min() > 1e-3  # between two scores


def test_a_class_of_which_nothing_is_known_has_the_threshold_one_half():
    assert best_thresholds(np.float32([[0.9], [0.1]]), np.zeros((2, 1), bool)).tolist() == [0.5]


class Brightness:
    """An engine of two labels: dark and bright, both of middle grey."""

    def __init__(self, change=0.0, thresholds=(0.5, 0.5)):
        preprocess = Preprocess((4, 4), color="L", mean=(0.0,), std=(1.0,))
        self.card = Card(
            "multilabel", "none", {}, CLASSES, preprocess, {}, {}, {}, {}, "CC0-1.0", thresholds=thresholds
        )
        self.change = np.float32([change, 0])

    def run(self, batch):
        mean = batch.mean(axis=(1, 2, 3))
        return np.stack([6 - 10 * mean, 10 * mean - 4], axis=1) + self.change


def grey(value):
    return np.full((4, 4), value, np.uint8)


def test_labels_are_those_that_reach_their_thresholds(tmp_path):
    predictor = Predictor(tmp_path / "model.onnx", Brightness(), threads=1)
    answers = list(predictor.predict_many([grey(0), grey(130), b"no image", grey(255)]))
    assert [a.labels for a in answers if isinstance(a, MultiLabel)] == [
        ("dark",), ("bright; white", "dark"), ("bright; white",),
    ]  # fmt: skip
    assert isinstance(answers[2], Failure)
    alone = predictor.predict(grey(130))
    np.testing.assert_allclose(alone.scores, answers[1].scores, rtol=1e-6)
    row = json.loads(json.dumps(alone.to_dict()))
    assert row["labels"] == ["bright; white", "dark"] and set(row["scores"]) == set(CLASSES) and row["error"] is None
    strict = Predictor(tmp_path / "model.onnx", Brightness(thresholds=(0.5, 0.99)), threads=1)
    assert strict.predict(grey(130)).labels == ("dark",)


def test_tables_hold_the_labels_and_every_score(tmp_path):
    predictor = Predictor(tmp_path / "model.onnx", Brightness(), threads=1)
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        answers = predictor.predict_many([grey(130), b"no image"])
        assert write_predictions(tmp_path / name, answers, CLASSES, "multilabel") == (1, 1)
    with open(tmp_path / "p.csv", newline="") as file:
        one, failed = csv.DictReader(file)
    assert list(one) == ["source", "labels", "error", "p_dark", "p_bright; white"]
    assert one["labels"] == "bright; white|dark" and 0.5 < float(one["p_dark"]) < 1
    assert failed["labels"] == "" and failed["error"]
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines[0]["labels"] == ["bright; white", "dark"] and lines[1]["labels"] is None
    assert lines[0].keys() == lines[1].keys()


def test_an_export_that_changes_a_label_or_a_probability_is_refused():
    images = [grey(value) for value in (0, 60, 130, 255)]
    assert verify(Brightness(), Brightness(), images).max_difference == 0
    with pytest.raises(WorkError, match="differ by up to"):
        verify(Brightness(), Brightness(0.01), images)
    score = float(sigmoid(Brightness().run(np.float32(130 / 255) * np.ones((1, 1, 4, 4), np.float32)))[0, 0])
    on_the_edge = (score - 2e-5, 0.5)  # a difference below the tolerance of probabilities, but a label changes
    with pytest.raises(WorkError, match="1 of 4 labels changed|2 of .* labels changed|labels changed"):
        verify(Brightness(thresholds=on_the_edge), Brightness(-2.5e-4, thresholds=on_the_edge), [grey(130)])


def test_a_card_has_a_threshold_for_each_class():
    card = Brightness().card
    assert Card.from_json(card.to_json()).thresholds == (0.5, 0.5)
    for bad in ('"thresholds": [0.5]', '"thresholds": [0.5, 2]', '"thresholds": 0.5'):
        with pytest.raises(InputError, match="threshold"):
            Card.from_json(card.to_json().replace('"thresholds": [0.5, 0.5]', bad))


def test_scores_or_thresholds_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 classes"):
        MultiLabel("a", CLASSES, np.zeros(2, np.float32), (0.5,))
