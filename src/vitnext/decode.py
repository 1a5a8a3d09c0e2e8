"""From an image file, bytes or an array to 8-bit pixels. Nothing that an image holds may crash the process.

How every kind of image becomes 8-bit RGB (or grey, ``color="L"``):

* the EXIF orientation is applied (``exif=False`` leaves it alone; TIFF's own tag is always applied)
* of several frames or pages the first is taken
* grey is replicated into three channels, 1-bit becomes 0 and 255, a palette becomes its colours
* transparency is laid over white
* CMYK, YCbCr and HSV are converted by Pillow's formulas; grey from colour is ITU-R 601-2 luma
* 16-bit grey becomes round(value / 257); colour files with 16 bits a channel are cut to the high byte by Pillow
* floating-point grey must lie in 0..1 and becomes round(value * 255)
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from typing import IO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitnext.errors import ImageError
from vitnext.files import CONVERT_HEIC, is_heic

Source = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

MAX_PIXELS: int = 178_956_970  # where Pillow itself refuses; checked here so that its global setting plays no part
STRIP = 1 << 22  # pixels that are copied at a time
# Pillow's others include interpreters such as PostScript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000")

EXIF_ORIENTATION = 0x0112
UPRIGHT = {  # EXIF 2.3, table 6: what turns each stored orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED_OVER = (5, 6, 7, 8)  # those orientations that swap height and width


def open_image(source: Source, *, color: Literal["RGB", "L"] = "RGB", exif: bool = True) -> np.ndarray:
    """Decode one image to uint8 (H, W, 3), or (H, W, 1) for ``color="L"``, by the rules at the top of this file.

    ``source`` is a path, an encoded file as bytes, a uint8 array (H, W) or (H, W, 1|3|4), or a Pillow image.

    Raises ImageError, one line with the source's name, for whatever cannot be read: missing, empty, truncated,
    not an image, more than ``MAX_PIXELS`` pixels, an array of another type or shape.
    """
    return to_array(decode(source, color, exif))


def decode(
    source: Source, color: str, exif: bool, reduce: Callable[[Image.Image], None] = lambda image: None
) -> Image.Image:
    """``source`` as an upright Pillow image of mode ``color``; ImageError for anything that goes wrong.

    ``reduce`` is called with the image of a file when only its header has been read.
    """
    try:
        if isinstance(source, np.ndarray):
            return _render(_from_array(source), color, exif)
        if isinstance(source, Image.Image):
            return _render(source, color, exif)
        if isinstance(source, bytes):
            return _render(open_encoded(io.BytesIO(source), len(source)), color, exif)
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError("not a file")
        with open(source, "rb") as file:
            image = open_encoded(file, status.st_size)
            _require_pixels(image)
            reduce(image)
            return _render(image, color, exif)
    except ImageError as error:
        reason = str(error)
    except FileNotFoundError:
        reason = "no such file"
    except PermissionError:
        reason = "no permission to read it"
    except Image.DecompressionBombError:
        reason = f"more than {MAX_PIXELS:,} pixels: make it smaller"
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or JPEG 2000 image, or its header is damaged"
        if is_heic(name_of(source)):
            reason = CONVERT_HEIC
    except MemoryError:
        reason = "not enough memory to decode it"
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, and none of it may pass
        reason = f"cannot be decoded, damaged or truncated ({str(error) or type(error).__name__})"
    raise ImageError(" ".join(f"{name_of(source)}: {reason}".splitlines()))


def open_encoded(file: IO[bytes], size: int) -> Image.Image:
    """The image in ``file``, of ``size`` bytes; only its header is read. Raises ImageError if empty, and as Pillow."""
    if size == 0:
        raise ImageError("the file is empty (0 bytes)")
    # Pillow warns from half of MAX_PIXELS on. A filter, set once, because warnings.catch_warnings is not thread-safe.
    quiet = ("ignore", None, Image.DecompressionBombWarning, None, 0)
    if quiet not in warnings.filters:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image.open(file, formats=FORMATS)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"expected uint8 values 0..255, got {array.dtype}: convert it first")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(f"expected the shape (H, W) or (H, W, 1, 3 or 4), got {array.shape}")
    if array.size == 0:
        raise ImageError(f"no pixels: its shape is {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _require_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if image.width * image.height == 0:
        raise ImageError("the image has no pixels")


def _render(image: Image.Image, color: str, exif: bool) -> Image.Image:
    _require_pixels(image)
    image.load()  # first: the EXIF block of a PNG may stand behind the pixels
    converted = _convert(image, color)
    turn = UPRIGHT.get(orientation(image)) if exif else None
    if turn is None:
        return converted
    upright = converted.transpose(turn)
    upright.info = {}  # of which Pillow kept the orientation: decoded again, the image would be turned again
    return upright


def _convert(image: Image.Image, color: str) -> Image.Image:
    """To mode ``color`` by the rules at the top of this file."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(image))
    elif image.has_transparency_data:
        pixels, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(pixels, mask=pixels.getchannel("A"))
    return image if image.mode == color else image.convert(color)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits (modes I;16, I;16B, I) or floating point (F) to uint8 (H, W)."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ImageError(f"floating-point values must lie in 0..1, these lie in {low:g}..{high:g}")
        return np.rint(values * np.float32(255)).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ImageError(f"integer values must lie in 0..65535, these lie in {low}..{high}")
    grey = ((values.astype(np.int32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")  # of a 16-bit PNG: the one grey value that is
    return np.where(values == transparent, np.uint8(255), grey) if isinstance(transparent, int) else grey


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where none can be read."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return 1


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, C), writable, of a mode of 8 bits.

    A large image is copied in strips: all at once, Pillow's own way holds it twice more.
    """
    rows = max(1, STRIP // image.width)
    if image.height <= rows:
        array = np.array(image)
        return array if array.ndim == 3 else array[:, :, None]
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = np.asarray(image.crop((0, top, image.width, bottom)))
        pixels[top:bottom] = strip if strip.ndim == 3 else strip[:, :, None]
    return pixels


def name_of(source: Source) -> str:
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, bytes):
        return "image bytes"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "Pillow image")
    return str(source)
