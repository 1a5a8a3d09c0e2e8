"""The evaluation of a panoptic model as one self-contained HTML page: numbers, mistakes, and segments over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitnext.data import rle
from vitnext.evaluation.matching import match
from vitnext.evaluation.report import data_uri, template
from vitnext.evaluation.semantic_report import SIDE
from vitnext.inference.drawing import colors_of, laid_over, segment_overlay, shades
from vitnext.models.names import answers_with_queries
from vitnext.preprocess import Source, open_image
from vitnext.types import Segments

if TYPE_CHECKING:
    from vitnext.card import Card

MISTAKES = "Mistakes are red where a predicted segment matches no true one, and blue where a true one is missed."
TITLES = {  # of each gallery: what it is called, what it shows, and which view comes first
    "worst": (
        "Worst images",
        f"The lowest panoptic quality of their own classes, first. {MISTAKES}",
        "predicted",
    ),
    "sure_and_wrong": (
        "Confident and wrong",
        "Segments that match no true one, by score and size: wrong truth and doubtful images. The share is that of "
        f"labelled pixels, each weighted with its segment's score. {MISTAKES}",
        "wrong",
    ),
    "best": ("Best images", "The highest panoptic quality of their own classes, first.", "predicted"),
}
SPURIOUS, MISSED = (220, 30, 30), (30, 90, 230)  # what is drawn over segments that match nothing


def render(metrics: dict[str, Any], card: Card, pictures: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """The report page of the metrics that `evaluate.evaluate` returns.

    ``pictures`` are `picture` results, for each of ``metrics["images"][kind]`` one. Equal arguments give equal pages.
    """
    confusion = np.array(metrics["confusion"], np.int64)  # (C, C)
    other = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    order = np.argsort(-other, axis=None, kind="stable")[:10]
    pairs = [(int(i) // len(other), int(i) % len(other)) for i in order if other.flat[i]]
    rows = metrics["per_class"]
    mistakes = [
        {
            "class": row["class"],
            "n": row["n"],
            "found": row["tp"],
            "called": int(other[i].sum()),
            "missed": row["fn"] - int(other[i].sum()),
            "spurious": max(0, row["fp"] - int(other[:, i].sum())),
        }
        for i, row in enumerate(rows)
        if row["pq"] is not None
    ]
    return template("panoptic_report.html.j2").render(
        m=metrics,
        card=card,
        classes=card.classes,
        per_class=sorted(rows, key=lambda row: (row["pq"] is None, row["pq"])),
        color_of=dict(zip(card.classes, colors_of(card), strict=True)),
        by_queries=answers_with_queries(card.architecture),
        occurring=sum(row["pq"] is not None for row in rows),
        has_things=any(row["thing"] for row in rows),
        mistakes=sorted(mistakes, key=lambda row: -(row["called"] + row["missed"] + row["spurious"])),
        confused=[(card.classes[i], card.classes[j], int(other[i, j]), rows[i]["n"]) for i, j in pairs],
        galleries=[
            (*TITLES[kind], list(zip(metrics["images"][kind], pictures[kind], strict=True)))
            for kind in TITLES
            if metrics["images"][kind]
        ],
    )


def picture(
    source: Source, truth: Segments, runs: Sequence[np.ndarray], labels: np.ndarray, card: Card
) -> dict[str, str]:
    """Data URIs of an image with its true segments, with the predicted ones, and with those that match nothing: keys
    image, truth, predicted, wrong. runs and labels: of each predicted segment the run lengths and the class."""
    height, width = truth.ids.shape
    ids = np.zeros((height, width), np.int32)
    for k, counts in enumerate(runs, start=1):
        ids[rle.decode(counts, height, width)] = k
    found = match(truth, Segments(ids, labels, np.zeros(len(labels), bool)))
    wrong = np.where(found.spurious[ids] & (truth.ids > 0), 1, np.where(found.missed[truth.ids], 2, 0))
    image = Image.fromarray(open_image(source, color="RGB", exif=card.preprocess.exif))
    whole = SIDE // max(image.size)  # small images are enlarged, so that outlines are thin
    scale = whole if whole > 1 else min(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    colors = colors_of(card)
    layers = {
        "truth": (truth.ids, shades(truth.labels, colors)),
        "predicted": (ids, shades(labels, colors)),
        "wrong": (wrong.astype(np.int32), np.array([SPURIOUS, MISSED], np.uint8)),
    }
    views = {"image": pixels}
    for name, (full, drawn) in layers.items():
        small = np.asarray(Image.fromarray(full).resize(size, Image.Resampling.NEAREST))
        views[name] = laid_over(pixels, segment_overlay(small, drawn))
    return {name: data_uri(Image.fromarray(view), "jpeg", quality=80, optimize=True) for name, view in views.items()}
