from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from shared_data import shared_data
from vitnext.data import rle
from vitnext.data.coco import Category, CocoImage
from vitnext.data.coco_panoptic import (
    areas_and_boxes,
    detection_document,
    read_panoptic,
    two_channel,
    write_panoptic,
    write_two_channel,
)
from vitnext.errors import ImageError, InputError
from vitnext.types import Segments

CATEGORIES = (Category(3, "cat", True, (1, 2, 3)), Category(7, "dog"), Category(200, "grass", False))


def segments(ids, labels, crowd=None, scores=None) -> Segments:
    return Segments(
        np.array(ids, dtype=np.int32),
        np.array(labels, dtype=np.int64),
        np.zeros(len(labels), dtype=bool) if crowd is None else np.array(crowd),
        None if scores is None else np.array(scores, dtype=np.float32),
    )


def same(a: Segments, b: Segments) -> bool:
    fields = [(a.ids, b.ids), (a.labels, b.labels), (a.crowd, b.crowd)]
    scores = a.scores is b.scores is None or np.array_equal(a.scores, b.scores)
    return scores and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in fields)


@pytest.fixture
def document() -> dict:
    """One image with two cats, void between them; its PNG is written by `png`."""
    infos = [
        {"id": 5, "category_id": 3, "iscrowd": 0, "area": 2, "bbox": [0, 0, 1, 2]},
        {"id": 5 + 256 * 6 + 65536 * 7, "category_id": 3, "iscrowd": 1, "area": 2, "bbox": [2, 0, 1, 2]},
    ]
    return {
        "info": {"year": 2024},
        "images": [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": infos}],
        "categories": [c.to_dict() for c in CATEGORIES],
    }


PIXELS = np.array([[[5, 0, 0], [0, 0, 0], [5, 6, 7]]] * 2, dtype=np.uint8)


@pytest.fixture
def read(tmp_path):
    """Write a document and its PNG, and read them."""

    def write_and_read(document, pixels=PIXELS):
        path = tmp_path / "panoptic.json"
        path.write_text(json.dumps(document))
        (tmp_path / "panoptic").mkdir(exist_ok=True)
        if pixels is not None:
            Image.fromarray(pixels).save(tmp_path / "panoptic" / "a.png")
        return read_panoptic(path)

    return write_and_read


def test_reading(read, document):
    panoptic = read(document)
    assert len(panoptic) == 1
    assert panoptic.categories == CATEGORIES
    assert panoptic.classes == ("cat", "dog", "grass")
    assert panoptic.things == (True, True, False)
    assert panoptic.annotations[0].image == CocoImage(1, "a.jpg", 2, 3)
    assert same(panoptic.segments(0), segments([[1, 0, 2]] * 2, [0, 0], [False, True]))
    assert list(panoptic.findings()) == []


def test_segments_keep_the_order_of_the_json(read, document):
    document["annotations"][0]["segments_info"].reverse()
    assert read(document).segments(0).ids.tolist() == [[2, 0, 1]] * 2


def test_ids_of_the_png_that_the_json_lacks(read, document):
    del document["annotations"][0]["segments_info"][0]
    panoptic = read(document)
    with pytest.raises(InputError, match=r"a\.png: segment 5 is in the PNG but not in panoptic\.json$"):
        panoptic.segments(0)
    [line] = panoptic.findings()
    assert line.endswith("a.png: segment 5 is in the PNG but not in panoptic.json")


def test_ids_of_the_json_that_the_png_lacks(read, document):
    document["annotations"][0]["segments_info"].append({"id": 9, "category_id": 7})
    panoptic = read(document)
    with pytest.raises(InputError, match=r"a\.png: segment 9 is in panoptic\.json but not in the PNG$"):
        panoptic.segments(0)


def test_findings_go_on_after_a_png_that_is_missing(read, document):
    document["images"].append({"id": "b", "file_name": "b.jpg", "height": 2, "width": 3})
    document["annotations"].insert(0, {"image_id": "b", "file_name": "b.png", "segments_info": []})
    document["annotations"][1]["segments_info"][0]["id"] = 4
    missing, stray, absent = read(document).findings()
    assert missing.endswith("b.png: no such file")
    assert "segment 5 is in the PNG" in stray and "segment 4 is in panoptic.json" in absent


def test_sizes_that_differ(read, document):
    document["images"][0]["width"] = 4
    with pytest.raises(InputError, match=r"a\.png: is 2 x 3 pixels, but panoptic\.json says 2 x 4"):
        read(document).segments(0)


def test_a_grey_png(read, document):
    with pytest.raises(InputError, match=r"a\.png: a panoptic PNG is RGB"):
        read(document, PIXELS[..., 0]).segments(0)


def test_a_missing_png(read, document):
    with pytest.raises(ImageError, match=r"a\.png: no such file"):
        read(document, None).segments(0)


def change(path, value):
    """Set the value at a path such as "images.0.width"; None removes it."""

    def apply(document):
        *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in keys:
            document = document[key]
        if value is None:
            del document[last]
        else:
            document[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("annotations", None, "no list of objects called 'annotations'"),
        ("annotations", [], "image 1 has no annotation"),
        ("annotations.0.image_id", 2, r"annotations\[0\] is about image 2, .*; image 1 has no annotation"),
        ("annotations.0.image_id", 1.5, r"annotations\[0\]: image_id must be a whole number or a text, not 1.5"),
        ("annotations.0.file_name", None, r"annotations\[0\]: file_name must be a text, not None"),
        ("annotations.0.file_name", "../a.png", "must be a path inside the folder"),
        ("annotations.0.file_name", "C:\\a.png", "must be a path inside the folder"),
        ("annotations.0.segments_info", {}, r"annotations\[0\]: has no list of objects called 'segments_info'"),
        ("annotations.0.segments_info.1.category_id", 4, "image 1 has category 4, which is not listed"),
        ("annotations.0.segments_info.1.id", 5, "image 1 has two segments 5"),
        ("annotations.0.segments_info.1.id", 0, "image 1 has a segment 0, but ids go from 1 to 16777215"),
        ("annotations.0.segments_info.1.id", 2**24, "has a segment 16777216"),
        ("annotations.0.segments_info.1.id", True, r"segments_info\[1\]: id must be a whole number, not True"),
        ("annotations.0.segments_info.1.iscrowd", 2, r"segments_info\[1\]: iscrowd must be 0 or 1, not 2"),
        ("annotations.0.segments_info.1.score", "high", "score must be a number, not 'high'"),
        ("images.0.height", 0, r"images\[0\]: 0 x 3 is not the size of an image"),
        ("images.0.height", 10**9, "is not the size of an image"),
        ("images.0.width", None, r"images\[0\]: width must be a whole number, not None"),
        ("categories", [], "has no categories"),
        ("categories.0.isthing", None, r"categories\[0\]: has no isthing"),
        ("categories.0.color", [1, 2, 256], r"categories\[0\]: color must be three whole numbers"),
        ("categories.1.id", 3, "two categories have the id 3"),
        ("categories.1.name", "cat", "two categories have the name 'cat'"),
    ],
)
def test_json_that_does_not_fit_is_one_line(read, document, path, value, message):
    change(path, value)(document)
    with pytest.raises(InputError, match=message) as caught:
        read(document)
    assert "panoptic.json: " in str(caught.value) and "\n" not in str(caught.value)


def test_two_images_or_annotations_of_one_id(read, document):
    with pytest.raises(InputError, match="image 1 has two annotations"):
        read(document | {"annotations": document["annotations"] * 2})
    with pytest.raises(InputError, match="two images have the id 1"):
        read(document | {"images": document["images"] * 2})


def test_of_many_mistakes_three_are_told(read, document):
    document["annotations"][0]["segments_info"] = [{"id": k, "category_id": 4} for k in range(1, 6)]
    with pytest.raises(InputError, match=r"segment 1 .*; segment 2 .*; segment 3 .*; and 2 more$"):
        read(document)


def test_a_document_without_images(read, document):
    with pytest.raises(InputError, match="no annotated image"):
        read(document | {"images": [], "annotations": []})


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "is a JSON object"), ("{", "not a JSON file"), ("[" * 10**5, "not a JSON file")]
)
def test_files_that_are_no_document(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_panoptic(path)


def test_a_missing_document(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_panoptic(tmp_path / "a.json")


def test_what_is_written_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    many = np.arange(1, 71 * 5 + 1).reshape(71, 5)  # more segments than one byte can number
    given = [
        (CocoImage(1, "a.jpg", 71, 5), segments(many, rng.integers(0, 3, many.size), rng.random(many.size) < 0.5)),
        (CocoImage("x", "sub/b.jpg", 2, 3), segments([[1, 0, 2]] * 2, [2, 0], scores=[0.25, 0.75])),
        (CocoImage(3, "c.png", 1, 2), segments([[0, 0]], [])),
    ]
    path, folder = tmp_path / "out" / "predictions.json", tmp_path / "out" / "pixels"
    write_panoptic(path, folder, CATEGORIES, iter(given))
    panoptic = read_panoptic(path, folder)
    assert panoptic.categories == CATEGORIES
    assert [annotation.image for annotation in panoptic.annotations] == [image for image, _ in given]
    assert [annotation.png for annotation in panoptic.annotations] == ["a.png", "sub/b.png", "c.png"]
    assert all(same(panoptic.segments(i), given[i][1]) for i in range(3))
    assert list(panoptic.findings()) == []
    info = json.loads(path.read_text())["annotations"][1]["segments_info"][1]
    assert info == {"id": 2, "category_id": 3, "iscrowd": 0, "area": 2, "bbox": [2, 0, 1, 2], "score": 0.75}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([(CocoImage(1, "a.jpg", 1, 2), segments([[1, 1]], [3]))], "a.jpg: segment 1 has label 3 of 3 categories"),
        ([(CocoImage(1, "a.jpg", 1, 2), segments([[1, 1]], [0, 0]))], "a.jpg: segment 2 has no pixel"),
        ([(CocoImage(1, "a.jpg", 2, 1), segments([[1, 1]], [0]))], "a.jpg: the segments are 1 x 2, the image is 2 x 1"),
        ([(CocoImage(i, f"a.{i}", 1, 2), segments([[1, 1]], [0])) for i in range(2)], "a.0 and a.1 would both be"),
    ],
)
def test_what_cannot_be_written(tmp_path, images, message):
    with pytest.raises(InputError, match=message):
        write_panoptic(tmp_path / "a.json", tmp_path / "a", CATEGORIES, images)
    assert not (tmp_path / "a.json").exists()


@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)))
@settings(max_examples=60, deadline=None)
def test_areas_and_boxes(ids):
    areas, boxes = areas_and_boxes(segments(ids, [0] * 4))
    for k in range(1, 5):
        rows, columns = np.nonzero(ids == k)
        assert areas[k - 1] == len(rows)
        box = [0, 0, 0, 0]
        if len(rows):
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert boxes[k - 1].tolist() == box


def test_two_channels_count_within_a_class_and_mark_crowds():
    pixels = two_channel(
        segments([[0, 1, 2, 3, 4, 5]], [0, 2, 0, 0, 1], [False, False, True, False, False]), CATEGORIES
    )
    assert pixels.tolist() == [[[0, 0, 0], [3, 0, 0], [200, 0, 0], [3, 255, 0], [3, 1, 0], [7, 0, 0]]]
    assert pixels.dtype == np.uint8


def test_two_channels_hold_only_so_much():
    ids = np.arange(256).reshape(16, 16)
    assert two_channel(segments(ids, [0] * 255), CATEGORIES).max() == 254
    with pytest.raises(InputError, match="more than 255 segments of 'cat'"):
        two_channel(segments(ids + 1, [0] * 256), CATEGORIES)
    with pytest.raises(InputError, match="category 'far' has the id 256"):
        two_channel(segments([[1]], [0]), [Category(256, "far")])


def test_files_of_two_channels_name_the_one_that_does_not_fit(read, document, tmp_path):
    document["categories"][0]["id"] = 300
    for info in document["annotations"][0]["segments_info"]:
        info["category_id"] = 300
    with pytest.raises(InputError, match=r"a\.png: category 'cat' has the id 300"):
        write_two_channel(read(document), tmp_path / "out")


def test_detection_format_without_stuff(read, document):
    document["annotations"][0]["segments_info"][0]["category_id"] = 200
    panoptic = read(document)
    assert [entry["id"] for entry in detection_document(panoptic)["annotations"]] == [1, 2]
    found = detection_document(panoptic, things_only=True)
    [entry] = found["annotations"]
    assert (entry["id"], entry["category_id"], entry["iscrowd"]) == (1, 3, 1)
    assert found["categories"] == [{"id": 3, "name": "cat", "color": [1, 2, 3]}, {"id": 7, "name": "dog"}]
    assert found["info"] == {"year": 2024}


def test_golden_conversions(tmp_path):
    golden = shared_data("golden_panoptic_convert")
    panoptic = read_panoptic(golden / "panoptic_examples.json")
    assert list(panoptic.findings()) == []
    expected = json.loads((golden / "panoptic_coco_detection_format.json").read_text())
    assert detection_document(panoptic, first_id=0) == expected
    write_two_channel(panoptic, tmp_path)
    for path in (golden / "panoptic_examples_2ch_format").iterdir():
        with Image.open(path) as wanted, Image.open(tmp_path / path.name) as written:
            assert written.mode == wanted.mode
            assert np.array_equal(np.asarray(written), np.asarray(wanted))


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_images(split, tmp_path):
    folder = shared_data("coco_panoptic_cc")
    panoptic = read_panoptic(folder / f"panoptic_{split}.json", folder / split / "panoptic")
    assert (len(panoptic), len(panoptic.classes), sum(panoptic.things)) == (26 + (split == "val"), 133, 80)
    entries = json.loads(panoptic.path.read_text())["annotations"]
    ids = np.array([category.id for category in panoptic.categories])
    for index in range(0, len(panoptic), 3):
        found = panoptic.segments(index)
        infos = entries[index]["segments_info"]
        areas, boxes = areas_and_boxes(found)
        assert areas.tolist() == [info["area"] for info in infos]
        assert boxes.tolist() == [info["bbox"] for info in infos]
        semantic = folder / split / "semantic" / panoptic.annotations[index].png
        with Image.open(semantic) as image:
            assert np.array_equal(np.append(0, ids[found.labels])[found.ids], np.asarray(image))
        for mask, counts in zip(areas, rle.encode_segments(found.ids, len(areas)), strict=True):
            assert rle.area(counts) == mask
