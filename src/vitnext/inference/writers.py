"""Write predictions as they come, to CSV, JSON Lines or Parquet, so that a stream of any length fits in memory.

CSV and Parquet have the columns ``source, label, score, error`` and one ``p_<class>`` per class; of a multi-label model
``source, labels, error`` and the same, the labels with ";" between them (or "|", if a class has ";" in its name); of a
segmenter ``source, width, height, confidence, error`` and one ``share_<class>``, the share of the image's pixels, and
of a panoptic model the number of ``segments`` in place of the confidence; JSON Lines have the segments themselves. An
image that could not be read keeps its place: its ``error`` is filled in and the others are empty.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitnext.errors import InputError, require
from vitnext.files import atomic_write
from vitnext.types import Classification, Failure, MultiLabel, PanopticSegmentation, Prediction, Segmentation

PARQUET_ROWS = 2048  # rows in one row group, the unit that Parquet holds in memory


def write_predictions(
    path: str | os.PathLike[str],
    predictions: Iterable[Prediction],
    classes: Sequence[str],
    task: str = "classification",
) -> tuple[int, int]:
    """Write ``predictions`` to ``path``, whose extension says how: ``.csv``, ``.jsonl`` or ``.parquet``.

    The file is opened before the first prediction is asked for, so nothing is computed for a path that cannot be
    written. It grows under a temporary name in the same folder and gets its own name when it is complete; when
    anything goes wrong, Ctrl-C included, it is removed and a file that already had the name stays as it was.

    Args:
        classes: the model's class names, in the order of its scores (``predictor.card.classes``).
        task: the model's (``predictor.card.task``).

    Returns:
        How many images were predicted and how many failed.

    Raises:
        InputError: the extension is not known, there is no such folder, or ``.parquet`` lacks pyarrow.
        WorkError: the file cannot be written, or not to its end (a full disk).
    """
    path = Path(path)
    write = _writer_for(path)
    if path.is_dir():
        raise InputError(f"{path}: this is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    predicted = failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal predicted, failed
        for prediction in predictions:
            if isinstance(prediction, Failure):
                failed += 1
            else:
                predicted += 1
            yield prediction

    with atomic_write(path, shared=True) as temporary:
        write(temporary, counted(), LAYOUTS[task](classes))
    return predicted, failed


@dataclass(frozen=True)
class Layout:
    """The columns of a table: facts of an image, by name and kind, its error, and a number for each class. mapping:
    how JSON calls those numbers."""

    facts: tuple[tuple[str, type], ...]
    per_class: tuple[str, ...]
    mapping: str


LAYOUTS: dict[str, Callable[[Sequence[str]], Layout]] = {
    "classification": lambda classes: Layout(
        (("source", str), ("label", str), ("score", float)), tuple(f"p_{name}" for name in classes), "scores"
    ),
    "multilabel": lambda classes: Layout(
        (("source", str), ("labels", str)), tuple(f"p_{name}" for name in classes), "scores"
    ),
    "semantic": lambda classes: Layout(
        (("source", str), ("width", int), ("height", int), ("confidence", float)),
        tuple(f"share_{name}" for name in classes),
        "shares",
    ),
    "panoptic": lambda classes: Layout(
        (("source", str), ("width", int), ("height", int), ("segments", int)),
        tuple(f"share_{name}" for name in classes),
        "shares",
    ),
}


def _facts(prediction: Prediction) -> dict[str, Any]:
    """Of a table's row what is not a number for each class."""
    if isinstance(prediction, Classification):
        return {"source": prediction.source, "label": prediction.label, "score": prediction.score}
    if isinstance(prediction, MultiLabel):
        between = "|" if any(";" in name for name in prediction.classes) else ";"
        return {"source": prediction.source, "labels": between.join(prediction.labels)}
    facts = prediction.to_dict()
    return facts | {"segments": len(facts["segments"])} if isinstance(prediction, PanopticSegmentation) else facts


def _per_class(prediction: Classification | MultiLabel | Segmentation | PanopticSegmentation) -> list[float]:
    if isinstance(prediction, Classification | MultiLabel):
        scores: list[float] = prediction.scores.tolist()
        return scores
    return list(prediction.shares.values())


Writer = Callable[[Path, Iterable[Prediction], Layout], None]


def _writer_for(path: Path) -> Writer:
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InputError(
            f"{path}: predictions are written as {', '.join(WRITERS)}: end the file's name with one of these"
        )
    if writer is _write_parquet:
        require("pyarrow", "parquet")
    return writer


def _write_csv(path: Path, predictions: Iterable[Prediction], layout: Layout) -> None:
    names = [name for name, _ in layout.facts]
    # A file name need not be valid Unicode; what cannot be encoded is written as an escape.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*names, "error", *layout.per_class])
        for prediction in predictions:
            if isinstance(prediction, Failure):
                empty = [""] * (len(names) - 1)
                table.writerow([prediction.source, *empty, prediction.error, *[""] * len(layout.per_class)])
            else:
                facts = _facts(prediction)
                shown = [f"{facts[name]:.7g}" if kind is float else facts[name] for name, kind in layout.facts]
                table.writerow([*shown, "", *(f"{value:.7g}" for value in _per_class(prediction))])


def _write_jsonl(path: Path, predictions: Iterable[Prediction], layout: Layout) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for prediction in predictions:
            if isinstance(prediction, Failure):  # with the keys of every other row
                row = dict.fromkeys([*(name for name, _ in layout.facts), "error", layout.mapping])
                row |= {"source": prediction.source, "error": prediction.error}
            else:
                row = prediction.to_dict()
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, predictions: Iterable[Prediction], layout: Layout) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float32()}
    columns = [(name, kinds[kind]) for name, kind in layout.facts] + [("error", pa.string())]
    schema = pa.schema([*columns, *((name, pa.float32()) for name in layout.per_class)])
    predictions = iter(predictions)
    with pq.ParquetWriter(path, schema) as file:
        while rows := list(itertools.islice(predictions, PARQUET_ROWS)):
            failed = np.array([isinstance(row, Failure) for row in rows])
            numbers = np.zeros((len(rows), len(layout.per_class)), np.float32)
            facts = []
            for number, row in zip(numbers, rows, strict=True):
                if isinstance(row, Failure):
                    facts.append({"source": row.source, "error": _utf8(row.error)})
                else:
                    number[:] = _per_class(row)
                    facts.append(_facts(row))
            for fact in facts:
                fact["source"] = _utf8(fact["source"])
            table = [pa.array([fact.get(name) for fact in facts], kind) for name, kind in columns]
            table += [pa.array(column, mask=failed) for column in numbers.T]
            file.write_table(pa.Table.from_arrays(table, schema=schema))


def _utf8(text: str) -> str:
    """Arrow's strings are strict: escape what a file name holds that is not Unicode, as the other writers do."""
    return text.encode("utf-8", "backslashreplace").decode()


WRITERS: dict[str, Writer] = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
