"""Every kind of image by its stated rule, with pixel values computed by hand; and nothing that crashes."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vitnext.decode
from vitnext.decode import MAX_PIXELS, open_image
from vitnext.errors import ImageError


def encode(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def photograph(height=40, width=60):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(width, height, depth, color_type, rows, *chunks):
    """A PNG written by hand, for what Pillow does not write. ``rows`` are raw bytes, one per line of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + pixels + chunk(b"IEND", b"")


# ---- the rules

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_rgb_is_exact(file_format):
    image = photograph()
    np.testing.assert_array_equal(open_image(encode(image, file_format)), np.asarray(image))


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_are_what_pillow_decodes(file_format):
    data = encode(photograph(), file_format)
    np.testing.assert_array_equal(open_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_grey_is_replicated():
    values = np.array([[0, 128, 255]], np.uint8)
    np.testing.assert_array_equal(open_image(encode(Image.fromarray(values))), np.stack([values] * 3, axis=-1))


def test_grey_stays_grey_with_color_l():
    values = np.array([[0, 128, 255]], np.uint8)
    np.testing.assert_array_equal(open_image(encode(Image.fromarray(values)), color="L"), values[..., None])


def test_colour_to_grey_is_luma_601():
    pixels = np.array([[RED, GREEN, BLUE, (100, 50, 200)]], np.uint8)
    expected = [76, 150, 29, 82]  # 0.299 R + 0.587 G + 0.114 B
    np.testing.assert_array_equal(open_image(encode(Image.fromarray(pixels)), color="L")[0, :, 0], expected)


def test_one_bit_is_black_and_white():
    image = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(open_image(encode(image))[0], [(0, 0, 0), WHITE, WHITE])


def palette_image():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize("file_format", ["AVIF", "JPEG2000"])
def test_formats_of_phones_and_scanners(file_format):
    data = encode(Image.new("RGB", (8, 6), GREEN), file_format)
    np.testing.assert_allclose(open_image(data), np.full((6, 8, 3), GREEN), atol=3)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_becomes_its_colours(file_format):
    np.testing.assert_array_equal(open_image(encode(palette_image(), file_format))[0], [RED, GREEN, BLUE])


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_the_transparent_colour_of_a_palette_becomes_white(file_format):
    data = encode(palette_image(), file_format, transparency=1)
    np.testing.assert_array_equal(open_image(data)[0], [RED, WHITE, BLUE])


def test_palette_with_alpha_per_entry():
    data = encode(palette_image(), transparency=bytes([255, 0, 255]))
    np.testing.assert_array_equal(open_image(data)[0], [RED, WHITE, BLUE])
    pa = palette_image().convert("PA")
    pa.putalpha(Image.fromarray(np.array([[255, 255, 0]], np.uint8)))
    np.testing.assert_array_equal(open_image(pa)[0], [RED, GREEN, WHITE])


def test_alpha_is_laid_over_white():
    pixels = np.array([[(0, 100, 200, 255), (0, 100, 200, 0), (0, 100, 200, 51)]], np.uint8)
    expected = [(0, 100, 200), WHITE, (204, 224, 244)]  # 51 / 255 = 0.2 of the colour, 0.8 of white
    for source in (pixels, encode(Image.fromarray(pixels)), encode(Image.fromarray(pixels), "WEBP", lossless=True)):
        np.testing.assert_array_equal(open_image(source)[0, :2], expected[:2])
    np.testing.assert_array_equal(open_image(pixels)[0], expected)


def test_grey_with_alpha_is_laid_over_white():
    image = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)])
    assert open_image(encode(image)).tolist() == [[[224] * 3]]
    assert open_image(encode(image), color="L").tolist() == [[[224]]]


def test_png_transparency_chunk_of_grey_and_rgb():
    grey = png(3, 1, 8, 0, [bytes([10, 20, 30])], (b"tRNS", b"\0\x14"))
    np.testing.assert_array_equal(open_image(grey, color="L")[0, :, 0], [10, 255, 30])
    rgb = png(2, 1, 8, 2, [bytes([*RED, *BLUE])], (b"tRNS", struct.pack(">HHH", *BLUE)))
    np.testing.assert_array_equal(open_image(rgb)[0], [RED, WHITE])


def test_cmyk_is_converted():
    image = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    assert open_image(encode(image, "TIFF")).tolist() == [[[0, 255, 255]]]
    assert open_image(Image.new("CMYK", (1, 1), (0, 0, 0, 255))).tolist() == [[[0, 0, 0]]]
    jpeg = open_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    np.testing.assert_allclose(jpeg.astype(int), np.full((16, 16, 3), RED), atol=3)


SIXTEEN = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
EIGHT = [0, 0, 1, 1, 128, 254, 255, 255]  # round(v / 257): 128 / 257 < 0.5 < 129 / 257, 65406 / 257 < 254.5


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey(file_format):
    data = encode(Image.fromarray(SIXTEEN), file_format)
    assert open_image(data, color="L")[0, :, 0].tolist() == EIGHT
    assert open_image(data)[0, :, 2].tolist() == EIGHT


def test_sixteen_bit_grey_in_other_modes():
    big_endian = Image.frombytes("I;16B", (8, 1), SIXTEEN.astype(">u2").tobytes())
    for image in (big_endian, Image.fromarray(SIXTEEN.astype(np.int32))):
        assert open_image(image, color="L")[0, :, 0].tolist() == EIGHT


def test_sixteen_bit_grey_with_a_transparent_value():
    data = png(2, 1, 16, 0, [struct.pack(">HH", 257, 514)], (b"tRNS", struct.pack(">H", 514)))
    assert open_image(data, color="L")[0, :, 0].tolist() == [1, 255]


def test_sixteen_bit_colour_is_cut_to_the_high_byte():
    data = png(1, 1, 16, 2, [struct.pack(">HHH", 0x01FF, 0x8000, 0xFFFF)])
    assert open_image(data).tolist() == [[[0x01, 0x80, 0xFF]]]


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_are_refused(value):
    data = encode(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")
    with pytest.raises(ImageError, match=r"must lie in 0\.\.65535"):
        open_image(data)


def test_floating_point():
    data = encode(Image.fromarray(np.array([[0, 0.25, 0.5, 1]], np.float32)), "TIFF")
    assert open_image(data, color="L")[0, :, 0].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_floating_point_outside_0_to_1_is_refused(value):
    data = encode(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"must lie in 0\.\.1"):
        open_image(data)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_taken(file_format):
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert open_image(data)[0, 0].tolist() == [255, 0, 0]


# ---- EXIF

UPRIGHT = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40


def stored(orientation):
    """How a camera stores ``UPRIGHT`` under each orientation (EXIF 2.3: where row 0 and column 0 are)."""
    a = UPRIGHT
    return {
        1: a,
        2: a[:, ::-1],  # row 0 top, column 0 right
        3: a[::-1, ::-1],  # bottom, right
        4: a[::-1],  # bottom, left
        5: a.T,  # left, top
        6: a.T[::-1],  # right, top: what is shown is the stored one turned clockwise
        7: a.T[::-1, ::-1],  # right, bottom
        8: a.T[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.ascontiguousarray(stored(orientation)).repeat(8, axis=0).repeat(8, axis=1)
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(file_format, {})
    data = encode(Image.fromarray(pixels), file_format, exif=exif, **options)
    upright = UPRIGHT.repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_allclose(open_image(data, color="L")[..., 0].astype(int), upright, atol=2)
    if file_format != "TIFF":  # whose own tag Pillow always applies
        np.testing.assert_allclose(open_image(data, color="L", exif=False)[..., 0].astype(int), pixels, atol=2)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert open_image(encode(Image.fromarray(UPRIGHT), exif=exif)).shape == (2, 3, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own about the EXIF block
def test_damaged_exif_does_not_spoil_the_pixels():
    data = encode(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert open_image(data).shape == (40, 60, 3)


@pytest.mark.parametrize("error", [SyntaxError("not a TIFF file"), struct.error("x"), ValueError()])
def test_whatever_pillow_raises_about_exif_is_ignored(monkeypatch, error):
    def getexif(self):
        raise error

    data = encode(photograph())
    monkeypatch.setattr("PIL.Image.Image.getexif", getexif)
    assert open_image(data).shape == (40, 60, 3)


# ---- sources


def test_the_same_pixels_from_path_bytes_array_and_pillow_image(tmp_path):
    image = photograph()
    path = tmp_path / "a.png"
    image.save(path)
    expected = np.asarray(image)
    with Image.open(path) as opened:
        for source in (path, str(path), path.read_bytes(), expected, image, opened):
            np.testing.assert_array_equal(open_image(source), expected)


def test_the_result_is_writable_and_its_own():
    array = np.zeros((2, 2, 3), np.uint8)
    open_image(array)[:] = 7
    assert array.max() == 0


def test_arrays_of_every_accepted_shape_and_layout():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = np.stack([grey] * 3, axis=-1)
    for array in (grey, grey[..., None], expected, np.asfortranarray(grey), np.dstack([expected, grey * 0 + 255])):
        np.testing.assert_array_equal(open_image(array), expected)
    np.testing.assert_array_equal(open_image(grey[:, ::-1], color="L")[..., 0], grey[:, ::-1])


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4), np.float32), "uint8"),
        (np.zeros((4, 4), bool), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(H, W\)"),
        (np.zeros((3, 4, 4), np.uint8).transpose(0, 2, 1)[:, :, :2], r"shape \(H, W\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(H, W\)"),
        (np.zeros(4, np.uint8), r"shape \(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.array(5, np.uint8), r"shape \(H, W\)"),
    ],
)
def test_other_arrays_are_refused(array, says):
    with pytest.raises(ImageError, match=f"^array: .*{says}"):
        open_image(array)


def test_other_things_are_refused():
    for source in (None, 3.5, ["a.jpg"], object()):
        with pytest.raises(ImageError):
            open_image(source)


# ---- files that are no images


def refusal(source):
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_refusal_names_the_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is not a picture\n")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    (tmp_path / "drawing.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    expected = {
        "missing.jpg": "no such file",
        "empty.jpg": "0 bytes",
        "text.jpg": "not a JPEG",
        "folder.jpg": "not a file",
        "link.jpg": "no such file",
        "pipe.jpg": "not a file",
        "drawing.png": "not a JPEG",
        "IMG_1.HEIC": "HEIC is not read: convert it to JPEG",
        "a\0b.jpg": "null",
    }
    for name, says in expected.items():
        message = refusal(tmp_path / name)
        assert message.startswith(str(tmp_path / name)) and says in message


def test_a_refused_pillow_image_is_named_by_its_file_if_it_has_one(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(photograph())[:-2000])
    with Image.open(path) as image:
        assert refusal(image).startswith(str(path))
    assert refusal(Image.new("RGB", (0, 4))) == "Pillow image: the image has no pixels"


def test_a_name_with_a_line_break_still_gives_one_line(tmp_path):
    refusal(tmp_path / "two\nlines.jpg")


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    photograph().save(tmp_path / "secret.png")
    monkeypatch.setattr("builtins.open", refuse)
    assert "no permission" in refusal(tmp_path / "secret.png")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9])
def test_truncated_files(file_format, kept):
    data = encode(photograph(), file_format)
    refusal(data[: int(len(data) * kept)])


@pytest.mark.parametrize("missing", [100, 1000, 3000])
def test_truncated_jpeg_without_its_last_bytes(missing):
    data = encode(photograph(100, 100), "JPEG", quality=95)
    assert "truncated" in refusal(data[:-missing])


def bomb(width, height):
    return png(width, height, 1, 0, [bytes((width + 7) // 8)] * height)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    message = refusal(png(20000, 20000, 1, 0, []))  # only the header says so
    assert f"more than {MAX_PIXELS:,} pixels" in message


def test_the_limit_is_our_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(vitnext.decode, "MAX_PIXELS", 99)
    assert "more than 99 pixels" in refusal(bomb(10, 10))
    assert "more than 99 pixels" in refusal(np.zeros((10, 10), np.uint8))


def test_large_images_below_the_limit_do_not_warn(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)  # Pillow warns from here, and refuses from twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(bomb(10, 10)).shape == (10, 10, 3)


@pytest.mark.parametrize("error", [MemoryError(), struct.error("x"), SyntaxError("x"), RecursionError(), KeyError()])
def test_whatever_pillow_raises_becomes_an_image_error(monkeypatch, error):
    def load(self):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    refusal(encode(photograph(), "BMP"))


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a",
    b"BM", b"II*\0", b"MM\0*", b"RIFF\x40\0\0\0WEBPVP8 "]))  # fmt: skip
def test_random_bytes_never_crash(data, prefix):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            open_image(prefix + data)
        except ImageError as error:
            assert "\n" not in str(error)


SAMPLES = {f: encode(photograph(12, 10), f) for f in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}


@settings(max_examples=150, deadline=None)
@given(
    file_format=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_damaged_files_never_crash(file_format, changes):
    data = bytearray(SAMPLES[file_format])
    for where, value in changes:
        data[int(where * len(data))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = open_image(bytes(data))
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        except ImageError as error:
            assert "\n" not in str(error)
