"""The evaluation of a segmenter as one self-contained HTML page: numbers, confusions, and masks laid over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from vitnext.data.mask_values import VOID
from vitnext.evaluation.report import CELLS, data_uri, reliability_diagram, template
from vitnext.inference.drawing import colors_of, overlay, rgb
from vitnext.preprocess import Source, open_image

if TYPE_CHECKING:
    from vitnext.card import Card

SIDE = 320  # pixels, longest side of a picture
TITLES = {  # of each gallery: what it is called, what it shows, and which view comes first
    "worst": ("Worst images", "The lowest mean IoU of their own classes, first.", "predicted"),
    "sure_and_wrong": (
        "Confident and wrong",
        "The most confidence in wrong pixels: wrong masks and doubtful images. The share is that of labelled pixels, "
        "each weighted with its confidence.",
        "wrong",
    ),
    "best": ("Best images", "The highest mean IoU of their own classes, first.", "predicted"),
}


def render(metrics: dict[str, Any], card: Card, pictures: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """The report page of the metrics that `evaluate.evaluate` returns.

    ``pictures`` are `picture` results, for each of ``metrics["images"][kind]`` one. Equal arguments give equal pages.
    """
    confusion = np.array(metrics["confusion"], dtype=np.float64)  # (C, C)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros_like(confusion), where=totals > 0)
    wrong = shares * (1 - np.eye(len(shares)))
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(10, wrong.size)]
    pairs = [(int(i) // len(wrong), int(i) % len(wrong)) for i in order if wrong.flat[i] > 0]
    return template("semantic_report.html.j2").render(
        m=metrics,
        card=card,
        classes=card.classes,
        per_class=sorted(metrics["per_class"], key=lambda row: (row["iou"] is None, row["iou"])),
        color_of=dict(zip(card.classes, colors_of(card), strict=True)),
        shares=shares.tolist() if len(shares) <= CELLS else None,
        present=(totals[:, 0] > 0).tolist(),
        confused=[(card.classes[i], card.classes[j], float(shares[i, j])) for i, j in pairs],
        reliability=Markup(reliability_diagram(metrics["reliability"], unit="pixels")),
        mean_confidence=sum(b["count"] * b["confidence"] for b in metrics["reliability"] if b["count"])
        / metrics["pixels"],
        galleries=[
            (*TITLES[kind], list(zip(metrics["images"][kind], pictures[kind], strict=True)))
            for kind in TITLES
            if metrics["images"][kind]
        ],
    )


def picture(source: Source, truth: np.ndarray, predicted: np.ndarray, card: Card) -> dict[str, str]:
    """Data URIs of an image with its true mask, with the predicted one, and with what is wrong: keys image, truth,
    predicted, wrong. truth and predicted: uint8 (H, W) class indices, 255 in the truth where void."""
    image = Image.fromarray(open_image(source, color="RGB", exif=card.preprocess.exif))
    scale = min(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    small_truth, small_predicted = (
        np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in (truth, predicted)
    )
    wrong = np.where(small_truth == VOID, VOID, (small_truth != small_predicted).astype(np.uint8))
    red = np.array([[255, 255, 255], [220, 30, 30]], np.uint8)
    colors = rgb(colors_of(card))
    views = {
        "image": pixels,
        "truth": overlay(pixels, small_truth, colors),
        "predicted": overlay(pixels, small_predicted, colors),
        "wrong": overlay(pixels, wrong, red),
    }
    return {name: data_uri(Image.fromarray(view), "jpeg", quality=80, optimize=True) for name, view in views.items()}
