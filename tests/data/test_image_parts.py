"""Parts of image files: the pixels of ``open_image`` where nothing is scaled, nearly those where it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitnext import decode
from vitnext.data import image_parts
from vitnext.data.image_parts import read_part
from vitnext.decode import open_image
from vitnext.errors import ImageError
from vitnext.preprocess import Preprocess

COLOURS, GREY = Preprocess((8, 8)), Preprocess((8, 8), color="L", mean=(0.5,), std=(0.5,))
FULL = 1 << 20  # pixels that no part has


@pytest.fixture(autouse=True, params=["pillow", "simplejpeg"])
def decoder(request, monkeypatch):
    """Everything with Pillow alone, and with simplejpeg where it is installed."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(image_parts, "simplejpeg", None)
    return request.param


def photograph(height=90, width=130, seed=0):
    """Smooth, as photographs are: what is scaled in one way or another then looks alike."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def whole(height, width):
    return 0, 0, height, width


def pixels(*arguments):
    return read_part(*arguments).permute(1, 2, 0).numpy()


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "coarse": {"quality": 20},
    "restarts": {"restart_marker_rows": 1},
    "rgb": {"keep_rgb": True},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(90, 130), (33, 47), (1, 1), (16, 8)])
def test_unscaled_jpegs_have_exactly_the_pixels_that_are_predicted_on(tmp_path, options, size, decoder):
    path = str(tmp_path / "image.jpg")
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    for image in (photograph(*size), Image.fromarray(noise)):
        image.save(path, **options)
        if decoder == "simplejpeg":
            assert image_parts._by_simplejpeg(path, whole, FULL, "RGB", True) is not None
        assert np.array_equal(pixels(path, whole, FULL, COLOURS), open_image(path))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "RGBA", "I;16"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("preprocess", [COLOURS, GREY], ids=["colours", "grey"])
def test_files_of_any_kind_have_the_pixels_that_are_predicted_on(tmp_path, mode, file_format, preprocess):
    path = str(tmp_path / "image")
    try:
        (photograph().convert("L").convert(mode) if mode == "I;16" else photograph().convert(mode)).save(
            path, file_format
        )
    except (OSError, ValueError):
        pytest.skip(f"Pillow writes no {file_format} of mode {mode}")
    expected = open_image(path, color=preprocess.color)
    assert np.array_equal(pixels(path, whole, FULL, preprocess), expected)
    part = pixels(path, lambda height, width: (10, 20, 30, 40), FULL, preprocess)
    assert np.array_equal(part, expected[10:40, 20:60])


@pytest.mark.parametrize("orientation", range(0, 10))
@pytest.mark.parametrize("least", [FULL, 20])
@pytest.mark.parametrize("said_by", ["exif", "xmp"])
def test_parts_are_those_of_the_upright_image(tmp_path, orientation, least, said_by):
    path = str(tmp_path / "image.jpg")
    image = photograph(243, 325)  # of which no scale makes whole pixels
    if said_by == "exif":
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(path, quality=95, exif=exif)
    else:
        image.save(path, quality=95, xmp=f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode())
    expected, seen = open_image(path), []

    def box(height, width):
        seen.append((height, width))
        return height // 4, width // 5, height // 2, width // 2

    part = pixels(path, box, least, COLOURS)
    height, width = expected.shape[:2]
    assert seen == [(height, width)]
    expected = expected[height // 4 : height // 4 + height // 2, width // 5 : width // 5 + width // 2]
    if least == FULL:
        assert np.array_equal(part, expected)
    else:
        reduced = Image.fromarray(expected).resize((part.shape[1], part.shape[0]), Image.Resampling.BOX)
        assert abs(part.shape[0] - expected.shape[0] / 4) <= 0.5 and abs(part.shape[1] - expected.shape[1] / 4) <= 0.5
        assert np.abs(part.astype(int) - np.asarray(reduced)).mean() < 10  # mirrored, it is up to a pixel off


@pytest.mark.parametrize(
    ("part", "least", "shape"),
    [
        ((400, 600), 50, (50, 75)),
        ((400, 600), 51, (100, 150)),
        ((399, 600), 100, (200, 300)),  # 99.75 is too few
        ((200, 600), 100, (100, 300)),
        ((199, 600), 100, (199, 600)),
        ((400, 64), 8, (50, 8)),
    ],
)
def test_a_part_is_scaled_only_as_far_as_it_keeps_the_pixels_that_are_wanted(tmp_path, part, least, shape):
    path = str(tmp_path / "image.jpg")
    photograph(401, 603).save(path)
    for place in ((0, 0), (401 - part[0], 603 - part[1]), (1, 3)):
        out = pixels(path, lambda height, width, place=place: (*place, *part), least, COLOURS)
        assert abs(out.shape[0] - shape[0]) <= 1 and abs(out.shape[1] - shape[1]) <= 1
        assert min(out.shape[:2]) >= least or min(part) < least


@pytest.mark.parametrize("least", [100, 50, 25])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_simplejpeg_gives_pillow_s_pixels_at_every_scale(tmp_path, monkeypatch, decoder, least, subsampling):
    if decoder == "pillow":
        return
    path = str(tmp_path / "image.jpg")
    photograph(401, 603).save(path, subsampling=subsampling)
    part = pixels(path, lambda *size: (11, 22, 210, 333), least, COLOURS)
    assert abs(part.shape[0] - least) <= 15
    monkeypatch.setattr(image_parts, "simplejpeg", None)
    assert np.array_equal(part, pixels(path, lambda *size: (11, 22, 210, 333), least, COLOURS))


def test_what_is_no_jpeg_is_not_scaled(tmp_path):
    path = str(tmp_path / "image.png")
    photograph().save(path)
    assert np.array_equal(pixels(path, whole, 8, COLOURS), open_image(path))


def test_arrays_are_images_too():
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    part = pixels(grey, lambda height, width: (2, 3, 4, 5), 8, GREY)
    assert np.array_equal(part[..., 0], grey[2:6, 3:8])
    colours = np.asarray(photograph(10, 20))
    assert np.array_equal(pixels(colours, whole, 8, COLOURS), colours)


@pytest.mark.parametrize("least", [8, FULL])
def test_files_that_cannot_be_read_are_named(tmp_path, least):
    path = tmp_path / "image.jpg"
    photograph().save(path)
    data = path.read_bytes()
    for broken in (b"", b"no image", data[: len(data) // 2], data[:20], b"\xff\xd8\xff" + data):
        path.write_bytes(broken)
        with pytest.raises(ImageError, match=r"image\.jpg: ") as error:
            read_part(str(path), whole, least, COLOURS)
        with pytest.raises(ImageError) as other:
            open_image(path)
        assert str(error.value) == str(other.value)
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        read_part(str(path), whole, least, COLOURS)


@pytest.mark.parametrize("least", [8, FULL])
def test_a_file_of_more_pixels_than_may_be_is_refused(tmp_path, monkeypatch, least):
    path = tmp_path / "image.jpg"
    photograph().save(path)
    for module in (decode, image_parts):
        monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="make it smaller"):
        read_part(str(path), whole, least, COLOURS)
