"""The published rules of panoptic quality, over the files alone: what a benchmark's server does with them.

Kirillov et al. 2019 (arXiv:1801.00868, section 4.2) with the details of the published evaluation: a pixel's segment is
R + 256 G + 65536 B; predicted pixels on void do not count in a union; a predicted segment without a match is no mistake
if more than half of it lies on void or on a crowd of its class.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def panoptic_files(truth: Path, found: Path) -> dict[int, dict[str, float]]:
    """Counts of tp, fp, fn and the sum of IoU for each category id of two JSON files in COCO's panoptic format, whose
    PNG files lie in a folder of the JSON's name. Raises ValueError for a file that the format does not allow."""
    theirs, ours = (json.loads(path.read_text(encoding="utf-8")) for path in (truth, found))
    totals = {category["id"]: {"tp": 0, "fp": 0, "fn": 0, "iou": 0.0} for category in theirs["categories"]}
    predicted = {annotation["image_id"]: annotation for annotation in ours["annotations"]}
    for annotation in theirs["annotations"]:
        if annotation["image_id"] not in predicted:
            raise ValueError(f"no prediction for image {annotation['image_id']}")
        _count(totals, _read(truth, annotation, totals), _read(found, predicted[annotation["image_id"]], totals))
    return totals


def _read(file: Path, annotation: dict, categories: dict) -> tuple[np.ndarray, dict[int, dict]]:
    with Image.open(file.with_suffix("") / annotation["file_name"]) as image:
        ids = np.asarray(image.convert("RGB")).astype(np.int64) @ [1, 256, 65536]
    segments = {segment["id"]: segment for segment in annotation["segments_info"]}
    if len(segments) != len(annotation["segments_info"]) or set(np.unique(ids)) - {0} != set(segments):
        raise ValueError(f"{annotation['file_name']}: the segments of the PNG are not those of the JSON")
    if any(segment["category_id"] not in categories for segment in segments.values()):
        raise ValueError(f"{annotation['file_name']}: an unknown category")
    return ids, segments


def _count(totals: dict, truth: tuple[np.ndarray, dict], found: tuple[np.ndarray, dict]) -> None:
    (true_ids, true_segments), (found_ids, found_segments) = truth, found
    matched = set()
    for t, segment in true_segments.items():
        if segment.get("iscrowd"):
            continue
        total = totals[segment["category_id"]]
        for p, other in found_segments.items():
            if other["category_id"] != segment["category_id"]:
                continue
            shared = ((true_ids == t) & (found_ids == p)).sum()
            iou = shared / ((true_ids == t).sum() + ((found_ids == p) & (true_ids != 0)).sum() - shared)
            if iou > 0.5:
                total["tp"] += 1
                total["iou"] += iou
                matched.add(p)
                break
        else:
            total["fn"] += 1
    for p, segment in found_segments.items():
        crowds = [
            t for t, s in true_segments.items() if s.get("iscrowd") and s["category_id"] == segment["category_id"]
        ]
        if p not in matched and np.isin(true_ids[found_ids == p], [0, *crowds]).mean() <= 0.5:
            totals[segment["category_id"]]["fp"] += 1


def quality(totals: dict[int, dict[str, float]]) -> float:
    """PQ: the mean, over categories that occur, of IoU / (tp + fp / 2 + fn / 2)."""
    scores = [
        total["iou"] / (total["tp"] + total["fp"] / 2 + total["fn"] / 2)
        for total in totals.values()
        if total["tp"] + total["fp"] + total["fn"]
    ]
    return float(np.mean(scores))
