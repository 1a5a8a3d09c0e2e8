import json

import numpy as np
import pytest

from vitnext.types import Classification, Failure


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
