"""Images that look alike, found without comparing every pair."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from shared_data import shared_data
from vitnext.data import near_duplicates
from vitnext.data.near_duplicates import close_pairs, perceptual_hash, similar, small_pictures
from vitnext.decode import open_image


def photograph(seed, side=96):
    """Smooth colours with edges, as photographs have and noise has not: uint8 (side, side, 3)."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def compressed(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


CHANGES = {
    "compressed": lambda image: compressed(image, 30),
    "half the size": lambda image: np.asarray(Image.fromarray(image).resize((48, 48))),
    "brighter": lambda image: np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.1)),
}


def seen(images):
    greys, colours = zip(*map(small_pictures, images), strict=True)
    return perceptual_hash(np.stack(greys)), np.stack(colours)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_others_are_not(change):
    images = [photograph(seed) for seed in range(20)]
    hashes, colours = seen([*images, *(CHANGES[change](image) for image in images)])
    assert similar(hashes, colours).tolist() == [*range(20), *range(20)]


def test_another_colour_is_another_image():
    image = photograph(0)
    other = image[:, :, ::-1]
    hashes, colours = seen([image, other])
    hashes[1] = hashes[0]  # whatever the hash says of its grey values
    assert similar(hashes, colours).tolist() == [0, 1]


def test_a_shape_on_another_ground_is_another_image():
    """Whose grey values are alike: a disc that is darker than what is behind it."""
    y, x = np.mgrid[:96, :96]
    disc = ((y - 40) ** 2 + (x - 52) ** 2 < 20**2)[..., None]
    drawn = [
        np.where(disc, np.subtract(ground, 60), ground).astype(np.uint8) for ground in [(90, 120, 230), (220, 110, 75)]
    ]
    hashes, colours = seen([drawn[0], drawn[1], compressed(drawn[0], 60)])
    hashes[:] = hashes[0]
    assert similar(hashes, colours).tolist() == [0, 1, 0]


def test_the_hash_is_that_of_the_cosine_transform():
    greys = np.stack([small_pictures(photograph(seed))[0] for seed in range(5)])
    for grey, value in zip(greys, perceptual_hash(greys), strict=True):
        waves = dctn(grey.astype(float), type=2)[1:9, 1:9].reshape(-1)
        assert np.unpackbits(np.array([value]).view(np.uint8)).tolist() == (waves > np.median(waves)).tolist()


def test_flat_images_are_left_alone():
    random = np.random.default_rng(0)
    flat = [np.clip(200 + random.normal(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    hashes, colours = seen(flat)
    assert hashes.tolist() == [0, 0] and similar(hashes, colours).tolist() == [0, 1]


@pytest.mark.parametrize("counts", [True, False])
def test_every_close_pair_is_found_once(counts, monkeypatch):
    if not counts:
        monkeypatch.delattr(np, "bitwise_count", raising=False)  # NumPy 1
    monkeypatch.setattr(near_duplicates, "ROWS", 5)
    random = np.random.default_rng(0)
    hashes = random.integers(0, 1 << 64, 60, dtype=np.uint64)
    flips = [random.choice(64, random.integers(0, 9), replace=False).tolist() for _ in hashes]
    near = [value ^ sum(1 << bit for bit in bits) for value, bits in zip(hashes.tolist(), flips, strict=True)]
    every = np.concatenate([hashes, np.array(near, np.uint64), hashes[:5]])
    expected = {
        (i, j)
        for i in range(len(every))
        for j in range(i + 1, len(every))
        if bin(int(every[i]) ^ int(every[j])).count("1") <= 6
    }
    found = [(int(i), int(j)) for first, second in close_pairs(every) for i, j in zip(first, second, strict=True)]
    assert len(found) == len(set(found)) and set(found) == expected
    assert 40 < len(expected) < 120


def test_of_aligned_images_close_pairs_are_found_in_a_time_that_grows_with_their_number(monkeypatch):
    """They share most of their bits: twice as many have four times as many pairs with a byte in common."""
    monkeypatch.setattr(near_duplicates, "REACH", 16)
    monkeypatch.setattr(near_duplicates, "ROWS", 16)
    compared, ones = [], near_duplicates._ones
    monkeypatch.setattr(near_duplicates, "_ones", lambda values: compared.append(values.size) or ones(values))
    random, work = np.random.default_rng(0), []
    for count in (500, 1000):
        bits = np.zeros((count, 64), np.uint8)
        for row in bits:
            row[random.choice(64, 8, replace=False)] = 1
        copies = bits[:100].copy()
        for row in copies:
            row[random.choice(64, 2, replace=False)] ^= 1
        hashes = np.packbits(np.concatenate([bits, copies]), axis=1).view(np.uint64)[:, 0]
        compared.clear()
        found = [(int(i), int(j)) for first, second in close_pairs(hashes) for i, j in zip(first, second, strict=True)]
        assert len(found) == len(set(found))
        assert len({(i, count + i) for i in range(100)} & set(found)) >= 98
        work.append(sum(compared))
    assert work[1] < 2.5 * work[0] and work[1] < 8 * 1100 * (16 + 16)


def test_a_chain_is_one_group():
    """a is like b, b like c: c counts with a even if the two differ."""
    pictures = np.zeros((3, 16, 16, 3), np.uint8)
    hashes = np.array([1, 1 | 0b11111 << 8, 1 | 0b11111 << 8 | 0b11111 << 20], np.uint64)
    assert similar(hashes, pictures).tolist() == [0, 0, 0]
    assert similar(hashes[[0, 2]], pictures[:2]).tolist() == [0, 1]
    assert similar(np.zeros(3, np.uint64), pictures).tolist() == [0, 1, 2]


def test_real_photographs_that_were_published_twice():
    """Two garments of clothing-dataset-small, each in two files that differ; the first under two labels."""
    folder = shared_data("clothing10") / "train"
    names = (
        "shorts/6075b4a5-5b1a-4ce0-aea0-9dbfbca7c35c.jpg",
        "skirt/637a56e4-7fa6-4f75-8859-0f8902461554.jpg",
        "skirt/02341619-2fa3-42d4-bb5e-689518228e67.jpg",
        "skirt/78b7da73-ca6c-4e99-b88d-a9f358e7f0f2.jpg",
    )
    assert len({(folder / name).read_bytes() for name in names}) == 4
    assert similar(*seen([open_image(folder / name) for name in names])).tolist() == [0, 0, 2, 2]
