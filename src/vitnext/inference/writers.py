"""Write predictions as they come, to CSV, JSON Lines or Parquet, so that a stream of any length fits in memory.

CSV and Parquet have the columns ``source, label, score, error`` and one ``p_<class>`` per class. An image that could
not be read keeps its place: its ``error`` is filled in and the others are empty.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vitnext.errors import InputError, require
from vitnext.files import atomic_write
from vitnext.types import Classification, Failure, Prediction

PARQUET_ROWS = 2048  # rows in one row group, the unit that Parquet holds in memory


def write_predictions(
    path: str | os.PathLike[str], predictions: Iterable[Prediction], classes: Sequence[str]
) -> tuple[int, int]:
    """Write ``predictions`` to ``path``, whose extension says how: ``.csv``, ``.jsonl`` or ``.parquet``.

    The file is opened before the first prediction is asked for, so nothing is computed for a path that cannot be
    written. It grows under a temporary name in the same folder and gets its own name when it is complete; when
    anything goes wrong, Ctrl-C included, it is removed and a file that already had the name stays as it was.

    Args:
        classes: the model's class names, in the order of its scores (``predictor.card.classes``).

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
        write(temporary, counted(), classes)
    return predicted, failed


Writer = Callable[[Path, Iterable[Prediction], Sequence[str]], None]


def _writer_for(path: Path) -> Writer:
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InputError(
            f"{path}: predictions are written as {', '.join(WRITERS)}: end the file's name with one of these"
        )
    if writer is _write_parquet:
        require("pyarrow", "parquet")
    return writer


def _write_csv(path: Path, predictions: Iterable[Prediction], classes: Sequence[str]) -> None:
    nothing = [""] * len(classes)
    # A file name need not be valid Unicode; what cannot be encoded is written as an escape.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["source", "label", "score", "error", *(f"p_{name}" for name in classes)])
        for prediction in predictions:
            if isinstance(prediction, Failure):
                table.writerow([prediction.source, "", "", prediction.error, *nothing])
            else:
                scores = [f"{score:.7g}" for score in prediction.scores.tolist()]
                table.writerow([prediction.source, prediction.label, scores[prediction.index], "", *scores])


def _write_jsonl(path: Path, predictions: Iterable[Prediction], classes: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")


def _write_parquet(path: Path, predictions: Iterable[Prediction], classes: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("source", pa.string()), ("label", pa.string()), ("score", pa.float32()), ("error", pa.string())]
    schema = pa.schema([*columns, *((f"p_{name}", pa.float32()) for name in classes)])
    predictions = iter(predictions)
    with pq.ParquetWriter(path, schema) as file:
        while rows := list(itertools.islice(predictions, PARQUET_ROWS)):
            failed = np.array([isinstance(row, Failure) for row in rows])
            scores = np.zeros((len(rows), len(classes)), np.float32)  # (rows, classes)
            for row, prediction in zip(scores, rows, strict=True):
                if isinstance(prediction, Classification):
                    row[:] = prediction.scores
            table = [
                pa.array([_utf8(row.source) for row in rows]),
                pa.array([None if isinstance(row, Failure) else row.label for row in rows], pa.string()),
                pa.array(scores.max(axis=1), mask=failed),
                pa.array([_utf8(row.error) if isinstance(row, Failure) else None for row in rows], pa.string()),
                *(pa.array(column, mask=failed) for column in scores.T),
            ]
            file.write_table(pa.Table.from_arrays(table, schema=schema))


def _utf8(text: str) -> str:
    """Arrow's strings are strict: escape what a file name holds that is not Unicode, as the other writers do."""
    return text.encode("utf-8", "backslashreplace").decode()


WRITERS: dict[str, Writer] = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
