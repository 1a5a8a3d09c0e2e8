"""Segments of masks, against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitnext.data.segments import segments_of

SHAPE = (4, 5)


@given(
    arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 255])),
    st.none() | arrays(np.uint16, SHAPE, elements=st.integers(0, 3)),
)
def test_pixels_share_a_segment_just_if_class_and_instance_say_so(classes, instances):
    things = [False, True, True]
    found = segments_of(classes, instances, things)

    def key(y, x):
        label = int(classes[y, x])
        number = int(instances[y, x]) if instances is not None and label != 255 and things[label] else 0
        return None if label == 255 else (label, number)

    keys = {place: key(*place) for place in np.ndindex(SHAPE)}
    assert len(found.labels) == len({k for k in keys.values() if k is not None}) and not found.crowd.any()
    for place, k in keys.items():
        if k is None:
            assert found.ids[place] == 0
        else:
            assert found.labels[found.ids[place] - 1] == k[0]
    for a, b in zip(list(keys)[1:], keys, strict=False):
        assert (found.ids[a] == found.ids[b]) == (keys[a] == keys[b])


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_one_value(value):
    found = segments_of(np.full(SHAPE, value, np.uint8), None, [True])
    assert found.labels.tolist() == ([] if value == 255 else [0]) and found.ids.max() == (value == 0)
