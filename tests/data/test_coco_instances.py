from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as oracle

from shared_data import shared_data
from vitnext.data.coco_instances import read_instances
from vitnext.data.coco_panoptic import read_panoptic
from vitnext.errors import InputError

MASK = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
COUNTS = [3, 2, 1, 2, 2, 1, 1]
SQUARE = [1, 0, 3, 0, 3, 2, 1, 2]


def document(*segmentations, **changes) -> dict:
    """Two images of 3 x 4, the second of which is empty."""
    return {
        "images": [
            {"id": 8, "file_name": "a.jpg", "height": 3, "width": 4},
            {"id": 9, "file_name": "b.jpg", "height": 3, "width": 4},
        ],
        "annotations": [
            {"id": 70 + i, "image_id": 8, "category_id": 5, "iscrowd": 0, "segmentation": segmentation, **changes}
            for i, segmentation in enumerate(segmentations)
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    }


@pytest.fixture
def read(tmp_path):
    def write_and_read(content):
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return read_instances(tmp_path / "instances.json")

    return write_and_read


def test_the_three_kinds_of_masks(read):
    string = oracle.encode(np.asfortranarray(MASK, dtype=np.uint8))["counts"].decode()
    runs, compressed = {"size": [3, 4], "counts": COUNTS}, {"size": [3, 4], "counts": string}
    content = document([SQUARE, [3, 1, 4, 1, 4, 2, 3, 2]], runs, compressed)
    content["annotations"][1] |= {"iscrowd": 1, "category_id": 2}
    coco = read(content)
    assert (len(coco), coco.classes) == (2, ("cat", "dog"))
    found = coco.instances(0)
    assert found.masks.dtype == np.bool_
    assert np.array_equal(found.masks, np.stack([MASK] * 3))
    assert found.labels.tolist() == [1, 0, 1]
    assert found.crowd.tolist() == [False, True, False]
    assert found.scores is None
    assert list(coco.findings()) == []


def test_an_image_without_objects(read):
    found = read(document([SQUARE])).instances(1)
    assert found.masks.shape == (0, 3, 4)
    assert found.labels.shape == found.crowd.shape == (0,)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "must be a list of polygons"),
        ([], "must be a list of polygons"),
        (SQUARE, "polygon 1 must be a list of numbers"),
        ([SQUARE, ["1"] * 6], "polygon 2 must be a list of numbers"),
        ([[0, 0, 2, 2]], "polygon 1 has 4 numbers, but three points"),  # pycocotools would draw a box
        ([[0, 0, 2, 2, 1, 1, 1]], "polygon 1 has 7 numbers"),
        ([[0, 0, 2, 0, 5.5, 2]], "polygon 1 lies outside the image: x = 5.5, which is 0 to 4"),
        ([[0, 0, 2, -1.5, 2, 2]], "polygon 1 lies outside the image: y = -1.5, which is 0 to 3"),
        ([[0, 0, 2, float("nan"), 2, 2]], "y = nan"),
        ([[1, 1, 1, 1, 1, 1]], "its mask has no pixel"),
        ({"size": [4, 3], "counts": COUNTS}, r"for the size \[4, 3\], the image has 3 x 4"),
        ({"size": [3, 4], "counts": [5, 5]}, "do not add up to the 3 x 4 pixels"),
        ({"size": [3, 4], "counts": [12]}, "its mask has no pixel"),
        ({"size": [3, 4], "counts": [1.5, 10.5]}, "counts must be a list of whole numbers"),
        ({"size": [3, 4], "counts": [2**70]}, "counts must be a list of whole numbers"),
        ({"size": [3, 4]}, "counts must be a list"),
        ({"size": [3, 4], "counts": "é"}, "characters outside"),
    ],
)
def test_masks_that_cannot_be_drawn(read, segmentation, message):
    coco = read(document([SQUARE], segmentation))
    with pytest.raises(InputError, match=message) as caught:
        coco.instances(0)
    assert "instances.json: annotations[1] of image a.jpg: " in str(caught.value)
    assert list(coco.findings()) == [str(caught.value)]


def test_an_outline_may_pass_the_edge_by_a_rounding(read):
    found = read(document([[-0.5, -0.5, 4.5, -0.5, 4.5, 3.5, -0.5, 3.5]])).instances(0)
    assert found.masks.all()


def test_images_that_are_missing(read, tmp_path):
    (tmp_path / "b.jpg").touch()
    [line] = read(document([SQUARE])).findings(tmp_path)
    assert line == f"{tmp_path / 'a.jpg'}: no such file, but instances.json lists it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document([SQUARE], image_id=1), r"annotations\[0\] is about image 1, which is not among the images"),
        (document([SQUARE], category_id=1), r"annotations\[0\] has category 1, which is not listed"),
        (document([SQUARE], iscrowd="no"), r"annotations\[0\]: iscrowd must be 0 or 1, not 'no'"),
        (document(*[[SQUARE]] * 5, category_id=1), "and 2 more$"),
        (document() | {"images": []}, "has no images"),
        (document() | {"annotations": 3}, "no list of objects called 'annotations'"),
    ],
)
def test_json_that_does_not_fit(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)


def test_coco_images_agree_with_their_panoptic_annotations():
    folder = shared_data("coco_panoptic_cc")
    coco = read_instances(folder / "instances_val.json")
    panoptic = read_panoptic(folder / "panoptic_val.json", folder / "val" / "panoptic")
    assert list(coco.findings(folder / "val" / "images")) == []
    place = {annotation.image.id: index for index, annotation in enumerate(panoptic.annotations)}
    overlaps = []
    for index, image in enumerate(coco.images):
        found, truth = coco.instances(index), panoptic.segments(place[image.id])
        things = [k for k, label in enumerate(truth.labels) if panoptic.things[label]]
        assert [coco.classes[i] for i in found.labels] == [panoptic.classes[truth.labels[k]] for k in things]
        assert found.crowd.tolist() == truth.crowd[things].tolist()
        for mask, k, crowd in zip(found.masks, things, found.crowd, strict=True):
            true = truth.ids == k + 1
            assert not crowd or np.array_equal(mask, true)  # crowds are run lengths, which are exact
            overlaps.append((mask & true).sum() / (mask | true).sum())
    assert np.median(overlaps) > 0.999
    assert np.percentile(overlaps, 5) > 0.95
