"""Image and mask change together: the image is drawn from the mask, and has to fit it afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitnext.data.mask_augment import MaskAugment
from vitnext.data.mask_values import VOID
from vitnext.recipe import Augment


def blocks(height, width, side, seed=0):
    """A mask of squares of classes 1 to 5."""
    small = np.random.default_rng(seed).integers(1, 6, (-(-height // side), -(-width // side)), dtype=np.uint8)
    return torch.from_numpy(np.kron(small, np.ones((side, side), np.uint8))[:height, :width].copy())


def painted(mask, channels=3):
    return (mask[None] * 40).expand(channels, -1, -1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(0, 99))
def test_without_scale_every_pixel_is_one_of_the_image_and_the_mask_fits(height, width, size, seed):
    mask = blocks(height, width, 3, seed)
    torch.manual_seed(seed)
    image, cut = MaskAugment(Augment(horizontal_flip=0.5), size)(painted(mask), mask)
    assert image.shape == (3, size, size) and cut.shape == (size, size) and cut.dtype == torch.int64
    inside = cut != VOID
    assert torch.equal(image[0], torch.where(inside, cut * 40, 0).to(torch.uint8))
    assert inside.sum() == min(height, size) * min(width, size)  # beyond the image only where it must be


@settings(max_examples=40, deadline=None)
@given(st.floats(0.4, 3.0), st.integers(0, 99))
def test_scaled_the_mask_holds_nothing_new_and_still_fits(scale, seed):
    mask = blocks(120, 90, 30, seed)
    torch.manual_seed(seed)
    image, cut = MaskAugment(Augment(scale=(scale, scale), horizontal_flip=0.5), 32)(painted(mask), mask)
    assert set(cut.unique().tolist()) <= set(mask.unique().tolist()) | {VOID}
    inside = cut != VOID
    off = (image[0].int() - cut * 40).abs()[inside] > 20
    assert off.float().mean() < 0.25  # beside outlines, where the image is blended; half a block off would be more


def test_the_scale_is_that_of_the_recipe():
    for scale, side in ((0.5, 32), (1.0, 16), (2.0, 8)):
        rows = torch.arange(64, dtype=torch.uint8)[:, None].expand(64, 64).contiguous()
        _, cut = MaskAugment(Augment(scale=(scale, scale)), 16)(painted(rows), rows)
        assert abs(int(cut.max() - cut.min()) - side * 15 / 16) <= 1


def quarters():
    """The four quarters of a square of 64 pixels: 1 2 / 3 4."""
    return torch.from_numpy(np.kron(np.array([[1, 2], [3, 4]], np.uint8), np.ones((32, 32), np.uint8)))


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 180), st.floats(0.5, 2.0), st.integers(0, 99))
def test_turned_the_mask_holds_nothing_new_and_still_fits(rotation, aspect, seed):
    mask = blocks(120, 90, 30, seed)
    torch.manual_seed(seed)
    augment = MaskAugment(
        Augment(scale=(0.7, 1.5), aspect=(aspect, aspect), rotation=rotation, horizontal_flip=0.5), 32
    )
    image, cut, ids = augment(painted(mask), mask, mask.int() * 1000)
    assert image.dtype == torch.uint8 and cut.dtype == ids.dtype == torch.int64
    assert set(cut.unique().tolist()) <= set(mask.unique().tolist()) | {VOID}
    inside = cut != VOID
    assert torch.equal(ids, torch.where(inside, cut * 1000, 0)) and inside.any()
    off = (image[0].int() - cut * 40).abs()[inside] > 20
    assert off.float().mean() < 0.2  # beside outlines, where the image is blended


def test_the_angle_is_that_of_the_recipe_either_way():
    mask, seen = quarters(), []
    place = torch.arange(64) - 31.5
    disc = place[:, None] ** 2 + place**2 < 28**2
    for seed in range(200):
        torch.manual_seed(seed)
        _, cut = MaskAugment(Augment(rotation=30), 64)(painted(mask), mask)
        y, x = ((cut == 2) & disc).nonzero().double().mean(0) - 31.5  # of the quarter on the top right
        seen.append(float(torch.rad2deg(torch.atan2(y, x))) + 45)
    assert -31 < min(seen) < -26 and 26 < max(seen) < 31 and abs(np.mean(seen)) < 4


@pytest.mark.parametrize(("aspect", "height", "width"), [(1.0, 16, 16), (4.0, 32, 8), (0.25, 8, 32)])
def test_the_aspect_is_that_of_the_recipe(aspect, height, width):
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[24:40, 24:40] = 1
    _, cut = MaskAugment(Augment(aspect=(aspect, aspect)), 64)(painted(mask), mask)
    rows, columns = (cut == 1).any(1).sum(), (cut == 1).any(0).sum()
    assert abs(int(rows) - height) <= 1 and abs(int(columns) - width) <= 1


def test_the_only_label_is_not_turned_away():
    mask = torch.full((16, 16), VOID, dtype=torch.uint8)
    mask[0, 0] = 4
    for seed in range(20):
        torch.manual_seed(seed)
        _, cut = MaskAugment(Augment(rotation=180), 16)(torch.zeros(3, 16, 16, dtype=torch.uint8), mask)
        assert (cut == 4).any()


def test_a_crop_is_cut_around_the_only_label():
    mask = torch.full((200, 300), VOID, dtype=torch.uint8)
    mask[137, 211] = 4
    augment = MaskAugment(Augment(), 16)
    for seed in range(20):
        torch.manual_seed(seed)
        _, cut = augment(torch.zeros(3, 200, 300, dtype=torch.uint8), mask)
        assert (cut == 4).sum() == 1


def test_a_crop_that_one_class_fills_is_better_than_void():
    mask = torch.full((64, 64), VOID, dtype=torch.uint8)
    mask[:, :20] = 3
    augment = MaskAugment(Augment(), 8)
    for seed in range(30):
        torch.manual_seed(seed)
        assert (augment(torch.zeros(3, 64, 64, dtype=torch.uint8), mask)[1] == 3).any()


def test_crops_with_several_classes_are_preferred():
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:, 32:] = 1
    augment, several = MaskAugment(Augment(), 16), 0
    for seed in range(100):
        torch.manual_seed(seed)
        several += len(augment(torch.zeros(3, 64, 64, dtype=torch.uint8), mask)[1].unique()) == 2
    assert several > 80  # of places drawn evenly it would be 31


def test_only_void_stays_void():
    mask = torch.full((9, 9), VOID, dtype=torch.uint8)
    assert (MaskAugment(Augment(), 8)(torch.zeros(3, 9, 9, dtype=torch.uint8), mask)[1] == VOID).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_the_image_alone(channels):
    mask = blocks(16, 16, 4)
    torch.manual_seed(0)
    image, cut = MaskAugment(Augment(color_jitter=0.5), 16)(painted(mask, channels), mask)
    assert image.shape == (channels, 16, 16) and not torch.equal(image, painted(mask, channels))
    assert torch.equal(cut, mask.long())


def test_mirrored():
    mask = blocks(16, 16, 2)
    image, cut = MaskAugment(Augment(horizontal_flip=1.0), 16)(painted(mask), mask)
    assert torch.equal(cut, mask.flip(1).long()) and torch.equal(image, painted(mask).flip(-1))
