"""PNG files whose pixel values are numbers, not colours: instance maps, and what other formats keep their ids in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vitnext.decode import MAX_PIXELS, open_encoded
from vitnext.errors import ImageError
from vitnext.types import Segments

MODES = {"1", "L", "P", "I;16", "I", "RGB"}  # Pillow's names; I is what some versions read 16 bits as


def read_instance_map(path: Path, label: int = 0, *, background: int | None = None) -> Segments:
    """The objects of one class in a grey or palette PNG of 8 or 16 bits: 0 is background, every other value an object.

    Segment k is the k-th smallest value that occurs, so that 1..n stay as they are; all get the class index ``label``.
    The background stays void, which suits average precision. Panoptic quality leaves void out, and with it every object
    that is predicted there: give ``background``, the index of a stuff class, to make it the last segment instead.

    Raises ImageError when the file cannot be read or holds colours.
    """
    pixels = read_numbers(path)
    values, places = np.unique(pixels, return_inverse=True)
    ids = places.reshape(pixels.shape).astype(np.int32)
    labels = [label] * int(np.count_nonzero(values))
    if values[0] != 0:
        ids += 1
    elif background is not None:
        labels.append(background)
        ids[ids == 0] = len(labels)
    return Segments(ids, np.array(labels, dtype=np.int64), np.zeros(len(labels), dtype=bool))


def read_numbers(path: Path) -> np.ndarray:
    """The numbers in a grey or palette PNG, uint8 or uint16 (H, W). Raises ImageError as ``read_instance_map``."""
    pixels = read_stored_pixels(path)
    if pixels.ndim != 2:
        raise ImageError(f"{path}: an instance map is a grey PNG of 8 or 16 bits, and this one has colours")
    return pixels


def read_stored_pixels(path: Path) -> np.ndarray:
    """A PNG's pixels as they are stored: grey or indices into a palette, uint8 or uint16 (H, W); RGB, uint8 (H, W, 3).

    `open_image` would make colours of indices and 8 bits of 16. Raises ImageError when the file cannot be read, is no
    PNG, has transparency, or has more than ``MAX_PIXELS`` pixels.
    """
    try:
        with open(path, "rb") as file:
            image = open_encoded(file, path.stat().st_size)
            if image.format != "PNG":
                raise ImageError(
                    f"ids are kept in PNG files, because other formats change them; this is {image.format}"
                )
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if image.mode not in MODES:
                raise ImageError(f"a PNG of ids is grey or RGB without transparency, and this is {image.mode}")
            pixels = np.asarray(image)
    except ImageError as error:
        reason = str(error)
    except FileNotFoundError:
        reason = "no such file"
    except Image.DecompressionBombError:
        reason = f"more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = f"cannot be read as a PNG ({' '.join(str(error).split()) or type(error).__name__})"
    else:
        stored = {"b": np.uint8, "i": np.uint16}.get(pixels.dtype.kind)  # modes 1 and I
        return pixels if stored is None else pixels.astype(stored)
    raise ImageError(f"{path}: {reason}")
