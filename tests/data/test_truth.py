"""Objects laid over each other, against a loop over pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitnext.data.segments import combined
from vitnext.data.truth import lay
from vitnext.types import Segments

SHAPE = (4, 5)
objects = st.lists(st.tuples(arrays(bool, SHAPE), st.sampled_from([0, 1, 2, 255]), st.booleans()), max_size=5)


@settings(deadline=None)
@given(objects)
def test_the_smallest_object_owns_a_pixel(given_objects):
    masks = [mask for mask, _, _ in given_objects]
    labels = [label for _, label, _ in given_objects]
    crowd = [flag for _, _, flag in given_objects]
    drawn = lay(*SHAPE, enumerate(masks), labels, crowd)
    owners, covered, claimed = {}, 0, 0
    for place in np.ndindex(SHAPE):
        here = [k for k, mask in enumerate(masks) if mask[place]]
        counted = [k for k in here if not crowd[k] and labels[k] != 255]
        covered, claimed = covered + (len(counted) > 1), claimed + bool(counted)
        # crowds below objects, larger ones below smaller ones, earlier ones below later ones
        owners[place] = max(here, key=lambda k: (not crowd[k], 0 if crowd[k] else -masks[k].sum(), k), default=None)
        k, id = owners[place], drawn.segments.ids[place]
        label, flag = (0, False) if k is None else (labels[k], crowd[k])
        if label == 255:
            assert id == 0 and drawn.mask[place] == 255
        else:
            assert drawn.segments.labels[id - 1] == label and drawn.segments.crowd[id - 1] == flag
            assert drawn.mask[place] == (255 if flag else label)
    assert (drawn.covered, drawn.claimed) == (covered, claimed)
    assert drawn.hidden == sum(labels[k] != 255 and k not in owners.values() for k in range(len(masks)))
    apart = {(k if labels[k] else None) for k in owners.values() if k is not None and labels[k] != 255}
    apart |= {None} if None in owners.values() else set()
    crowds = {k for k in owners.values() if k is not None and crowd[k] and labels[k] == 0}  # stay by themselves
    background = {k for k in owners.values() if k is None or (labels[k] == 0 and not crowd[k])}
    assert len(drawn.segments.labels) == len(apart - {None}) + len(crowds) + bool(background)


def test_segments_under_other_labels():
    ids = np.array([[0, 1, 2, 3], [4, 5, 6, 6]], np.int32)
    crowd = np.array([False, False, True, False, False, False, False])
    segments = Segments(ids, np.arange(7), crowd)  # the seventh has no pixel
    found = combined(segments, np.array([1, 0, 0, 0, 255, 1, 1]), [False, True])
    assert found.ids.tolist() == [[0, 1, 2, 3], [2, 0, 4, 4]]
    assert found.labels.tolist() == [1, 0, 0, 1] and found.crowd.tolist() == [False, False, True, False]
