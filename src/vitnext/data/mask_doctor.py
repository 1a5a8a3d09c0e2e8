"""The dataset doctor for masks: what is wrong with images and masks, found before training instead of after.

errors    images and masks that cannot be read, masks of another size than their image, ids and colours that classes.txt
          does not name, colours where classes.txt has none, annotations that cannot be drawn or lie outside the image,
          classes without a pixel in train (of JSON, whose classes may be many, a warning)
warnings  images without a mask and masks without an image, images that no list names, classes that val or test lack,
          masks of nothing but void, classes that by name or id may be meant as void, classes that differ in case
          alone, JSON that names another image than the one beside it, palettes that nothing checks, the same image in
          two splits, images that their EXIF orientation turns, and of objects what object_doctor.py says
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

from vitnext.data import object_doctor, survey_cache
from vitnext.data.dataset import Dataset
from vitnext.data.doctor import Finding, Report, alike_classes, finding
from vitnext.data.mask_split import MaskSplit
from vitnext.data.mask_values import UNKNOWN, VOID, indices_of, is_usual, open_mask, pack_colors
from vitnext.data.object_doctor import Objects
from vitnext.data.survey import CHUNK
from vitnext.decode import EXIF_ORIENTATION, open_image
from vitnext.errors import ImageError
from vitnext.wording import counted, shortened

SHOWN = 6  # ids or colours named in a message
VOID_ROW = "(void)"  # of a table of classes
# What a class is called that is meant as void, but not called so that it is: "ignored", "void area", "don't care".
VOID_LIKE = re.compile(
    r"(?<![a-z])(?:ignor(?:e|ing)|un-?labell?ed|unannotated|void(?![a-z])|do(?:n['\u2019]?t|[ _-]?not)[ _-]?care)",
    re.IGNORECASE,
)

Place = tuple[str, int]  # split and index


@dataclass(frozen=True, eq=False)
class Looked:
    """What one pair holds.

    problem: why it cannot be used; the rest is empty then
    counts:  int64 (classes + 1,): pixels, those of void last
    ids:     what a mask of ids holds
    unknown: ids, or colours as "#804080", that classes.txt does not name
    palette: whether the mask has one that might tell of other ids, and classes.txt no colours to check it against
    turned:  whether the image's EXIF orientation turns it
    digest:  of the image
    objects: where the truth tells them apart
    """

    problem: tuple[Literal["unreadable", "unreadable_mask", "size"], str] | None = None
    counts: np.ndarray | None = None
    ids: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    palette: bool = False
    turned: bool = False
    digest: bytes = b""
    objects: Objects | None = None


def check(dataset: Dataset[MaskSplit], *, progress: Callable[[int, int], None] | None = None) -> Report:
    """Open every image and mask, and look for what goes wrong in practice. ``progress(done, total)`` is called."""
    return findings(dataset, look(dataset, progress=progress))


def look(dataset: Dataset[MaskSplit], *, progress: Callable[[int, int], None] | None = None) -> dict[Place, Looked]:
    """Open every image and mask, in the order of splits and indices, but for those that were seen before and are as
    they were (``survey_cache``)."""
    found: dict[Place, Looked] = {}
    keys = survey_cache.keys(dataset, lambda split, i: split.files(i), _meaning(dataset))
    before = survey_cache.load(dataset) if keys is not None else {}
    known = dict(zip(before["keys"].tolist(), before["looked"].tolist(), strict=True)) if "looked" in before else {}
    place = [] if keys is None else keys.tolist()
    total = sum(map(len, dataset.splits.values()))

    def pair(split: MaskSplit, i: int, key: bytes) -> Looked:
        return _from_json(known[key]) if key and key in known else _pair(split, i)

    with ThreadPoolExecutor() as pool:
        for name, split in dataset.splits.items():
            for start in range(0, len(split), CHUNK):
                indices = range(start, min(start + CHUNK, len(split)))
                of_files = place[len(found) : len(found) + len(indices)] or [b""] * len(indices)
                for i, looked in zip(indices, pool.map(partial(pair, split), indices, of_files), strict=True):
                    found[name, i] = looked
                if progress is not None:
                    progress(len(found), total)
    if keys is not None:
        usable = np.array([looked.problem is None for looked in found.values()])
        if not set(keys[usable].tolist()) <= known.keys():
            texts = [_to_json(looked) if looked.problem is None else b"" for looked in found.values()]
            survey_cache.save(dataset, {"keys": np.where(usable, keys, b""), "looked": np.array(texts)})
    return found


def _meaning(dataset: Dataset[MaskSplit]) -> bytes:
    """What decides, beside the files of an image, what is seen in them."""
    parts = [(repr(split.values), split.truth.digest if split.truth else b"") for split in dataset.splits.values()]
    return repr(sorted(set(parts))).encode()


def _to_json(looked: Looked) -> bytes:
    values = asdict(looked) | {"digest": looked.digest.hex()}
    return json.dumps(values, default=np.ndarray.tolist).encode()


def _from_json(text: bytes) -> Looked:
    values = json.loads(text)
    objects = values.pop("objects")
    values |= {"digest": bytes.fromhex(values["digest"]), "counts": np.array(values["counts"], np.int64)}
    values |= {name: tuple(values[name]) for name in ("ids", "unknown")}
    if objects is not None:
        objects = Objects(**objects | {"counts": np.array(objects["counts"], np.int64)})
    return Looked(**values, objects=objects)


def findings(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Report:
    """What is wrong with what ``look`` saw; errors first, those of single files before those of the whole."""
    unreadable: dict[str, list[int]] = {}
    problems: dict[str, list[str]] = {}
    for (split, index), found in looked.items():
        if found.problem is not None:
            unreadable.setdefault(split, []).append(index)
            problems.setdefault(found.problem[0], []).append(found.problem[1])
    every = [*_unreadable(problems), *_unknown(dataset, looked), *_classes(dataset, looked)]
    every += [*_void_like(dataset, looked), *alike_classes(dataset, "rename them, or set data.merge")]
    every += _left_out(dataset)
    every += [*_palettes(dataset, looked), *_turned(dataset, looked), *_repeated(dataset, looked)]
    objects = [(dataset.splits[split].name(i), found.objects) for (split, i), found in looked.items() if found.objects]
    every += object_doctor.findings(objects)
    table = pixel_table(dataset, looked)
    rows = {label: {split: table[split][label] for split in table} for label in (*dataset.classes, VOID_ROW)}
    facts = {"images": {name: len(split) for name, split in dataset.splits.items()}, "classes": rows}
    return Report(sorted(every, key=lambda found: found.severity), unreadable, facts)


def remarks(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> dict[Place, str]:
    """Of each image that a finding concerns, what is wrong with it, in a few words."""
    copies = {place: same for same in _across(looked) for place in same}
    said: dict[Place, str] = {}
    for place, found in looked.items():
        words = [found.problem[1]] if found.problem is not None else []
        if found.unknown:
            words.append(f"holds what classes.txt does not name: {shortened(found.unknown, SHOWN)}")
        if _only_void(found):
            words.append("nothing but void")
        if found.turned:
            words.append("turned by its EXIF orientation")
        if place in copies:
            others = sorted({split for split, _ in copies[place]} - {place[0]})
            words.append(f"the same image is in {' and '.join(others)}")
        if words:
            said[place] = "; ".join(words)
    return said


def pixel_table(
    dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]
) -> dict[str, dict[str, dict[Literal["pixels", "images", "objects"], int]]]:
    """Split -> class -> {"pixels", "images"} and, where the truth tells them apart, {"objects"} of classes of things;
    "(void)" last; what cannot be read is left out."""
    table: dict[str, dict[str, dict[Literal["pixels", "images", "objects"], int]]] = {}
    for name in dataset.splits:
        rows = [found.counts for (split, _), found in looked.items() if split == name and found.counts is not None]
        counts = np.stack(rows) if rows else np.zeros((0, len(dataset.classes) + 1), np.int64)
        table[name] = {
            label: {"pixels": int(counts[:, i].sum()), "images": int((counts[:, i] > 0).sum())}
            for i, label in enumerate((*dataset.classes, VOID_ROW))
        }
        objects = [found.objects.counts for (split, _), found in looked.items() if split == name and found.objects]
        total = np.sum(objects, axis=0)
        for i, label in enumerate(dataset.classes):
            if objects and dataset.splits[name].values.things[i]:
                table[name][label]["objects"] = int(total[i])
    return table


def _pair(split: MaskSplit, i: int) -> Looked:
    try:
        height, width = open_image(split.image(i)).shape[:2]
    except ImageError as error:
        return Looked(("unreadable", str(error)))
    numbers = drawn = None
    unchecked = False
    try:
        if split.masks is not None:
            pixels, indices = split.masks[i], split.mask(i).astype(np.int16)
        elif split.truth is not None:
            drawn = split.drawn(i)
            pixels = indices = split.values.merged(drawn.mask).astype(np.int16)
        else:
            pixels, palette = open_mask(split.mask_path(i))
            indices = indices_of(split.mask_path(i), pixels, palette, split.values)
            unchecked = palette is not None and not len(split.values.colors[0]) and not is_usual(pixels, palette)
        numbers = split.numbers(i)
    except ImageError as error:
        return Looked(("unreadable_mask", str(error)))
    image = split.image(i)
    try:
        seen = _array(image) if isinstance(image, np.ndarray) else _file(image)
    except OSError as error:  # gone since it was opened
        return Looked(("unreadable", f"{split.image(i)}: {error.strerror}"))
    if indices.shape != (height, width):
        flipped = indices.shape == (width, height) and seen.turned
        mend = (
            "the image's EXIF orientation turns it, its mask was drawn before: turn the mask, or save the image upright"
            if flipped
            else "draw or resize the mask to its image"
        )
        sizes = f"{width}x{height} pixels, its mask {indices.shape[1]}x{indices.shape[0]}"
        if drawn is not None and not flipped:
            mend = "mend the size in the JSON, or give the image that the annotations were drawn on"
        return Looked(("size", f"{split.name(i)} has {sizes} ({mend})"))
    if numbers is not None and numbers.shape != indices.shape:
        sizes = f"{width}x{height} pixels, its instance map {numbers.shape[1]}x{numbers.shape[0]}"
        return Looked(("size", f"{split.name(i)} has {sizes} (draw or resize the instance map to its image)"))
    wrong = indices == UNKNOWN
    unknown: tuple[str, ...] = ()
    if wrong.any() and pixels.ndim == 3:
        unknown = tuple(f"#{value:06x}" for value in np.unique(pack_colors(pixels[wrong])).tolist())
    elif wrong.any():
        unknown = tuple(map(str, np.unique(pixels[wrong]).tolist()))
    ids = (
        () if pixels.ndim == 3 or drawn is not None else tuple(np.flatnonzero(np.bincount(pixels.reshape(-1))).tolist())
    )
    labels = np.where(indices == VOID, len(split.classes), indices)[~wrong]
    counts = np.bincount(labels, minlength=len(split.classes) + 1)
    objects = None
    if drawn is not None and split.has_instances:
        objects = object_doctor.of_drawn(drawn, split.regrouped_segments(drawn), split.values.things)
    elif numbers is not None:
        objects = object_doctor.of_map(indices, numbers, split.values.things)
    return replace(seen, counts=counts, ids=ids, unknown=unknown, palette=unchecked, objects=objects)


def _array(image: np.ndarray) -> Looked:
    return Looked(digest=hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest())


def _file(path: str) -> Looked:
    """Digest and orientation of an image file that can be read."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    with Image.open(path) as image:
        try:
            turned = image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
        except Exception:  # as in decode.py: a damaged EXIF block does not make the pixels unreadable
            turned = False
    return Looked(turned=turned, digest=digest)


def _only_void(found: Looked) -> bool:
    return found.counts is not None and not found.counts[:-1].sum() and not found.unknown


def _unreadable(problems: dict[str, list[str]]) -> Iterator[Finding]:
    whats = {
        "unreadable": ("image", "cannot be read"),
        "unreadable_mask": ("mask", "cannot be read"),
        "size": ("image", "with a mask of another size"),
    }
    for kind, items in problems.items():
        noun, what = whats[kind]
        yield finding("error", kind, f"{counted(items, noun)} {what}", items)


def _unknown(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Iterator[Finding]:
    """Ids and colours that classes.txt does not name, where they are, and how to name them."""
    values = next(iter(dataset.splits.values())).values
    masks: dict[str, list[str]] = {}
    for (split, i), found in looked.items():
        for value in found.unknown:
            masks.setdefault(value, []).append(dataset.splits[split].mask_name(i))
    colors = {value: files for value, files in masks.items() if value.startswith("#")}
    ids = {value: files for value, files in masks.items() if not value.startswith("#")}
    if colors:
        some = _named(colors)
        if len(values.colors[0]):
            what = (
                f"masks hold colours that classes.txt does not name ({some}): add lines for them, or draw the masks "
                "without blurred edges"
            )
        elif all(value[1:3] == value[3:5] == value[5:] for value in colors):
            what = f"masks are grey, but saved as RGB ({some}): save them as grey PNG, whose values are the ids"
        else:
            what = f"masks are in colours ({some}), but classes.txt names none: end its lines with them, as #804080"
        yield Finding("error", "unknown_colors", what, list(colors))
    held = {i for found in looked.values() for i in found.ids}
    if held == {0, 255} and "255" in ids:
        zero = "" if "0" not in ids else ", and '0 background' or '0 ignore' for the rest"
        other = next((c for c in values.known if c.id not in held), None)  # a class without a pixel is this one
        mend = "write the line '255 NAME' into classes.txt for what is drawn"
        if other is not None and len(values.known) == 2:
            rest = next(c for c in values.known if c is not other)
            mend = f"write '255 {other.name}' into classes.txt, and '{rest.id} {rest.name}'"
        what = f"masks hold 0 and 255 alone: {mend}{zero}"
        yield Finding("error", "unknown_ids", what, list(ids))
        return
    if "255" in ids and len(ids) > 1 and len(held) > 2 and not _far(held):
        # 0, 127 and 255: greys that were chosen to be seen, or edges that were smoothed. 255 is one of them.
        known, lowest = shortened([str(c.id) for c in values.known], SHOWN), min(map(int, ids))
        what = (
            f"masks hold values that classes.txt does not name ({_named(ids)}); it names {known}: write each class "
            f"with its value, as '{lowest} NAME', or, if some lie between classes, save masks without blurred edges"
        )
        yield Finding("error", "unknown_ids", what, list(ids))
        return
    if files := ids.pop("0", None):
        what = (
            f"{_held('the id 0', files)}, which classes.txt does not name: write '0 background' if it is a "
            "class, '0 ignore' if it is not labelled"
        )
        yield Finding("error", "unknown_ids", what, ["0"])
    if files := ids.pop("255", None):
        what = (
            f"{_held('the id 255', files)}, which classes.txt does not name: write '255 ignore' if it is not labelled, "
            "'255 NAME' if it is a class"
        )
        yield Finding("error", "unknown_ids", what, ["255"])
    after = max(c.id for c in values.known) + 1
    if values.unnumbered and values.known[0].id == 0 and str(after) in ids:
        # Whose masks hold 0 where nothing is labelled would add a line, as any other message says, and every class
        # would be another.
        said = shortened([f"{c.id} = {c.name}" for c in values.known], SHOWN)
        first, held = values.known[0].name, held - {c.id for c in values.void} - {255}
        zero = ", and '0 ignore' or '0 background'" if 0 in held else ""
        what = (
            f"lines of classes.txt without ids count from 0 ({said}), but masks hold ids from {min(held)} to "
            f"{max(held)} ({_named(ids)}): write the ids, as '1 {first}'{zero}; only if 0 is {first}, add a line "
            f"for {after}"
        )
        yield Finding("error", "unknown_ids", what, list(ids))
    elif ids:
        known = shortened([str(c.id) for c in values.known], SHOWN)
        what = f"masks hold ids that classes.txt does not name ({_named(ids)}); it names {known}: add lines for them"
        yield Finding("error", "unknown_ids", what, list(ids))


def _far(ids: Iterable[int]) -> bool:
    """Whether 255 lies far from the other ids, so that it stands for something else: beside 0, 1 and 2, but neither
    beside 0 alone nor beside 0 and 127."""
    others = sorted({*ids} - {VOID})
    return len(others) > 1 and bool(VOID - others[-1] > 2 * np.diff(others).max())


def _named(masks: Mapping[str, Sequence[str]]) -> str:
    """Values with how many masks hold each, and one of these."""
    most_first = sorted(masks.items(), key=lambda item: -len(item[1]))
    return shortened([_held(value, files) for value, files in most_first], SHOWN)


def _held(value: str, files: Sequence[str]) -> str:
    return f"{value} in {files[0]}" + (f" and {counted(len(files) - 1, 'other mask')}" if len(files) > 1 else "")


def _classes(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Iterator[Finding]:
    pixels: dict[str, np.ndarray] = {}
    empty: list[str] = []
    for (split, i), found in looked.items():
        if found.counts is None:
            continue
        pixels[split] = pixels.get(split, np.zeros_like(found.counts)) + found.counts
        if _only_void(found):
            empty.append(dataset.splits[split].name(i))
    if empty:
        yield finding("warning", "only_void", f"{counted(empty, 'mask')} of nothing but void", empty)
    if any(found.unknown for found in looked.values()):
        return  # what is missing may stand under another id
    broken = {split for (split, _), found in looked.items() if found.problem is not None}  # it may stand there
    nothing = np.zeros(len(dataset.classes) + 1, np.int64)
    first = next(iter(dataset.splits)) if "train" not in dataset.splits else "train"
    train = pixels.get(first, nothing)[:-1]
    missing = [dataset.classes[i] for i in np.flatnonzero(train == 0)]
    held = {i for found in looked.values() for i in found.ids}
    if first in broken:
        return
    if missing and held == {0, 255} and any(c.id == 255 for c in dataset.splits[first].values.void):
        what = "masks hold 0 and 255 alone, and classes.txt ignores 255: is it what is drawn? Then write '255 NAME'"
        yield Finding("error", "empty_class", what, missing)
    elif (
        missing and dataset.splits[first].truth is not None
    ):  # COCO's categories are the same whatever is in the images
        what = f"{counted(missing, 'class')} without a pixel in {first}, so not learnt"
        yield finding("warning", "empty_class", what, missing)
    elif missing:
        what = f"{counted(missing, 'class')} without a pixel in {first} (label some, or write it as ignore)"
        yield finding("error", "empty_class", what, missing)
    for name in dataset.splits:
        absent = [dataset.classes[i] for i in np.flatnonzero((pixels.get(name, nothing)[:-1] == 0) & (train > 0))]
        if absent and name not in broken:
            what = f"{counted(absent, 'class')} without a pixel in {name}, so not measured there"
            yield finding("warning", "missing_class", what, absent)


def _void_like(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Iterator[Finding]:
    """Classes that are trained and measured, though perhaps nobody labelled their pixels. Both may be right."""
    split = next(iter(dataset.splits.values()))
    values = split.values
    trained = [c for c in values.known if c.name in dataset.classes]  # without those that data.ignore or merge names
    named = [c for c in trained if VOID_LIKE.search(c.name)]
    if named:
        line = "ignore" if values.unnumbered else f"{named[0].id} ignore"
        mend = {"mask_folder": f"write '{line}' into classes.txt, or ", "labelme": "label them ignore, or "}
        what = (
            f"{counted(named, 'class')} trained and measured, though by name not labelled "
            f"(if so, {mend.get(dataset.kind, '')}set data.ignore)"
        )
        yield finding("warning", "void_like", what, [c.name for c in named])
    last = next((c for c in trained if c.id == VOID and c not in named), None)
    if last is None or not any(VOID in found.ids for found in looked.values()):
        return
    others = sorted(c.id for c in (*values.known, *values.void) if c.id != VOID)
    if _far(others):
        what = (
            f"255, which stands for what is not labelled where ids are otherwise {others[0]} to {others[-1]}, "
            f"is the class {last.name}: if it is not labelled, write '255 ignore' into classes.txt"
        )
        yield Finding("warning", "void_like", what, [last.name])


def _left_out(dataset: Dataset[MaskSplit]) -> Iterator[Finding]:
    truth = "JSON file" if dataset.kind == "labelme" else "mask"
    for items, noun, kind, why in (
        (dataset.loose, "image", "unmasked", f"passed over: no {truth} of that name"),
        (dataset.unused, truth, "orphan_masks", "passed over: no image of that name"),
        (dataset.unlisted, "image", "unlisted", "passed over: in none of the lists"),
    ):
        if items:
            yield finding("warning", kind, f"{counted(len(items), noun)} {why}", list(items))
    if dataset.strange:
        what = (
            f"{counted(dataset.strange, 'JSON file')} whose imagePath names another image than the one beside it: make "
            "sure that it was drawn on that one"
        )
        yield finding("warning", "other_image", what, list(dataset.strange))


def _palettes(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Iterator[Finding]:
    masks = [dataset.splits[split].mask_name(i) for (split, i), found in looked.items() if found.palette]
    if masks:
        what = (
            f"{counted(masks, 'mask')} with a palette, whose indices are taken as ids; classes.txt names no colours to "
            "check them against (end its lines with them, as #804080)"
        )
        yield finding("warning", "palette", what, masks)


def _turned(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Iterator[Finding]:
    turned = [dataset.splits[split].name(i) for (split, i), found in looked.items() if found.turned]
    if turned:
        what = f"{counted(turned, 'image')} turned by an EXIF orientation: their masks must lie on the turned image"
        yield finding("warning", "turned", what, turned)


def _repeated(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked]) -> Iterator[Finding]:
    across = [
        " = ".join(f"{split}: {dataset.splits[split].name(i)}" for split, i in same[:3]) for same in _across(looked)
    ]
    if across:
        what = f"{counted(across, 'image')} in more than one split, so scores will be too good"
        yield finding("warning", "duplicate_across_splits", what, across)


def _across(looked: Mapping[Place, Looked]) -> list[list[Place]]:
    """Groups of places in several splits that hold the same image."""
    places: dict[bytes, list[Place]] = {}
    for place, found in looked.items():
        if found.digest:
            places.setdefault(found.digest, []).append(place)
    return [same for same in places.values() if len({split for split, _ in same}) > 1]
