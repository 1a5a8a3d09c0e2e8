"""What every image of a data set is: read once, kept in arrays that stay small for hundreds of thousands. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitnext.data import near_duplicates
from vitnext.data.dataset import Dataset, Split
from vitnext.decode import EXIF_ORIENTATION, open_image
from vitnext.errors import ImageError

CHUNK = 256  # images in flight, so that memory stays bounded however large the data set
SMALLEST = 32  # pixels of the short side; smaller images have too few to look for others that are nearly the same


@dataclass(frozen=True, eq=False)
class Survey:
    """Of N images, over the splits in their order; what is not known of an image that cannot be read is 0 or empty.

    problems: why images cannot be read, by (split, index)
    digests:  bytes (N,), sha256 of the contents
    sizes:    int32 (N, 2), height and width, upright
    kinds:    bytes (N,), file format and Pillow's mode: "JPEG RGB"; "array" for images in memory
    turned:   bool (N,), whether the EXIF orientation turns it
    flat:     bool (N,), whether it is of nearly one grey value
    alike:    int64 (N,), the first of the images that look like it (``near_duplicates.similar``), or itself
    """

    problems: dict[tuple[str, int], str]
    digests: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray
    turned: np.ndarray
    flat: np.ndarray
    alike: np.ndarray


@dataclass(frozen=True, eq=False)
class _Seen:
    """One image."""

    digest: bytes
    size: tuple[int, int]
    kind: bytes
    turned: bool = False
    grey: np.ndarray | None = None
    colours: np.ndarray | None = None


def look(dataset: Dataset[Split], *, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read and decode every image. ``progress(done, total)`` is called as they are."""
    total = sum(map(len, dataset.splits.values()))
    problems: dict[tuple[str, int], str] = {}
    digests, kinds = np.zeros(total, "S32"), np.zeros(total, "S16")
    sizes, turned = np.zeros((total, 2), np.int32), np.zeros(total, bool)
    hashes, flat = np.zeros(total, np.uint64), np.zeros(total, bool)
    pictures = np.zeros((total, near_duplicates.KEPT, near_duplicates.KEPT, 3), np.uint8)
    done = 0
    with ThreadPoolExecutor() as pool:  # Pillow decodes and hashlib digests without the interpreter's lock
        for name, split in dataset.splits.items():
            for start in range(0, len(split), CHUNK):
                indices = range(start, min(start + CHUNK, len(split)))
                pictured, greys = [], []
                each = map if split.arrays is not None else pool.map  # handing over small arrays takes longer
                for i, seen in zip(indices, each(_see, [split.image(i) for i in indices]), strict=True):
                    if isinstance(seen, str):
                        problems[name, i] = seen
                    else:
                        digests[done], sizes[done], kinds[done] = seen.digest, seen.size, seen.kind
                        turned[done] = seen.turned
                        if seen.grey is not None and seen.colours is not None:
                            pictures[done] = seen.colours
                            pictured.append(done)
                            greys.append(seen.grey)
                    done += 1
                if greys:
                    found = near_duplicates.perceptual_hash(np.stack(greys))
                    hashes[pictured], flat[pictured] = found, found == 0
                if progress is not None:
                    progress(done, total)
    once = np.zeros(total, bool)  # of identical images the first
    once[np.unique(digests, return_index=True)[1]] = True
    alike = near_duplicates.similar(np.where(once, hashes, 0), pictures)
    return Survey(problems, digests, sizes, kinds, turned, flat, alike)


def _see(image: str | np.ndarray) -> _Seen | str:
    """What one image is, or in one line why it is none."""
    try:
        if isinstance(image, np.ndarray):
            size, digest = image.shape[:2], hashlib.sha256(image.tobytes()).digest()
            small = near_duplicates.small_pictures(open_image(image)) if min(size) >= SMALLEST else (None, None)
            return _Seen(digest, size, b"array", False, *small)
        pixels = open_image(image)
        size = pixels.shape[:2]
        small = near_duplicates.small_pictures(pixels) if min(size) >= SMALLEST else (None, None)
        with open(image, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            with Image.open(file) as header:
                kind, turned = f"{header.format} {header.mode}".encode(), _turned(header)
        return _Seen(digest, size, kind, turned, *small)
    except ImageError as error:
        return str(error)
    except OSError as error:  # gone between the two
        return f"{image}: {error.strerror}"


def _turned(header: Image.Image) -> bool:
    try:
        return header.format != "TIFF" and header.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
    except Exception:  # as in decode.py: a damaged EXIF block does not make the pixels unreadable
        return False
