"""Average precision of masks, as COCO measures it (Lin et al. 2014, "Microsoft COCO"; cocodataset.org/#detection-eval).

pycocotools, COCO's own code, computes it: there is one definition of these numbers, and that is it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from vitnext.data import rle
from vitnext.errors import InputError, require
from vitnext.types import Detections, Instances, Segments

AREAS = ("all", "small", "medium", "large")  # in pixels: any, up to 32^2, up to 96^2, above; pycocotools' order


class MaskAveragePrecision:
    """Collects the objects of truth and prediction image by image, as compressed run lengths.

    Of every image and class the ``detections`` predictions with the highest scores count, COCO's 100 unless told
    otherwise; images with more objects of a class need more. Segments of stuff are passed over, and so is void.
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
        self._sizes: list[tuple[int, int]] = []  # of the images
        self._truth: list[dict[str, Any]] = []
        self._predictions: list[dict[str, Any]] = []

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
        for k, entry in expected:
            # COCOeval takes the id 0 for "not matched"
            self._truth.append(entry | {"id": len(self._truth) + 1, "iscrowd": int(truth.crowd[k])})
        for k, entry in found:
            score = float(prediction.scores[k])
            self._predictions.append(entry | {"id": len(self._predictions) + 1, "iscrowd": 0, "score": score})
        self._sizes.append(sizes[0])

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
                    "image_id": len(self._sizes),
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
        labels = np.array([t["category_id"] for t in self._truth if not t["iscrowd"]], dtype=np.int64)
        counts = np.bincount(labels, minlength=len(self.classes))
        per_class = [
            {
                "class": self.classes[label],
                "n": int(counts[label]),
                "ap": _mean(precision[:, :, column, 0]),
                "ap50": _mean(precision[0, :, column, 0]),
                "ap75": _mean(precision[5, :, column, 0]),
            }
            for column, label in enumerate(np.flatnonzero(self.things).tolist())
        ]
        return {
            "task": "instance",
            "n": len(self._sizes),
            "detections": self.detections,
            "ap": _mean(precision[..., 0]),
            "ap50": _mean(precision[0, ..., 0]),
            "ap75": _mean(precision[5, ..., 0]),
            **{name: _mean(precision[..., AREAS.index(name)]) for name in AREAS[1:]},
            "per_class": per_class,
        }

    def _precision(self) -> np.ndarray:
        """COCOeval's interpolated precision, -1 where there is no true object."""
        cocoeval = require("pycocotools.cocoeval", "coco")
        with redirect_stdout(io.StringIO()):  # it reports its progress there
            evaluation = cocoeval.COCOeval(self._coco(self._truth), self._coco(self._predictions), "segm")
            evaluation.params.maxDets = [self.detections]
            evaluation.evaluate()
            evaluation.accumulate()
        precision: np.ndarray = evaluation.eval["precision"][..., 0]  # of one limit on detections
        return precision

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        document = require("pycocotools.coco", "coco").COCO()
        document.dataset = {
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(self._sizes)],
            "categories": [{"id": id} for id in np.flatnonzero(self.things).tolist()],
            "annotations": [dict(annotation) for annotation in annotations],  # COCOeval adds keys of its own
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
