import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitnext import preprocess
from vitnext.errors import ImageError, InputError
from vitnext.preprocess import Preprocess


def random_pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# ---- geometry


def test_the_right_size_passes_unchanged():
    pixels = random_pixels(8, 8)
    grey = Preprocess((8, 8), color="L", mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(grey.pixels(pixels), pixels[..., None])
    for resize in ("stretch", "crop"):
        np.testing.assert_array_equal(Preprocess((8, 8), resize=resize).pixels(pixels), np.stack([pixels] * 3, -1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_stretch_is_pillows_resize(interpolation):
    pixels = random_pixels(30, 50, 3)
    expected = Image.fromarray(pixels).resize((16, 12), Image.Resampling[interpolation.upper()])
    ours = Preprocess((12, 16), interpolation=interpolation).pixels(pixels)
    np.testing.assert_array_equal(ours, np.asarray(expected))


def test_interpolations_differ():
    results = [Preprocess((7, 9), interpolation=i).pixels(random_pixels(30, 50, 3)) for i in preprocess.INTERPOLATIONS]
    assert len({r.tobytes() for r in results}) == 4


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    shrunk = Preprocess((8, 8)).pixels(stripes)
    assert abs(shrunk.astype(int) - 127.5).max() < 20


def test_crop_of_a_wide_image_by_hand():
    # 100 x 50 to a side of 8 / 0.8 = 10: 20 x 10, then the middle 8 x 8: columns 6..13, rows 1..8
    pixels = random_pixels(50, 100, 3)
    resized = np.asarray(Image.fromarray(pixels).resize((20, 10), Image.Resampling.BILINEAR))
    ours = Preprocess((8, 8), resize="crop", crop_fraction=0.8).pixels(pixels)
    np.testing.assert_array_equal(ours, resized[1:9, 6:14])


def test_crop_of_a_tall_image_by_hand():
    pixels = random_pixels(90, 30, 3)
    resized = np.asarray(Image.fromarray(pixels).resize((8, 24), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Preprocess((8, 8), resize="crop").pixels(pixels), resized[8:16])


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    target=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    fraction=st.floats(0.3, 1),
)
def test_every_crop_has_the_right_size(height, width, target, fraction):
    pixels = np.full((height, width), 200, np.uint8)
    ours = Preprocess(target, resize="crop", crop_fraction=fraction).pixels(pixels)
    assert ours.shape == (*target, 3)
    assert ours.min() == 200  # no border that is not the image


def test_crop_matches_torchvision():
    transforms = pytest.importorskip("torchvision.transforms")
    for height, width in ((333, 500), (500, 333), (224, 225), (97, 301)):
        pixels = random_pixels(height, width, 3)
        theirs = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56)])(Image.fromarray(pixels))
        ours = Preprocess((56, 56), resize="crop", crop_fraction=0.875).pixels(pixels)
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_one_pixel_fills_the_input():
    for resize in ("stretch", "crop"):
        assert Preprocess((32, 32), resize=resize).pixels(np.full((1, 1), 9, np.uint8)).min() == 9


def test_a_very_elongated_image_is_refused_instead_of_filling_the_memory():
    with pytest.raises(ImageError, match="too elongated"):
        Preprocess((224, 224), resize="crop").pixels(np.zeros((1, 100_000), np.uint8))


def test_no_memory_for_the_resize(monkeypatch):
    def resize(*args):
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.resize", resize)
    with pytest.raises(ImageError, match="array: not enough memory"):
        Preprocess((8, 8)).pixels(np.zeros((9, 9), np.uint8))


def test_exif_and_color_reach_the_decoder(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_pixels(4, 8, 3)).save(tmp_path / "a.png", exif=exif)
    upright = Preprocess((8, 4)).pixels(tmp_path / "a.png")
    stored = Preprocess((4, 8), exif=False).pixels(tmp_path / "a.png")
    np.testing.assert_array_equal(upright, np.rot90(stored, -1))
    assert Preprocess((8, 4), color="L", mean=(0,), std=(1,)).pixels(tmp_path / "a.png").shape == (8, 4, 1)


# ---- values


def test_normalize_by_hand():
    pixels = np.array([[[0, 51, 255]]], np.uint8)
    ours = Preprocess((1, 1), mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0)).normalize(pixels)
    np.testing.assert_allclose(ours[:, 0, 0], [-1, 0, 0.5], atol=1e-6)
    assert ours.dtype == np.float32 and ours.shape == (3, 1, 1)


def test_normalize_keeps_leading_dimensions():
    pixels = random_pixels(2, 5, 4, 6, 3)
    p = Preprocess((4, 6))
    ours = p.normalize(pixels)
    assert ours.shape == (2, 5, 3, 4, 6)
    np.testing.assert_array_equal(ours[1, 3], p.normalize(pixels[1, 3]))


def test_normalize_leaves_its_argument_alone():
    pixels = np.ones((1, 2, 2, 1), np.float32)
    Preprocess((2, 2), color="L", mean=(0.5,), std=(0.5,)).normalize(pixels)
    assert (pixels == 1).all()


def test_normalize_is_bit_for_bit_what_torch_computes():
    torch = pytest.importorskip("torch")
    pixels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    for scale in (1 / 255, 0.017):
        p = Preprocess((256, 1), scale=scale)
        theirs = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32) * p.scale
        theirs = (theirs - torch.tensor(p.mean)[:, None, None]) / torch.tensor(p.std)[:, None, None]
        np.testing.assert_array_equal(p.normalize(pixels), theirs.numpy())


def test_call_is_pixels_then_normalize():
    p = Preprocess((12, 10))
    pixels = random_pixels(30, 20, 3)
    np.testing.assert_array_equal(p(pixels), p.normalize(p.pixels(pixels)))
    assert p(pixels).shape == (3, 12, 10)


# ---- as data


def test_channels():
    assert Preprocess((8, 8)).channels == 3
    assert Preprocess((8, 8), color="L", mean=(0,), std=(1,)).channels == 1


def test_round_trip_through_json():
    p = Preprocess((224, 192), "crop", 0.875, "bicubic", "L", 1 / 255, (0.1,), (1 / 3,), exif=False)
    assert Preprocess.from_dict(json.loads(json.dumps(p.to_dict()))) == p


def test_every_field_changes_the_result(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(random_pixels(33, 47, 3)).save(tmp_path / "a.png", exif=exif)
    base = Preprocess((20, 20), resize="crop", crop_fraction=0.9).to_dict()
    changes = {
        "image_size": (20, 21),
        "resize": "stretch",
        "crop_fraction": 0.8,
        "interpolation": "bicubic",
        "color": "L",
        "scale": 1 / 128,
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
        "exif": False,
    }
    assert {*changes, "short_side"} == set(base)  # which has a test of its own
    reference = Preprocess.from_dict(base)(tmp_path / "a.png")
    for field, value in changes.items():
        values = base | {field: value}
        if field == "resize":
            values["crop_fraction"] = 1.0
        if field == "color":
            values |= {"mean": (0.5,), "std": (0.5,)}
        changed = Preprocess.from_dict(values)(tmp_path / "a.png")
        assert changed.shape != reference.shape or (changed != reference).any(), field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", (0, 8)),
        ("image_size", (8,)),
        ("image_size", ()),
        ("image_size", 8),
        ("image_size", (10**6, 10**6)),
        ("image_size", ("a", "b")),
        ("resize", "squash"),
        ("crop_fraction", 0),
        ("crop_fraction", 1.5),
        ("crop_fraction", 0.9),  # without resize="crop"
        ("crop_fraction", math.nan),
        ("crop_fraction", "x"),
        ("interpolation", "cubic"),
        ("color", "CMYK"),
        ("color", ["RGB"]),
        ("scale", 0),
        ("scale", math.inf),
        ("mean", (0.5,)),
        ("mean", (0.5, 0.5, math.nan)),
        ("mean", None),
        ("std", (0, 1, 1)),
        ("std", (1, 1, math.inf)),
        ("std", 3),
        ("size", 8),
    ],
)
def test_values_that_make_no_sense_are_one_line(field, value):
    with pytest.raises(InputError, match=r"^preprocess") as caught:
        Preprocess.from_dict({"image_size": (8, 8), field: value})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="image_size"):
        Preprocess.from_dict({})


@pytest.mark.parametrize(
    ("size", "fitted"), [((40, 20), (24, 12)), ((20, 40), (16, 32)), ((3, 4), (24, 32)), ((1, 900), (1, 32))]
)
def test_fit_shows_the_whole_image_at_the_top_left_and_black_elsewhere(size, fitted):
    p = Preprocess((24, 32), "fit", interpolation="nearest")
    assert p.fitted(*size) == fitted
    pixels = p.pixels(np.full((*size, 3), 200, np.uint8))
    assert pixels.shape == (24, 32, 3)
    assert (pixels[: fitted[0], : fitted[1]] == 200).all()
    assert pixels.sum() == 200 * 3 * fitted[0] * fitted[1]
