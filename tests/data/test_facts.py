"""What a sample of the images looks like, against a loop over all of their pixels."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from PIL import Image

from vitnext.data import facts
from vitnext.data.dataset import Split
from vitnext.data.facts import look_at
from vitnext.errors import InputError


def in_memory(arrays):
    count = len(arrays)
    return Split(("a",), np.zeros(count, np.int64), np.array([b"x"] * count), np.ones(count, np.int64), arrays=arrays)


def files(folder, arrays, suffix="png"):
    names = []
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i}.{suffix}")
        names.append(f"{i}.{suffix}".encode())
    count = len(names)
    return Split(("a",), np.zeros(count, np.int64), np.array(names), np.ones(count, np.int64), root=str(folder))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_statistics_are_those_of_all_pixels_by_channel():
    images = noise(20, 9, 7, 3)
    images[..., 1] //= 2
    found = look_at(in_memory(images))
    for channel in range(3):
        values = [int(v) / 255 for v in images[..., channel].ravel()]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        assert found.mean[channel] == pytest.approx(mean, abs=5e-5)
        assert found.std[channel] == pytest.approx(variance**0.5, abs=5e-5)
    assert (found.count, found.short_side, found.grey) == (20, 7, False)


@pytest.mark.parametrize("shape", [(10, 8, 8), (10, 8, 8, 1)])
def test_grey_images_have_one_channel(shape):
    images = noise(*shape)
    found = look_at(in_memory(images))
    assert found.grey and len(found.mean) == len(found.std) == 1
    assert found.mean[0] == pytest.approx(images.mean() / 255, abs=5e-5)
    assert found.std[0] == pytest.approx(images.std() / 255, abs=5e-5)


@pytest.mark.parametrize(("suffix", "grey"), [("png", True), ("jpg", True)])
def test_grey_stored_as_colour_is_grey(suffix, grey, tmp_path):
    images = [noise(12, 12, seed=i)[:, :, None].repeat(3, axis=2) for i in range(3)]
    assert look_at(files(tmp_path, images, suffix)).grey is grey


def test_one_coloured_pixel_is_colour():
    images = noise(5, 8, 8)[..., None].repeat(3, axis=3)
    assert look_at(in_memory(images)).grey
    images[3, 4, 5] = (10, 10, 11)
    found = look_at(in_memory(images))
    assert not found.grey and len(found.mean) == 3


def test_the_short_side_is_the_median_over_the_images(tmp_path):
    sizes = [(10, 50), (50, 20), (30, 30), (90, 40), (45, 200)]
    assert look_at(files(tmp_path, [noise(*size, 3) for size in sizes])).short_side == 30


def test_a_constant_image_has_a_deviation_to_divide_by():
    found = look_at(in_memory(np.full((4, 8, 8), 128, np.uint8)))
    assert found.mean == (round(128 / 255, 4),) and found.std == (round(1 / 255, 4),)


def test_a_sample_is_enough_and_is_spread_over_all(monkeypatch):
    monkeypatch.setattr(facts, "SAMPLE", 5)
    seen, images = [], noise(21, 8, 8)
    monkeypatch.setattr(Split, "image", lambda self, i: seen.append(i) or images[i])
    found = look_at(in_memory(images))
    assert seen == [0, 5, 10, 15, 20]
    assert found.count == 21
    assert found.mean[0] == pytest.approx(images[::5].mean() / 255, abs=5e-5)


def test_each_large_image_gives_a_spread_of_its_pixels(tmp_path):
    image = np.zeros((600, 500, 3), np.uint8)
    image[300:] = (250, 100, 50)
    found = look_at(files(tmp_path, [image]))
    assert found.mean == pytest.approx((125 / 255, 50 / 255, 25 / 255), abs=2e-3)
    assert found.short_side == 500


def test_a_broken_image_is_passed_over_and_all_broken_is_one_line(tmp_path):
    split = files(tmp_path, [noise(8, 8, 3, seed=i) for i in range(3)])
    (tmp_path / "1.png").write_bytes(b"no image")
    assert look_at(split).mean == pytest.approx(
        np.stack([noise(8, 8, 3, seed=i) for i in (0, 2)]).mean(axis=(0, 1, 2)) / 255, abs=5e-5
    )
    for name in ("0.png", "2.png"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="none of the training images can be read"):
        look_at(split)


def test_of_images_that_are_looked_at_only_the_sampled_pixels_are_kept(monkeypatch):
    alive, most = [], 0

    def opened(image):
        nonlocal most
        decoded = np.repeat(image[..., None], 3, axis=2)
        alive.append(weakref.ref(decoded))
        most = max(most, sum(reference() is not None for reference in alive))
        return decoded

    monkeypatch.setattr(facts, "usable_cores", lambda: 2)
    monkeypatch.setattr(facts, "open_image", opened)
    look_at(in_memory(noise(30, 8, 8)))
    assert len(alive) == 30 and most <= 2
