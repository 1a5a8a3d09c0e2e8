"""What `vitnext predict --masks` writes, read back by what it is written for."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from panoptic_rules import naive_of_files, quality
from vitnext.card import Card
from vitnext.data import rle
from vitnext.data.coco_panoptic import read_panoptic
from vitnext.data.mask_folder import read_classes
from vitnext.data.mask_values import read_mask
from vitnext.errors import InputError
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.inference.mask_files import FORMATS, mask_names, with_masks
from vitnext.inference.writers import write_predictions
from vitnext.preprocess import Preprocess
from vitnext.types import Detections, Failure, PanopticSegmentation, Segmentation, Segments

CLASSES, THINGS, COLORS = ("sky", "cat", "dog"), (False, True, True), ("#88ccff", "#c08000", "#400080")


def card(task="panoptic", **data):
    preprocess = Preprocess((8, 8), "window", mean=(0.0,) * 3, std=(1.0,) * 3)
    things = THINGS if task == "panoptic" else ()
    return Card(task, "x+y", {}, CLASSES, preprocess, {}, data, {}, {}, "CC0-1.0", COLORS, things)


def segments(seed, height=13, width=17):
    """Specks and rectangles of up to seven segments, all of which have a pixel."""
    random = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.int32)
    for k in range(1, 8):
        top, left = random.integers(0, height - 4), random.integers(0, width - 4)
        ids[top : top + random.integers(2, 6), left : left + random.integers(2, 6)] = k
    ids[random.random(ids.shape) < 0.1] = 0
    kept, ids = np.unique(ids, return_inverse=True)
    n = len(kept) - 1
    labels, scores = random.integers(0, 3, n), random.random(n).astype(np.float32)
    return Segments(ids.reshape(height, width).astype(np.int32), labels, np.zeros(n, bool), scores)


def panoptic(name, seed, **size):
    return PanopticSegmentation(name, CLASSES, THINGS, segments(seed, **size))


def written(predictions, folder, card, formats=tuple(FORMATS)):
    names = mask_names([one.source for one in predictions])
    assert list(with_masks(iter(predictions), folder, names, card, formats)) == predictions
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def filled(polygons, shape):
    """Even-odd: every vertical edge turns over what lies to its right."""
    mask = np.zeros(shape, bool)
    for ring in itertools.chain(*polygons):
        for (x, y), (_, other) in itertools.pairwise(ring):
            mask[min(y, other) : max(y, other), x:] ^= True
    return mask


PREDICTIONS = [panoptic("p/0017.jpg", 1), Failure("p/0018.jpg", "no image"), panoptic("p/0021.png", 2, height=9)]


def test_the_files_of_a_panoptic_model(tmp_path):
    names = [f"{name}{end}" for name in ("0017", "0021") for end in ("_confidence", "_instances", "_overlay", "")]
    expected = [f"{name}.png" for name in names] + ["0017.geojson", "0021.geojson", "detections.json", "panoptic.json"]
    expected += ["classes.txt"]
    assert written(PREDICTIONS, tmp_path, card()) == sorted([*expected, "panoptic/0017.png", "panoptic/0021.png"])
    for name, prediction in (("0017", PREDICTIONS[0]), ("0021", PREDICTIONS[2])):
        found = prediction.segments
        with Image.open(tmp_path / f"{name}.png") as mask, Image.open(tmp_path / f"{name}_instances.png") as numbers:
            assert mask.mode == "P" and np.asarray(numbers).dtype == np.uint16
            classes = np.append(255, found.labels)[found.ids]
            np.testing.assert_array_equal(np.asarray(mask), classes)
            colors = np.array([list(bytes.fromhex(color[1:])) for color in COLORS])
            np.testing.assert_array_equal(
                np.asarray(mask.convert("RGB"))[classes < 255], colors[classes[classes < 255]]
            )
            np.testing.assert_array_equal(np.asarray(numbers), np.where(np.isin(classes, (1, 2)), found.ids, 0))
        with (
            Image.open(tmp_path / f"{name}_confidence.png") as sure,
            Image.open(tmp_path / f"{name}_overlay.png") as top,
        ):
            np.testing.assert_allclose(np.asarray(sure), 255 * np.append(0, found.scores)[found.ids], atol=0.5)
            assert top.mode == "RGBA" and np.array_equal(np.asarray(top)[..., 3] > 0, found.ids > 0)


def test_the_panoptic_files_are_read_and_score_the_same(tmp_path):
    written(PREDICTIONS, tmp_path, card(), ["png"])
    read = read_panoptic(tmp_path / "panoptic.json")
    assert not list(read.findings())
    assert (read.classes, read.things) == (CLASSES, THINGS)
    assert [category.id for category in read.categories] == [1, 2, 3]
    assert [annotation.image.id for annotation in read.annotations] == [17, 21]
    assert [annotation.image.file_name for annotation in read.annotations] == ["0017.jpg", "0021.png"]
    ours, theirs = PanopticQuality(CLASSES, THINGS), PanopticQuality(CLASSES, THINGS)
    for index, prediction in enumerate((PREDICTIONS[0], PREDICTIONS[2])):
        stored, found = read.segments(index), prediction.segments
        np.testing.assert_array_equal(stored.ids, found.ids)
        np.testing.assert_array_equal(stored.scores, found.scores)
        moved = np.roll(found.ids, 1, axis=1)
        truth = Segments(moved, found.labels, found.crowd)
        ours.update(truth, found)
        theirs.update(truth, stored)
    assert ours.result() == theirs.result() and 0 < ours.result()["pq"] < 1


def test_the_panoptic_files_score_what_we_measure_by_the_published_rules(tmp_path):
    found = [one for one in PREDICTIONS if isinstance(one, PanopticSegmentation)]
    measured, truths = PanopticQuality(CLASSES, THINGS), []
    for prediction in found:
        segments = prediction.segments
        truth = Segments(np.roll(segments.ids, 1, axis=1), segments.labels, segments.crowd, segments.scores)
        measured.update(truth, segments)
        truths.append(PanopticSegmentation(prediction.source, CLASSES, THINGS, truth))
    written(found, tmp_path / "found", card(), ["png"])
    written(truths, tmp_path / "truth", card(), ["png"])
    totals = naive_of_files(tmp_path / "truth" / "panoptic.json", tmp_path / "found" / "panoptic.json")
    result = measured.result()
    assert quality(totals) == pytest.approx(result["pq"], abs=1e-12) and 0 < result["pq"] < 1
    for total, row in zip(totals, result["per_class"], strict=True):
        assert [total[key] for key in ("tp", "fp", "fn")] == [row[key] for key in ("tp", "fp", "fn")]


def test_pycocotools_reads_the_detections(tmp_path):
    coco, mask_utils = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.mask")
    written(PREDICTIONS, tmp_path, card(category_ids=[7, 90, 3]), ["rle"])
    truth = coco.COCO()
    images = [{"id": 17, "height": 13, "width": 17}, {"id": 21, "height": 9, "width": 17}]
    truth.dataset = {"images": images, "categories": [{"id": 7}, {"id": 90}, {"id": 3}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(str(tmp_path / "detections.json"))
    for id, prediction in ((17, PREDICTIONS[0]), (21, PREDICTIONS[2])):
        found = prediction.segments
        entries, things = results.imgToAnns[id], np.flatnonzero(np.array(THINGS)[found.labels])
        assert 0 < len(things) < len(found.labels)  # the sky is no detection
        assert [entry["category_id"] for entry in entries] == [(7, 90, 3)[label] for label in found.labels[things]]
        assert [entry["score"] for entry in entries] == pytest.approx(found.scores[things].tolist())
        for k, entry in zip(things + 1, entries, strict=True):
            encoded = mask_utils.encode(np.asfortranarray(found.ids == k, np.uint8))
            assert results.annToRLE(entry)["counts"] == encoded["counts"].decode()
            assert entry["area"] == (found.ids == k).sum()


def test_detections_that_overlap_are_written_as_they_are(tmp_path):
    masks = np.zeros((3, 13, 17), bool)
    masks[0, 2:9, 3:9], masks[1, 5:12, 5:17], masks[2, 2:9, 3:9] = True, True, True
    runs = tuple(rle.encode(mask) for mask in masks)
    found = Detections((13, 17), runs, np.array([1, 2, 2]), np.array([0.75, 0.25, 0.125], np.float32))
    prediction = PanopticSegmentation("17.png", CLASSES, THINGS, segments(1), lambda: found)
    written([prediction], tmp_path, card(category_ids=[7, 90, 3]), ["rle"])
    entries = json.loads((tmp_path / "detections.json").read_text())
    assert [(entry["image_id"], entry["category_id"], entry["score"], entry["area"]) for entry in entries] == [
        (17, 90, 0.75, 42),
        (17, 3, 0.25, 84),
        (17, 3, 0.125, 42),
    ]
    for entry, mask in zip(entries, masks, strict=True):
        assert entry["segmentation"]["size"] == [13, 17]
        np.testing.assert_array_equal(rle.decode(rle.expand(entry["segmentation"]["counts"]), 13, 17), mask)


def test_polygons_give_every_segment_back(tmp_path):
    written(PREDICTIONS, tmp_path, card(), ["polygons"])
    document = json.loads((tmp_path / "0017.geojson").read_text())
    found = PREDICTIONS[0].segments
    assert (document["type"], document["width"], document["height"]) == ("FeatureCollection", 17, 13)
    assert [feature["id"] for feature in document["features"]] == list(range(1, len(found.labels) + 1))
    for k, feature in enumerate(document["features"], start=1):
        assert feature["geometry"]["type"] == "MultiPolygon"
        np.testing.assert_array_equal(filled(feature["geometry"]["coordinates"], found.ids.shape), found.ids == k)
        properties = feature["properties"]
        assert properties["label"] == CLASSES[found.labels[k - 1]] and properties["area"] == (found.ids == k).sum()
        assert properties["category_id"] == found.labels[k - 1] + 1
        assert properties["score"] == pytest.approx(found.scores[k - 1])


def test_the_segments_of_a_semantic_model_are_its_classes(tmp_path):
    random = np.random.default_rng(0)
    mask = random.choice([0, 2], (8, 9)).astype(np.uint8)
    sure = random.integers(0, 256, (8, 9)).astype(np.uint8)
    prediction = Segmentation("a.png", CLASSES, mask, sure)
    files = written([prediction], tmp_path, card("semantic"))
    assert files == ["a.geojson", "a.png", "a_confidence.png", "a_overlay.png", "classes.txt", "detections.json"]
    entries = json.loads((tmp_path / "detections.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [("a", 1), ("a", 3)]
    for entry, label in zip(entries, (0, 2), strict=True):
        assert entry["score"] == pytest.approx(sure[mask == label].mean() / 255)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    for feature, label in zip(features, (0, 2), strict=True):
        np.testing.assert_array_equal(filled(feature["geometry"]["coordinates"], mask.shape), mask == label)


@pytest.mark.parametrize("ids", [None, [1, 2, 3], [7, 0, 255], [0, 1000, 40000]])
def test_masks_hold_the_ids_of_the_data_and_classes_txt_names_them(tmp_path, ids):
    mask = np.random.default_rng(1).integers(0, 3, (8, 9)).astype(np.uint8)
    data = {"category_ids": ids, "void_id": 0} if ids else {}
    written([Segmentation("a.png", CLASSES, mask, mask)], tmp_path, card("semantic", **data), ["png"])
    with Image.open(tmp_path / "a.png") as image:
        held, palette = np.array(image), image.getpalette()
    np.testing.assert_array_equal(held, np.array(ids or [0, 1, 2])[mask])
    assert (palette is None) == (ids == [0, 1000, 40000])
    values = read_classes(tmp_path / "classes.txt", tmp_path)
    assert values.classes == CLASSES and values.palette == COLORS
    np.testing.assert_array_equal(read_mask(str(tmp_path / "a.png"), values), mask)  # as training reads it
    [void] = values.void
    assert void.id == {None: 255, 1: 0, 7: 1, 0: 255}[ids and ids[0]]


def test_nothing_is_void_in_masks_of_segments(tmp_path):
    written(PREDICTIONS, tmp_path, card(category_ids=[4, 9, 7], void_id=2), ["png"])
    found = PREDICTIONS[0].segments
    with Image.open(tmp_path / "0017.png") as image:
        np.testing.assert_array_equal(np.array(image), np.append(2, np.array([4, 9, 7])[found.labels])[found.ids])
    lines = ["4 sky #88ccff", "9 cat #c08000 thing", "7 dog #400080 thing", "2 ignore #e0e0c0"]
    assert (tmp_path / "classes.txt").read_text().splitlines() == lines
    values = read_classes(tmp_path / "classes.txt", tmp_path)
    truth = np.append(255, found.labels)[found.ids]
    np.testing.assert_array_equal(read_mask(str(tmp_path / "0017.png"), values), truth)


def test_a_classes_txt_of_other_masks_is_not_replaced(tmp_path):
    written(PREDICTIONS, tmp_path, card(), ["png"])
    written(PREDICTIONS, tmp_path, card(), ["png"])
    with pytest.raises(InputError, match=r"classes.txt says of other masks what they hold, .*: name another folder"):
        written(PREDICTIONS, tmp_path, card(category_ids=[5, 6, 7]), ["png"])
    written(PREDICTIONS, tmp_path, card(category_ids=[5, 6, 7]), ["rle"])


def test_masks_that_are_there_and_no_prediction_s_are_not_replaced(tmp_path):
    (tmp_path / "0021.png").write_bytes(b"drawn by hand")
    with pytest.raises(
        InputError, match=r"0021.png is there already, and no earlier prediction's: name another folder"
    ):
        written(PREDICTIONS, tmp_path, card(), ["png"])
    assert (tmp_path / "0021.png").read_bytes() == b"drawn by hand"


def test_without_a_prediction_the_files_are_valid(tmp_path):
    written([Failure("a.png", "no image")], tmp_path, card())
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert json.loads((tmp_path / "panoptic.json").read_text())["annotations"] == []


def test_what_breaks_off_leaves_no_half_file(tmp_path):
    def broken():
        yield PREDICTIONS[0]
        raise KeyboardInterrupt

    names = mask_names([PREDICTIONS[0].source])
    with pytest.raises(KeyboardInterrupt):
        list(with_masks(broken(), tmp_path, names, card(), tuple(FORMATS)))
    assert [path.name for path in tmp_path.glob("*json")] == ["0017.geojson"]  # which is whole
    assert not list(tmp_path.glob("*.tmp"))


def test_formats_and_models_that_there_are_not(tmp_path):
    with pytest.raises(InputError, match='png, overlay, rle, polygons, not as "tiff"'):
        with_masks([], tmp_path, {}, card(), ["png", "tiff"])
    with pytest.raises(InputError, match="a classification model gives no masks"):
        with_masks([], tmp_path, {}, card("classification"))
    (tmp_path / "panoptic").mkdir()
    source = str(tmp_path / "panoptic" / "a.png")
    with pytest.raises(InputError, match="would replace the image"):
        with_masks([], tmp_path, mask_names([source]), card())


# ---- tables


def test_rows_of_segments(tmp_path):
    rows = PREDICTIONS[:2]
    assert write_predictions(tmp_path / "p.csv", rows, CLASSES, "panoptic") == (1, 1)
    good, bad = csv.DictReader((tmp_path / "p.csv").read_text().splitlines())
    found = PREDICTIONS[0].to_dict()
    assert list(good) == ["source", "width", "height", "segments", "error", "share_sky", "share_cat", "share_dog"]
    assert (good["width"], good["height"], good["segments"]) == ("17", "13", str(len(found["segments"])))
    assert float(good["share_cat"]) == pytest.approx(found["shares"]["cat"], rel=1e-6)
    assert bad == dict.fromkeys(good, "") | {"source": "p/0018.jpg", "error": "no image"}
    write_predictions(tmp_path / "p.jsonl", rows, CLASSES, "panoptic")
    good, bad = (json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines())
    assert good == found
    assert bad == dict.fromkeys(good) | {"source": "p/0018.jpg", "error": "no image"}
    parquet = pytest.importorskip("pyarrow.parquet")
    write_predictions(tmp_path / "p.parquet", rows, CLASSES, "panoptic")
    good, bad = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert good["segments"] == len(found["segments"]) and bad["segments"] is None
