import json

import numpy as np
import pytest

from vitnext.types import Classification, Detections, Failure, Instances, PanopticSegmentation, Segments


def classification(*scores):
    return Classification("a.jpg", tuple("abc"), np.array(scores, np.float32))


def test_most_probable_class():
    result = classification(0.25, 0.5, 0.25)
    assert (result.index, result.label, result.score) == (1, "b", 0.5)


def test_ties_go_to_the_first_class():
    result = classification(0.25, 0.375, 0.375)
    assert result.label == "b"
    assert result.top(2) == [("b", 0.375), ("c", 0.375)]


def test_top_orders_and_stops_at_the_number_of_classes():
    assert classification(0.25, 0.125, 0.625).top(9) == [("c", 0.625), ("a", 0.25), ("b", 0.125)]


def test_to_dict_is_plain_json():
    scores = {"a": 0.25, "b": 0.5, "c": 0.25}
    expected = {"source": "a.jpg", "label": "b", "score": 0.5, "error": None, "scores": scores}
    row = json.loads(json.dumps(classification(0.25, 0.5, 0.25).to_dict()))
    assert row == expected
    failed = json.loads(json.dumps(Failure("x.jpg", "x.jpg: no such file").to_dict()))
    assert failed == dict.fromkeys(row) | {"source": "x.jpg", "error": "x.jpg: no such file"}
    assert list(failed) == list(row)


def test_scores_of_another_length_are_refused():
    with pytest.raises(ValueError, match="3 classes"):
        classification(0.5, 0.5)


IDS = np.array([[0, 1], [2, 2]], dtype=np.int32)
LABELS, CROWD, SCORES = np.array([4, 4]), np.zeros(2, dtype=bool), np.ones(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": IDS.astype(np.int64)}, "int32"),
        ({"ids": IDS[0]}, "int32"),
        ({"ids": IDS[:0]}, "at least one pixel"),
        ({"ids": IDS + np.int32(1)}, "ids from 1 to 3, but there are 2 segments"),
        ({"ids": -IDS}, "ids from -2 to 0"),
        ({"labels": LABELS.astype(np.float32)}, "labels must be int64"),
        ({"crowd": CROWD[:1]}, "crowd as bool"),
        ({"crowd": LABELS}, "crowd as bool"),
        ({"scores": SCORES[:1]}, "scores as float32"),
        ({"scores": SCORES.astype(np.float64)}, "scores as float32"),
    ],
)
def test_segments_of_other_shapes_are_refused(change, message):
    Segments(IDS, LABELS, CROWD, SCORES)
    with pytest.raises(ValueError, match=message):
        Segments(**({"ids": IDS, "labels": LABELS, "crowd": CROWD, "scores": SCORES} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.zeros((2, 3, 3), dtype=np.uint8)}, "masks must be bool"),
        ({"masks": np.zeros((2, 0, 3), dtype=bool)}, "at least one pixel"),
        ({"masks": np.zeros((3, 3, 3), dtype=bool)}, "3 masks but 2 labels"),
        ({"crowd": CROWD[:1]}, "crowd as bool"),
    ],
)
def test_instances_of_other_shapes_are_refused(change, message):
    given = {"masks": np.zeros((2, 3, 3), dtype=bool), "labels": LABELS, "crowd": CROWD, "scores": SCORES}
    Instances(**given)
    with pytest.raises(ValueError, match=message):
        Instances(**(given | change))


def test_detections_of_other_lengths_are_refused():
    runs = (np.array([4]), np.array([0, 4]))
    Detections((2, 2), runs, LABELS, SCORES)
    with pytest.raises(ValueError, match="1 masks but 2 labels"):
        Detections((2, 2), runs[:1], LABELS, SCORES)
    with pytest.raises(ValueError, match="need scores as float32"):
        Detections((2, 2), runs, LABELS, SCORES[:1])


def test_a_panoptic_segmentation_is_plain_json():
    found = Segments(IDS, np.array([1, 0]), CROWD, np.array([0.5, 0.25], np.float32))
    row = PanopticSegmentation("a.jpg", ("road", "car"), (False, True), found).to_dict()
    assert (
        row
        == json.loads(json.dumps(row))
        == {
            "source": "a.jpg",
            "width": 2,
            "height": 2,
            "error": None,
            "shares": {"road": 0.5, "car": 0.25},
            "segments": [
                {"id": 1, "label": "car", "thing": True, "score": 0.5, "area": 1, "bbox": [1, 0, 1, 1]},
                {"id": 2, "label": "road", "thing": False, "score": 0.25, "area": 2, "bbox": [0, 1, 2, 1]},
            ],
        }
    )
