"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation", section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitnext.errors import InputError
from vitnext.types import Segments


class PanopticQuality:
    """Counts matched and unmatched segments image by image. Memory: four numbers a class.

    A predicted and a true segment of the same class match when their intersection over union exceeds 0.5, which at most
    one pair of a segment can (section 4.1). Per class,

        SQ = sum of the matched pairs' IoU / TP,   RQ = TP / (TP + FP / 2 + FN / 2),   PQ = SQ x RQ   (equations 1, 2)

    Void and crowds (section 4.1, "Void labels" and "Group labels"): true void leaves a union; a predicted segment more
    than half of which lies in true void and in true crowds of its class is no false positive when it matches nothing;
    a crowd matches nothing and is not missed. Void in a prediction is simply not covered. Segments without a pixel are
    passed over, and a prediction's scores and crowd flags play no part.
    """

    def __init__(self, classes: Sequence[str], things: Sequence[bool]) -> None:
        """``classes``: C names; ``things``: for each, whether it is a class of things or of stuff."""
        if len(things) != len(classes):
            raise InputError(f"{len(classes)} classes, but {len(things)} say whether they are things")
        self.classes = tuple(classes)
        self.things = np.array(things, dtype=bool)
        self.images = 0
        self.matched = np.zeros(len(classes), dtype=np.int64)  # TP
        self.spurious = np.zeros(len(classes), dtype=np.int64)  # FP
        self.missed = np.zeros(len(classes), dtype=np.int64)  # FN
        self.overlap = np.zeros(len(classes), dtype=np.float64)  # sum of the matched pairs' IoU

    def update(self, truth: Segments, prediction: Segments) -> None:
        """Add an image. Raises InputError when the sizes differ or a label is none of the C classes."""
        if truth.ids.shape != prediction.ids.shape:
            raise InputError(f"the prediction has {prediction.ids.shape} pixels, the truth {truth.ids.shape}")
        for name, segments in (("truth", truth), ("prediction", prediction)):
            if len(segments.labels) and not 0 <= segments.labels.min() <= segments.labels.max() < len(self.classes):
                raise InputError(f"the {name}'s labels must lie in 0 to {len(self.classes) - 1}")

        of_truth, of_prediction, shared = _intersections(truth.ids, prediction.ids)
        true_area = _total(of_truth, shared, len(truth.labels))  # (n + 1,), void first; likewise below
        predicted_area = _total(of_prediction, shared, len(prediction.labels))
        true_label, predicted_label = (
            np.append(-1, truth.labels),
            np.append(-2, prediction.labels),
        )  # void equals nothing
        crowd = np.append(False, truth.crowd)
        same_class = true_label[of_truth] == predicted_label[of_prediction]  # (pairs,)
        in_void = _total(of_prediction, shared * (of_truth == 0), len(prediction.labels))
        in_crowd = _total(of_prediction, shared * (same_class & crowd[of_truth]), len(prediction.labels))

        union = true_area[of_truth] + predicted_area[of_prediction] - shared - in_void[of_prediction]
        match = same_class & ~crowd[of_truth] & (2 * shared > union)
        labels = true_label[of_truth[match]]
        missed = (true_area > 0) & ~crowd
        missed[[0, *of_truth[match]]] = False
        spurious = (predicted_area > 0) & (2 * (in_void + in_crowd) <= predicted_area)
        spurious[[0, *of_prediction[match]]] = False

        count = len(self.classes)
        self.images += 1
        self.matched += np.bincount(labels, minlength=count)
        self.overlap += np.bincount(labels, weights=shared[match] / union[match], minlength=count)
        self.missed += np.bincount(true_label[missed], minlength=count)
        self.spurious += np.bincount(predicted_label[spurious], minlength=count)

    def result(self) -> dict[str, Any]:
        """What JSON holds; an undefined number is None, never NaN:

        - ``task``, ``n`` (images)
        - ``pq``, ``sq``, ``rq``: means of the classes that occur in the truth or the predictions; the others are left
          out, not counted as 0
        - ``things``, ``stuff``: {pq, sq, rq, classes}, the same over these classes, and how many of them occur
        - ``per_class``: {class, thing, n, pq, sq, rq, tp, fp, fn}; n = tp + fn true segments. Where nothing matched,
          SQ counts as 0, as in COCO's own evaluation. A class that does not occur has None.
        """
        rows = []
        for i, name in enumerate(self.classes):
            tp, fp, fn = int(self.matched[i]), int(self.spurious[i]), int(self.missed[i])
            total = tp + fp / 2 + fn / 2
            rows.append(
                {
                    "class": name,
                    "thing": bool(self.things[i]),
                    "n": tp + fn,
                    "pq": float(self.overlap[i] / total) if total else None,
                    "sq": (float(self.overlap[i] / tp) if tp else 0.0) if total else None,
                    "rq": tp / total if total else None,
                    "tp": tp,
                    "fp": fp,
                    "fn": fn,
                }
            )
        every = _means(rows)
        return {
            "task": "panoptic",
            "n": self.images,
            "pq": every["pq"],
            "sq": every["sq"],
            "rq": every["rq"],
            "things": _means([row for row in rows if row["thing"]]),
            "stuff": _means([row for row in rows if not row["thing"]]),
            "per_class": rows,
        }


def _intersections(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which ids lie over each other, and on how many pixels: true ids, predicted ids, counts, each int64 (pairs,).

    Runs of equal pixels are counted, not pixels: there are far fewer, and no table of all pairs is needed.
    """
    stride = int(prediction.max()) + 1
    joint = truth.ravel().astype(np.int64) * stride + prediction.ravel()
    starts = np.concatenate([[0], np.flatnonzero(joint[1:] != joint[:-1]) + 1])
    pairs, run = np.unique(joint[starts], return_inverse=True)
    counts = np.bincount(run, weights=np.diff(starts, append=joint.size)).astype(np.int64)
    return pairs // stride, pairs % stride, counts


def _total(ids: np.ndarray, pixels: np.ndarray, n: int) -> np.ndarray:
    """Sums of ``pixels`` by id, int64 (n + 1,)."""
    return np.bincount(ids, weights=pixels, minlength=n + 1).astype(np.int64)


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    present = [row for row in rows if row["pq"] is not None]
    means = {key: float(np.mean([row[key] for row in present])) if present else None for key in ("pq", "sq", "rq")}
    return means | {"classes": len(present)}
