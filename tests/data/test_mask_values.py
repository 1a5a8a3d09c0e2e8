"""What masks hold becomes class indices, by naive loops; what is not said is refused in one line."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from vitnext.data.mask_values import MaskClass, MaskValues, distinct, open_mask, read_indices, read_mask
from vitnext.errors import ImageError, InputError

VALUES = MaskValues(
    (
        MaskClass(7, "sky", (0, 0, 255)),
        MaskClass(300, "road", (128, 64, 128)),
        MaskClass(0, "car", (0, 0, 0), thing=True),
    ),
    (MaskClass(255, "ignore", (255, 255, 255)),),
)


def saved(tmp_path, array, name="m.png", **more):
    Image.fromarray(array).save(tmp_path / name, **more)
    return str(tmp_path / name)


def refused(path, values=VALUES):
    with pytest.raises(ImageError) as error:
        read_mask(path, values)
    assert str(error.value).startswith(path) and "\n" not in str(error.value)
    return str(error.value)


@given(arrays(np.uint16, (3, 4), elements=st.sampled_from([7, 300, 0, 255])))
def test_ids_become_indices(tmp_path_factory, array):
    path = saved(tmp_path_factory.getbasetemp(), array, "ids.png")
    expected = [[{7: 0, 300: 1, 0: 2, 255: 255}[int(v)] for v in row] for row in array]
    assert read_mask(path, VALUES).tolist() == expected


@given(st.lists(st.sampled_from([(0, 0, 255), (128, 64, 128), (0, 0, 0), (255, 255, 255)]), min_size=6, max_size=6))
def test_colours_become_indices(tmp_path_factory, colors):
    path = saved(tmp_path_factory.getbasetemp(), np.array(colors, np.uint8).reshape(2, 3, 3), "colors.png")
    index = {(0, 0, 255): 0, (128, 64, 128): 1, (0, 0, 0): 2, (255, 255, 255): 255}
    assert read_mask(path, VALUES).reshape(-1).tolist() == [index[c] for c in colors]


def test_a_colour_that_is_nearly_one_is_none(tmp_path):
    path = saved(tmp_path, np.array([[[128, 64, 129], [0, 0, 255]]], np.uint8))
    assert "#804081" in refused(path)


def test_palette_files_give_their_indices(tmp_path):
    image = Image.fromarray(np.array([[1, 0, 2]], np.uint8), mode="L").convert("P")
    image.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    image.save(tmp_path / "p.png")
    pixels, palette = open_mask(str(tmp_path / "p.png"))
    assert pixels.tolist() == [[1, 0, 2]] and palette[:3].tolist() == [[9] * 3, [8] * 3, [7] * 3]


def test_a_palette_that_contradicts_classes_txt_is_refused(tmp_path):
    """As of a program that compresses pictures: index 0 has the colour of sky, whose id is 7."""
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 10, 10, 10])
    image.save(tmp_path / "p.png")
    assert "index 0 the colour of sky, whose id is 7" in refused(str(tmp_path / "p.png"))
    image.putpalette([0, 0, 0, 0, 0, 255])  # index 1 would, but is not used
    image.save(tmp_path / "p.png")
    assert read_mask(str(tmp_path / "p.png"), VALUES).tolist() == [[2, 2]]


@pytest.mark.parametrize(("bits", "byte", "stored"), [(1, 0b01100000, [0, 1, 1, 0]), (2, 0b00011011, [0, 1, 2, 3])])
def test_grey_of_few_bits_is_as_it_is_stored(tmp_path, bits, byte, stored):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes([0, byte]))) + chunk(b"IEND", b"")
    (tmp_path / "few.png").write_bytes(data)
    assert open_mask(str(tmp_path / "few.png"))[0].tolist() == [stored]


def test_transparency(tmp_path):
    opaque = np.dstack([np.full((2, 2), 7, np.uint8), np.full((2, 2), 255, np.uint8)])
    assert read_mask(saved(tmp_path, opaque, "la.png"), VALUES).tolist() == [[0, 0], [0, 0]]
    opaque[0, 0, 1] = 254
    assert "transparent" in refused(saved(tmp_path, opaque, "half.png"))
    assert "transparent" in refused(saved(tmp_path, np.zeros((2, 2, 4), np.uint8), "rgba.png"))


def test_what_cannot_be_a_mask_is_refused(tmp_path):
    flat = np.zeros((2, 2), np.uint8)
    assert "JPEG changes" in refused(saved(tmp_path, flat, "m.jpg"))
    assert "no such file" in refused(str(tmp_path / "none.png"))
    (tmp_path / "empty.png").touch()
    assert "0 bytes" in refused(str(tmp_path / "empty.png"))
    (tmp_path / "text.png").write_text("text")
    assert "not a PNG" in refused(str(tmp_path / "text.png"))
    whole = saved(tmp_path, np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8), "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    assert "truncated" in refused(whole)
    assert "mode F" in refused(saved(tmp_path, flat.astype(np.float32), "f.tif"))
    assert "beyond 0 to 65535" in refused(saved(tmp_path, np.full((2, 2), 70_000, np.int32), "i.tif"))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert "EXIF" in refused(saved(tmp_path, flat, "turned.png", exif=exif))
    assert "not a file" in refused(str(tmp_path))


def test_unknown_ids_are_named_and_counted(tmp_path):
    path = saved(tmp_path, np.arange(8, 17, dtype=np.uint8).reshape(3, 3))
    assert "the ids 8, 9, 10, 11, 12 and 4 more, which" in refused(path)
    pixels, indices = read_indices(path, VALUES)
    assert pixels[0, 0] == 8 and (indices == -1).all()


def test_merged_classes_stand_where_the_first_stood(tmp_path):
    values = VALUES.regrouped({"ground": ["road", "sky"]}, [])
    assert values.classes == ("ground", "car") and values.things == (False, True)
    path = saved(tmp_path, np.array([[7, 300, 0, 255]], np.uint16))
    assert read_mask(path, values).tolist() == [[0, 0, 1, 255]]
    assert values.merged(np.array([[0, 1, 2, 255]], np.uint8)).tolist() == [[0, 0, 1, 255]]
    ignoring = VALUES.regrouped({}, ["sky"])
    assert ignoring.classes == ("road", "car") and read_mask(path, ignoring).tolist() == [[255, 0, 1, 255]]
    colors = saved(tmp_path, np.array([[[0, 0, 255], [128, 64, 128]]], np.uint8), "c.png")
    assert read_mask(colors, ignoring).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("merge", "ignore", "says"),
    [
        ({"a": ["bus"]}, [], 'no class "bus"'),
        ({"a": ["sky"]}, ["sky"], '"sky" stands twice'),
        ({"a": []}, [], '"a" merges no class'),
        ({"car": ["sky", "road"]}, [], '"car" is a class of its own'),
        ({"a": ["sky", "road", "car"]}, [], "leave 1 class"),
    ],
)
def test_merging_that_makes_no_sense(merge, ignore, says):
    with pytest.raises(InputError, match=says):
        VALUES.regrouped(merge, ignore)


def test_colours_of_classes():
    # the first of the PASCAL VOC colour map
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [distinct(i) for i in range(7)] == voc and distinct(8) == (64, 0, 0)
    assert len({distinct(i) for i in range(256)}) == 256
    assert VALUES.palette == ("#0000ff", "#804080", "#000000")
