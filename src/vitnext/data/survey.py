"""What every image of a data set is: read once, kept in arrays that stay small for hundreds of thousands. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitnext.data import near_duplicates, survey_cache
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
    unseen:   how many were not looked at; of those nothing is known
    """

    problems: dict[tuple[str, int], str]
    digests: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray
    turned: np.ndarray
    flat: np.ndarray
    alike: np.ndarray
    unseen: int = 0


@dataclass(frozen=True, eq=False)
class _Seen:
    """One image."""

    digest: bytes
    size: tuple[int, int]
    kind: bytes
    turned: bool = False
    grey: np.ndarray | None = None
    colours: np.ndarray | None = None


def look(
    dataset: Dataset[Split], *, limit: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Read and decode every image, but for files that were seen before and, when the data set was opened, were as they
    had been (``survey_cache``).

    limit: what was seen before counts towards it, and is looked at again if it has changed; further images are looked
    at only up to it, evenly over the data set, so that the time of a look does not grow with their number.
    ``progress(done, total)`` is called as they are.
    """
    total = sum(map(len, dataset.splits.values()))
    problems: dict[tuple[str, int], str] = {}
    columns = {
        "digests": np.zeros(total, "S32"),
        "kinds": np.zeros(total, "S16"),
        "sizes": np.zeros((total, 2), np.int32),
        "turned": np.zeros(total, bool),
        "flat": np.zeros(total, bool),
        "hashes": np.zeros(total, np.uint64),
    }
    keys = survey_cache.keys(dataset)
    before = survey_cache.load(dataset) if keys is not None else {}
    known, stay = np.zeros(total, bool), False  # whether what is known of each stands where it stood
    if keys is not None and before:
        rows, places, stay = _recall(keys, before)
        known[places] = True
        for key, values in columns.items():
            values[places] = before[key][rows]
    wanted = ~known
    if limit is not None:
        sizes = np.concatenate([split.sizes for split in dataset.splits.values()])
        rest = np.flatnonzero(wanted & (sizes > 0))
        changed = np.zeros(total, bool)
        if keys is not None and before and not stay:
            changed[rest] = np.isin(survey_cache.names(keys)[rest], survey_cache.names(before["keys"]))
        rest = rest[~changed[rest]]
        left = max(0, limit - int(known.sum()) - int(changed.sum()))
        few = np.linspace(0, len(rest) - 1, min(len(rest), left)).astype(int)
        wanted = wanted & (sizes <= 0) | changed  # what cannot be read for certain costs nothing
        wanted[rest[few]] = True
    row = np.cumsum(known | wanted) - 1  # of each image's picture
    pictures = np.zeros((int((known | wanted).sum()), near_duplicates.KEPT, near_duplicates.KEPT, 3), np.uint8)
    if known.any():
        pictures[row[places]] = before["pictures"][rows]
    done, first = int(known.sum()), 0  # images that are known, and the place of a split's first one
    with ThreadPoolExecutor() as pool:  # Pillow decodes and hashlib digests without the interpreter's lock
        for name, split in dataset.splits.items():
            unknown = np.flatnonzero(wanted[first : first + len(split)]).tolist()
            for start in range(0, len(unknown), CHUNK):
                indices = unknown[start : start + CHUNK]
                each = map if split.arrays is not None else pool.map  # handing over small arrays takes longer
                pictured, greys = [], []
                for i, seen in zip(indices, each(_see, [split.image(i) for i in indices]), strict=True):
                    if isinstance(seen, str):
                        problems[name, i] = seen
                        continue
                    for column, value in (("digests", seen.digest), ("kinds", seen.kind), ("sizes", seen.size)):
                        columns[column][first + i] = value
                    columns["turned"][first + i] = seen.turned
                    if seen.grey is not None and seen.colours is not None:
                        pictures[row[first + i]] = seen.colours
                        pictured.append(first + i)
                        greys.append(seen.grey)
                if greys:
                    hashes = near_duplicates.perceptual_hash(np.stack(greys))
                    columns["hashes"][pictured], columns["flat"][pictured] = hashes, hashes == 0
                done += len(indices)
                if progress is not None:
                    progress(done, len(pictures))
            first += len(split)
    alike = np.arange(total)
    if stay and len(problems) == wanted.sum():  # what could not be read then cannot be now
        alike[places] = places[before["alike"]]
    else:
        once = np.zeros(total, bool)  # of identical images the first
        once[np.unique(columns["digests"], return_index=True)[1]] = True
        looked = np.flatnonzero(known | wanted)
        alike[looked] = looked[near_duplicates.similar(np.where(once, columns["hashes"], 0)[looked], pictures)]
        if keys is not None:
            able = np.flatnonzero((keys != b"") & (columns["digests"] != b""))  # was there, and could be read
            kept = {key: values[able] for key, values in {"keys": keys, **columns}.items()}
            _, first_able, group = np.unique(alike[able], return_index=True, return_inverse=True)
            survey_cache.save(
                dataset, {**kept, "pictures": pictures[row[able]], "places": able, "alike": first_able[group]}
            )
    named = {name: columns[name] for name in ("digests", "sizes", "kinds", "turned", "flat")}
    return Survey(problems, alike=alike, unseen=total - int((known | wanted).sum()), **named)


def _recall(keys: np.ndarray, before: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Which rows of the cache are of files as they are now, the places of these in the data set, and whether all are,
    where they were."""
    kept, places = before["keys"], before["places"]
    if len(kept) and places[-1] < len(keys) and np.array_equal(keys[places], kept):
        return np.arange(len(kept)), places, True
    order = np.argsort(kept)
    rows = order[np.searchsorted(kept[order], keys).clip(max=len(kept) - 1)] if len(kept) else order
    places = np.flatnonzero(kept[rows] == keys) if len(kept) else order
    return rows[places], places, False


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
