"""Which predicted segments stand for which true ones (Kirillov et al. 2019, "Panoptic Segmentation", section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitnext.types import Segments


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """How predicted segments lie over true ones.

    pairs:    int64 (2, p): ids of the true and of the predicted segments that share pixels; 0 is void
    shared:   int64 (p,): on how many pixels
    iou:      float64 (p,): void aside
    matched:  bool (p,): IoU above 0.5 and the same class
    confused: bool (p,): IoU above 0.5, whatever the classes
    missed:   bool (n + 1,): by id, the true segments that match nothing
    spurious: bool (m + 1,): by id, the predicted segments that match nothing
    """

    pairs: np.ndarray
    shared: np.ndarray
    iou: np.ndarray
    matched: np.ndarray
    confused: np.ndarray
    missed: np.ndarray
    spurious: np.ndarray


def match(truth: Segments, prediction: Segments) -> Matching:
    """Compare the segments of one image by the rules of `PanopticQuality`."""
    of_truth, of_prediction, shared = _intersections(truth.ids, prediction.ids)
    true_area = _total(of_truth, shared, len(truth.labels))  # (n + 1,), void first; likewise below
    predicted_area = _total(of_prediction, shared, len(prediction.labels))
    true_label, predicted_label = np.append(-1, truth.labels), np.append(-2, prediction.labels)  # void equals nothing
    crowd = np.append(False, truth.crowd)
    same_class = true_label[of_truth] == predicted_label[of_prediction]  # (pairs,)
    in_void = _total(of_prediction, shared * (of_truth == 0), len(prediction.labels))
    in_crowd = _total(of_prediction, shared * (same_class & crowd[of_truth]), len(prediction.labels))

    union = true_area[of_truth] + predicted_area[of_prediction] - shared - in_void[of_prediction]
    confused = (of_truth > 0) & (of_prediction > 0) & ~crowd[of_truth] & (2 * shared > union)
    matched = confused & same_class
    missed = (true_area > 0) & ~crowd
    missed[[0, *of_truth[matched]]] = False
    spurious = (predicted_area > 0) & (2 * (in_void + in_crowd) <= predicted_area)
    spurious[[0, *of_prediction[matched]]] = False
    overlap = shared / np.maximum(union, 1)
    return Matching(np.stack([of_truth, of_prediction]), shared, overlap, matched, confused, missed, spurious)


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
