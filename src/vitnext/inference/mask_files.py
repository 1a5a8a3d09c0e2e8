"""Write predicted masks into a folder in the formats that are asked for: pictures, COCO's JSON, polygons.

=========  =============================================================================================================
png        NAME.png, the classes' ids as the masks of training have them, with the classes' colours as palette (grey of
           16 bits if an id needs it); classes.txt, which names them, and the id of what is nothing; and
           NAME_confidence.png, shares of 255: of each pixel's class, or its segment's score. Of a panoptic model also
           NAME_instances.png, 16 bits, the ids of things, and COCO's panoptic format: panoptic.json with
           panoptic/NAME.png
overlay    NAME_overlay.png, RGBA to be laid over the image: every object in its own shade, with an outline
rle        detections.json, COCO's format of results: run lengths, score and area of every thing, as average precision
           takes them: of a model of queries the 100 most probable, which may overlap, and of which most have a low
           score; of a semantic model, which knows no things, of every class
polygons   NAME.geojson, a FeatureCollection: every segment's outline exactly along the edges of its pixels, in pixels
           from the top left corner, with class, score and area
=========  =============================================================================================================

The segments of a semantic model are its classes, each with the mean of its confidence as score.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitnext.card import Card
from vitnext.data import rle
from vitnext.data.coco import Category, CocoImage
from vitnext.data.coco_panoptic import panoptic_writer
from vitnext.data.contours import polygons
from vitnext.data.mask_values import VOID, distinct
from vitnext.errors import InputError
from vitnext.files import atomic_write
from vitnext.inference.drawing import colors_of, rgb, segment_overlay, shades
from vitnext.types import (
    Detections,
    Failure,
    PanopticSegmentation,
    Prediction,
    Segmentation,
    Segments,
    areas_and_boxes,
)

CLASSES = "classes.txt"
CONFIDENCE, INSTANCES, OVERLAY = "_confidence", "_instances", "_overlay"  # what names of further files end in
ENDINGS = ("", CONFIDENCE, INSTANCES, OVERLAY)
Segmented = Segmentation | PanopticSegmentation
Write = Callable[[Segmented, str, CocoImage], None]  # a prediction, its NAME, and what COCO is told about the image


def mask_names(sources: Sequence[str]) -> dict[str, str]:
    """A file name without its ending for each source: its own, or where others share it, as much of its path as tells
    them apart (a_1, b_1 of a/1.png and b/1.png), or a number at its end."""
    parts = {s: [part for part in Path(s).with_suffix("").parts if part not in ("/", "..", ".")] for s in sources}
    depth = dict.fromkeys(parts, 1)
    while True:
        sharing: dict[str, list[str]] = {}
        for source, path in parts.items():
            sharing.setdefault("_".join(path[-depth[source] :]), []).append(source)
        longer = [s for alike in sharing.values() if len(alike) > 1 for s in alike if depth[s] < len(parts[s])]
        if not longer:
            break
        for source in longer:
            depth[source] += 1
    names: dict[str, str] = {}
    taken: set[str] = set()
    for wanted, alike in sharing.items():
        for source in alike:  # more than one: a.jpg and a.png
            numbered = (wanted if not number else f"{wanted}_{number}" for number in itertools.count())
            names[source] = next(n for n in numbered if not taken & {n + ending for ending in ENDINGS})
            taken |= {names[source] + ending for ending in ENDINGS}
    return {source: names[source] for source in parts}


def with_masks(
    predictions: Iterable[Prediction],
    folder: Path,
    names: Mapping[str, str],
    card: Card,
    formats: Sequence[str] = ("png",),
) -> Iterator[Prediction]:
    """Pass predictions on, having written each into ``folder`` in the ``formats`` that the top of this module lists.

    names: of each source, as ``mask_names`` gives them; card: the model's. In COCO's files an image's id is the number
    that its NAME is, if all are different numbers, else NAME; a class's is one of card.data["category_ids"], if it has
    them, else its index + 1 (in PNGs its index). Memory: one image, and panoptic.json's entries; the two JSON files are
    written when the last prediction has been.

    Raises InputError for a model that gives no masks, an unknown format, and a mask that would replace one of the
    images, before anything is predicted, and WorkError when the disk does not take one.
    """
    if card.task not in ("semantic", "panoptic"):
        raise InputError(f"a {card.task} model gives no masks: leave --masks out")
    if unknown := [name for name in formats if name not in FORMATS]:
        raise InputError(f'masks are written as {", ".join(FORMATS)}, not as "{unknown[0]}"')
    listed = folder / CLASSES
    if "png" in formats and listed.is_file() and listed.read_bytes() != _class_lines(card).encode():
        raise InputError(f"{listed} says of other masks what they hold, and would be replaced: name another folder")
    if "png" in formats and not listed.is_file():  # which every prediction leaves there
        theirs = next((path for name in names.values() if (path := folder / f"{name}.png").exists()), None)
        if theirs is not None:
            raise InputError(f"{theirs} is there already, and no earlier prediction's: name another folder")
    images = {os.path.realpath(source): source for source in names}
    for source, name in names.items():
        for written in (*(f"{name}{ending}.png" for ending in ENDINGS), os.path.join("panoptic", f"{name}.png")):
            if (replaced := os.path.realpath(folder / written)) in images:
                raise InputError(
                    f"the mask of {source} would replace the image {images[replaced]}: name another folder"
                )
    return _written(predictions, folder, names, card, dict.fromkeys(formats))


def _written(
    predictions: Iterable[Prediction], folder: Path, names: Mapping[str, str], card: Card, formats: Iterable[str]
) -> Iterator[Prediction]:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {int(name) for name in names.values() if name.isascii() and name.isdigit()}
    numbered = len(numbers) == len(names)
    with ExitStack() as stack:
        writers = [stack.enter_context(FORMATS[name](folder, card)) for name in formats]
        for prediction in predictions:
            if isinstance(prediction, Segmentation | PanopticSegmentation):
                name = names[prediction.source]
                height, width = _shape(prediction)
                file_name = name + Path(prediction.source).suffix
                image = CocoImage(int(name) if numbered else name, file_name, height, width)
                for write in writers:
                    write(prediction, name, image)
            else:
                assert isinstance(prediction, Failure)
            yield prediction


@contextmanager
def _png(folder: Path, card: Card) -> Iterator[Write]:
    ids = _mask_ids(card)  # of the classes, and of what is nothing
    kind = np.uint8 if max(ids) < 256 else np.uint16
    values = np.full(256, ids[-1], kind)
    values[: len(card.classes)] = ids[:-1]
    palette = np.zeros((max(ids) + 1, 3), np.uint8)
    palette[ids] = rgb([*colors_of(card), _void_color(card)])
    things = np.array(card.things or (True,) * len(card.classes))
    with atomic_write(folder / CLASSES) as temporary:
        temporary.write_text(_class_lines(card), encoding="utf-8")

    def save(mask: np.ndarray, confidence: np.ndarray, name: str) -> None:
        image = Image.fromarray(values[mask])
        if kind is np.uint8:
            image.putpalette(palette.tobytes())
        _save(image, folder / f"{name}.png")
        _save(Image.fromarray(confidence), folder / f"{name}{CONFIDENCE}.png")

    if card.task == "semantic":

        def write(prediction: Segmented, name: str, image: CocoImage) -> None:
            assert isinstance(prediction, Segmentation)
            save(prediction.mask, prediction.confidence, name)

        yield write
        return
    with panoptic_writer(folder / "panoptic.json", folder / "panoptic", _categories(card)) as write_coco:

        def write_all(prediction: Segmented, name: str, image: CocoImage) -> None:
            segments = _segments(prediction)
            assert segments.scores is not None
            if len(segments.labels) > np.iinfo(np.uint16).max:
                raise InputError(f"{image.file_name}: {len(segments.labels)} segments do not fit into 16 bits")
            classes = np.append(VOID, segments.labels).astype(np.uint8)
            shares = np.rint(255 * np.append(0, segments.scores).clip(0, 1)).astype(np.uint8)
            save(classes[segments.ids], shares[segments.ids], name)
            numbers = np.arange(len(segments.labels) + 1) * np.append(False, things[segments.labels])
            instances = Image.fromarray(numbers.astype(np.uint16)[segments.ids])
            _save(instances, folder / f"{name}{INSTANCES}.png")
            write_coco(image, segments)

        yield write_all


def _overlay(folder: Path, card: Card) -> AbstractContextManager[Write]:
    def write(prediction: Segmented, name: str, image: CocoImage) -> None:
        segments = _segments(prediction)
        layer = segment_overlay(segments.ids, shades(segments.labels, colors_of(card)))
        _save(Image.fromarray(layer), folder / f"{name}{OVERLAY}.png")

    return nullcontext(write)


@contextmanager
def _rle(folder: Path, card: Card) -> Iterator[Write]:
    categories = _categories(card)
    with (
        atomic_write(folder / "detections.json") as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        entries = 0

        def write(prediction: Segmented, name: str, image: CocoImage) -> None:
            nonlocal entries
            found = _detections(prediction)
            for counts, label, score in zip(found.runs, found.labels, found.scores, strict=True):
                if card.task == "panoptic" and not categories[label].isthing:
                    continue
                # no bbox: pycocotools would take its area for the mask's
                entry = {"image_id": image.id, "category_id": categories[label].id, "score": float(score)}
                entry["area"] = rle.area(counts)
                entry["segmentation"] = {"size": [image.height, image.width], "counts": rle.compress(counts)}
                file.write((",\n" if entries else "[\n") + json.dumps(entry, ensure_ascii=False))
                entries += 1

        yield write
        file.write("\n]\n" if entries else "[]\n")


def _polygons(folder: Path, card: Card) -> AbstractContextManager[Write]:
    categories = _categories(card)

    def write(prediction: Segmented, name: str, image: CocoImage) -> None:
        segments = _segments(prediction)
        features = []
        for k, facts in enumerate(_facts(segments, categories), start=1):
            left, top, width, height = facts.pop("bbox")
            corner = np.array([left, top])
            outlines = polygons(segments.ids[top : top + height, left : left + width] == k)
            rings = [[(ring + corner).tolist() for ring in polygon] for polygon in outlines]
            geometry = {"type": "MultiPolygon", "coordinates": rings}
            features.append({"type": "Feature", "id": k, "properties": facts, "geometry": geometry})
        document: dict[str, Any] = {"type": "FeatureCollection", "source": prediction.source}
        document |= {"width": image.width, "height": image.height, "features": features}
        with atomic_write(folder / f"{name}.geojson") as temporary:
            text = json.dumps(document, ensure_ascii=False)
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    return nullcontext(write)


FORMATS: dict[str, Callable[[Path, Card], AbstractContextManager[Write]]] = {
    "png": _png,
    "overlay": _overlay,
    "rle": _rle,
    "polygons": _polygons,
}


def _shape(prediction: Segmented) -> tuple[int, int]:
    mask = prediction.mask if isinstance(prediction, Segmentation) else prediction.segments.ids
    return int(mask.shape[0]), int(mask.shape[1])


def _segments(prediction: Segmented) -> Segments:
    """The prediction's; of a semantic one a segment for each class that is there."""
    if isinstance(prediction, PanopticSegmentation):
        return prediction.segments
    mask, confidence = prediction.mask, prediction.confidence
    labels = np.flatnonzero(np.bincount(mask.ravel(), minlength=len(prediction.classes)))
    table = np.zeros(256, np.int32)
    table[labels] = np.arange(len(labels)) + 1
    scores = np.array([confidence[mask == label].mean() / 255 for label in labels], np.float32)
    return Segments(table[mask], labels.astype(np.int64), np.zeros(len(labels), bool), scores)


def _detections(prediction: Segmented) -> Detections:
    """Of queries what they detect; else the segments, stuff among them."""
    if isinstance(prediction, PanopticSegmentation) and prediction.detections is not None:
        return prediction.detections()
    segments = _segments(prediction)
    assert segments.scores is not None
    runs = rle.encode_segments(segments.ids, len(segments.labels))
    return Detections(_shape(prediction), tuple(runs), segments.labels, segments.scores)


def _facts(segments: Segments, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Of every segment what its mask is said to be."""
    areas, boxes = areas_and_boxes(segments)
    assert segments.scores is not None
    return [
        {
            "label": categories[label].name,
            "category_id": categories[label].id,
            "score": float(segments.scores[k]),
            "area": int(areas[k]),
            "bbox": boxes[k].tolist(),
        }
        for k, label in enumerate(segments.labels.tolist())
    ]


def _categories(card: Card) -> tuple[Category, ...]:
    """The model's classes as COCO describes them."""
    count = len(card.classes)
    things = card.things or (card.task == "panoptic",) * count
    columns = (
        card.data.get("category_ids") or range(1, count + 1),
        card.classes,
        things,
        rgb(colors_of(card)).tolist(),
    )
    return tuple(Category(id, name, thing, tuple(color)) for id, name, thing, color in zip(*columns, strict=True))


def _mask_ids(card: Card) -> list[int]:
    """Of each class its id in masks, and at last that of pixels of none: the data's own, else 255, or what is free."""
    ids = list(card.data.get("category_ids") or range(len(card.classes)))
    free = (id for id in (card.data.get("void_id"), VOID, *range(1 << 16)) if id is not None and id not in ids)
    return [*ids, next(free)]


def _void_color(card: Card) -> str:
    """PASCAL VOC's, or one that no class has."""
    colors = ("#" + bytes(distinct(i)).hex() for i in range(255, -1, -1))
    return next(color for color in colors if color not in colors_of(card))


def _class_lines(card: Card) -> str:
    """What classes.txt says of the masks."""
    names, colors = [*card.classes, "ignore"], [*colors_of(card), _void_color(card)]
    kinds = [" thing" if thing else "" for thing in (*(card.things or (False,) * len(card.classes)), False)]
    rows = zip(_mask_ids(card), names, colors, kinds, strict=True)
    return "".join(f"{id} {name} {color}{kind}\n" for id, name, color, kind in rows)


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(os.fspath(temporary), "png")
