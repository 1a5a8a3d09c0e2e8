"""Segments and detections from masks and classes of queries."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitnext.data import rle
from vitnext.inference.activations import softmax
from vitnext.inference.panoptic import segment_objects
from vitnext.inference.queries import detections, resized, segments
from vitnext.preprocess import Preprocess

THINGS = (False, True, True)
NOTHING = 3  # "no object"


def logits(inside):
    return np.where(inside, 9.0, -9.0).astype(np.float32)


def scene():
    """Masks (4, 8, 8) and classes of ground, a sure red object, a doubtful blue one that overlaps it, and nothing."""
    inside = np.zeros((4, 8, 8), bool)
    inside[1, 2:6, 1:5] = inside[2, 3:7, 3:8] = inside[3, 0, 0] = True
    inside[0] = ~inside[1]
    classes = np.zeros((4, 4), np.float32)
    classes[np.arange(4), [0, 1, 2, NOTHING]] = 9, 9, 2, 9
    return inside, logits(inside), classes


def test_detections_overlap_and_need_not_be_sure():
    inside, masks, classes = scene()
    assert segments(masks, classes, (True, True, True), (8, 8)).labels.tolist() == [0, 1]
    found = detections(masks, classes, THINGS, (8, 8), most=2)
    assert found.labels.tolist() == [1, 2] and found.size == (8, 8)  # the ground is no thing
    drawn = [rle.decode(runs, 8, 8) for runs in found.runs]
    assert np.array_equal(drawn, inside[1:3]) and (drawn[0] & drawn[1]).any()
    assert found.scores == pytest.approx([softmax(classes)[q, q] / (1 + np.exp(-9)) for q in (1, 2)], rel=1e-5)


def test_a_query_may_answer_with_several_classes():
    inside, masks, classes = scene()
    found = detections(masks, classes, THINGS, (8, 8))
    assert len(found.labels) == 2 * 4  # of each query both things
    chances = softmax(classes)[:, 1:3]
    assert found.scores == pytest.approx(np.sort(chances, axis=None)[::-1] / (1 + np.exp(-9)), rel=1e-5)
    of_blue = [k for k, runs in enumerate(found.runs) if np.array_equal(runs, rle.encode(inside[2]))]
    assert sorted(found.labels[of_blue].tolist()) == [1, 2]


def test_a_mask_without_a_pixel_is_no_detection():
    _, masks, classes = scene()
    masks[1] = -1
    assert detections(masks, classes, THINGS, (8, 8), most=2).labels.tolist() == [2]
    none = detections(masks - 99, classes, THINGS, (8, 8))
    assert none.runs == () and none.labels.dtype == np.int64 and none.scores.dtype == np.float32
    assert detections(masks, classes, (False,) * 3, (8, 8)).runs == ()


def test_detections_are_as_large_as_the_image():
    random = np.random.default_rng(0)
    masks, classes = random.normal(size=(5, 6, 7)).astype(np.float32), random.normal(size=(5, 4)).astype(np.float32)
    fit = Preprocess((24, 28), resize="fit")
    image = np.zeros((31, 17, 3), np.uint8)
    _, find = segment_objects(
        fit.pixels(image), (31, 17), lambda _: (masks[None], classes[None]), "vit+eomt", fit, THINGS
    )
    found = find()
    part = (24 / 24, 13 / 28)  # 31 x 17 scaled to 24 x 13
    query, label = divmod(int(softmax(classes)[:, 1:3].argmax()), 2)
    mask = resized(masks[query], (31, 17), part)
    assert found.labels[0] == label + 1 and np.array_equal(rle.decode(found.runs[0], 31, 17), mask >= 0.5)
    assert found.scores[0] == pytest.approx(softmax(classes)[query, label + 1] * mask[mask >= 0.5].mean(), rel=1e-5)


def naive(masks, classes, things, size, part):
    """Segments as `segments` describes them, every mask held at full size as one call of Pillow enlarges it."""
    chances, whole = softmax(classes), []
    for mask in masks:
        box = (0, 0, part[1] * mask.shape[1], part[0] * mask.shape[0])
        large = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.BILINEAR, box=box))
        whole.append(1 / (1 + np.exp(-large.clip(-80, 80))))
    labels, sure = chances.argmax(1), chances.max(1)
    kept = [q for q in range(len(masks)) if labels[q] < chances.shape[1] - 1 and sure[q] >= 0.8]
    best = np.array([sure[q] * whole[q] for q in kept]).argmax(0)
    ids, found, scores = np.zeros(size, np.int32), [], []
    for place, q in enumerate(kept):
        inside = whole[q] >= 0.5
        left = inside & (best == place)
        if not inside.any() or left.sum() < 0.8 * inside.sum():
            continue
        if not things[labels[q]] and labels[q] in found:
            ids[left] = found.index(labels[q]) + 1
            continue
        found.append(labels[q])
        scores.append(sure[q] * whole[q][inside].mean())
        ids[left] = len(found)
    return whole, ids, found, scores


@pytest.mark.parametrize(
    ("small", "size", "part"),
    [
        ((16, 20), (61, 47), (1.0, 1.0)),
        ((16, 20), (53, 71), (0.8, 0.55)),
        ((40, 30), (11, 9), (1.0, 0.7)),  # smaller than the masks
        ((16, 20), (16, 20), (1.0, 1.0)),
        ((16, 20), (16, 33), (1.0, 1.0)),
        ((16, 20), (37, 20), (0.9, 1.0)),
    ],
)
def test_strips_give_what_whole_masks_give(monkeypatch, small, size, part):
    random = np.random.default_rng(0)
    y, x = np.mgrid[: small[0], : small[1]] / np.array(small)[:, None, None]
    kept = 0
    for _ in range(6):
        masks = random.normal(0, 0.5, (12, *small)).astype(np.float32) - 3
        for mask in masks:
            near = np.hypot(y - random.uniform(0, part[0]), x - random.uniform(0, part[1]))
            mask += 8 * np.exp(-((near / random.uniform(0.05, 0.25)) ** 2))
        masks[0] = -5  # not one pixel
        classes = random.normal(0, 1, (12, 4)).astype(np.float32)
        classes[np.arange(12), random.integers(0, 4, 12)] += random.choice([3, 9], 12, p=[0.2, 0.8])
        whole, ids, labels, scores = naive(masks, classes, THINGS, size, part)
        monkeypatch.setattr("vitnext.inference.queries.STRIP", 7 * size[0] + 3)  # columns at a time: 7
        found = segments(masks, classes, THINGS, size, part=part)
        assert np.array_equal(found.ids, ids) and found.labels.tolist() == labels
        assert found.scores == pytest.approx(scores, rel=1e-5)
        strip = slice(size[1] // 3, size[1] // 3 + 5)
        for mask, large in zip(masks, whole, strict=True):
            assert np.array_equal(resized(mask, size, part), large)
            assert np.array_equal(resized(mask, size, part, strip), large[:, strip])
        in_strips = detections(masks, classes, THINGS, size, part=part)
        monkeypatch.undo()
        at_once = detections(masks, classes, THINGS, size, part=part)
        assert all(np.array_equal(*pair) for pair in zip(in_strips.runs, at_once.runs, strict=True))
        assert in_strips.scores == pytest.approx(at_once.scores, rel=1e-5)
        kept += len(labels)
    assert kept > 8


def test_without_a_sure_query_there_is_no_segment():
    _, masks, classes = scene()
    found = segments(masks, np.zeros_like(classes), THINGS, (9, 5))
    assert not found.ids.any() and found.labels.shape == found.scores.shape == (0,)
