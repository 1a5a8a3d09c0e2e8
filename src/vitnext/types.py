"""What prediction returns, and what it is compared with.

A ``Classification``, a ``MultiLabel``, a ``Segmentation`` or a ``PanopticSegmentation`` for an image that was read, by
the model's task, and a ``Failure`` for one that was not; ``Segments``, ``Instances`` and ``Detections`` hold the
objects of an image, predicted or true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """One image's class probabilities.

    source:  the path as given, or a name for an image that came as bytes or an array
    classes: C class names
    scores:  float32 (C,), probabilities in the order of ``classes``
    """

    source: str
    classes: tuple[str, ...]
    scores: np.ndarray

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.classes),):
            raise ValueError(f"{len(self.classes)} classes but scores of shape {self.scores.shape}")

    @property
    def index(self) -> int:
        """Index of the most probable class; the first one when several tie."""
        return int(np.argmax(self.scores))

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.classes[self.index]

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return float(self.scores[self.index])

    def top(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` most probable classes (all when there are fewer), most probable first, ties in class order."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.classes[i], float(self.scores[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: source, label, score, error (None), and ``scores`` as {class: probability}."""
        scores = {name: float(score) for name, score in zip(self.classes, self.scores, strict=True)}
        return {"source": self.source, "label": self.label, "score": self.score, "error": None, "scores": scores}


@dataclass(frozen=True, slots=True, eq=False)
class MultiLabel:
    """One image's labels, none or several.

    source:     the path as given, or a name for an image that came as bytes or an array
    classes:    C class names
    scores:     float32 (C,), the probability of each class by itself
    thresholds: C numbers; an image has the labels whose scores reach theirs
    """

    source: str
    classes: tuple[str, ...]
    scores: np.ndarray
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.classes),) or len(self.thresholds) != len(self.classes):
            raise ValueError(
                f"{len(self.classes)} classes, scores of shape {self.scores.shape}, {len(self.thresholds)} thresholds"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes whose scores reach their thresholds, the most probable first."""
        return tuple(name for name, score, threshold in self._ranked() if score >= threshold)

    def _ranked(self) -> list[tuple[str, float, float]]:
        rows = zip(self.classes, self.scores.tolist(), self.thresholds, strict=True)
        return sorted(rows, key=lambda row: -row[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: source, labels, error (None), and ``scores`` as {class: probability}."""
        scores = dict(zip(self.classes, self.scores.tolist(), strict=True))
        return {"source": self.source, "labels": list(self.labels), "error": None, "scores": scores}


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """One image's classes, pixel by pixel, at its original size and the right way up.

    source:     the path as given, or a name for an image that came as bytes or an array
    classes:    C class names
    mask:       uint8 (H, W), indices into ``classes``
    confidence: uint8 (H, W), the probability of that class as a share of 255
    """

    source: str
    classes: tuple[str, ...]
    mask: np.ndarray
    confidence: np.ndarray

    def __post_init__(self) -> None:
        if self.mask.shape != self.confidence.shape or self.mask.ndim != 2:
            raise ValueError(f"a mask of shape {self.mask.shape}, its confidence {self.confidence.shape}")

    @property
    def shares(self) -> dict[str, float]:
        """Of every class, the share of the image's pixels."""
        counts = np.bincount(self.mask.reshape(-1), minlength=len(self.classes))
        return {name: float(count / self.mask.size) for name, count in zip(self.classes, counts, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: source, width, height, confidence (its mean), error (None) and shares."""
        height, width = self.mask.shape
        return {
            "source": self.source,
            "width": width,
            "height": height,
            "confidence": float(self.confidence.mean() / 255),
            "error": None,
            "shares": self.shares,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be read: its source and, in one line, why."""

    source: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``Classification.to_dict``; all but source and error are None."""
        return {"source": self.source, "label": None, "score": None, "error": self.error, "scores": None}


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The segments of one image, which exclude each other (Kirillov et al. 2019, "Panoptic Segmentation", section 3).

    ids:    int32 (H, W): 0 where nothing is labelled (void), k where the k-th segment is, counted from 1
    labels: int64 (n,): class index of segment k at [k - 1]
    crowd:  bool (n,): regions of many things of a class that are not told apart (truth only)
    scores: float32 (n,) or None: of predictions
    """

    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.size == 0 or self.ids.dtype != np.int32:
            raise ValueError(f"ids must be int32 (H, W) with at least one pixel, got {self.ids.dtype} {self.ids.shape}")
        _require_same_length(self.labels, self.crowd, self.scores)
        low, high = self.ids.min(), self.ids.max()
        if low < 0 or high > len(self.labels):
            raise ValueError(f"ids from {low} to {high}, but there are {len(self.labels)} segments")


def areas_and_boxes(segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Of n segments the number of pixels, int64 (n,), and the boxes, int64 (n, 4): left, top, width, height.

    A segment without a pixel has the box 0, 0, 0, 0.
    """
    height, width = segments.ids.shape
    n = len(segments.labels)
    flat = segments.ids.ravel()
    changed = flat[1:] != flat[:-1]
    changed[width - 1 :: width] = True  # a run ends with its row
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1])
    lengths = np.diff(starts, append=flat.size)
    owner, row, left = flat[starts], starts // width, starts % width
    areas = np.bincount(owner, weights=lengths, minlength=n + 1).astype(np.int64)
    low = np.full((n + 1, 2), max(height, width))
    high = np.zeros((n + 1, 2), dtype=np.int64)
    np.minimum.at(low, owner, np.stack([left, row], axis=1))
    np.maximum.at(high, owner, np.stack([left + lengths, row + 1], axis=1))
    low[areas == 0] = 0
    return areas[1:], np.concatenate([low, high - low], axis=1)[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Things found in one image, each by itself: their masks may overlap. What average precision is measured on.

    size:   (height, width) of the image
    runs:   of each its mask as COCO's run lengths, int64 (runs,), as ``vitnext.data.rle.encode`` gives them
    labels: int64 (n,): class indices
    scores: float32 (n,)
    """

    size: tuple[int, int]
    runs: tuple[np.ndarray, ...]
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        _require_same_length(self.labels, np.zeros(len(self.labels), bool), self.scores)
        if len(self.runs) != len(self.labels):
            raise ValueError(f"{len(self.runs)} masks but {len(self.labels)} labels")


@dataclass(frozen=True, slots=True, eq=False)
class PanopticSegmentation:
    """One image's segments, at its original size and the right way up: things one by one, stuff a class at a time.

    source:     the path as given, or a name for an image that came as bytes or an array
    classes:    C class names
    things:     bool for each class: whether its objects are kept apart
    segments:   with scores
    detections: of a model of queries: finds the things that it is less sure of, too, and where they overlap. That may
                take longer than the segments did, and until it is let go it holds the network's answers. None: the
                segments are all there is
    """

    source: str
    classes: tuple[str, ...]
    things: tuple[bool, ...]
    segments: Segments
    detections: Callable[[], Detections] | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Of every class, the share of the image's pixels; what no segment covers is missing from their sum."""
        areas, _ = areas_and_boxes(self.segments)
        counts = np.bincount(self.segments.labels, areas, len(self.classes))
        pixels = self.segments.ids.size
        return {name: float(count / pixels) for name, count in zip(self.classes, counts, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: source, width, height, error (None), shares, and segments: {id, label, thing, score,
        area (in pixels), bbox (left, top, width, height)}."""
        height, width = self.segments.ids.shape
        areas, boxes = areas_and_boxes(self.segments)
        assert self.segments.scores is not None
        return {
            "source": self.source,
            "width": width,
            "height": height,
            "error": None,
            "shares": self.shares,
            "segments": [
                {
                    "id": k + 1,
                    "label": self.classes[label],
                    "thing": self.things[label],
                    "score": float(self.segments.scores[k]),
                    "area": int(areas[k]),
                    "bbox": boxes[k].tolist(),
                }
                for k, label in enumerate(self.segments.labels.tolist())
            ],
        }


Prediction = Classification | MultiLabel | Segmentation | PanopticSegmentation | Failure


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The objects of one image, whose masks may overlap.

    masks:  bool (n, H, W)
    labels: int64 (n,): class indices
    crowd:  bool (n,): regions of many things of a class that are not told apart (truth only)
    scores: float32 (n,) or None: of predictions
    """

    masks: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or 0 in self.masks.shape[1:] or self.masks.dtype != np.bool_:
            raise ValueError(
                f"masks must be bool (n, H, W) with at least one pixel, got {self.masks.dtype} {self.masks.shape}"
            )
        _require_same_length(self.labels, self.crowd, self.scores)
        if len(self.masks) != len(self.labels):
            raise ValueError(f"{len(self.masks)} masks but {len(self.labels)} labels")


def _require_same_length(labels: np.ndarray, crowd: np.ndarray, scores: np.ndarray | None) -> None:
    if labels.ndim != 1 or labels.dtype != np.int64:
        raise ValueError(f"labels must be int64 (n,), got {labels.dtype} {labels.shape}")
    if crowd.shape != labels.shape or crowd.dtype != np.bool_:
        raise ValueError(f"{len(labels)} labels need crowd as bool ({len(labels)},), got {crowd.dtype} {crowd.shape}")
    if scores is not None and (scores.shape != labels.shape or scores.dtype != np.float32):
        raise ValueError(
            f"{len(labels)} labels need scores as float32 ({len(labels)},), got {scores.dtype} {scores.shape}"
        )
