"""Polygons along the edges of pixels give the mask back, and are what GeoJSON calls polygons."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitnext.data.contours import polygons


def filled(rings, shape):
    """Even-odd: every vertical edge turns over what lies to its right."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        for (x, y), (_, other) in itertools.pairwise(ring.tolist()):
            mask[min(y, other) : max(y, other), x:] ^= True
    return mask


def area(ring):
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def regions(mask, diagonal=False):
    """Sets of pixels that are joined by sides, or also by corners."""
    left, found = {tuple(p) for p in np.argwhere(mask).tolist()}, []
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + [(1, 1), (1, -1), (-1, 1), (-1, -1)] * diagonal
    while left:
        waiting, region = [left.pop()], set()
        while waiting:
            y, x = waiting.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            waiting += near
        found.append(region)
    return found


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_filling_gives_the_mask_back_region_by_region(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    found = polygons(mask)
    expected = regions(mask)
    assert np.array_equal(filled([ring for rings in found for ring in rings], mask.shape), mask)
    one_by_one = [{tuple(p) for p in np.argwhere(filled(rings, mask.shape)).tolist()} for rings in found]
    assert sorted(map(sorted, one_by_one)) == sorted(map(sorted, expected))
    for outline, *holes in found:
        assert area(outline) > 0 and all(area(hole) < 0 for hole in holes)
    around = np.pad(~mask, 1, constant_values=True)
    assert sum(len(rings) - 1 for rings in found) == len(regions(around, diagonal=True)) - 1
    for ring in itertools.chain(*found):
        assert ring[0].tolist() == ring[-1].tolist() and ring.dtype == np.int64
        steps = np.diff(ring, axis=0)
        assert ((steps != 0).sum(axis=1) == 1).all()  # along the grid, and every point is a corner
        assert ((steps[:-1, 0] == 0) != (steps[1:, 0] == 0)).all()


def test_a_ring_in_a_ring():
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6], mask[2:5, 2:5], mask[3, 3] = False, True, False
    outer, inner = polygons(mask)
    assert [ring.tolist() for ring in outer] == [
        [[0, 0], [7, 0], [7, 7], [0, 7], [0, 0]],
        [[1, 1], [1, 6], [6, 6], [6, 1], [1, 1]],
    ]
    assert [area(ring) for ring in inner] == [9, -1]


def test_pixels_that_touch_at_a_corner_are_apart_and_nothing_has_no_polygon():
    assert [[ring.tolist() for ring in rings] for rings in polygons(np.eye(2, dtype=bool))] == [
        [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]],
    ]
    assert polygons(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (60, 1)])
def test_a_full_mask_is_a_rectangle(shape):
    [[ring]] = polygons(np.ones(shape, bool))
    assert len(ring) == 5 and area(ring) == shape[0] * shape[1]
