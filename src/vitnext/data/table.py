"""Tables of images: a CSV or Parquet file with a row an image, whose labels stand in one column or in one a class.

    image,label,split          image,labels             image,cat,dog
    a.jpg,cat,train            a.jpg,cat;dog            a.jpg,1,1
    b.jpg,dog,test             b.jpg,                   b.jpg,0,0

Paths are relative to the table's folder. A column "label" or "class" holds one label, or several with ";" or "|"
between them; "labels", "classes" or "tags" also with "," or spaces. Several labels, or columns of 0 and 1, make the
data multi-label: an image then may have none. The column "split" is optional.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vitnext.data.image_folder import SPLIT_FOLDERS, Files
from vitnext.errors import InputError, require
from vitnext.files import is_image, stamp
from vitnext.wording import counted, shortened

EXTENSIONS = (".csv", ".tsv", ".parquet")
IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "image_path")
LABEL_COLUMNS = ("label", "class", "labels", "classes", "tags")
PLURAL = ("labels", "classes", "tags")
SEPARATORS = (";", "|")  # between the labels of a cell; a name may hold commas and spaces
PLURAL_SEPARATORS = (";", "|", ",", " ")  # the first that occurs in the column
YES_NO = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
NAMED = 5  # columns or labels named in a message


@dataclass(frozen=True, eq=False)
class Table:
    """What a table lists.

    parts:       its images; the keys are train, val, test as they exist, or only "all". ``labels`` are int64 (N,), or,
                 of multi-label data, uint8 (N, C); a stamp's size is -1 for rows without a file
    description: which columns say what
    unused:      names of columns that say nothing here
    unlisted:    images without a row, in the folders in which those with a row lie
    """

    classes: tuple[str, ...]
    parts: dict[str, Files]
    description: str
    unused: tuple[str, ...]
    unlisted: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Recognise the columns of ``path`` and look up its images; none is opened.

    Raises InputError, with what to name or write, for columns that cannot be recognised, a cell that makes no sense,
    two rows of one image, and a table none of whose images is there.
    """
    columns = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    image = _column(path, columns, IMAGE_COLUMNS)
    if image is None:
        raise InputError(f"{path}: no column of image paths: call it image, file, filename or path ({_there(columns)})")
    label, split = _column(path, columns, LABEL_COLUMNS), _column(path, columns, ("split",))
    others = [name for name in columns if name not in (image, label, split) and name]
    names = _paths(path, columns[image])
    if label is not None:
        labels, classes, how = _labels(path, label, columns[label])
        unused = tuple(others)
    else:
        labels, classes = _yes_no(path, {name: columns[name] for name in others})
        how, unused = "columns of 0 and 1", ()
    if labels.ndim == 1 and len(classes) < 2:
        raise InputError(f"{path}: every row has the label '{classes[0]}': a classifier needs at least two")

    root = path.parent
    stamps = np.array([stamp(partial(os.stat, os.path.join(root, name))) for name in names], np.int64)
    if (stamps[:, 0] < 0).all():
        raise InputError(f"{path}: none of its {len(names):,} images is there; a path starts from {root}: {names[0]}")
    listed = np.array([os.fsencode(name) for name in names], np.bytes_)
    splits = _splits(path, columns[split]) if split is not None else np.full(len(names), "all")
    parts = {}
    for part in ("all", "train", "val", "test"):
        at = np.flatnonzero(splits == part)
        order = at[np.argsort(listed[at], kind="stable")]
        if len(order):
            parts[part] = Files(listed[order], stamps[order], labels[order])
    description = f"table, {'multi-label' if labels.ndim == 2 else 'one label an image'} ({how})"
    if unused:
        description += f", not used: {shortened(unused, NAMED)}"
    return Table(classes, parts, description, unused, tuple(_without_row(root, names)))


Columns = dict[str, list[str]]  # of a Parquet file's lists of labels, joined by SEPARATORS[0]


def _text(path: Path) -> Columns:
    """Columns of a CSV file by name. The delimiter is that of the header, a tab of .tsv if there is one; messages count
    rows below it, from 1 on."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            marks = "\t,;" if path.suffix.lower() == ".tsv" else ",\t;"
            delimiter = next((mark for mark in marks if mark in head), ",")
            rows = list(csv.reader(file, delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8: save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}: is not valid CSV ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not rows:
        raise InputError(f"{path}: is empty; a table has a header: image,label")
    header = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=1):
        if row and len(row) != len(header):
            raise InputError(f"{path}: row {number} has {len(row)} cells, the header {len(header)} ({', '.join(row)})")
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise InputError(f"{path}: two columns are called {twice}: rename one")
    filled = [row for row in rows[1:] if row]  # not blank lines
    if not filled:
        raise InputError(f"{path}: has a header but no rows")
    return {name: [row[i].strip() for row in filled] for i, name in enumerate(header)}


def _parquet(path: Path) -> Columns:
    require("pyarrow", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from error
    if not table.num_rows:
        raise InputError(f"{path}: has no rows")
    return {name: [_cell(value) for value in table[name].to_pylist()] for name in table.column_names}


def _cell(value: object) -> str:
    if isinstance(value, list):
        return SEPARATORS[0].join(map(str, value))
    return "" if value is None or value != value else str(value).strip()  # NaN is not itself


def _column(path: Path, columns: Columns, wanted: Sequence[str]) -> str | None:
    """The column with one of these names, however written."""
    found = [name for name in columns if name.lower() in wanted]
    if len(found) > 1:
        raise InputError(f"{path}: columns {' and '.join(found)} could both be meant: rename all but one")
    return found[0] if found else None


def _there(columns: Columns) -> str:
    return f"there are {shortened([name for name in columns if name], NAMED)}"


def _paths(path: Path, cells: list[str]) -> list[str]:
    rows: dict[str, int] = {}
    repeated: list[str] = []
    for row, cell in enumerate(cells, start=1):
        if not cell:
            raise InputError(f"{path}: row {row} names no image")
        name = os.path.normpath(cell)
        if name in rows:
            repeated.append(f"rows {rows[name]} and {row} are both of {cell}")
        rows.setdefault(name, row)
    if repeated:
        raise InputError(
            f"{path}: {counted(repeated, 'row')} too many, {shortened(repeated, NAMED)}: leave one row for each image; "
            "if images have several labels each, write them into it as a;b"
        )
    return list(rows)


def _labels(path: Path, column: str, cells: list[str]) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Labels as in ``Table``, the classes sorted by name, and how they were read."""
    plural = column.lower() in PLURAL
    separator = next((s for s in (PLURAL_SEPARATORS if plural else SEPARATORS) if any(s in c for c in cells)), None)
    empty = next((row for row, cell in enumerate(cells, start=1) if not cell), None)
    if separator is None and not plural and empty is not None:
        raise InputError(
            f"{path}: row {empty} has no {column}: fill it in, or call the column labels if images may have none"
        )
    held = [[part.strip() for part in cell.split(separator) if part.strip()] if separator else [cell] for cell in cells]
    held = [[" ".join(part.split()) for part in parts if part] for parts in held]
    classes = tuple(sorted({part for parts in held for part in parts}))
    if not classes:
        raise InputError(f"{path}: the column {column} is empty")
    index = {name: i for i, name in enumerate(classes)}
    if all(len(parts) == 1 for parts in held):
        return np.array([index[parts[0]] for parts in held], np.int64), classes, f"column {column}"
    labels = np.zeros((len(held), len(classes)), np.uint8)
    for row, parts in zip(labels, held, strict=True):
        row[[index[part] for part in parts]] = 1
    between = {" ": "spaces", None: ""}.get(separator, separator)
    return labels, classes, f"column {column}" + (f", separated by {between}" if between else "")


def _yes_no(path: Path, columns: Columns) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 (N, C) of columns of 0 and 1, one a class."""
    what = "call the column of labels label, labels, class or tags, or give a column of 0 and 1 for each class"
    if not columns:
        raise InputError(f"{path}: no column of labels: {what}")
    labels = []
    for name, cells in columns.items():
        values = [YES_NO.get(cell.lower(), -1) for cell in cells]
        if -1 in values:
            row = values.index(-1)
            raise InputError(f"{path}: column {name} holds '{cells[row]}' in row {row + 1}: {what} and no others")
        labels.append(values)
    return np.array(labels, np.uint8).T, tuple(columns)


def _splits(path: Path, cells: list[str]) -> np.ndarray:
    splits = [SPLIT_FOLDERS.get(cell.lower(), "") for cell in cells]
    if "" in splits:
        row = splits.index("")
        raise InputError(f"{path}: the split of row {row + 1} is '{cells[row]}': write train, val or test")
    if "train" not in splits:
        raise InputError(f"{path}: no row has the split train")
    return np.array(["all"] * len(splits) if set(splits) == {"train"} else splits)


def _without_row(root: Path, names: Sequence[str]) -> Iterator[str]:
    """Images beside those that the table names, as paths below ``root``."""
    listed = set(names)
    for folder in sorted({os.path.dirname(name) for name in names}):
        try:
            with os.scandir(root / folder) as entries:
                files = sorted(e.name for e in entries if is_image(e.name) and not e.is_dir())
        except OSError:
            continue  # its rows have no files, which is reported
        yield from (name for file in files if (name := os.path.join(folder, file)) not in listed)
