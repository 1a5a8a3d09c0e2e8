"""Random changes to training images: exactly what each option says, and nothing when it is off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from vitnext.data.augment import BatchAugment, ImageAugment, RandAugment, random_box
from vitnext.recipe import Augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(batch, height, width):
    """Channel 0 holds each pixel's row, channel 1 its column, channel 2 its image."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = torch.stack([rows, columns, torch.zeros_like(rows)]).expand(batch, 3, height, width).clone()
    images[:, 2] = torch.arange(batch)[:, None, None]
    return images.to(torch.uint8)


# ---- batches


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 1, 8, 8), (3, 3, 9, 4)])
def test_with_everything_off_a_batch_is_unchanged(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    out = BatchAugment(Augment())(images, generator())
    assert torch.equal(out, images) and out.dtype == torch.uint8 and out.is_contiguous()


def test_a_shift_moves_the_whole_image_and_repeats_its_edge():
    pad, height, width = 2, 7, 5
    out = BatchAugment(Augment(crop_padding=pad))(coordinates(400, height, width), generator()).long()
    shifts = set()
    for b, image in enumerate(out):
        # The middle cannot reach an edge: it tells the shift.
        dy, dx = int(image[0, 3, 2]) - 3, int(image[1, 3, 2]) - 2
        for y in range(height):
            for x in range(width):
                expected = [min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1), b % 256]
                assert image[:, y, x].tolist() == expected
        shifts.add((dy, dx))
    assert shifts == {(dy, dx) for dy in range(-pad, pad + 1) for dx in range(-pad, pad + 1)}


def test_a_shift_may_be_larger_than_the_image():
    out = BatchAugment(Augment(crop_padding=50))(coordinates(50, 4, 4), generator()).long()
    assert out[:, :2].min() == 0 and out[:, :2].max() == 3


def test_a_planted_pixel_lands_where_it_should():
    images = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    images[0, 0, 1, 0] = 9  # at the left edge: a shift to the right repeats it
    seen = set()
    for seed in range(200):
        out = BatchAugment(Augment(crop_padding=1))(images, generator(seed))[0, 0]
        seen.add(tuple(map(tuple, (out == 9).int().tolist())))
    expected = set()
    for row in range(3):  # wherever row 1 went
        for columns in ((1, 0, 0), (0, 0, 0), (1, 1, 0)):
            grid = [(0, 0, 0)] * 3
            grid[row] = columns
            expected.add(tuple(grid))
    assert seen == expected


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_a_flip_mirrors_that_share_of_the_images_exactly(probability):
    images = coordinates(400, 3, 5)
    out = BatchAugment(Augment(horizontal_flip=probability))(images, generator())
    flipped = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(out, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(out, images, strict=True)])
    assert (flipped ^ kept).all()
    assert flipped.float().mean() == pytest.approx(probability, abs=0.08 if probability < 1 else 0)


def test_shift_and_flip_together_are_a_shift_of_the_mirror_image():
    out = BatchAugment(Augment(crop_padding=1, horizontal_flip=1.0))(coordinates(60, 5, 5), generator()).long()
    for image in out:
        steps = image[1, 2].diff()
        assert (steps <= 0).all()  # columns run from right to left
        assert set(steps.tolist()) <= {0, -1}


def erased(images, recipe, seed=0):
    """Masks (B, H, W) of the pixels that changed."""
    out = BatchAugment(recipe)(images, generator(seed))
    assert out.shape == images.shape and out.dtype == torch.uint8
    return (out != images).any(dim=1), out


def test_erasing_blanks_one_rectangle_of_2_to_33_percent():
    size = 64
    masks, _ = erased(torch.zeros(300, 3, size, size, dtype=torch.uint8), Augment(erasing=1.0))
    shares, aspects = [], []
    for mask in masks:
        rows, columns = (torch.nonzero(mask.any(dim=d)).flatten() for d in (1, 0))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        # Noise of three channels is zero in one of 2^24 pixels: the rectangle is filled.
        assert mask[top:bottom, left:right].all() and mask.sum() == (bottom - top) * (right - left)
        shares.append(float(mask.float().mean()))
        aspects.append((bottom - top) / (right - left))
    rounding = 1.2  # of sides to whole pixels
    assert 0.02 / rounding < min(shares) < 0.04 and 0.28 < max(shares) < 0.33 * rounding
    assert 0.3 / rounding < min(aspects) < 0.5 and 2.0 < max(aspects) < 3.3 * rounding


def test_an_erased_rectangle_may_lie_anywhere():
    masks, _ = erased(torch.zeros(500, 3, 8, 8, dtype=torch.uint8), Augment(erasing=1.0))
    often = masks.float().mean(dim=0)
    assert often.min() > 0.02 and often.max() < 0.5
    assert torch.allclose(often, often.flip(0), atol=0.1) and torch.allclose(often, often.flip(1), atol=0.1)


@pytest.mark.parametrize("probability", [0.25, 0.75, 1.0])
def test_erasing_happens_to_that_share_of_the_images(probability):
    masks, _ = erased(torch.zeros(600, 3, 16, 16, dtype=torch.uint8), Augment(erasing=probability))
    hit = masks.flatten(1).any(dim=1).float().mean()
    assert hit == pytest.approx(probability, abs=0.06 if probability < 1 else 0)


def test_erasing_fills_with_noise_over_the_whole_range():
    masks, out = erased(torch.zeros(50, 1, 32, 32, dtype=torch.uint8), Augment(erasing=1.0))
    values = out[:, 0][masks].float()
    assert values.min() < 5 and values.max() > 250 and values.mean() == pytest.approx(127.5, abs=5)


@pytest.mark.parametrize(
    "recipe", [Augment(crop_padding=2), Augment(horizontal_flip=0.5), Augment(erasing=0.5)], ids=str
)
def test_every_image_has_a_choice_of_its_own(recipe):
    image = torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8, generator=generator(9))
    out = BatchAugment(recipe)(image.expand(40, 1, 12, 12), generator())
    assert len({tuple(changed.flatten().tolist()) for changed in out}) >= 2


@pytest.mark.parametrize(
    "recipe", [Augment(crop_padding=2), Augment(horizontal_flip=0.5), Augment(erasing=0.5)], ids=str
)
def test_a_batch_depends_on_its_generator_alone_and_the_input_is_left_alone(recipe):
    images = coordinates(20, 8, 8)
    kept = images.clone()
    augment = BatchAugment(recipe)
    torch.manual_seed(1)
    first = augment(images, generator(3))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(augment(images, generator(3)), first)
    assert not torch.equal(augment(images, generator(4)), first)
    assert torch.equal(images, kept)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # no draw from the global generator


@pytest.mark.parametrize(
    "recipe",
    [
        Augment(crop_scale=(0.5, 1)),
        Augment(color_jitter=0.1),
        Augment(trivial_augment=True),
        Augment(rand_augment=(9, 0)),
    ],
)
def test_what_a_batch_cannot_do_is_refused(recipe):
    with pytest.raises(ValueError, match="ImageAugment"):
        BatchAugment(recipe)


# ---- photographs

EVERYTHING = Augment((0.35, 1.0), 2, 0.5, 0.4, True, erasing=0.5)
OPTIONS = {
    "crop_scale": Augment(crop_scale=(0.3, 0.6)),
    "crop_padding": Augment(crop_padding=4),
    "horizontal_flip": Augment(horizontal_flip=0.5),
    "color_jitter": Augment(color_jitter=0.5),
    "trivial_augment": Augment(trivial_augment=True),
    "rand_augment": Augment(rand_augment=(9, 0.5)),
    "erasing": Augment(erasing=0.5),
}


def photograph(height, width, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (channels, height, width), dtype=np.uint8))


def augmented(recipe, image, size, seed):
    torch.manual_seed(seed)
    return ImageAugment(recipe, size)(image)


@pytest.mark.parametrize("recipe", [Augment(), EVERYTHING, *OPTIONS.values()], ids=["off", "everything", *OPTIONS])
@pytest.mark.parametrize("shape", [(40, 40), (30, 80), (80, 30), (7, 5), (1, 1), (3, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_becomes_a_square_of_bytes_and_the_same_for_the_same_seed(recipe, shape, channels):
    image = photograph(*shape, channels)
    kept = image.clone()
    out = augmented(recipe, image, 16, seed=0)
    assert out.shape == (channels, 16, 16) and out.dtype == torch.uint8
    assert torch.equal(augmented(recipe, image, 16, seed=0), out)
    assert torch.equal(image, kept)


def test_with_everything_off_an_image_of_the_right_size_is_unchanged():
    image = photograph(16, 16)
    for seed in range(5):
        assert torch.equal(augmented(Augment(), image, 16, seed), image)


def test_with_everything_off_a_long_image_is_cropped_along_its_length_alone():
    image = torch.arange(40, dtype=torch.uint8).expand(3, 16, 40)
    starts = set()
    for seed in range(100):
        out = augmented(Augment(), image, 16, seed)
        start = int(out[0, 0, 0])
        assert torch.equal(out, image[:, :, start : start + 16])
        starts.add(start)
    assert min(starts) < 4 and max(starts) > 20


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_acts(option):
    image = photograph(16, 16)
    results = {tuple(augmented(OPTIONS[option], image, 16, seed).flatten().tolist()) for seed in range(12)}
    assert len(results) >= 2
    assert any(result != tuple(image.flatten().tolist()) for result in results)


def test_the_options_are_all_of_the_recipe_s():
    of_masks = {"scale", "aspect", "rotation"}  # test_mask_augment
    elsewhere = of_masks | {"mixup", "cutmix", "repeats"}  # test_mixing, test_sampling
    assert {*OPTIONS} | elsewhere == set(Augment.__dataclass_fields__)


def test_a_flip_of_one_always_mirrors():
    image = photograph(16, 16)
    assert torch.equal(augmented(Augment(horizontal_flip=1.0), image, 16, 0), image.flip(2))


@pytest.mark.parametrize("side", [9, 16, 40])  # of an image that is enlarged, kept and made smaller
def test_a_flip_before_resizing_is_one_after_it(side):
    image = photograph(side, side)
    flipped, upright = (augmented(Augment(horizontal_flip=flip), image, 16, 0).int() for flip in (1.0, 0.0))
    assert (flipped - upright.flip(2)).abs().max() <= 1
    assert (flipped - upright).abs().max() > 50


@pytest.mark.parametrize("side", [9, 16, 40])
def test_what_changes_an_image_is_given_the_flipped_one(side, monkeypatch):
    """A shear keeps the left edge where it is: sheared and then flipped is another image."""
    given = []
    monkeypatch.setattr(v2.TrivialAugmentWide, "forward", lambda self, image: given.append(image) or image)
    image = photograph(side, side)
    out = augmented(Augment(horizontal_flip=1.0, trivial_augment=True), image, 16, 0)
    assert torch.equal(given[0], out) and torch.equal(out, augmented(Augment(horizontal_flip=1.0), image, 16, 0))


def test_padding_repeats_the_edge():
    image = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    for seed in range(20):
        assert torch.equal(augmented(Augment(crop_padding=8), image, 16, seed), image)


def test_a_random_crop_keeps_its_share_of_the_area():
    """On a ramp from 0 to 255 the range of what is left tells how much of the width was kept."""
    ramp = torch.linspace(0, 255, 200).round().to(torch.uint8).expand(3, 200, 200)
    spans = []
    for seed in range(200):
        out = augmented(Augment(crop_scale=(0.25, 0.5)), ramp, 16, seed)[0].float()
        spans.append(float(out.max() - out.min()) / 255)
    # width share = sqrt(area share * aspect), aspect in 3/4..4/3
    assert 0.35 < min(spans) < 0.5 and 0.65 < max(spans) < 0.85


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((300, 400), (0.08, 1.0)), ((213, 160), (0.35, 1.0)), ((60, 400), (0.2, 1.0)), ((300, 400), (0.9, 1.0))],
)
def test_random_boxes_are_distributed_as_torchvision_s(shape, scale):
    """Deciles of the boxes' heights, widths and places, and how often the middle is taken for want of another."""
    reference, tensor = v2.RandomResizedCrop(16, scale=scale), torch.empty((1, *shape), device="meta")
    torch.manual_seed(0)
    ours = np.array([random_box(*shape, scale) for _ in range(1500)])
    theirs = [reference.make_params([tensor]) for _ in range(1500)]
    theirs = np.array([[drawn[name] for name in ("top", "left", "height", "width")] for drawn in theirs])
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= shape).all() and ours[:, 2:].min() > 0
    deciles = np.linspace(0.1, 0.9, 9)
    for mine, other, side in zip(ours.T, theirs.T, (*shape, *shape), strict=True):
        assert np.abs(np.quantile(mine, deciles) - np.quantile(other, deciles)).max() < 0.06 * side
    most = max(set(map(tuple, theirs.tolist())), key=theirs.tolist().count)
    often = [np.mean((boxes == most).all(axis=1)) for boxes in (ours, theirs)]
    assert often[0] == pytest.approx(often[1], abs=0.05)


@pytest.mark.parametrize("shape", [(40, 50), (200, 300)])
def test_a_crop_has_the_pixels_of_torchvision_s(shape):
    image, augment = photograph(*shape), ImageAugment(Augment(crop_scale=(0.1, 1.0)), 32)
    pillow = v2.functional.to_pil_image(image)
    for seed in range(20):
        torch.manual_seed(seed)
        out = augment(image)
        torch.manual_seed(seed)
        top, left, height, width = augment.box(*shape)
        assert torch.equal(out, v2.functional.resized_crop(image, top, left, height, width, [32, 32]))
        theirs = v2.functional.resized_crop(pillow, top, left, height, width, [32, 32])
        difference = out.int() - v2.functional.pil_to_tensor(theirs).int()
        assert difference.abs().max() <= 1  # the two round differently


@pytest.mark.parametrize("shape", [(50, 37), (37, 50), (20, 61), (33, 33), (100, 31)])
def test_a_whole_image_has_the_pixels_of_torchvision_s_in_the_order_of_its_file(shape):
    augment = ImageAugment(Augment(), 32)
    augment.changes = []  # no crop of the longer side
    decoded = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = torch.from_numpy(decoded).permute(2, 0, 1)
    out = augment(image)
    expected = v2.functional.resize(image, [32])  # in floats on processors without AVX2
    assert out.shape == expected.shape and (out.int() - expected.int()).abs().max() <= 1
    assert out.permute(1, 2, 0).is_contiguous()  # the slower kernel of torch would give another order


def test_whole_images_are_stretched_where_validation_stretches_them():
    image = torch.zeros(3, 8, 24, dtype=torch.uint8)
    image[:, :, :8] = 255  # a crop of 8 px would be one colour or end at another column
    stretched = ImageAugment(Augment(), 8, stretch=True)(image)
    assert stretched.shape == (3, 8, 8)
    assert (stretched[:, :, :2] > 200).all() and (stretched[:, :, 4:] < 50).all()


def test_rand_augment_follows_its_magnitude(monkeypatch):
    """Of the brightness alone: at 10 it changes by up to 90%, at 1 by 9%."""
    monkeypatch.setattr(
        v2.RandAugment, "_AUGMENTATION_SPACE", {"Brightness": v2.RandAugment._AUGMENTATION_SPACE["Brightness"]}
    )
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)

    def changes(magnitude, deviation=0.0):
        made = RandAugment(magnitude, deviation)
        return [made(image).float().mean().item() for _ in range(40)]

    torch.manual_seed(0)
    weak, strong, noisy = changes(1), changes(10), changes(5, 2.0)
    assert min(weak) > 80 and max(weak) < 121
    assert min(strong) < 5 and max(strong) == 255
    assert len(set(noisy)) > 10 > len(set(weak))
