"""What the doctor found in images and masks as one self-contained HTML page: findings, counts, masks over images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vitnext.data.dataset import Dataset
from vitnext.data.doctor import Report
from vitnext.data.mask_doctor import VOID_ROW, Looked, Place, remarks
from vitnext.data.mask_split import MaskSplit
from vitnext.data.mask_values import UNKNOWN, VOID, read_indices
from vitnext.decode import open_image
from vitnext.errors import ImageError
from vitnext.evaluation.report import data_uri, template
from vitnext.inference.drawing import overlay, rgb
from vitnext.types import Segments

SIDE = 320  # pixels, longest side of a picture
PICTURES = 24
REMARKED = 12  # pictures at most that are there because of a finding
NAMED = 5  # classes named under a picture
OUTLINE = 255  # of objects: white
UNNAMED = "#ff00ff"  # drawn where classes.txt does not name what the mask holds


def render(dataset: Dataset[MaskSplit], looked: Mapping[Place, Looked], report: Report) -> str:
    """The page of what `mask_doctor.look` saw and `mask_doctor.findings` made of it. Equal arguments, equal pages."""
    values = next(iter(dataset.splits.values())).values
    table = report.facts["classes"]  # class -> split -> counts
    labelled = {split: sum(table[label][split]["pixels"] for label in dataset.classes) for split in dataset.splits}
    every = sum(row["pixels"] for rows in table.values() for row in rows.values())
    said = remarks(dataset, looked)
    return template("mask_report.html.j2").render(
        name=dataset.name,
        line=dataset.line,
        classes=dataset.classes,
        rows=[*dataset.classes, VOID_ROW],
        color_of=dict(zip(dataset.classes, values.palette, strict=True)),
        ids_of=_ids(dataset.splits),
        splits={split: len(images) for split, images in dataset.splits.items()},
        objects=any("objects" in row for rows in table.values() for row in rows.values()),
        table=table,
        labelled=labelled,
        labelled_share=sum(labelled.values()) / every if every else 0.0,
        findings=report.findings,
        errors=len(report.errors),
        warnings=len(report.warnings),
        unnamed=UNNAMED if any(found.unknown for found in looked.values()) else None,
        pictures=[_figure(dataset, place, looked[place], said.get(place, "")) for place in chosen(looked, said)],
    )


def chosen(looked: Mapping[Place, Looked], said: Iterable[Place]) -> list[Place]:
    """Up to 24 places: first those something is ``said`` of, then of each class in turn the image with most of it."""
    first = list(said)[:REMARKED]
    taken = dict.fromkeys(first)
    counts = {place: found.counts for place, found in looked.items() if found.counts is not None}
    if counts:
        good = list(counts)
        shares = np.stack([held / max(1, held.sum()) for held in counts.values()])
        order = np.argsort(-shares[:, :-1], axis=0, kind="stable")  # (N, classes)
        for rank in range(len(good)):
            for label in range(order.shape[1]):
                at = order[rank, label]
                if len(taken) < PICTURES and shares[at, label] > 0:
                    taken[good[at]] = None
    return list(taken)


def _ids(splits: Mapping[str, MaskSplit]) -> dict[str, str]:
    """Class -> what stands for it in masks."""
    values = next(iter(splits.values())).values
    ids = dict.fromkeys(values.classes, "")
    for known in values.known:
        index = int(values.table[known.id])
        if index != VOID:
            label = values.classes[index]
            ids[label] += f"{', ' if ids[label] else ''}{known.id}"
    return ids | {VOID_ROW: ", ".join(str(c.id) for c in values.void)}


def _figure(dataset: Dataset[MaskSplit], place: Place, found: Looked, remark: str) -> dict[str, Any]:
    split = dataset.splits[place[0]]
    held: list[str] = []
    if found.counts is not None:
        counts = found.counts[:-1]
        largest = [int(i) for i in np.argsort(-counts, kind="stable")[:NAMED] if counts[i]]
        held = [f"{dataset.classes[i]} {100 * counts[i] / found.counts.sum():.1f}%" for i in largest]
        held += ["..."] if np.count_nonzero(counts) > NAMED else []
    return {
        "split": place[0],
        "file": split.name(place[1]),
        "remark": remark,
        "held": ", ".join(held),
        "views": picture(split, place[1]),
    }


def picture(split: MaskSplit, i: int) -> dict[str, str]:
    """Data URIs: image, and mask (laid over it, objects outlined) where it can be; nothing of an image that cannot be
    read."""
    try:
        pixels = open_image(split.image(i))
    except ImageError:
        return {}
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    views = {"image": np.asarray(image)}
    try:
        files = split.masks is None and split.truth is None
        indices = read_indices(split.mask_path(i), split.values)[1] if files else split.mask(i)
    except ImageError:
        indices = None
    if indices is not None and indices.shape == pixels.shape[:2]:
        unnamed = min(len(split.classes), VOID - 1)  # 255 classes leave no index for it
        drawn = np.where(indices == UNKNOWN, unnamed, indices).astype(np.uint8)
        small = np.asarray(Image.fromarray(drawn).resize(image.size, Image.Resampling.NEAREST))
        views["mask"] = overlay(views["image"], small, rgb((*split.values.palette, UNNAMED)))
        if split.has_instances and UNKNOWN not in indices:
            views["mask"][outlines(split.segments(i), split.values.things, image.size)] = OUTLINE
    return {name: data_uri(Image.fromarray(view), "jpeg", quality=80, optimize=True) for name, view in views.items()}


def outlines(segments: Segments, things: Sequence[bool], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W), at ``size`` (width, height): pixels of things along their borders, one wide between two."""
    small = np.asarray(Image.fromarray(segments.ids).resize(size, Image.Resampling.NEAREST))
    thing = np.array([False, *(things[label] for label in segments.labels)])[small]
    edge = np.zeros(small.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        changed = small[here] != small[there]
        edge[here] |= changed & thing[here]
        edge[there] |= changed & thing[there] & ~thing[here]
    return edge
