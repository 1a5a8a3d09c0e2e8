from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shared_data import shared_data
from vitnext.data.coco_instances import read_instances
from vitnext.data.coco_panoptic import read_panoptic
from vitnext.errors import InputError
from vitnext.evaluation.instances import MaskAveragePrecision
from vitnext.types import Instances, Segments

CLASSES = ("cat", "dog")


def instances(masks, labels, scores=None, crowd=None) -> Instances:
    labels = np.array(labels, dtype=np.int64)
    return Instances(
        np.array(masks, dtype=bool),
        labels,
        np.zeros(len(labels), dtype=bool) if crowd is None else np.array(crowd),
        None if scores is None else np.array(scores, dtype=np.float32),
    )


def measure(*pairs, classes=CLASSES, **options):
    precision = MaskAveragePrecision(classes, **options)
    for truth, prediction in pairs:
        precision.update(truth, prediction)
    return precision.result()


def direct(pairs, classes: int, detections: int = 100) -> COCOeval:
    """pycocotools by the book: its own encoder, and results loaded from a list."""
    images, truths, results = [], [], []
    for i, (truth, prediction) in enumerate(pairs):
        height, width = truth.masks.shape[1:]
        images.append({"id": 500 + i, "height": height, "width": width})
        for mask, label, crowd in zip(truth.masks, truth.labels, truth.crowd, strict=True):
            code = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
            entry = {"id": len(truths) + 1, "image_id": 500 + i, "category_id": int(label) + 10, "iscrowd": int(crowd)}
            truths.append(entry | {"segmentation": code, "area": int(mask.sum())})
        for mask, label, score in zip(prediction.masks, prediction.labels, prediction.scores, strict=True):
            code = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
            entry = {"image_id": 500 + i, "category_id": int(label) + 10, "score": float(score)}
            results.append(entry | {"segmentation": code})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": i + 10} for i in range(classes)]
        coco.dataset = {"info": {}, "images": images, "annotations": truths, "categories": categories}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.maxDets = [1, 10, detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def stacked(segments: Segments) -> Instances:
    masks = segments.ids == np.arange(1, len(segments.labels) + 1)[:, None, None]
    return Instances(masks, segments.labels, segments.crowd, segments.scores)


def noisy(truth: Instances, rng: np.random.Generator, classes: int) -> Instances:
    """Shifted masks of some of the objects, wrong labels, copies with lower scores."""
    chosen = rng.permutation(np.repeat(np.arange(len(truth.labels)), rng.integers(0, 3, size=len(truth.labels))))
    masks = [np.roll(truth.masks[k], rng.integers(-4, 5, size=2), axis=(0, 1)) for k in chosen]
    labels = np.where(rng.random(len(chosen)) < 0.15, rng.integers(0, classes, size=len(chosen)), truth.labels[chosen])
    masks = np.array(masks, dtype=bool).reshape(-1, *truth.masks.shape[1:])
    return instances(masks, labels, rng.random(len(chosen)).round(2))


def assert_equal_to_direct(result, evaluation):
    expected = [None if value == -1 else value for value in evaluation.stats[:6].tolist()]
    found = [result[key] for key in ("ap", "ap50", "ap75", "small", "medium", "large")]
    assert found == pytest.approx(expected, abs=1e-9)
    for i, row in enumerate(result["per_class"]):
        precision = evaluation.eval["precision"][:, :, i, 0, 2]
        if precision.max() == -1:
            assert row["ap"] is row["ap50"] is row["ap75"] is None and row["n"] == 0
        else:
            values = [precision.mean(), precision[0].mean(), precision[5].mean()]
            assert [row["ap"], row["ap50"], row["ap75"]] == pytest.approx(values, abs=1e-9)


def test_coco_images_equal_a_direct_run():
    folder = shared_data("coco_panoptic_cc")
    coco = read_instances(folder / "instances_val.json")
    rng = np.random.default_rng(0)
    truths = [coco.instances(index) for index in range(len(coco))]
    pairs = [(truth, noisy(truth, rng, len(coco.classes))) for truth in truths]
    result = measure(*pairs, classes=coco.classes)
    assert_equal_to_direct(result, direct(pairs, len(coco.classes)))
    assert all(0.1 < result[key] < 1 for key in ("ap", "ap50", "ap75", "small", "medium", "large"))
    assert any(truth.crowd.any() for truth in truths)
    assert result["n"] == 27
    assert sum(row["n"] for row in result["per_class"]) == sum((~truth.crowd).sum() for truth in truths)


def test_segments_of_coco_images_equal_a_direct_run_on_things():
    folder = shared_data("coco_panoptic_cc")
    panoptic = read_panoptic(folder / "panoptic_val.json", folder / "val" / "panoptic")
    rng = np.random.default_rng(1)
    pairs, stacks = [], []
    for index in range(0, len(panoptic), 2):
        truth = panoptic.segments(index)
        ids = np.roll(truth.ids, rng.integers(-4, 5, size=2), axis=(0, 1))
        scores = rng.random(len(truth.labels)).astype(np.float32)
        pairs.append((truth, Segments(ids, truth.labels, truth.crowd, scores)))
        stacks.append(tuple(_things(stacked(segments), panoptic.things) for segments in pairs[-1]))
    result = measure(*pairs, classes=panoptic.classes, things=panoptic.things)
    assert panoptic.things == (True,) * 80 + (False,) * 53
    assert_equal_to_direct(result, direct(stacks, 80))
    assert [row["class"] for row in result["per_class"]] == list(panoptic.classes[:80])


def _things(objects: Instances, things) -> Instances:
    kept = np.array(things)[objects.labels]
    scores = None if objects.scores is None else objects.scores[kept]
    return Instances(objects.masks[kept], objects.labels[kept], objects.crowd[kept], scores)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_made_up_objects_equal_a_direct_run(seed):
    rng = np.random.default_rng(seed)
    pairs = []
    for n in rng.integers(1, 6, size=3):
        masks = np.zeros((n, 50, 60), dtype=bool)
        for mask in masks:
            top, left = rng.integers(0, 40, size=2)
            mask[top : top + rng.integers(2, 50), left : left + rng.integers(2, 50)] = True
        truth = instances(masks, rng.integers(0, 2, size=n), crowd=rng.random(n) < 0.2)
        pairs.append((truth, noisy(truth, rng, 2)))
    if sum(len(prediction.labels) for _, prediction in pairs):  # pycocotools cannot load an empty list
        assert_equal_to_direct(measure(*pairs), direct(pairs, 2))


LEFT = [[1, 1, 0, 0]] * 2
RIGHT = [[0, 0, 1, 1]] * 2


def test_half_of_the_objects_found():
    result = measure((instances([LEFT, RIGHT], [0, 0]), instances([LEFT], [0], [0.5])))
    # precision 1 at the recalls 0.00 to 0.50, which are 51 of 101
    assert result["ap"] == result["ap50"] == result["small"] == pytest.approx(51 / 101)
    assert result["medium"] is result["large"] is None
    assert result["per_class"][0] == {
        "class": "cat", "n": 2, "ap": result["ap"], "ap50": result["ap"], "ap75": result["ap"],
    }  # fmt: skip
    assert result["per_class"][1] == {"class": "dog", "n": 0, "ap": None, "ap50": None, "ap75": None}


def test_a_worse_mistake_with_a_better_score():
    truth = instances([LEFT], [0])
    assert measure((truth, instances([RIGHT, LEFT], [0, 0], [0.9, 0.1])))["ap"] == pytest.approx(0.5)
    assert measure((truth, instances([RIGHT, LEFT], [0, 0], [0.1, 0.9])))["ap"] == pytest.approx(1)


def test_the_number_of_detections_that_count():
    pair = instances([LEFT], [0]), instances([RIGHT, LEFT], [0, 0], [0.9, 0.1])
    assert measure(pair, detections=1)["ap"] == 0
    assert measure(pair, detections=2)["ap"] == pytest.approx(0.5)
    ids = np.arange(1, 151, dtype=np.int32).reshape(10, 15)
    many = Segments(ids, np.zeros(150, dtype=np.int64), np.zeros(150, dtype=bool), np.ones(150, dtype=np.float32))
    assert measure((many, many))["ap"] == pytest.approx(67 / 101)  # 100 of 150
    assert measure((many, many), detections=150)["ap"] == pytest.approx(1)


def test_nothing_at_all_is_undefined(capsys):
    empty = instances(np.zeros((0, 2, 4)), [], [])
    for result in (measure(), measure((empty, empty)), measure((empty, instances([LEFT], [0], [1])))):
        numbers = [result[key] for key in ("ap", "ap50", "ap75", "small", "medium", "large")]
        assert numbers == [None] * 6
        json.dumps(result, allow_nan=False)
    assert measure((instances([LEFT], [1]), empty))["ap"] == 0
    assert capsys.readouterr().out == ""  # pycocotools reports its progress


def test_the_result_may_be_asked_for_between_images():
    precision = MaskAveragePrecision(CLASSES)
    precision.update(instances([LEFT], [0]), instances([LEFT], [0], [0.9]))
    first = precision.result()
    assert first == json.loads(json.dumps(precision.result()))
    assert (first["task"], first["n"], first["detections"], first["ap"]) == ("instance", 1, 100, pytest.approx(1))
    precision.update(instances([LEFT], [0]), instances([RIGHT], [0], [0.8]))
    assert precision.result()["ap"] == pytest.approx(51 / 101)


def test_of_a_prediction_28_bytes_are_kept():
    precision = MaskAveragePrecision(CLASSES)
    large = instances(np.ones((4, 500, 500)), [0] * 4, [1] * 4)
    for images in (1, 2, 3):
        precision.update(large, large)
        assert len(pickle.dumps(precision._found)) == pytest.approx(28 * 4 * images, abs=100)


def test_the_number_of_detections_may_be_changed_afterwards():
    rng = np.random.default_rng(2)
    ids = np.arange(1, 151, dtype=np.int32).reshape(10, 15)
    pairs = []
    for _ in range(3):
        scores = rng.random(150).astype(np.float32)
        truth = Segments(ids, rng.integers(0, 2, size=150), np.zeros(150, dtype=bool), scores)
        pairs.append((truth, Segments(np.roll(ids, 1), truth.labels, truth.crowd, scores)))
        pairs.append((truth, truth))
    precision = MaskAveragePrecision(CLASSES)
    for pair in pairs:
        precision.update(*pair)
    for detections in (20, 150):
        precision.detections = detections
        assert precision.result() == measure(*pairs, detections=detections)
        evaluation = direct([tuple(map(stacked, pair)) for pair in pairs], 2, detections)
        expected = evaluation.eval["precision"][..., 0, 2].mean()  # all areas, `detections` of them
        assert precision.result()["ap"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (instances([LEFT], [0]), instances([LEFT], [0]), "these have none"),
        (instances([LEFT], [0]), instances([LEFT], [0], [np.nan]), "not finite"),
        (instances([LEFT], [0]), instances([LEFT], [2], [1]), "the prediction's labels must lie in 0 to 1"),
        (instances([LEFT], [-1]), instances([LEFT], [0], [1]), "the truth's labels must lie in 0 to 1"),
        (instances([LEFT], [0]), instances([[[1]]], [0], [1]), r"the prediction has \(1, 1\) pixels"),
    ],
)
def test_what_does_not_fit(truth, prediction, message):
    precision = MaskAveragePrecision(CLASSES)
    with pytest.raises(InputError, match=message):
        precision.update(truth, prediction)
    assert precision.result()["ap"] is None  # nothing of it was counted


def test_classes_and_limits_that_do_not_fit():
    with pytest.raises(InputError, match="2 classes, but 1"):
        MaskAveragePrecision(CLASSES, [True])
    with pytest.raises(InputError, match="detections must be at least 1"):
        MaskAveragePrecision(CLASSES, detections=0)


def test_without_pycocotools_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(InputError, match=r'vitnext\[coco\]"'):
        MaskAveragePrecision(CLASSES)
