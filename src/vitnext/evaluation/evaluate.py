"""Measure a model on a labelled split, whatever its task. What inference predicts is counted: the measured thing is the
served one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vitnext.data.mask_split import MaskSplit
from vitnext.errors import ImageError, InputError
from vitnext.evaluation.classification import ClassificationCounts, Scores
from vitnext.evaluation.multilabel import MultiLabelCounts
from vitnext.evaluation.panoptic import PanopticCounts
from vitnext.evaluation.semantic import SemanticCounts
from vitnext.files import atomic_write, writable_folder
from vitnext.inference.multilabel import best_thresholds
from vitnext.types import Failure
from vitnext.wording import counted

if TYPE_CHECKING:
    from vitnext.data.dataset import Split
    from vitnext.inference.predictor import Predictor


class Counts(Protocol):
    """What a task counts, image by image."""

    def add(self, index: int, prediction: Any) -> None:
        """Count the prediction of the split's image ``index``. Raises ImageError for a truth that cannot be read."""

    def result(self) -> dict[str, Any]:
        """What JSON holds, ``task`` and ``n`` (images) among it."""

    def report(self, metrics: dict[str, Any]) -> str:
        """The HTML page of the metrics that `evaluate` makes of ``result``."""


COUNTS: dict[str, Callable[[Predictor, Any, str], Counts]] = {
    "classification": ClassificationCounts,
    "multilabel": MultiLabelCounts,
    "semantic": SemanticCounts,
    "panoptic": PanopticCounts,
}
HEADLINES = {  # of the metrics, what the card repeats
    "classification": ("n", "top1", "top1_interval", "top5", "macro_f1", "ece"),
    "multilabel": ("n", "map", "map_interval", "micro_f1", "macro_f1"),
    "semantic": ("n", "miou", "pixel_accuracy", "boundary_iou", "ece"),
    "panoptic": ("n", "pq", "sq", "rq", "miou", "ap", "ap50", "ap75"),
}


def evaluate(
    predictor: Predictor,
    split: Split | MaskSplit,
    *,
    out: Path | None = None,
    name: str,
    split_name: str,
    warning: str = "",
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict every image of a split and return its metrics; with ``out``, write metrics.json and report.html too.

    The keys are those of the ``result`` of the model's task (`ClassificationCounts`, `MultiLabelCounts`,
    `SemanticCounts`, `PanopticCounts`) and: data, split, model, architecture, date, seconds, images_per_second
    (decoding included), skipped (file, error), and warning, if one is given: what a reader of the numbers has to know.
    Classes are matched by name: the data may list them in another order
    than the model, or lack some. ``progress(done, total)`` is called after every image.

    Raises InputError when the data's truth is not for the model's task or has a class that the model lacks, ``out``
    cannot be written, or images (or masks) cannot be read: all are counted, the first named; ``skip_unreadable`` leaves
    them out and lists them. Raises WorkError when the model gives a score that is not finite, or writing fails.
    """
    card = predictor.card
    _require_truth(predictor, split, name)
    counts = COUNTS[card.task](predictor, split, name)
    if out is not None:  # nobody should wait an hour for a result that has no place to go
        writable_folder(out).mkdir(parents=True, exist_ok=True)
    skipped, seconds = count(predictor, split, counts.add, skip_unreadable, progress)
    measured = counts.result()
    metrics = {
        "task": measured.pop("task"),
        "data": name,
        "split": split_name,
        "model": Path(predictor.path).name,
        "architecture": card.architecture,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "images_per_second": round((len(split) - len(skipped)) / max(seconds, 1e-9), 1),
        **({"warning": warning} if warning else {}),
        **measured,
        "skipped": skipped,
    }
    if out is not None:
        write(out / "metrics.json", to_json(metrics))
        write(out / "report.html", counts.report(metrics))
    return metrics


def count(
    predictor: Predictor,
    split: Split | MaskSplit,
    add: Callable[[int, Any], None],
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, str]], float]:
    """Predict every image of a split and ``add(index, prediction)``; returns those that cannot be read (file, error),
    and how many seconds it took. Raises as `evaluate`."""
    skipped: list[dict[str, str]] = []
    start, total = time.perf_counter(), len(split)
    predictions = predictor.predict_many(split.image(index) for index in range(total))
    for index, prediction in zip(range(total), predictions, strict=True):
        try:
            if isinstance(prediction, Failure):
                raise ImageError(prediction.error)
            add(index, prediction)
        except ImageError as error:
            skipped.append({"file": split.name(index), "error": str(error)})
        if progress is not None:
            progress(index + 1, total)
    if skipped and (not skip_unreadable or len(skipped) == total):
        errors = "; ".join(row["error"] for row in skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
        remedy = "" if len(skipped) == total else " (mend or remove them, or go on without them: --skip-unreadable)"
        raise InputError(f"{len(skipped)} of {counted(total, 'image')} cannot be read{remedy}: {errors}")
    return skipped, time.perf_counter() - start


def choose_thresholds(predictor: Predictor, split: Split, skip_unreadable: bool = False) -> tuple[float, ...]:
    """Of each class the threshold with the highest F1 on a validation split. Raises as `evaluate`."""
    scores = Scores(predictor, split, str(predictor.path))
    count(predictor, split, scores.add, skip_unreadable)
    return tuple(best_thresholds(scores.rows, scores.truth).tolist())


def headline(metrics: dict[str, Any]) -> str:
    """The metrics in one line: "top-1 95.00% (95%: 89.5-97.7) of 120 images"."""
    of = f"of {counted(metrics['n'], 'image')}"
    if metrics["task"] == "panoptic":
        return f"PQ {100 * metrics['pq']:.2f}%, mIoU {100 * metrics['miou']:.2f}% {of}"
    if metrics["task"] == "semantic":
        return f"mIoU {100 * metrics['miou']:.2f}% {of}"
    if metrics["task"] == "multilabel":
        return f"mAP undefined, no label is true, {of}" if metrics["map"] is None else f"mAP {metrics['map']:.2%} {of}"
    low, high = (100 * bound for bound in metrics["top1_interval"])
    return f"top-1 {100 * metrics['top1']:.2f}% (95%: {low:.1f}-{high:.1f}) {of}"


def write(path: Path, text: str) -> None:
    with atomic_write(path, shared=True) as temporary:
        # A file name that is no valid text arrives as a lone surrogate, which UTF-8 cannot hold but \udc80 in JSON can.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def to_json(metrics: dict[str, Any]) -> str:
    """One line a key, and one a row of the tables: a confusion matrix stays readable, and git diff works."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def table(rows: Any) -> bool:
        return isinstance(rows, list) and bool(rows) and isinstance(rows[0], list | dict)

    entries = (
        f"  {line(key)}: " + ("[\n    " + ",\n    ".join(map(line, value)) + "\n  ]" if table(value) else line(value))
        for key, value in metrics.items()
    )
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _require_truth(predictor: Predictor, split: Any, name: str) -> None:
    task = predictor.card.task
    masks = isinstance(split, MaskSplit)
    if masks != (task in ("semantic", "panoptic")) or (
        not masks and (split.labels.ndim == 2) != (task == "multilabel")
    ):
        truth = "masks" if masks else "several labels an image" if split.labels.ndim == 2 else "one label an image"
        raise InputError(f"{predictor.path}: this is a {task} model, and {name} has {truth}")
