"""Average precision of masks, as COCO measures it (Lin et al. 2014, "Microsoft COCO"; cocodataset.org/#detection-eval).

pycocotools, COCO's own code, computes it: there is one definition of these numbers, and that is it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from vitnext.data import rle
from vitnext.errors import InputError, require
from vitnext.types import Detections, Instances, Segments

AREAS = ("all", "small", "medium", "large")  # in pixels: any, up to 32^2, up to 96^2, above; pycocotools' order
THRESHOLDS = 10  # of intersection over union: 0.50, 0.55, ..., 0.95
FOUND = np.dtype(
    [  # what is kept of a prediction
        ("score", np.float64),
        ("rank", np.int32),  # by score, among those of its image and class
        ("matched", np.uint8, (len(AREAS), 2)),  # a bit for each threshold
        ("ignored", np.uint8, (len(AREAS), 2)),
    ]
)


class MaskAveragePrecision:
    """Matches the objects of truth and prediction image by image; 28 bytes of each prediction are kept.

    Of every image and class the ``detections`` predictions with the highest scores count, COCO's 100 unless told
    otherwise; images with more objects of a class need more. The number may be changed until the result is asked for:
    the best are matched first, so that those after them change nothing. Segments of stuff are passed over, and so is
    void.
    """

    def __init__(self, classes: Sequence[str], things: Sequence[bool] | None = None, *, detections: int = 100) -> None:
        """``classes``: C names; ``things``: for each, whether it is a class of things; without it, all are.

        Raises InputError without pycocotools.
        """
        require("pycocotools.cocoeval", "coco")
        if things is not None and len(things) != len(classes):
            raise InputError(f"{len(classes)} classes, but {len(things)} say whether they are things")
        if detections < 1:
            raise InputError(f"detections must be at least 1, not {detections}")
        self.classes = tuple(classes)
        self.things = np.ones(len(classes), dtype=bool) if things is None else np.array(things, dtype=bool)
        self.detections = detections
        self.images = 0
        self._found = [bytearray() for _ in classes]  # FOUND of each prediction
        self._positives = np.zeros((len(classes), len(AREAS)), dtype=np.int64)  # true objects, crowds aside

    def update(self, truth: Segments | Instances, prediction: Segments | Instances | Detections) -> None:
        """Add an image. A prediction's crowd flags play no part.

        Raises InputError when the sizes differ, a label is none of the C classes, or the prediction has no scores or
        one that is not finite.
        """
        sizes = [_size(objects) for objects in (truth, prediction)]
        if sizes[0] != sizes[1]:
            raise InputError(f"the prediction has {sizes[1]} pixels, the truth {sizes[0]}")
        if prediction.scores is None:
            raise InputError("average precision ranks predictions by their scores, and these have none")
        if not np.isfinite(prediction.scores).all():
            raise InputError("a predicted score is not finite")
        expected, found = self._entries(truth, "truth"), self._entries(prediction, "prediction")
        for number, (k, entry) in enumerate(expected, start=1):  # COCOeval takes the id 0 for "not matched"
            entry |= {"id": number, "iscrowd": int(truth.crowd[k])}
        for number, (k, entry) in enumerate(found, start=1):
            entry |= {"id": number, "iscrowd": 0, "score": float(prediction.scores[k])}
        self.images += 1
        for label, results in _matched([entry for _, entry in expected], [entry for _, entry in found], sizes[0]):
            kept = np.zeros(len(results[0]["dtScores"]), FOUND)
            kept["score"], kept["rank"] = results[0]["dtScores"], np.arange(len(kept))
            for area, result in enumerate(results):
                kept["matched"][:, area] = np.packbits(result["dtMatches"] > 0, axis=0).T
                kept["ignored"][:, area] = np.packbits(result["dtIgnore"], axis=0).T
                self._positives[label, area] += np.count_nonzero(result["gtIgnore"] == 0)
            self._found[label] += kept.tobytes()

    def _entries(self, objects: Segments | Instances | Detections, name: str) -> list[tuple[int, dict[str, Any]]]:
        """COCO annotations of the things among the objects, with their positions."""
        labels = objects.labels
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise InputError(f"the {name}'s labels must lie in 0 to {len(self.classes) - 1}")
        masks: Sequence[np.ndarray]
        if isinstance(objects, Segments):
            masks = rle.encode_segments(objects.ids, len(labels))
        elif isinstance(objects, Instances):
            masks = [rle.encode(mask) for mask in objects.masks]
        else:
            masks = objects.runs
        size = list(_size(objects))
        return [
            (
                k,
                {
                    "image_id": 0,
                    "category_id": int(labels[k]),
                    "area": rle.area(masks[k]),
                    "segmentation": {"size": size, "counts": rle.compress(masks[k])},
                },
            )
            for k in np.flatnonzero(self.things[labels]).tolist()
        ]

    def result(self) -> dict[str, Any]:
        """What JSON holds; an undefined number is None, never NaN:

        - ``task``, ``n`` (images), ``detections``
        - ``ap``: mean of the classes' average precision at IoU 0.50, 0.55, ..., 0.95; ``ap50``, ``ap75``: at these
        - ``small``, ``medium``, ``large``: ap over true objects up to 32^2, up to 96^2 and of more pixels
        - ``per_class``, of things: {class, n, ap, ap50, ap75}; n true objects, crowds aside

        Means leave out the classes without such a true object, not counting them as 0; those have None.
        """
        precision = self._precision()  # (10 IoUs, 101 recalls, classes, 4 areas)
        per_class = [
            {
                "class": self.classes[label],
                "n": int(self._positives[label, 0]),
                "ap": _mean(precision[:, :, column, 0]),
                "ap50": _mean(precision[0, :, column, 0]),
                "ap75": _mean(precision[5, :, column, 0]),
            }
            for column, label in enumerate(np.flatnonzero(self.things).tolist())
        ]
        return {
            "task": "instance",
            "n": self.images,
            "detections": self.detections,
            "ap": _mean(precision[..., 0]),
            "ap50": _mean(precision[0, ..., 0]),
            "ap75": _mean(precision[5, ..., 0]),
            **{name: _mean(precision[..., AREAS.index(name)]) for name in AREAS[1:]},
            "per_class": per_class,
        }

    def _precision(self) -> np.ndarray:
        """COCOeval's interpolated precision, -1 where there is no true object."""
        things = np.flatnonzero(self.things).tolist()
        evaluation = _evaluation(things)
        evaluation.params.imgIds, evaluation.params.maxDets = [0], [sys.maxsize]  # they were left out above
        evaluation.evalImgs = [result for label in things for result in self._together(label)]
        evaluation._paramsEval = evaluation.params
        with redirect_stdout(io.StringIO()):  # it reports its progress there
            evaluation.accumulate()
        precision: np.ndarray = evaluation.eval["precision"][..., 0]  # of one limit on detections
        return precision

    def _together(self, label: int) -> list[dict[str, np.ndarray]]:
        """What COCOeval has of an image and class, of all images in one; for each range of areas."""
        found = np.frombuffer(self._found[label], FOUND)
        found = found[found["rank"] < self.detections]
        return [
            {
                "dtScores": found["score"],
                "dtMatches": np.unpackbits(found["matched"][:, area], axis=1, count=THRESHOLDS).T,
                "dtIgnore": np.unpackbits(found["ignored"][:, area], axis=1, count=THRESHOLDS).T,
                "gtIgnore": np.zeros(self._positives[label, area]),
            }
            for area in range(len(AREAS))
        ]


def _matched(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], size: tuple[int, int]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """COCOeval's matches in one image, of annotations: each class that it has, and a result for each range of areas."""
    labels = sorted({entry["category_id"] for entry in truth + found})
    with redirect_stdout(io.StringIO()):
        evaluation = _evaluation(labels, *(_coco(annotations, labels, size) for annotations in (truth, found)))
        evaluation.params.maxDets = [max(1, len(found))]
        evaluation.evaluate()
    for column, label in enumerate(labels):
        yield label, evaluation.evalImgs[column * len(AREAS) : (column + 1) * len(AREAS)]


def _evaluation(labels: Sequence[int], *cocos: Any) -> Any:
    evaluation = require("pycocotools.cocoeval", "coco").COCOeval(*cocos, iouType="segm")
    evaluation.params.catIds = list(labels)
    return evaluation


def _coco(annotations: list[dict[str, Any]], labels: Sequence[int], size: tuple[int, int]) -> Any:
    document = require("pycocotools.coco", "coco").COCO()
    document.dataset = {
        "images": [{"id": 0, "height": size[0], "width": size[1]}],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }
    document.createIndex()
    return document


def _size(objects: Segments | Instances | Detections) -> tuple[int, int]:
    if isinstance(objects, Detections):
        return objects.size
    height, width = objects.ids.shape if isinstance(objects, Segments) else objects.masks.shape[1:]
    return int(height), int(width)


def _mean(precision: np.ndarray) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None
