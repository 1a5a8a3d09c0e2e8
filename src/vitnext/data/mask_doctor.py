"""The dataset doctor for masks: what is wrong with images and masks, found before training instead of after.

errors    images and masks that cannot be read, masks of another size than their image, ids and colours that classes.txt
          does not name, colours where classes.txt has none, classes without a pixel in train
warnings  images without a mask and masks without an image, images that no list names, classes that val or test lack,
          masks of nothing but void, the same image in two splits
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vitnext.data.dataset import Dataset
from vitnext.data.doctor import CHUNK, Finding, Report, counted, finding
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import UNKNOWN, VOID, MaskValues, of_colors, open_mask, pack_colors
from vitnext.decode import EXIF_ORIENTATION, open_image
from vitnext.errors import ImageError

SHOWN = 6  # ids or colours named in a message


@dataclass(frozen=True)
class Looked:
    """What one pair holds: problems are (kind, text); counts int64 (classes + 1,): pixels, the last void; unknown: ids
    or colours that classes.txt does not name."""

    problem: tuple[str, str] | None = None
    counts: np.ndarray | None = None
    unknown: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    digest: bytes = b""


def check(dataset: Dataset[MaskSplit], *, progress: Callable[[int, int], None] | None = None) -> Report:
    """Open every image and mask, and look for what goes wrong in practice. ``progress(done, total)`` is called."""
    looked = _look(dataset, progress)
    unreadable: dict[str, list[int]] = {}
    problems: dict[str, list[str]] = {}
    for (split, index), found in looked.items():
        if found.problem is not None:
            unreadable.setdefault(split, []).append(index)
            problems.setdefault(found.problem[0], []).append(found.problem[1])
    values = next(iter(dataset.splits.values())).values
    findings = [*_unreadable(problems), *_unknown(looked, values), *_classes(dataset, looked), *_left_out(dataset)]
    findings += _repeated(dataset, looked)
    return Report(sorted(findings, key=lambda found: found.severity), unreadable)


def pixel_table(dataset: Dataset[MaskSplit]) -> dict[str, dict[str, dict[str, int]]]:
    """Split -> class -> {"pixels", "images"}, "(void)" included; what cannot be read is left out."""
    looked = _look(dataset, None)
    table: dict[str, dict[str, dict[str, int]]] = {}
    for name in dataset.splits:
        rows = [found.counts for (split, _), found in looked.items() if split == name and found.counts is not None]
        counts = np.stack(rows) if rows else np.zeros((0, len(dataset.classes) + 1), np.int64)
        table[name] = {
            label: {"pixels": int(counts[:, i].sum()), "images": int((counts[:, i] > 0).sum())}
            for i, label in enumerate((*dataset.classes, "(void)"))
        }
    return table


def _look(dataset: Dataset[MaskSplit], progress: Callable[[int, int], None] | None) -> dict[tuple[str, int], Looked]:
    found: dict[tuple[str, int], Looked] = {}
    total = sum(map(len, dataset.splits.values()))
    with ThreadPoolExecutor() as pool:
        for name, split in dataset.splits.items():
            for start in range(0, len(split), CHUNK):
                indices = range(start, min(start + CHUNK, len(split)))
                for i, looked in zip(indices, pool.map(lambda i, split=split: _pair(split, i), indices), strict=True):
                    found[name, i] = looked
                if progress is not None:
                    progress(len(found), total)
    return found


def _pair(split: MaskSplit, i: int) -> Looked:
    try:
        height, width = open_image(split.image(i)).shape[:2]
    except ImageError as error:
        return Looked(("unreadable", str(error)))
    if split.masks is not None:
        mask, colored = split.masks[i], False
        indices = split.mask(i).astype(np.int16)
        digest = hashlib.sha256(np.ascontiguousarray(split.arrays[i]).tobytes()).digest()  # type: ignore[index]
    else:
        try:
            mask, colored = open_mask(split.mask_path(i))
        except ImageError as error:
            return Looked(("unreadable_mask", str(error)))
        indices = of_colors(mask, split.values) if colored else split.values.table[mask]
        with open(str(split.image(i)), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    if mask.shape[:2] != (height, width):
        turned = mask.shape[:2] == (width, height) and split.arrays is None and _turned(str(split.image(i)))
        why = (
            "the image's EXIF orientation turns it, its mask was drawn before: turn the mask, or save the image upright"
            if turned
            else "draw or resize the mask to its image"
        )
        sizes = f"{width}x{height} pixels, its mask {mask.shape[1]}x{mask.shape[0]}"
        return Looked(("size", f"{split.name(i)} has {sizes} ({why})"))
    wrong = indices == UNKNOWN
    unknown: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    if not colored:
        ids = tuple(np.flatnonzero(np.bincount(mask.reshape(-1), minlength=1)).tolist())
    if wrong.any():
        held = np.unique(pack_colors(mask[wrong]) if colored else mask[wrong]).tolist()
        unknown = tuple(f"#{value:06x}" if colored else str(value) for value in held)
    labels = np.where(indices == VOID, len(split.classes), indices)[~wrong]
    return Looked(None, np.bincount(labels, minlength=len(split.classes) + 1), unknown, ids, digest)


def _turned(path: str) -> bool:
    with Image.open(path) as image:
        return image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)


def _unreadable(problems: dict[str, list[str]]) -> Iterator[Finding]:
    whats = {
        "unreadable": ("image", "cannot be read"),
        "unreadable_mask": ("mask", "cannot be read"),
        "size": ("image", "with a mask of another size"),
    }
    for kind, items in problems.items():
        noun, what = whats[kind]
        yield finding("error", kind, f"{counted(items, noun)} {what}", items)


def _unknown(looked: dict[tuple[str, int], Looked], values: MaskValues) -> Iterator[Finding]:
    """Ids and colours that classes.txt does not name, and how to name them."""
    masks: dict[str, int] = {}
    for found in looked.values():
        for value in found.unknown:
            masks[value] = masks.get(value, 0) + 1
    colors = {value: n for value, n in masks.items() if value.startswith("#")}
    ids = {value: n for value, n in masks.items() if not value.startswith("#")}
    if colors:
        some = _named(colors)
        if not len(values.colors[0]):
            what = f"masks are in colours ({some}), but classes.txt names none: end its lines with them, as #804080"
        else:
            what = f"masks hold colours that classes.txt lacks ({some}); are their edges blurred, or lines missing?"
        yield Finding("error", "unknown_colors", what, list(colors))
    if ids:
        held = {i for found in looked.values() for i in found.ids}
        if held == {0, 255} and "255" in ids:
            what = "masks hold 0 and 255 alone: write the line '255 NAME' for what is drawn, and '0 background'"
        elif "0" in ids:
            what = (
                f"{ids['0']:,} masks hold 0, which classes.txt does not name: is it a class ('0 background') or not "
                "labelled ('0 ignore')? Write one of the lines"
            )
        elif set(ids) == {"255"}:
            what = f"{ids['255']:,} masks hold 255, which classes.txt does not name: void is written '255 ignore'"
        else:
            known = ", ".join(str(c.id) for c in values.known[:SHOWN]) + (", ..." if len(values.known) > SHOWN else "")
            what = f"masks hold ids that classes.txt does not name ({_named(ids)}); it names {known}: add their lines"
        yield Finding("error", "unknown_ids", what, list(ids))


def _named(masks: dict[str, int]) -> str:
    some = sorted(masks.items(), key=lambda item: -item[1])[:SHOWN]
    more = ", ..." if len(masks) > SHOWN else ""
    return ", ".join(f"{value} in {counted(n, 'mask')}" for value, n in some) + more


def _classes(dataset: Dataset[MaskSplit], looked: dict[tuple[str, int], Looked]) -> Iterator[Finding]:
    pixels: dict[str, np.ndarray] = {}
    empty: list[str] = []
    for (split, i), found in looked.items():
        if found.counts is None:
            continue
        pixels[split] = pixels.get(split, np.zeros_like(found.counts)) + found.counts
        if not found.counts[:-1].sum() and not found.unknown:
            empty.append(dataset.splits[split].name(i))
    if empty:
        yield finding("warning", "only_void", f"{counted(empty, 'mask')} of nothing but void", empty)
    if any(found.unknown for found in looked.values()):
        return  # what is missing may stand under another id
    nothing = np.zeros(len(dataset.classes) + 1, np.int64)
    first = next(iter(dataset.splits)) if "train" not in dataset.splits else "train"
    train = pixels.get(first, nothing)[:-1]
    missing = [dataset.classes[i] for i in np.flatnonzero(train == 0)]
    if missing:
        what = f"{counted(missing, 'class')} without a pixel in {first}: remove it from classes.txt, or label some"
        yield finding("error", "empty_class", what, missing)
    for name in dataset.splits:
        absent = [dataset.classes[i] for i in np.flatnonzero((pixels.get(name, nothing)[:-1] == 0) & (train > 0))]
        if absent:
            what = f"{counted(absent, 'class')} without a pixel in {name}, so not measured there"
            yield finding("warning", "missing_class", what, absent)


def _left_out(dataset: Dataset[MaskSplit]) -> Iterator[Finding]:
    for items, noun, kind, why in (
        (dataset.loose, "image", "unmasked", "passed over: no mask of that name"),
        (dataset.unused, "mask", "orphan_masks", "passed over: no image of that name"),
        (dataset.unlisted, "image", "unlisted", "passed over: in none of the lists"),
    ):
        if items:
            yield finding("warning", kind, f"{counted(len(items), noun)} {why}", list(items))


def _repeated(dataset: Dataset[MaskSplit], looked: dict[tuple[str, int], Looked]) -> Iterator[Finding]:
    places: dict[bytes, list[tuple[str, int]]] = {}
    for place, found in looked.items():
        if found.digest:
            places.setdefault(found.digest, []).append(place)
    across: list[Any] = []
    for same in places.values():
        if len({split for split, _ in same}) > 1:
            across.append(" = ".join(f"{split}: {dataset.splits[split].name(i)}" for split, i in same[:3]))
    if across:
        what = f"{counted(across, 'image')} in more than one split, so scores will be too good"
        yield finding("warning", "duplicate_across_splits", what, across)
