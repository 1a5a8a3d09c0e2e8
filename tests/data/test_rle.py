from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as oracle

from vitnext.data import rle
from vitnext.errors import InputError

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def naive_counts(mask: np.ndarray) -> list[int]:
    """Run lengths, pixel after pixel down the columns."""
    counts, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


def naive_string(counts: list[int]) -> str:
    """COCO's string, number after number, from its description."""
    characters = []
    for i, count in enumerate(counts):
        number = count - counts[i - 2] if i > 2 else count
        while True:
            group = number % 32
            number //= 32
            done = number == (-1 if group >= 16 else 0)
            characters.append(chr(48 + group + (0 if done else 32)))
            if done:
                break
    return "".join(characters)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_masks_and_counts(mask):
    counts = rle.encode(mask)
    assert counts.dtype == np.int64
    assert counts.tolist() == naive_counts(mask)
    decoded = rle.decode(counts.tolist(), *mask.shape)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)
    assert rle.area(counts) == mask.sum()


@given(masks)
@settings(max_examples=60, deadline=None)
def test_strings_are_those_of_pycocotools(mask):
    expected = oracle.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = rle.encode(mask)
    assert rle.compress(counts) == expected["counts"].decode() == naive_string(counts.tolist())
    assert rle.expand(expected["counts"].decode()).tolist() == counts.tolist()


@given(st.lists(st.integers(0, 2**31 - 1), max_size=12))
@settings(max_examples=60, deadline=None)
def test_long_runs_in_a_string(numbers):
    counts = np.array(numbers, dtype=np.int64)
    text = rle.compress(counts)
    assert text == naive_string(numbers)
    assert rle.expand(text).tolist() == numbers
    assert counts.tolist() == numbers  # not changed on the way


@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)))
@settings(max_examples=60, deadline=None)
def test_all_segments_at_once(ids):
    encoded = rle.encode_segments(ids, 4)
    assert [counts.tolist() for counts in encoded] == [naive_counts(ids == k) for k in range(1, 5)]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 4], "do not add up to the 2 x 3 pixels"),
        ([3, 2], "do not add up"),
        (np.zeros(0, int), "do not add up"),
        ([8, -2], "at least 0"),
        ([2.0, 4.0], "whole numbers"),
        ([[6]], "whole numbers"),
        ([2**62, 2**62, 2**62, 2**62, 6], "do not add up"),  # their sum overflows to 6
    ],
)
def test_counts_that_are_no_runs_of_the_image(counts, message):
    with pytest.raises(InputError, match=message):
        rle.decode(counts, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0 1", "outside '0' to 'o'"), ("0é", "outside"), ("0p", "outside"), ("0P", "cut off"), ("P" * 12 + "0", "large")],
)
def test_strings_that_are_none(text, message):
    with pytest.raises(InputError, match=message):
        rle.expand(text)


def test_an_empty_string_holds_no_runs():
    assert rle.expand("").tolist() == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on NumPy 2
def test_polygons_are_drawn_as_pycocotools_draws_them():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygons = [(rng.random(2 * n) * 20).round(2).tolist() for n in rng.integers(3, 8, size=2)]
        expected = np.zeros((17, 23), dtype=bool)
        for polygon in polygons:
            expected |= oracle.decode(oracle.frPyObjects([polygon], 17, 23))[..., 0].astype(bool)
        assert np.array_equal(rle.polygon_mask(polygons, 17, 23), expected)


def test_a_polygon_along_pixel_edges_holds_these_pixels():
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:7] = True
    assert np.array_equal(rle.polygon_mask([[2, 1, 7, 1, 7, 4, 2, 4]], 6, 8), expected)


def test_without_pycocotools_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(InputError, match=r'vitnext\[coco\]"'):
        rle.polygon_mask([[0, 0, 1, 0, 1, 1]], 4, 4)
