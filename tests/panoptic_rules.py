"""The published rules of panoptic quality as loops over masks, of segments and of files alone.

Kirillov et al. 2019 (arXiv:1801.00868, section 4.2) with the details of the published evaluation: a pixel's segment is
R + 256 G + 65536 B; predicted pixels on void do not count in a union; a predicted segment without a match is no mistake
if more than half of it lies on void or on a crowd of its class.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vitnext.types import Segments


def naive(pairs, classes) -> list[dict[str, float]]:
    """The published rules as loops over pairs of masks: tp, fp, fn and the sum of IoU for each class."""
    totals = [{"tp": 0, "fp": 0, "fn": 0, "iou": 0.0} for _ in range(classes)]
    for truth, prediction in pairs:
        void = truth.ids == 0
        found_truth, found_prediction = set(), set()
        for t in range(1, len(truth.labels) + 1):
            for p in range(1, len(prediction.labels) + 1):
                label = truth.labels[t - 1]
                if truth.crowd[t - 1] or label != prediction.labels[p - 1]:
                    continue
                true, predicted = truth.ids == t, (prediction.ids == p) & ~void
                if not (true | predicted).any():
                    continue
                iou = (true & predicted).sum() / (true | predicted).sum()
                if iou > 0.5:
                    totals[label]["tp"] += 1
                    totals[label]["iou"] += iou
                    found_truth.add(t)
                    found_prediction.add(p)
        for t, label in enumerate(truth.labels, start=1):
            if t not in found_truth and not truth.crowd[t - 1] and (truth.ids == t).any():
                totals[label]["fn"] += 1
        for p, label in enumerate(prediction.labels, start=1):
            mask = prediction.ids == p
            if p in found_prediction or not mask.any():
                continue
            ignored = void.copy()
            for t in range(1, len(truth.labels) + 1):
                if truth.crowd[t - 1] and truth.labels[t - 1] == label:
                    ignored |= truth.ids == t
            if (mask & ignored).sum() / mask.sum() <= 0.5:
                totals[label]["fp"] += 1
    return totals


def naive_of_files(truth: Path, found: Path) -> list[dict[str, float]]:
    """``naive`` of two JSON files in COCO's panoptic format, whose PNG files lie in a folder of the JSON's name. Raises
    ValueError for a file that the format does not allow, KeyError for an image without a prediction."""
    theirs, ours = (json.loads(path.read_text(encoding="utf-8")) for path in (truth, found))
    categories = [category["id"] for category in theirs["categories"]]
    predicted = {annotation["image_id"]: annotation for annotation in ours["annotations"]}
    pairs = [
        (_read(truth, annotation, categories), _read(found, predicted[annotation["image_id"]], categories))
        for annotation in theirs["annotations"]
    ]
    return naive(pairs, len(categories))


def _read(file: Path, annotation: dict, categories: list[int]) -> Segments:
    with Image.open(file.with_suffix("") / annotation["file_name"]) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64) @ [1, 256, 65536]
    segments = sorted(annotation["segments_info"], key=lambda segment: segment["id"])
    listed, drawn = [segment["id"] for segment in segments], np.unique(pixels[pixels > 0]).tolist()
    if listed != drawn:
        raise ValueError(f"{annotation['file_name']}: the segments of the PNG are not those of the JSON")
    labels = np.array([categories.index(segment["category_id"]) for segment in segments], np.int64)
    crowd = np.array([bool(segment.get("iscrowd")) for segment in segments], bool)
    return Segments(np.searchsorted([0, *listed], pixels).astype(np.int32), labels, crowd)


def quality(totals: list[dict[str, float]]) -> float:
    """PQ: the mean, over classes that occur, of IoU / (tp + fp / 2 + fn / 2)."""
    counted = [total for total in totals if total["tp"] + total["fp"] + total["fn"]]
    return float(np.mean([t["iou"] / (t["tp"] + t["fp"] / 2 + t["fn"] / 2) for t in counted]))
