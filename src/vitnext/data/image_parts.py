"""The part of an image file that training looks at, decoded no further than it is needed.

Of a JPEG only the header is read before the part is known. Where the part has at least twice the pixels that training
wants, the file is decoded at 1/2, 1/4 or 1/8 of its size, which libjpeg does in the frequency domain: of the cosine
transform of each 8x8 block it takes the low frequencies alone. Prediction and evaluation decode whole images,
``decode.open_image``.

simplejpeg, if it is installed, gives the pixels that Pillow gives, sooner: it is the same libjpeg-turbo with less
around it. What must be turned upright, has other colours than are wanted or is damaged is left to Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor

from vitnext.data.augment import Box
from vitnext.decode import MAX_PIXELS, TURNED_OVER, decode, orientation, to_array
from vitnext.preprocess import Preprocess

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

SCALES = (8, 4, 2)  # of sides, that libjpeg can decode at
WANTED = {"RGB": ("YCbCr", "RGB", "Gray"), "L": ("Gray",)}  # colours of files, by those that they become
ORIENTED = (b"Exif\0\0", b"tiff:Orientation")  # of EXIF and of XMP: one of them is in every file that may be turned
DrawBox = Callable[[int, int], Box]


def read_part(source: str | np.ndarray, box: DrawBox, least: int, preprocess: Preprocess) -> Tensor:
    """uint8 (C, h, w): of an upright image what ``box(height, width)`` names, smaller where it comes from a JPEG whose
    part has at least ``2 * least`` pixels a side, but never smaller than ``least``.

    Raises ImageError as ``open_image`` does.
    """
    color, exif = preprocess.color, preprocess.exif
    if simplejpeg is not None and isinstance(source, str):
        try:
            part = _by_simplejpeg(source, box, least, color, exif)
        except (OSError, ValueError):  # no JPEG, or there is something wrong with it, which Pillow says better
            part = None
        if part is not None:
            return part
    planned = None

    def reduce(image: Image.Image) -> None:
        nonlocal planned
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            over = exif and orientation(image) in TURNED_OVER
            _, scale, planned = _plan(*(image.size if over else image.size[::-1]), box, least)
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))

    image = decode(source, color, exif, reduce)
    top, left, height, width = planned or box(image.height, image.width)
    if (height, width) != (image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(to_array(image)).permute(2, 0, 1)


def _plan(height: int, width: int, box: DrawBox, least: int) -> tuple[tuple[int, int], int, Box]:
    """The size at which an upright image is to be decoded, its scale, and the part in what it then is, to the nearest
    pixel."""
    top, left, h, w = box(height, width)
    scale = next((scale for scale in SCALES if min(h, w) >= scale * least), 1)
    height, width, h, w = -(-height // scale), -(-width // scale), round(h / scale), round(w / scale)
    return (height, width), scale, (min(round(top / scale), height - h), min(round(left / scale), width - w), h, w)


def _by_simplejpeg(path: str, box: DrawBox, least: int, color: str, exif: bool) -> Tensor | None:
    with open(path, "rb") as file:
        data = file.read()
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if colors not in WANTED[color] or height * width > MAX_PIXELS:
        return None
    may_be_turned = exif and any(mark in data for mark in ORIENTED)
    if may_be_turned and orientation(Image.open(io.BytesIO(data), formats=("JPEG",))) != 1:
        return None
    (height, width), _, (top, left, h, w) = _plan(height, width, box, least)
    whole = simplejpeg.decode_jpeg(
        data, "RGB" if color == "RGB" else "GRAY", min_height=height, min_width=width, min_factor=1
    )
    return torch.from_numpy(whole).permute(2, 0, 1)[:, top : top + h, left : left + w]
