from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_rules import naive
from shared_data import shared_data
from vitnext.data.coco_panoptic import read_panoptic
from vitnext.data.label_maps import read_instance_map
from vitnext.errors import InputError
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.types import Segments

CLASSES, THINGS = ("person", "cat", "sky", "grass"), (True, True, False, False)


def segments(ids, labels, crowd=()) -> Segments:
    """``crowd``: the numbers of the segments that are one."""
    labels = np.array(labels, dtype=np.int64)
    return Segments(np.array(ids, dtype=np.int32), labels, np.isin(np.arange(len(labels)) + 1, crowd))


def measure(*pairs, classes=CLASSES, things=THINGS):
    quality = PanopticQuality(classes, things)
    for truth, prediction in pairs:
        quality.update(truth, prediction)
    return quality.result()


def counts(result, name):
    [row] = [row for row in result["per_class"] if row["class"] == name]
    return row["tp"], row["fp"], row["fn"]


def assert_agrees_with_naive(pairs, classes, things):
    result = measure(*pairs, classes=classes, things=things)
    rows = []
    for row, total in zip(result["per_class"], naive(pairs, len(classes)), strict=True):
        tp, fp, fn = total["tp"], total["fp"], total["fn"]
        assert (row["tp"], row["fp"], row["fn"], row["n"]) == (tp, fp, fn, tp + fn)
        if tp + fp + fn == 0:
            assert row["pq"] is row["sq"] is row["rq"] is None
            continue
        pq, rq = total["iou"] / (tp + 0.5 * fp + 0.5 * fn), tp / (tp + 0.5 * fp + 0.5 * fn)
        sq = total["iou"] / tp if tp else 0
        assert [row["pq"], row["sq"], row["rq"]] == pytest.approx([pq, sq, rq], abs=1e-12)
        rows.append((row["thing"], pq, sq, rq))
    parts = {"all": rows, "things": [r for r in rows if r[0]], "stuff": [r for r in rows if not r[0]]}
    for name, part in parts.items():
        means = result if name == "all" else result[name]
        expected = [sum(values) / len(part) for values in list(zip(*part, strict=True))[1:]] if part else [None] * 3
        assert [means["pq"], means["sq"], means["rq"]] == pytest.approx(expected, abs=1e-12)
        assert name == "all" or means["classes"] == len(part)
    assert result["n"] == len(pairs)
    assert result["miou"] == (pytest.approx(np.mean(ious)) if (ious := naive_ious(pairs, len(classes))) else None)


def naive_ious(pairs, classes) -> list[float]:
    """Of every class that occurs, the IoU of the pixels that are it and are called it."""
    ious = []
    for label in range(classes):
        both = either = 0
        for truth, prediction in pairs:
            true, predicted = (np.isin(s.ids, np.flatnonzero(s.labels == label) + 1) for s in (truth, prediction))
            both += (true & predicted).sum()
            either += ((true | predicted) & (truth.ids > 0)).sum()
        ious += [both / either] if either else []
    return ious


def test_a_perfect_prediction():
    image = segments([[1, 1, 2], [0, 3, 3]], [0, 0, 2])
    result = measure((image, image))
    assert (result["pq"], result["sq"], result["rq"]) == (1, 1, 1)
    assert counts(result, "person") == (2, 0, 0)
    assert counts(result, "sky") == (1, 0, 0)
    assert result["things"] == result["stuff"] == {"pq": 1, "sq": 1, "rq": 1, "classes": 1}
    assert result["per_class"][1] == {
        "class": "cat", "thing": True, "n": 0, "tp": 0, "fp": 0, "fn": 0,
        "pq": None, "sq": None, "rq": None, "iou": None,
    }  # fmt: skip


def test_an_iou_of_one_half_is_no_match():
    result = measure((segments([[1, 1, 2]], [0, 2]), segments([[1, 2, 2]], [0, 2])))
    assert counts(result, "person") == counts(result, "sky") == (0, 1, 1)
    assert result["pq"] == result["sq"] == 0


def test_two_thirds_is_a_match():
    result = measure((segments([[1, 1, 1]], [0]), segments([[1, 1, 0]], [0])))
    assert counts(result, "person") == (1, 0, 0)
    assert result["sq"] == result["pq"] == pytest.approx(2 / 3)


def test_true_void_leaves_the_union():
    result = measure((segments([[1, 0, 0, 0, 0]], [0]), segments([[1] * 5], [0])))
    assert result["pq"] == 1


def test_predicted_void_does_not_leave_the_union():
    result = measure((segments([[1] * 5], [0]), segments([[1, 0, 0, 0, 0]], [0])))
    assert counts(result, "person") == (0, 1, 1)


@pytest.mark.parametrize(("void", "expected"), [(2, (0, 1, 1)), (3, (0, 0, 1))])
def test_predictions_mostly_in_void_are_no_false_positives(void, expected):
    truth = segments([[0] * void + [2] * (4 - void) + [1] * 9], [0, 2])
    assert counts(measure((truth, segments([[1] * 4 + [0] * 9], [0]))), "person") == expected


@pytest.mark.parametrize(("label", "false_positives"), [(0, 0), (1, 1)])
def test_predictions_mostly_in_crowds_of_their_class_are_no_false_positives(label, false_positives):
    truth = segments([[1, 1, 2, 0, 3, 3]], [0, 0, 2], crowd=(1, 2))
    prediction = segments([[1, 0, 1, 1, 1, 1]], [label])  # 1 + 1 pixels in crowds, 1 in void, 2 in the sky
    result = measure((truth, prediction))
    assert counts(result, CLASSES[label]) == (0, false_positives, 0)


def test_a_crowd_is_neither_matched_nor_missed():
    truth = segments([[1, 1, 1, 2]], [0, 2], crowd=(1,))
    assert counts(measure((truth, segments([[1, 1, 1, 0]], [0]))), "person") == (0, 0, 0)
    assert counts(measure((truth, segments([[0] * 4], []))), "person") == (0, 0, 0)


def test_segments_without_a_pixel_are_passed_over():
    image = segments([[1, 1, 3]], [0, 1, 2])
    assert counts(measure((image, image)), "cat") == (0, 0, 0)


def test_nothing_at_all_is_undefined():
    for result in (measure(), measure((segments([[0]], []), segments([[0]], [])))):
        assert result["pq"] is result["sq"] is result["rq"] is None
        assert result["things"] == {"pq": None, "sq": None, "rq": None, "classes": 0}
        json.dumps(result, allow_nan=False)


def test_values_are_plain_and_the_images_are_counted():
    image = segments([[1, 1, 2], [0, 3, 3]], [0, 0, 2])
    result = json.loads(json.dumps(measure((image, image), (image, image))))
    assert (result["task"], result["n"]) == ("panoptic", 2)
    assert counts(result, "person") == (4, 0, 0)


@st.composite
def images(draw):
    """Two sets of segments over one small image; the truth may have crowds, and ids without a pixel occur."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 7, size=2)
    labels = rng.integers(0, 4, size=rng.integers(0, 6))
    ids = rng.integers(0, len(labels) + 1, size=(height, width))
    ids = ids if draw(st.booleans()) else np.sort(ids, axis=1)  # specks, or bands
    truth = segments(ids, labels, crowd=np.flatnonzero(rng.random(len(labels)) < 0.3) + 1)
    noise = draw(st.sampled_from([0.1, 0.4, 1.0]))
    guessed = np.where(rng.random(labels.size) < noise / 2, rng.integers(0, 4, size=labels.size), labels)
    moved = np.where(rng.random(ids.shape) < noise, rng.integers(0, labels.size + 1, size=ids.shape), ids)
    order = rng.permutation(labels.size)
    return truth, segments(np.append(0, np.argsort(order) + 1)[moved], guessed[order])


@given(st.lists(images(), max_size=3))
@settings(max_examples=100)
def test_agrees_with_loops_over_masks(pairs):
    assert_agrees_with_naive(pairs, CLASSES, THINGS)


@given(images())
@settings(max_examples=60)
def test_an_image_s_own_quality_and_what_is_confused(pair):
    truth, prediction = pair
    quality = PanopticQuality(CLASSES, THINGS)
    own = quality.update(truth, prediction)
    assert own["pq"] == (None if (pq := quality.result()["pq"]) is None else pytest.approx(pq))
    confusion = np.zeros((4, 4), int)
    for t in np.flatnonzero(~truth.crowd) + 1:
        for p in range(1, len(prediction.labels) + 1):
            true, predicted = truth.ids == t, (prediction.ids == p) & (truth.ids > 0)
            confusion[truth.labels[t - 1], prediction.labels[p - 1]] += 2 * (true & predicted).sum() > (
                (true | predicted).sum()
            )
    assert quality.result()["confusion"] == confusion.tolist()
    assert [row["tp"] for row in quality.result()["per_class"]] == confusion.diagonal().tolist()


def test_sure_and_wrong_is_the_share_of_labelled_pixels_under_segments_without_a_match_by_score():
    truth = segments([[1, 1, 1, 2, 2, 0, 0, 0, 0, 0]], [0, 2])
    guess = segments([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3]], [0, 0, 1])  # right; a wrong class; only in void
    scored = Segments(guess.ids, guess.labels, guess.crowd, np.float32([0.9, 0.5, 0.8]))
    assert PanopticQuality(CLASSES, THINGS).update(truth, guess)["sure_and_wrong"] == 0  # 3 of 5 pixels in void
    nearer = np.where(scored.ids == 2, np.arange(10) < 7, True) * scored.ids
    scored = Segments(nearer.astype(np.int32), scored.labels, scored.crowd, scored.scores)
    assert PanopticQuality(CLASSES, THINGS).update(truth, scored)["sure_and_wrong"] == pytest.approx(0.5 * 2 / 5)


def test_sizes_and_labels_that_do_not_fit():
    quality = PanopticQuality(CLASSES, THINGS)
    image = segments([[1, 2]], [0, 1])
    with pytest.raises(InputError, match=r"the prediction has \(2, 1\) pixels, the truth \(1, 2\)"):
        quality.update(image, segments([[1], [0]], [0]))
    with pytest.raises(InputError, match="the prediction's labels must lie in 0 to 3"):
        quality.update(image, segments([[1, 0]], [4]))
    with pytest.raises(InputError, match="the truth's labels must lie in 0 to 3"):
        quality.update(segments([[1, 0]], [-1]), image)
    with pytest.raises(InputError, match="4 classes, but 1"):
        PanopticQuality(CLASSES, [True])
    assert quality.result()["n"] == 0


COLOURS = {(0, 0, 255): 1, (255, 0, 0): 2, (0, 255, 0): 3, (255, 0, 255): 4, (0, 255, 255): 5, (255, 255, 0): 6}
GREYS = {
    "team": {47: 1, 97: 1, 133: 1, 150: 1, 174: 1, 198: 2, 215: 1, 244: 1, 255: 1},
    "bird": {92: 5, 176: 3, 255: 4},
    "cat": {255: 6},
}


def golden(name: str) -> tuple[Segments, Segments]:
    folder = shared_data("golden_pq")

    def pixels(kind):
        with Image.open(folder / f"{name}_{kind}.png") as image:
            return np.asarray(image.convert("RGB"))

    def joined(class_of, instance):  # one segment for each pair of a class and an instance; class 0 is void
        values, ids = np.unique(class_of * 256 + instance * (class_of > 0), return_inverse=True)
        return segments(ids.reshape(class_of.shape) + (values[0] != 0), values[values > 0] // 256 - 1)

    grey = pixels("gt_instance" if name == "team" else "gt")[..., 0].astype(int)
    colour = pixels("pred_class")
    of_truth, of_prediction = np.zeros_like(grey), np.zeros_like(grey)
    for value, label in GREYS[name].items():
        of_truth[grey == value] = label
    for value, label in COLOURS.items():
        of_prediction[(colour == value).all(axis=-1)] = label
    return joined(of_truth, grey), joined(of_prediction, pixels("pred_instance")[..., 0].astype(int))


@pytest.mark.parametrize(
    ("names", "classes", "quality", "mean"),
    [
        (["team"], 2, (0.62156284, 0.64664984, 0.9666667), (4, 0.5, 0)),
        (["bird", "cat", "team"], 6, (0.76855499, 0.7769174, 0.98888892), (2, 1 / 6, 0)),
    ],
)
def test_published_numbers(names, classes, quality, mean):
    result = measure(*map(golden, names), classes=list(map(str, range(classes))), things=[True] * classes)
    assert (result["pq"], result["sq"], result["rq"]) == pytest.approx(quality, abs=1e-6)
    rows = result["per_class"]
    found = [np.mean([row[key] for row in rows]) for key in ("tp", "fn", "fp")]
    assert found == pytest.approx(mean)


def perturbed(truth: Segments, rng: np.random.Generator, classes: int) -> Segments:
    """What a model might predict: shifted, some labels wrong, some segments joined or lost, blocks of void."""
    n = len(truth.labels)
    target = np.arange(n + 1)
    joined = rng.random(n + 1) < 0.15
    target[joined] = rng.integers(0, n + 1, size=joined.sum())
    ids = np.roll(target[truth.ids], rng.integers(-6, 7, size=2), axis=(0, 1))
    ids[tuple(slice(start, start + 80) for start in rng.integers(0, 300, size=2))] = 0
    labels = np.where(rng.random(n) < 0.15, rng.integers(0, classes, size=n), truth.labels)
    kept, ids = np.unique(np.append(0, ids.ravel()), return_inverse=True)
    return segments(ids[1:].reshape(truth.ids.shape), labels[kept[1:] - 1])


def test_coco_images_agree_with_loops_over_masks():
    folder = shared_data("coco_panoptic_cc")
    panoptic = read_panoptic(folder / "panoptic_val.json", folder / "val" / "panoptic")
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(len(panoptic)):
        whole = panoptic.segments(index)
        truth = Segments(np.ascontiguousarray(whole.ids[::3, ::3]), whole.labels, whole.crowd)  # the loops are slow
        pairs.append((truth, perturbed(truth, rng, len(panoptic.classes))))
    assert any(truth.crowd.any() for truth, _ in pairs)
    assert_agrees_with_naive(pairs, panoptic.classes, panoptic.things)
    result = measure(*pairs, classes=panoptic.classes, things=panoptic.things)
    assert 0.2 < result["pq"] < 0.9
    assert min(sum(row[key] for row in result["per_class"]) for key in ("tp", "fp", "fn")) > 20


def test_nuclei_against_themselves_with_the_background_as_stuff():
    path = sorted((shared_data("nuclei3") / "instances").glob("*.png"))[0]
    truth = read_instance_map(path, 1, background=0)
    n = len(truth.labels) - 1
    ids = np.where(truth.ids == 1, 0, truth.ids).astype(np.int32)  # the first nucleus is missed
    y, x = np.argwhere(truth.ids == n + 1)[0]
    ids[y, x] = 1  # and one pixel of background taken for one
    result = measure(
        (truth, Segments(ids, truth.labels, truth.crowd)), classes=("background", "nucleus"), things=(0, 1)
    )
    assert counts(result, "nucleus") == (n - 1, 1, 1)
