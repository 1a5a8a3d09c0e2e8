"""Average precision of masks, as COCO measures it (Lin et al. 2014, "Microsoft COCO"; cocodataset.org/#detection-eval).

pycocotools, COCO's own code, computes it: there is one definition of these numbers, and that is it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from threading import Lock
from typing import Any

import numpy as np

from vitnext.data import rle
from vitnext.errors import InputError, require
from vitnext.types import Detections, Instances, Segments

AREAS = ("all", "small", "medium", "large")  # in pixels: any, up to 32^2, up to 96^2, above; pycocotools' order
THRESHOLDS, LEAST = 10, 0.5  # of intersection over union: 0.50, 0.55, ..., 0.95
PRINTING = Lock()  # COCOeval reports its progress on stdout, which is one for all threads
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
        crowd = np.zeros(len(prediction.labels), bool)
        expected = self._entries(truth, truth.crowd, np.zeros(len(truth.labels)), "truth")
        found = self._entries(prediction, crowd, prediction.scores, "prediction")
        self._count(_matched(expected, found, sizes[0]), found)

    def _entries(
        self, objects: Segments | Instances | Detections, crowd: np.ndarray, scores: np.ndarray, name: str
    ) -> list[dict[str, Any]]:
        """COCO annotations of the things among the objects."""
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
            {
                "id": number,  # from 1 on, since COCOeval takes 0 for "not matched"
                "category_id": int(labels[k]),
                "area": rle.area(masks[k]),
                "segmentation": {"size": size, "counts": rle.compress(masks[k])},
                "iscrowd": int(crowd[k]),
                "score": float(scores[k]),
            }
            for number, k in enumerate(np.flatnonzero(self.things[labels]).tolist(), start=1)
        ]

    def _count(self, results: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
        """Add COCOeval's results on one image with these predictions."""
        kept = np.zeros(len(found), FOUND)
        kept["score"] = [entry["score"] for entry in found]
        for result in results:
            rows, area = np.array(result["dtIds"], np.int64) - 1, result["area"]
            kept["matched"][rows, area] = np.packbits(result["dtMatches"] > 0, axis=0).T
            kept["ignored"][rows, area] = np.packbits(result["dtIgnore"], axis=0).T
            self._positives[result["category_id"], area] += np.count_nonzero(result["gtIgnore"] == 0)
        labels = np.array([entry["category_id"] for entry in found], np.int64)
        for label in np.unique(labels):
            of_class = kept[labels == label]
            of_class = of_class[np.argsort(-of_class["score"], kind="stable")]
            of_class["rank"] = np.arange(len(of_class))
            self._found[label] += of_class.tobytes()
        self.images += 1

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
        with PRINTING, redirect_stdout(io.StringIO()):
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


def _matched(truth: list[dict[str, Any]], found: list[dict[str, Any]], size: tuple[int, int]) -> list[dict[str, Any]]:
    """COCOeval's results on the annotations of one image, each with the number of its range of areas, "area"."""
    labels = sorted({entry["category_id"] for entry in truth + found})
    parts = max((_divide(*(_of(label, entries) for entries in (truth, found))) for label in labels), default=1)
    with PRINTING, redirect_stdout(io.StringIO()):
        evaluation = _evaluation(labels, *(_coco(entries, labels, size, parts) for entries in (truth, found)))
        evaluation.params.maxDets = [max(1, len(found))]
        evaluation.evaluate()
    # of classes, then of ranges of areas, then of parts
    return [
        result | {"area": place // parts % len(AREAS)}
        for place, result in enumerate(evaluation.evalImgs)
        if result is not None
    ]


def _of(label: int, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["category_id"] == label]


def _divide(truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> int:
    """Make images of their own of those objects of a class that can be matched with each other, directly or by others;
    returns how many. COCOeval tries each prediction of an image with each true object, by loops in Python."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    masks = require("pycocotools.mask", "coco")
    crowd = [entry["iscrowd"] for entry in truth]
    ious = masks.iou(*([entry["segmentation"] for entry in entries] for entries in (found, truth)), crowd)
    count = len(truth) + len(found)
    over, under = np.nonzero(np.reshape(ious, (len(found), len(truth))) >= LEAST)
    pairs = coo_array((np.ones(len(over), bool), (over, under + len(found))), shape=(count, count))
    parts, part = connected_components(pairs, directed=False)
    for entry, number in zip(found + truth, part.tolist(), strict=True):
        entry["image_id"] = number
    return int(parts)


def _evaluation(labels: Sequence[int], *cocos: Any) -> Any:
    evaluation = require("pycocotools.cocoeval", "coco").COCOeval(*cocos, iouType="segm")
    evaluation.params.catIds = list(labels)
    return evaluation


def _coco(annotations: list[dict[str, Any]], labels: Sequence[int], size: tuple[int, int], images: int) -> Any:
    document = require("pycocotools.coco", "coco").COCO()
    document.dataset = {
        "images": [{"id": number, "height": size[0], "width": size[1]} for number in range(images)],
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
