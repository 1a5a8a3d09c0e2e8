from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shared_data import shared_data
from vitnext.data import label_maps
from vitnext.data.label_maps import read_instance_map, read_stored_pixels
from vitnext.errors import ImageError


def write(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_objects_are_numbered_by_value(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    path = write(tmp_path / "a.png", np.array([[0, 7, 7], [largest, 0, 2]], dtype=dtype))
    segments = read_instance_map(path, 3)
    assert segments.ids.tolist() == [[0, 2, 2], [3, 0, 1]]
    assert segments.ids.dtype == np.int32
    assert segments.labels.tolist() == [3, 3, 3]
    assert segments.crowd.tolist() == [False] * 3
    assert segments.scores is None


def test_background_as_a_segment_of_stuff(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 7, 7], [9, 0, 2]], dtype=np.uint16))
    segments = read_instance_map(path, 1, background=0)
    assert segments.ids.tolist() == [[4, 2, 2], [3, 4, 1]]
    assert segments.labels.tolist() == [1, 1, 1, 0]


def test_no_background_and_nothing_but_background(tmp_path):
    full = write(tmp_path / "full.png", np.array([[1, 2]], dtype=np.uint8))
    assert read_instance_map(full, 1, background=0).labels.tolist() == [1, 1]
    assert read_instance_map(full).ids.tolist() == [[1, 2]]
    empty = write(tmp_path / "empty.png", np.zeros((2, 2), dtype=np.uint8))
    assert read_instance_map(empty).labels.tolist() == []
    assert read_instance_map(empty, 1, background=0).ids.tolist() == [[1, 1], [1, 1]]


def test_a_palette_gives_its_indices(tmp_path):
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 2]))
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert written.mode == "P"
    assert read_instance_map(tmp_path / "a.png").ids.tolist() == [[0, 1], [2, 2]]


def test_one_bit(tmp_path):
    path = write(tmp_path / "a.png", np.array([[True, False]]))
    pixels = read_stored_pixels(path)
    assert (pixels.tolist(), pixels.dtype) == ([[1, 0]], np.uint8)


def encoded(format: str, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 16)).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"not an image", "cannot be read as a PNG"),
        (encoded("PNG")[:45], "cannot be read as a PNG"),
        (encoded("BMP"), "this is BMP"),
        (encoded("PNG", "RGBA"), "this is RGBA"),
        (encoded("PNG", "RGB"), "has colours"),
    ],
)
def test_files_that_are_no_instance_map(tmp_path, content, message):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_instance_map(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(label_maps, "MAX_PIXELS", 255)
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    with pytest.raises(ImageError, match="more than 255 pixels"):
        read_stored_pixels(path)


def test_nuclei():
    folder = shared_data("nuclei3") / "instances"
    for path in sorted(folder.glob("*.png"))[::60]:
        with Image.open(path) as image:
            stored = np.asarray(image)
        segments = read_instance_map(path)
        assert np.array_equal(segments.ids, stored)  # they are 1..n already
        assert len(segments.labels) == stored.max() > 0
