"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation", section 4), and a model measured by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vitnext.data import rle
from vitnext.errors import ImageError, InputError
from vitnext.evaluation import panoptic_report
from vitnext.evaluation.instances import MaskAveragePrecision
from vitnext.evaluation.matching import match
from vitnext.evaluation.semantic import SHOWN, Galleries, by_name, iou
from vitnext.types import PanopticSegmentation, Segments

if TYPE_CHECKING:
    from vitnext.data.mask_folder import MaskSplit
    from vitnext.inference.predictor import Predictor


class PanopticQuality:
    """Counts matched and unmatched segments image by image. Memory: two numbers for each pair of classes.

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
        self.confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)  # rows: truth, columns: predicted
        self.pixels = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)  # the last column: not covered

    def update(self, truth: Segments, prediction: Segments) -> dict[str, float | None]:
        """Add an image; returns its own ``pq``, the mean of the classes that it has, and ``sure_and_wrong``: the share
        of its labelled pixels that predicted segments without a match cover, each weighted with its score.

        Raises InputError when the sizes differ or a label is none of the C classes.
        """
        if truth.ids.shape != prediction.ids.shape:
            raise InputError(f"the prediction has {prediction.ids.shape} pixels, the truth {truth.ids.shape}")
        for name, segments in (("truth", truth), ("prediction", prediction)):
            if len(segments.labels) and not 0 <= segments.labels.min() <= segments.labels.max() < len(self.classes):
                raise InputError(f"the {name}'s labels must lie in 0 to {len(self.classes) - 1}")

        found = match(truth, prediction)
        count = len(self.classes)
        true_label, predicted_label = np.append(count, truth.labels), np.append(count, prediction.labels)  # void last
        of_truth, of_prediction = found.pairs
        labels = true_label[of_truth[found.matched]]
        matched = np.bincount(labels, minlength=count)
        overlap = np.bincount(labels, weights=found.iou[found.matched], minlength=count)
        missed = np.bincount(true_label[found.missed], minlength=count)
        spurious = np.bincount(predicted_label[found.spurious], minlength=count)
        self.images += 1
        self.matched += matched
        self.overlap += overlap
        self.missed += missed
        self.spurious += spurious
        confused = found.pairs[:, found.confused]
        np.add.at(self.confusion, (true_label[confused[0]], predicted_label[confused[1]]), 1)
        seen = of_truth > 0
        np.add.at(self.pixels, (true_label[of_truth[seen]], predicted_label[of_prediction[seen]]), found.shared[seen])
        total = matched + (spurious + missed) / 2
        scores = np.ones(len(prediction.labels)) if prediction.scores is None else prediction.scores
        wrong = seen & found.spurious[of_prediction]
        return {
            "pq": float(np.mean(overlap[total > 0] / total[total > 0])) if total.any() else None,
            "sure_and_wrong": float(
                (np.append(0, scores)[of_prediction[wrong]] * found.shared[wrong]).sum()
                / max(1, found.shared[seen].sum())
            ),
        }

    def add(self, other: PanopticQuality) -> None:
        """Add the images of another, which has the same classes."""
        self.images += other.images
        for name in ("matched", "spurious", "missed", "overlap", "confusion", "pixels"):
            getattr(self, name)[...] += getattr(other, name)

    def result(self) -> dict[str, Any]:
        """What JSON holds; an undefined number is None, never NaN:

        - ``task``, ``n`` (images)
        - ``pq``, ``sq``, ``rq``: means of the classes that occur in the truth or the predictions; the others are left
          out, not counted as 0
        - ``things``, ``stuff``: {pq, sq, rq, classes}, the same over these classes, and how many of them occur
        - ``miou``: mean IoU of the classes that the truth or a prediction has, over the pixels of all images together;
          a labelled pixel that no predicted segment covers is missed
        - ``per_class``: {class, thing, n, pq, sq, rq, iou, tp, fp, fn}; n = tp + fn true segments. Where nothing
          matched, SQ counts as 0, as in COCO's own evaluation. A class that does not occur has None.
        - ``confusion``: C x C pairs of segments whose IoU exceeds 0.5, rows = truth, columns = predicted
        """
        rows = []
        ious = iou(np.vstack([self.pixels, np.zeros(len(self.classes) + 1, np.int64)]))[:-1]
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
                    "iou": None if np.isnan(ious[i]) else float(ious[i]),
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
            "miou": float(np.nanmean(ious)) if not np.isnan(ious).all() else None,
            "per_class": rows,
            "confusion": self.confusion.tolist(),
        }


class PanopticCounts:
    """What ``evaluate`` counts of a panoptic model, at the images' original size. Memory: a few images and, for average
    precision, 28 bytes of every predicted object of a thing.

    Raises InputError when the model lacks a class of the data, or the truth does not tell objects apart.
    """

    def __init__(self, predictor: Predictor, split: MaskSplit, name: str) -> None:
        self.card, self.split = predictor.card, split
        self.things = np.array(self.card.things or (True,) * len(self.card.classes))
        self._table = by_name(split.classes, self.card.classes, name).astype(np.int64)
        if self.things.any() and not split.has_instances:
            raise InputError(f"{name}: its masks do not tell the objects of a class apart, as panoptic quality needs")
        self._quality = PanopticQuality(self.card.classes, self.things.tolist())
        self._precision = _average_precision(self.card.classes, self.things.tolist())
        self._galleries = Galleries(SHOWN, "pq")

    def add(self, index: int, prediction: PanopticSegmentation) -> None:
        """Raises ImageError for a truth that cannot be read or is of another size than its image."""
        found, truth, name = prediction.segments, self._truth(index), self.split.name(index)
        if truth.ids.shape != found.ids.shape:
            raise ImageError(f"{name}: image and truth differ in size")
        own = self._quality.update(truth, found)
        if self._precision is not None:
            whole = self.split.objects(index)
            objects = truth if whole is None else replace(whole, labels=self._table[whole.labels])
            self._precision.update(objects, found if prediction.detections is None else prediction.detections())
            counts = np.bincount(objects.labels[~objects.crowd & self.things[objects.labels]], minlength=1)
            self._precision.detections = max(self._precision.detections, int(counts.max()))
        runs = rle.encode_segments(found.ids, len(found.labels))  # far smaller than the pixels
        self._galleries.add({"file": name, **own}, index, (runs, found.labels))

    def result(self) -> dict[str, Any]:
        """As `PanopticQuality.result`, and images (best, worst, sure_and_wrong: {file, pq, sure_and_wrong}); and of the
        things' masks ap, ap50, ap75 and detections as in `MaskAveragePrecision.result`, the first three also in
        per_class: None for stuff, and everywhere without pycocotools. Of an image and class 100 detections count, as in
        COCO, or as many as an image has true objects of a class. They are measured on the prediction's segments; of a
        model of queries on its detections, which may overlap, as Mask2Former's and EoMT's authors do."""
        measured = self._quality.result()
        if not any(row["n"] for row in measured["per_class"]):
            raise InputError("there is no true segment to measure on")
        masks = self._precision.result() if self._precision is not None else {}
        of_class = {row["class"]: row for row in masks.get("per_class", [])}
        for row in measured["per_class"]:
            row |= {key: of_class.get(row["class"], {}).get(key) for key in ("ap", "ap50", "ap75")}
        return {
            **{key: measured.pop(key) for key in ("task", "n", "pq", "sq", "rq", "things", "stuff", "miou")},
            **{key: masks.get(key) for key in ("ap", "ap50", "ap75", "detections")},
            **measured,
            "images": self._galleries.facts(),
        }

    def report(self, metrics: dict[str, Any]) -> str:
        pictures = self._galleries.drawn(
            lambda i, found: panoptic_report.picture(
                self.split.image(i), self._truth(i), runs=found[0], labels=found[1], card=self.card
            )
        )
        return panoptic_report.render(metrics, self.card, pictures)

    def _truth(self, index: int) -> Segments:
        """True segments with the model's class indices."""
        segments = self.split.segments(index)
        return Segments(segments.ids, self._table[segments.labels], segments.crowd)


def _average_precision(classes: Sequence[str], things: Sequence[bool]) -> MaskAveragePrecision | None:
    """None where there is nothing to measure, or no pycocotools to measure with."""
    try:
        return MaskAveragePrecision(classes, things) if any(things) else None
    except InputError:
        return None


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    present = [row for row in rows if row["pq"] is not None]
    means = {key: float(np.mean([row[key] for row in present])) if present else None for key in ("pq", "sq", "rq")}
    return means | {"classes": len(present)}
