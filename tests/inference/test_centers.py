"""Grouping of pixels by their centres: what perfect answers describe is found again."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from vitnext.errors import WorkError
from vitnext.inference.centers import AROUND, PEAK, UNIT, _centers, activate, segments
from vitnext.inference.panoptic import segment_objects
from vitnext.preprocess import Preprocess

SIZE = (40, 60)
THINGS = (False, True, True, False)


def answers():
    """Activated answers (4 + 3, H, W) of a scene: ground, sky, two touching objects of class 1, one of class 2."""
    classes = np.zeros(SIZE, int)
    classes[:10] = 3
    objects = [(1, slice(15, 25), slice(5, 15)), (1, slice(15, 25), slice(15, 25)), (2, slice(20, 36), slice(40, 50))]
    given = np.zeros((7, *SIZE), np.float32)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    truth = np.zeros(SIZE, int)
    for number, (label, rows, columns) in enumerate(objects, start=1):
        center = ((rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2)
        classes[rows, columns], truth[rows, columns] = label, number
        peak = np.exp(-((y - round(center[0])) ** 2 + (x - round(center[1])) ** 2) / 18)
        given[4] = np.maximum(given[4], peak)
        given[5, rows, columns] = (center[0] - y)[rows, columns] / UNIT
        given[6, rows, columns] = (center[1] - x)[rows, columns] / UNIT
    for label in range(4):
        given[label] = np.where(classes == label, 0.9, 0.1 / 3)
    return given, classes, truth


def bands(given, rows=7):
    return [(top, given[:, top : top + rows]) for top in range(0, SIZE[0], rows)]


def test_objects_and_stuff_are_found():
    given, classes, truth = answers()
    found = segments(bands(given), SIZE, THINGS)
    assert found.labels.tolist() == [0, 3, 1, 1, 2] and not found.crowd.any()
    assert np.array_equal(found.labels[found.ids - 1], classes) and found.ids.min() == 1
    for number in (1, 2, 3):
        assert len(np.unique(found.ids[truth == number])) == 1
    assert len(np.unique(found.ids[truth > 0])) == 3
    assert found.scores == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 40])
def test_bands_of_any_height_give_the_same(rows, monkeypatch):
    given, _, _ = answers()
    given[4] = np.minimum(given[4], 0.8)  # level peaks too
    whole = segments(bands(given), SIZE, THINGS)
    monkeypatch.setattr("vitnext.inference.centers.MEMORY", 1000)  # in a file
    monkeypatch.setattr("vitnext.inference.centers.CHUNK", 4 * SIZE[1])
    again = segments(bands(given, rows), SIZE, THINGS)
    assert np.array_equal(again.ids, whole.ids) and np.array_equal(again.labels, whole.labels)
    assert again.scores == pytest.approx(whole.scores)


def test_peaks_of_noise_are_those_of_the_whole_image():
    heat = np.random.default_rng(0).random(SIZE, np.float32)
    expected = np.argwhere((heat == maximum_filter(heat, AROUND, mode="constant")) & (heat > PEAK))
    for rows in (1, 4, 7, 40):
        places, peaks = _centers((heat[top : top + rows] for top in range(0, SIZE[0], rows)), SIZE[1])
        assert np.array_equal(places, expected) and np.array_equal(peaks, heat[tuple(expected.T)])


@pytest.mark.parametrize("rows", [1, 40])
def test_a_full_disk_is_one_line(rows, monkeypatch):
    class Full(tempfile.SpooledTemporaryFile):
        def rollover(self):
            super().rollover()
            self._file.close()
            self._file = open("/dev/full", "r+b")  # noqa: SIM115 as a temporary file, with a buffer
            self._file.write(b"0")

    monkeypatch.setattr("vitnext.inference.centers.SpooledTemporaryFile", Full)
    monkeypatch.setattr("vitnext.inference.centers.MEMORY", 100)
    given, _, _ = answers()
    with pytest.raises(WorkError, match=r"no room for a temporary file \(No space left on device\)"):
        segments(bands(given, rows), SIZE, THINGS)


def test_offsets_beyond_float16_are_far():
    given, _, _ = answers()
    given[5] = 1e6
    assert segments(bands(given), SIZE, THINGS).ids.min() == 1


def test_a_level_peak_is_one_centre():
    given, _, truth = answers()
    given[4] = np.minimum(given[4], 0.8)  # as heat in bfloat16 is: the same at several pixels
    assert ((given[4] == 0.8) & (truth == 1)).sum() > 4
    found = segments(bands(given), SIZE, THINGS)
    assert found.labels.tolist() == [0, 3, 1, 1, 2]


def test_an_object_has_the_class_of_most_of_its_pixels():
    given, _, truth = answers()
    given[:, truth == 3] = given[:, truth == 3]
    part = (truth == 3) & (np.arange(SIZE[1]) < 43)
    given[1, part], given[2, part] = 0.9, 0.1 / 3
    found = segments(bands(given), SIZE, THINGS)
    assert found.labels.tolist() == [0, 3, 1, 1, 2]
    assert len(np.unique(found.ids[truth == 3])) == 1


def test_things_without_a_centre_stay_void():
    given, classes, _ = answers()
    given[4] = 0
    found = segments(bands(given), SIZE, THINGS)
    assert found.labels.tolist() == [0, 3]
    assert np.array_equal(found.ids == 0, np.isin(classes, (1, 2)))


def test_activation_touches_classes_alone():
    random = np.random.default_rng(0).normal(size=(2, 7, 3, 3)).astype(np.float32)
    done = activate(random)
    assert done[:, :4].sum(1) == pytest.approx(1, abs=1e-5) and np.array_equal(done[:, 4:], random[:, 4:])


def test_windows_are_blended_and_the_original_size_comes_back():
    """A "network" that looks its answers up: windows of 24 px of the image give what the whole one does."""
    given, classes, truth = answers()
    given[:4] = np.log(given[:4])
    place = np.stack([*np.mgrid[: SIZE[0], : SIZE[1]], np.full(SIZE, 255)], axis=-1).astype(np.uint8)

    def run(images):
        y, x, inside = np.rint(images * 255).astype(int).transpose(1, 0, 2, 3)
        return (np.where(inside[:, None] > 0, given[:, y, x].transpose(1, 0, 2, 3), 0.0).astype(np.float32),)

    seen = Preprocess((24, 24), resize="window", mean=(0.0,) * 3, std=(1.0,) * 3)
    found, detections = segment_objects(place, SIZE, run, "convnext+panoptic_deeplab", seen, THINGS, batch=2)
    assert np.array_equal(found.labels[found.ids - 1], classes) and detections is None
    assert [len(np.unique(found.ids[truth == number])) for number in (1, 2, 3)] == [1, 1, 1]
    twice, _ = segment_objects(place, (80, 120), run, "convnext+panoptic_deeplab", seen, THINGS)
    assert twice.ids.shape == (80, 120) and np.array_equal(twice.ids[::2, ::2], found.ids)
    tiny, _ = segment_objects(place, (2, 3), run, "convnext+panoptic_deeplab", seen, THINGS)
    assert len(tiny.labels) == len(tiny.scores) == tiny.ids.max()  # what has no pixel left is left out


def test_queries_see_the_whole_image():
    asked = []

    def run(images):
        asked.append(images.shape)
        masks = np.full((1, 2, 8, 8), -9.0, np.float32)
        masks[0, 0, :4, :4], masks[0, 1, :4, 4:] = 9.0, 9.0  # the image is 10 x 20: the upper half of the square
        classes = np.array([[[9.0, 0, 0], [0, 9.0, 0]]], np.float32)
        return masks, classes

    fit = Preprocess((32, 32), resize="fit")
    image = np.zeros((10, 20, 3), np.uint8)
    found, _ = segment_objects(fit.pixels(image), (10, 20), run, "vit+eomt", fit, (False, True))
    assert asked == [(1, 3, 32, 32)] and found.ids.shape == (10, 20)
    assert found.labels.tolist() == [0, 1] and found.ids[5, 2] == 1 and found.ids[5, 17] == 2
