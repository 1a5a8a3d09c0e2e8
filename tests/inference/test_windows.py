"""Windows: every pixel is covered, neighbours are blended, and what needs no neighbours is the same as whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitnext.inference import windows
from vitnext.inference.activations import softmax
from vitnext.inference.windows import OVERLAP, SCALES, Tiling, augmented, bands, scaled, segment, starts


def normalize(pixels):
    return np.moveaxis(pixels, -1, -3).astype(np.float32) / 64


def pointwise(batch):
    """Logits of three classes from each pixel alone."""
    return np.stack([batch[:, 0], batch[:, 1] - 1, 2 - batch[:, 2]], axis=1)


def picture(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def whole(pixels, window, run=pointwise):
    found = list(bands(pixels, Tiling(run, normalize, window)))
    assert [top for top, _ in found] == np.cumsum([0, *(band.shape[1] for _, band in found)])[:-1].tolist()
    return np.concatenate([band for _, band in found], axis=1)


@given(st.integers(1, 2000), st.integers(1, 300))
def test_starts_cover_evenly_and_overlap(length, window):
    found = starts(length, window)
    assert found[0] == 0 and found[-1] == max(0, length - window)
    for left, right in itertools.pairwise(found):
        assert left < right <= left + max(1, int(window * (1 - OVERLAP)))
    gaps = np.diff(found)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_network_that_looks_at_pixels_alone_answers_as_on_the_whole(height, width, h, w):
    pixels = picture(height, width)
    expected = softmax(pointwise(normalize(pixels)[None]))[0]
    np.testing.assert_allclose(whole(pixels, (h, w)), expected, atol=1e-6)
    classes, sure = segment(pixels, (height, width), Tiling(pointwise, normalize, (h, w)))
    top = np.sort(expected, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    assert (classes == expected.argmax(0))[clear].all()
    assert np.abs(sure - expected.max(0) * 255).max() <= 0.5001


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (3, 6)])
def test_one_window_is_the_network_s_own_answer_bit_for_bit(size):
    pixels = picture(*size)
    padded = np.zeros((4, 6, 3), np.uint8)
    padded[: size[0], : size[1]] = pixels
    expected = softmax(pointwise(normalize(padded)[None]))[0][:, : size[0], : size[1]]
    assert np.array_equal(whole(pixels, (4, 6)), expected)


def test_blending_is_the_mean_weighted_by_the_distance_from_the_edge():
    pixels, (h, w) = picture(13, 17), (6, 8)

    def positional(batch):  # answers that depend on where in the window a pixel lies
        logits = pointwise(batch)
        logits[:, 0] += np.arange(h)[:, None] - 0.5 * np.arange(w)
        return logits

    total, weight = np.zeros((3, 13, 17)), np.zeros((13, 17))
    for top in starts(13, h):
        for left in starts(17, w):
            tile = normalize(pixels[top : top + h, left : left + w])[None]
            answer = softmax(positional(tile))[0]
            for y in range(h):
                for x in range(w):
                    rise_y = min(1, (min(y, h - 1 - y) + 1) / (h * OVERLAP))
                    rise_x = min(1, (min(x, w - 1 - x) + 1) / (w * OVERLAP))
                    share = min(rise_y, rise_x)
                    total[:, top + y, left + x] += share * answer[:, y, x]
                    weight[top + y, left + x] += share
    np.testing.assert_allclose(whole(pixels, (h, w), positional), total / weight, atol=1e-5)


def test_no_more_than_a_batch_of_windows_and_a_row_of_answers_at_once():
    seen, held = [], []

    def run(batch):
        seen.append(len(batch))
        return pointwise(batch)

    for _, band in bands(picture(200, 37), Tiling(run, normalize, (8, 8), batch=3)):
        held.append(band.shape)
    assert max(seen) == 3
    assert all(shape[1] <= 8 and shape[2] == 37 for shape in held) and sum(shape[1] for shape in held) == 200


def test_at_another_size_probabilities_are_interpolated():
    pixels = picture(5, 4)
    probabilities = softmax(pointwise(normalize(pixels)[None]))[0]
    large = np.stack(
        [np.asarray(Image.fromarray(plane).resize((12, 15), Image.Resampling.BILINEAR)) for plane in probabilities]
    )
    classes, sure = segment(pixels, (15, 12), Tiling(pointwise, normalize, (8, 8)))
    assert classes.shape == sure.shape == (15, 12)
    top = np.sort(large, axis=0)
    clear = top[-1] - top[-2] > 2e-3  # held in half precision
    assert clear.mean() > 0.9 and (classes == large.argmax(0))[clear].all()
    assert np.abs(sure / 255 - large.max(0)).max() < 4e-3


# ---- test-time augmentation


def sided(batch):
    """Logits that depend on the side of the window and the neighbours of a pixel."""
    logits = pointwise(batch)
    logits[:, 0] += np.roll(batch[:, 1], 1, axis=-1) + 0.1 * np.arange(batch.shape[-1])
    return logits


@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 12), st.integers(4, 12))
@settings(max_examples=25, deadline=None)
def test_augmented_the_mirror_image_has_the_mirrored_answer(height, width, h, w):
    pixels = picture(height, width)
    tiling = Tiling(sided, normalize, (h, w))
    found = segment(pixels, (height, width), tiling, tta=True)
    mirrored = segment(pixels[:, ::-1], (height, width), tiling, tta=True)
    for one, other in zip(found, mirrored, strict=True):
        assert np.array_equal(one, other[:, ::-1])


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (40, 31)])
def test_augmented_is_the_mean_of_whole_answers_at_every_scale_and_mirrored(size):
    pixels, window = picture(*size), (8, 10)
    expected = np.zeros((3, *size))
    for image, turn in ((pixels, slice(None)), (pixels[:, ::-1], slice(None, None, -1))):
        for scale in SCALES:
            small = scaled(image, tuple(max(1, round(side * scale)) for side in size))
            answer = whole(small, window, sided)
            y, x = (
                ((np.arange(n) + 0.5) * m / n - 0.5).clip(0, m - 1) for n, m in zip(size, small.shape[:2], strict=True)
            )
            there = [np.stack([np.interp(x, np.arange(plane.shape[1]), row) for row in plane]) for plane in answer]
            full = np.stack([np.stack([np.interp(y, np.arange(len(p)), c) for c in p.T], axis=1) for p in there])
            expected += full[..., turn] / 6
    tiling = Tiling(sided, normalize, window)
    found = list(augmented(pixels, tiling))
    assert [top for top, _ in found] == [top for top, _ in bands(pixels, tiling)]
    np.testing.assert_allclose(np.concatenate([band for _, band in found], axis=1), expected, atol=1e-5)


def test_augmented_holds_about_a_row_of_windows_of_each_scale(monkeypatch):
    most, concatenate = 0, np.concatenate

    def watched(arrays, axis=0):
        nonlocal most
        joined = concatenate(arrays, axis=axis)
        most = max(most, joined.shape[1]) if joined.ndim == 3 else most
        return joined

    monkeypatch.setattr(windows.np, "concatenate", watched)
    for _, band in augmented(picture(400, 21), Tiling(pointwise, normalize, (16, 16))):
        assert band.shape[1] <= 16
    assert 16 <= most <= 48
