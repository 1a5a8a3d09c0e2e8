"""Metrics of several labels an image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score

from vitnext.card import Card
from vitnext.errors import InputError
from vitnext.evaluation.multilabel import multilabel_metrics
from vitnext.evaluation.multilabel_report import render
from vitnext.inference.multilabel import average_precision
from vitnext.preprocess import Preprocess

NAMES = ("a", "<b>", "c", "d")


def page_of(scores, truth, thresholds, names, *mistakes):
    about = {"data": "d", "split": "test", "model": "m", "architecture": "vit", "date": "2026-01-01", "seconds": 1.0}
    metrics = {
        **multilabel_metrics(scores, truth, thresholds, names),
        **about,
        "images_per_second": 3.0,
        "mistakes": mistakes,
        "skipped": [],
    }
    card = Card("multilabel", "vit", {}, names, Preprocess((8, 8)), {}, {}, {}, {}, "", thresholds=thresholds)
    return render(metrics, card, ["data:image/png;base64,AAAA"] * len(mistakes))


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(0)
    truth = (random.random((70, 4)) < (0.5, 0.3, 0.1, 0)).astype(np.uint8)  # the last class has no image
    scores = np.clip(0.4 * truth + 0.6 * random.random((70, 4)), 0, 1).astype(np.float32)
    thresholds = (0.5, 0.4, 0.99, 0.5)
    return scores, truth, thresholds


def test_the_numbers_are_scikit_learns(drawn):
    scores, truth, thresholds = drawn
    metrics = multilabel_metrics(scores, truth, thresholds, NAMES)
    said = scores >= np.array(thresholds)
    shown = slice(0, 3)
    aps = [average_precision_score(truth[:, c], scores[:, c]) for c in range(3)]
    assert metrics["map"] == pytest.approx(np.mean(aps)) and metrics["n"] == 70
    assert metrics["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"))
    assert metrics["macro_f1"] == pytest.approx(
        f1_score(truth[:, shown], said[:, shown], average="macro", zero_division=0)
    )
    assert metrics["exact"] == pytest.approx((said == truth).all(axis=1).mean())
    assert metrics["nll"] == pytest.approx(
        np.mean([log_loss(truth[:, c], scores[:, c], labels=[0, 1]) for c in range(4)])
    )
    assert metrics["labels_per_image"] == {"truth": truth.sum() / 70, "predicted": said.sum() / 70}
    for c, row in enumerate(metrics["per_class"][:2]):
        assert row["ap"] == pytest.approx(aps[c]) and row["n"] == truth[:, c].sum()
        assert row["precision"] == pytest.approx(precision_score(truth[:, c], said[:, c]))
        assert row["recall"] == pytest.approx(recall_score(truth[:, c], said[:, c]))
        assert row["threshold"] == thresholds[c]
    nothing = metrics["per_class"][3]
    assert (nothing["n"], nothing["ap"], nothing["recall"], nothing["f1"]) == (0, None, None, None)
    json.dumps(metrics, allow_nan=False)


def test_the_interval_is_that_of_images_drawn_again(drawn):
    scores, truth, thresholds = drawn
    random, values = np.random.default_rng(1), []
    for _ in range(400):
        at = random.integers(0, 70, 70)
        values.append(np.nanmean(average_precision(scores[at], truth[at])))
    low, high = multilabel_metrics(scores, truth, thresholds, NAMES)["map_interval"]
    np.testing.assert_allclose([low, high], np.percentile(values, [2.5, 97.5]), atol=0.03)


def test_the_interval_ranks_the_images_once(drawn, monkeypatch):
    scores, truth, thresholds = drawn
    sort, shapes = np.argsort, []
    monkeypatch.setattr(np, "argsort", lambda values, **how: shapes.append(values.shape) or sort(values, **how))
    multilabel_metrics(scores, truth, thresholds, NAMES)
    assert shapes == [scores.shape] * 2  # of all images, and for 500 resamples


def test_calibration_counts_every_decision(drawn):
    scores, truth, thresholds = drawn
    bins = multilabel_metrics(scores, truth, thresholds, NAMES)["reliability"]
    assert sum(b["count"] for b in bins) == scores.size
    inside = (scores > 0.4) & (scores <= 7 / 15)
    assert bins[6]["accuracy"] == pytest.approx(truth[inside].mean())


def test_certain_and_right_costs_no_nats():
    metrics = multilabel_metrics(np.eye(2), np.eye(2), (0.5, 0.5), ("a", "b"))
    assert str(metrics["nll"]) == "0.0"  # no -0.0


def test_where_nothing_is_true_the_means_are_undefined():
    metrics = multilabel_metrics(np.full((3, 2), 0.1, np.float32), np.zeros((3, 2)), (0.5, 0.5), ("a", "b"))
    assert metrics["map"] is None and metrics["micro_f1"] is None and metrics["exact"] == 1.0


@pytest.mark.parametrize(
    ("scores", "truth", "thresholds"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), (0.5, 0.5)),
        (np.zeros((3, 2)), np.zeros((3, 2)), (0.5,)),
        (np.zeros((0, 2)), np.zeros((0, 2)), (0.5, 0.5)),
        (np.full((3, 2), 1.5), np.zeros((3, 2)), (0.5, 0.5)),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), (0.5, 0.5)),
    ],
)
def test_what_cannot_be_measured(scores, truth, thresholds):
    with pytest.raises(InputError):
        multilabel_metrics(scores, truth, thresholds, ("a", "b"))


def test_the_report_escapes_names_and_shows_mistakes(drawn):
    mistake = {"file": "x.png", "class": "<b>", "truth": True, "score": 0.01, "labels": ["<b>"], "predicted": []}
    page = page_of(*drawn, NAMES, mistake)
    assert "<b>" not in page and "&lt;b&gt;" in page and "not found:" in page
    assert "No image here has, and every mean leaves out: d.</p>" in page
    assert page == page_of(*drawn, NAMES, mistake)


def test_the_report_names_some_of_many_classes_without_images():
    names = tuple(f"class {i}" for i in range(14))
    truth = np.zeros((4, 14))
    truth[:, 0] = 1
    page = page_of(np.full((4, 14), 0.1), truth, (0.5,) * 14, names)
    some = ", ".join(names[1:11])
    assert f"every mean leaves out: {some} and 3 more.</p>" in page
