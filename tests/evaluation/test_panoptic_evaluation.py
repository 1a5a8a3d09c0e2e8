"""A panoptic model measured on images with true segments, and the report."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitnext.card import Card
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import MaskClass, MaskValues
from vitnext.errors import InputError
from vitnext.evaluation.evaluate import evaluate
from vitnext.evaluation.instances import MaskAveragePrecision
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.inference.drawing import segment_overlay, shades
from vitnext.inference.predictor import Predictor
from vitnext.preprocess import Preprocess
from vitnext.types import Failure, PanopticSegmentation, Segments

CLASSES = ("<b>sky</b>", "cat", "dog")
THINGS = (False, True, True)


def split_of(count=5, classes=CLASSES, instances=True):
    """Scenes of sky, rectangles that are cats and dogs, and a void column; their names want to be HTML."""
    random = np.random.default_rng(0)
    masks = np.full((count, 24, 40), classes.index(CLASSES[0]), np.uint8)
    numbers = np.zeros((count, 24, 40), np.uint16)
    for mask, number in zip(masks, numbers, strict=True):
        for k in range(1, 5):
            top, left = random.integers(0, 18), 8 * k + random.integers(0, 3)
            here = (slice(top, top + 6), slice(left, left + 5))
            mask[here], number[here] = classes.index(random.choice(CLASSES[1:])), k
        mask[:, :3] = 255
    values = MaskValues(tuple(MaskClass(i, c, None, c != CLASSES[0]) for i, c in enumerate(classes)))
    images = random.integers(0, 256, (count, 24, 40, 3)).astype(np.uint8)
    names = np.array([f"<script>{i}&" for i in range(count)], np.bytes_)
    sizes = np.ones(count, np.int64)
    return MaskSplit(
        values, names, sizes, names, sizes, arrays=images, masks=masks, instances=numbers if instances else None
    )


class Told:
    """A predictor that gives what it was told to."""

    def __init__(self, predictions, task="panoptic"):
        preprocess = Preprocess((8, 8), "window", mean=(0.0,) * 3, std=(1.0,) * 3)
        colors = ("#88ccff", "#c08000", "#400080")
        self.card = Card(task, "x+y", {}, CLASSES, preprocess, {}, {}, {}, {}, "CC0-1.0", colors, THINGS)
        self.path, self.predictions = "model.safetensors", predictions

    def predict_many(self, sources):
        for _, prediction in zip(sources, self.predictions, strict=True):
            if isinstance(prediction, Failure):
                yield prediction
            else:
                yield PanopticSegmentation("array", CLASSES, THINGS, prediction)


def noisy(truth, seed):
    """The true segments moved a little, some with another class, and scores."""
    random = np.random.default_rng(seed)
    ids = np.roll(truth.ids, random.integers(-1, 2, 2), (0, 1))
    labels = np.where(random.random(len(truth.labels)) < 0.3, random.integers(0, 3, len(truth.labels)), truth.labels)
    return Segments(ids, labels, truth.crowd, random.random(len(labels)).astype(np.float32))


def perfect(split):
    found = [split.segments(i) for i in range(len(split))]
    return [Segments(s.ids, s.labels, s.crowd, np.ones(len(s.labels), np.float32)) for s in found]


def test_a_perfect_model_and_its_report(tmp_path):
    split = split_of()
    found = evaluate(Told(perfect(split)), split, out=tmp_path / "out", name="d&d", split_name="test")
    assert [found[key] for key in ("task", "n", "pq", "sq", "rq", "miou", "ap", "ap50")] == ["panoptic", 5] + [1] * 6
    assert found["things"] == {"pq": 1, "sq": 1, "rq": 1, "classes": 2} and found["stuff"]["classes"] == 1
    assert [row["ap"] for row in found["per_class"]] == [None, 1, 1]
    assert [row["n"] for row in found["per_class"]] == [5, 20 - found["per_class"][2]["n"], found["per_class"][2]["n"]]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == found
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>sky" not in page and "&lt;b&gt;sky" in page and "<script>0" not in page and "d&amp;d" in page
    assert not re.findall(r"(?:(?:src|href)=\"|url\()(?!data:|#)[^)\"]*", page)  # nothing is fetched
    assert page.count("data:image/jpeg") == 5 * 2 * 4  # images, galleries (nothing is wrong), views


def test_what_is_confident_and_wrong_shows_its_mistakes_first(tmp_path):
    split = split_of()
    predictions = [noisy(split.segments(i), i) if i < 2 else found for i, found in enumerate(perfect(split))]
    found = evaluate(Told(predictions), split, out=tmp_path, name="d", split_name="val")
    wrong = found["images"]["sure_and_wrong"]
    assert len(wrong) == 2 and all(row["sure_and_wrong"] > 0 and row["pq"] < 1 for row in wrong)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index("<h2>Confident and wrong") :].split("</section>")[0]
    assert section.count('value="wrong" checked') == section.count("confident and wrong ") == 2
    assert len(re.findall(r'<img data-view="wrong" [^>]*"mistakes">', section)) == 2  # shown, the others hidden
    assert len(re.findall(r'<img data-view="predicted" [^>]* hidden>', section)) == 2
    assert page.count('value="predicted" checked') == 5 + 5


def test_the_numbers_are_those_of_the_metrics_by_themselves(tmp_path):
    split = split_of()
    predictions = [noisy(split.segments(i), i) for i in range(5)]
    found = evaluate(Told(predictions), split, out=tmp_path, name="d", split_name="val")
    quality, precision = PanopticQuality(CLASSES, THINGS), MaskAveragePrecision(CLASSES, THINGS)
    own = []
    for i, prediction in enumerate(predictions):
        own.append((quality.update(split.segments(i), prediction)["pq"], split.name(i)))
        precision.update(split.segments(i), prediction)
    expected = quality.result()
    assert 0 < found["pq"] < 1 and 0 < found["ap"] < 1
    assert all(found[key] == expected[key] for key in ("pq", "sq", "rq", "things", "stuff", "miou", "confusion"))
    assert all(found[key] == precision.result()[key] for key in ("ap", "ap50", "ap75", "detections"))
    assert [row["file"] for row in found["images"]["worst"]] == [name for _, name in sorted(own)]
    assert [row["file"] for row in found["images"]["best"]] == [name for _, name in sorted(own, key=lambda o: -o[0])]


class Queries:
    """An engine whose three queries always answer the same: the left half of the image, most of it from the right, and
    the right half, each less probably a cat than the one before."""

    def __init__(self):
        self.card = replace(Told([]).card, architecture="vit+eomt", preprocess=Preprocess((8, 8), "fit"))

    def outputs(self, batch):
        masks = np.full((1, 3, 8, 8), -20.0, np.float32)
        masks[0, 0, :, :4] = masks[0, 1, :, 2:] = masks[0, 2, :, 4:] = 20.0
        cat = np.array([0.9, 0.7, 0.5])
        return masks, np.log(np.stack([0 * cat + 1e-9, cat, 0 * cat + 1e-9, 1 - cat], axis=1))[None].astype(np.float32)


def test_average_precision_of_queries_is_of_detections_that_overlap(tmp_path):
    whole, numbers = split_of(1), np.ones((1, 8, 8), np.uint16)
    numbers[:, :, 4:] = 2
    names, sizes, images = whole.names, whole.sizes, np.zeros((1, 8, 8, 3), np.uint8)
    split = MaskSplit(whole.values, names, sizes, names, sizes, "", images, np.ones((1, 8, 8), np.uint8), numbers)
    found = evaluate(Predictor(Path("m.onnx"), Queries(), 1), split, out=tmp_path, name="d", split_name="all")
    assert (found["things"]["sq"], found["pq"]) == (1, pytest.approx(2 / 3))  # the one sure segment, 1 / (1 + 1 / 2)
    # The second has an IoU of 2/3 with the right half: right at four of the ten thresholds, up to 0.65, where the third
    # is wrong after all was found. Above, recall is 1/2 (51 of 101 points) before the mistake; after it 2/3 are right.
    assert found["ap50"] == pytest.approx(1)
    assert found["ap75"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert found["ap"] == pytest.approx(0.4 + 0.6 * (51 + 50 * 2 / 3) / 101)
    assert "the 100 most probable things of all queries" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_classes_are_matched_by_name():
    split, other = split_of(), split_of(classes=("dog", CLASSES[0], "cat"))
    found = evaluate(Told(perfect(split)), other, name="d", split_name="all")
    assert found["pq"] == found["ap"] == 1
    with pytest.raises(InputError, match="does not know the class 'cow'"):
        evaluate(Told(perfect(split)), split_of(classes=(*CLASSES, "cow")), name="d", split_name="all")


def test_what_cannot_be_read_is_listed():
    split = split_of()
    predictions = [*perfect(split)[:4], Failure("array", "array: no image")]
    with pytest.raises(InputError, match="1 of 5 images cannot be read"):
        evaluate(Told(predictions), split, name="d", split_name="all")
    found = evaluate(Told(predictions), split, name="d", split_name="all", skip_unreadable=True)
    assert found["n"] == 4 and found["skipped"] == [{"file": "<script>4&", "error": "array: no image"}]


def test_without_pycocotools_average_precision_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    split = split_of(2)
    found = evaluate(Told(perfect(split)), split, out=tmp_path, name="d", split_name="all")
    assert [found[key] for key in ("pq", "ap", "ap50", "ap75", "detections")] == [1, None, None, None, None]
    assert 'not measured: pip install "vitnext[coco]"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_images_with_more_objects_than_coco_counts():
    rows = np.arange(120) // 12, np.arange(120) % 12
    masks, numbers = np.zeros((1, 30, 36), np.uint8), np.zeros((1, 30, 36), np.uint16)
    for k, (row, column) in enumerate(zip(*rows, strict=True), start=1):
        here = (0, slice(3 * row, 3 * row + 2), slice(3 * column, 3 * column + 2))
        masks[here], numbers[here] = 1, k
    whole = split_of(1)
    split = MaskSplit(
        whole.values, whole.names, whole.sizes, whole.names, whole.sizes, "", whole.arrays[:, :1, :1], masks, numbers
    )
    found = evaluate(Told(perfect(split)), split, name="d", split_name="all")
    assert found["detections"] == 120 and found["ap"] == 1


def test_models_and_truth_that_cannot_be_measured():
    with pytest.raises(InputError, match=r"model.safetensors: this is a classification model, and d has masks"):
        evaluate(Told([], "classification"), split_of(1), name="d", split_name="all")
    with pytest.raises(InputError, match="do not tell the objects of a class apart"):
        evaluate(Told([]), split_of(1, instances=False), name="d", split_name="all")


# ---- drawing


def test_objects_of_a_class_have_shades_of_its_colour():
    colors = shades(np.array([1, 0, 1, 1, 1]), ("#000000", "#406080"))
    assert colors[0].tolist() == [0x40, 0x60, 0x80] and colors[1].tolist() == [0, 0, 0]
    assert len(np.unique(colors, axis=0)) == 5
    assert (np.abs(colors[[0, 2, 3]].astype(int) - colors[[2, 3, 4]]).max(axis=1) > 20).all()


def test_outlines_lie_inside_segments_and_void_is_transparent():
    ids = np.zeros((7, 9), np.int32)
    ids[1:6, 1:5], ids[1:6, 5:8] = 1, 2
    layer = segment_overlay(ids, np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    assert (layer[ids == 0, 3] == 0).all() and (layer[ids > 0, 3] > 0).all()
    white = (layer[..., :3] == 255).all(-1)
    for y, x in np.argwhere(ids > 0):
        around = {int(ids[y + dy, x + dx]) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))}
        assert white[y, x] == (0 in around or (ids[y, x] == 1 and 2 in around))
    assert layer[3, 6, :3].tolist() == [40, 50, 60]
