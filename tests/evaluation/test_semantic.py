"""Metrics of masks against loops over pixels, and the report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitnext.card import Card
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import MaskClass, MaskValues
from vitnext.errors import InputError
from vitnext.evaluation.evaluate import evaluate
from vitnext.evaluation.semantic import BINS, SemanticMetrics, boundary
from vitnext.inference.predictor import Predictor
from vitnext.preprocess import Preprocess

CLASSES = ("road", "<b>sky</b>", "tree", "never")
masks = st.integers(0, 2**32 - 1)


def example(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 12, 2))
    truth = random.integers(0, 3, shape).astype(np.uint8)
    truth[random.random(shape) < 0.2] = 255
    predicted = np.where(random.random(shape) < 0.5, truth % 3, random.integers(0, 3, shape)).astype(np.uint8)
    return truth, predicted, random.integers(0, 256, shape).astype(np.uint8)


@given(st.lists(masks, min_size=1, max_size=3))
@settings(max_examples=40)
def test_all_metrics_are_those_of_loops_over_pixels(seeds):
    examples = [example(seed) for seed in seeds]
    metrics = SemanticMetrics(CLASSES)
    for one in examples:
        metrics.update(*one)
    seen = [
        (int(t), int(p), int(c) / 255)
        for truth, predicted, sure in examples
        for t, p, c in zip(truth.flat, predicted.flat, sure.flat, strict=True)
        if t != 255
    ]
    if not seen:
        with pytest.raises(InputError, match="no labelled pixel"):
            metrics.result()
        return
    found = metrics.result()
    ious, recalls = [], []
    for i in range(len(CLASSES)):
        both = sum(t == p == i for t, p, _ in seen)
        either = sum(t == i or p == i for t, p, _ in seen)
        in_truth = sum(t == i for t, _, _ in seen)
        row = found["per_class"][i]
        assert row["pixels"] == in_truth
        if not either:
            assert row["iou"] is None and CLASSES[i] in found["absent"]
            continue
        ious.append(both / either)
        assert row["iou"] == pytest.approx(ious[-1])
        assert row["dice"] == pytest.approx(2 * both / (either + both))
        if in_truth:
            recalls.append(both / in_truth)
            assert row["recall"] == pytest.approx(recalls[-1])
    assert found["miou"] == pytest.approx(np.mean(ious))
    assert found["mean_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["pixel_accuracy"] == pytest.approx(np.mean([t == p for t, p, _ in seen]))
    gap = 0.0
    for b in range(BINS):
        inside = [(t == p, c) for t, p, c in seen if b / BINS < c <= (b + 1) / BINS + 1e-12 or (b == 0 and c == 0)]
        inside = [(r, c) for r, c in inside if not (b and abs(c - b / BINS) < 1e-12)]
        assert found["reliability"][b]["count"] == len(inside)
        gap += abs(sum(r for r, _ in inside) - sum(c for _, c in inside))
    assert found["ece"] == pytest.approx(gap / len(seen), abs=1e-9)


@given(masks)
@settings(max_examples=20)
def test_a_boundary_is_what_lies_near_another_pixel_or_the_edge(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 90, 2)
    mask = random.random((height, width)) < 0.99
    distance = max(1, round(0.02 * float(np.hypot(height, width))))
    expected = np.zeros_like(mask)
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    for y, x in np.argwhere(mask):
        expected[y, x] = np.abs(outside - (y, x)).max(axis=1).min() <= distance
    np.testing.assert_array_equal(boundary(mask), expected)


def test_boundary_iou_is_the_iou_of_boundaries():
    truth, predicted = np.zeros((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    truth[10:40, 10:50] = 1
    predicted[12:40, 10:50] = 1
    truth[:5] = 255
    metrics = SemanticMetrics(("ground", "box"))
    metrics.update(truth, predicted, np.full((60, 80), 255, np.uint8))
    found = metrics.result()
    for i in range(2):
        one, other, seen = boundary(truth == i), boundary(predicted == i), truth != 255
        expected = (one & other & seen).sum() / ((one | other) & seen).sum()
        assert found["per_class"][i]["boundary_iou"] == pytest.approx(expected)
    assert found["boundary_iou"] < found["miou"]


def test_masks_of_another_size_are_refused():
    with pytest.raises(InputError, match="pixels"):
        SemanticMetrics(CLASSES).update(*(np.zeros(s, np.uint8) for s in ((2, 3), (3, 2), (3, 2))))


class Bright:
    """An engine of the classes that the channel with the most light has."""

    def __init__(self, colors=()):
        preprocess = Preprocess((8, 8), "window", mean=(0.0,) * 3, std=(1.0,) * 3)
        self.card = Card("semantic", "x+y", {}, CLASSES[:3], preprocess, {}, {}, {}, {}, "CC0-1.0", colors)

    def run(self, batch):
        return 8 * batch


def split_of(folder, count=3, classes=CLASSES[:3]):
    """Images whose brightest channel is the class, half of them; their names want to be HTML."""
    random = np.random.default_rng(0)
    images, truths = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    truths.mkdir()
    names = []
    for i in range(count):
        truth = random.integers(0, len(classes), (9, 14)).astype(np.uint8)
        pixels = random.integers(0, 200, (9, 14, 3)).astype(np.uint8)
        pixels[np.arange(9)[:, None], np.arange(14), truth] = 255
        truth[:, :2] = 255
        name = f"<script>{i}&.png"
        Image.fromarray(pixels).save(images / name)
        Image.fromarray(truth).save(truths / name)
        names.append(name)
    values = MaskValues(tuple(MaskClass(i, c) for i, c in enumerate(classes)), (MaskClass(255, "void"),))
    paths = [np.array([f"{kind}/{n}".encode() for n in names]) for kind in ("images", "masks")]
    sizes = np.ones(count, np.int64)
    return MaskSplit(values, paths[0], sizes, paths[1], sizes, root=str(folder))


@pytest.mark.parametrize("colors", [(), ("#ff0000", "#00ff00", "#0000ff")], ids=["converted", "trained"])
def test_a_perfect_model_and_its_report(tmp_path, colors):
    predictor = Predictor(tmp_path / "model.onnx", Bright(colors), 1)
    split = split_of(tmp_path / "data")
    found = evaluate(predictor, split, out=tmp_path / "out", name="d&d", split_name="test")
    assert found["miou"] == found["boundary_iou"] == 1.0 and found["n"] == 3 and found["pixels"] == 3 * 9 * 12
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "mean of the classes " in page and ">Dice</th>" in page
    assert "<b>sky" not in page and "&lt;b&gt;sky" in page and "<script>0" not in page and "d&amp;d" in page
    assert not re.findall(r"(?:(?:src|href)=\"|url\()(?!data:|#)[^)\"]*", page)  # nothing is fetched
    assert page.count("data:image/jpeg") == 3 * 2 * 4  # images, galleries (nothing is wrong), views
    assert found["tta"] is False and "three sizes" not in page
    predictor = Predictor(tmp_path / "model.onnx", Bright(colors), 1, tta=True)
    found = evaluate(predictor, split, out=tmp_path / "out", name="d&d", split_name="test")
    assert found["tta"] is True and "three sizes" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_classes_are_matched_by_name_and_what_cannot_be_read_is_counted(tmp_path):
    predictor = Predictor(tmp_path / "model.onnx", Bright(), 1)
    split = split_of(tmp_path / "data")
    order = (2, 0, 1)  # the same pixels under other ids
    values = MaskValues(tuple(MaskClass(i, CLASSES[i]) for i in order), split.values.void)
    other = MaskSplit(values, split.names, split.sizes, split.mask_names, split.mask_sizes, split.root)
    assert evaluate(predictor, other, name="d", split_name="all")["miou"] == 1.0
    unknown = MaskValues((MaskClass(0, "road"), MaskClass(1, "cat"), MaskClass(2, "tree")), split.values.void)
    wrong = MaskSplit(unknown, split.names, split.sizes, split.mask_names, split.mask_sizes, split.root)
    with pytest.raises(InputError, match="does not know the class 'cat'"):
        evaluate(predictor, wrong, name="d", split_name="all")
    (tmp_path / "data" / "images" / "<script>1&.png").write_bytes(b"no image")
    with pytest.raises(InputError):
        evaluate(predictor, split, name="d", split_name="all")
    found = evaluate(predictor, split, name="d", split_name="all", skip_unreadable=True)
    assert found["n"] == 2 and [row["file"] for row in found["skipped"]] == ["images/<script>1&.png"]
