"""The dataset doctor: what is wrong with a data set, found before training instead of after.

errors    files that cannot be read, rows of a table without a file, classes without a training image
warnings  the same image in two splits (measured numbers will be too good), with two labels, or twice in one split;
          classes missing from val or test; classes of very unequal size; very few images of a class; files, loose
          images, folders, columns and images without a row that are passed over
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from vitnext.data.dataset import Dataset
from vitnext.decode import open_image
from vitnext.errors import ImageError

FEW_IMAGES = 5  # fewer training images of a class than this, and what is learnt is those images
IMBALANCE = 50  # largest class / smallest class; ImageNet-LT (Liu et al. 2019) calls 256 extreme, CIFAR-LT 10 to 100
EXAMPLES = 3
CHUNK = 256  # images in flight, so that memory stays bounded however large the data set


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a line for the reader, and everything it concerns."""

    severity: Literal["error", "warning"]
    kind: str
    message: str
    items: list[str]


@dataclass(frozen=True)
class Report:
    """Findings, errors first, and the indices of the images that cannot be read, for each split that has any."""

    findings: list[Finding] = field(default_factory=list)
    unreadable: dict[str, list[int]] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "warning"]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(dataset: Dataset, *, decode: bool = True, progress: Callable[[int, int], None] | None = None) -> Report:
    """Look for what goes wrong in practice. ``progress(done, total)`` is called as images are read.

    ``decode=True`` reads and decodes every image, which finds unreadable files and identical ones (sha256 of the
    contents); ``decode=False`` opens no file and looks only at classes and counts.
    """
    findings = [*_classes(dataset), *_ignored(dataset)]
    unreadable: dict[str, list[int]] = {}
    if decode:
        digests, problems = _read(dataset, progress)
        for split, index in problems:
            unreadable.setdefault(split, []).append(index)
        reasons = [why for place, why in problems.items() if not _without_file(dataset, *place)]
        if reasons:
            findings.append(finding("error", "unreadable", f"{counted(reasons, 'image')} cannot be read", reasons))
        names = [dataset.splits[split].name(i) for split, i in problems if _without_file(dataset, split, i)]
        if names:
            findings.append(finding("error", "no_file", f"{counted(names, 'row')} without a file", names))
        findings += _duplicates(dataset, digests)
    return Report(sorted(findings, key=lambda found: found.severity), unreadable)


def finding(severity: Literal["error", "warning"], kind: str, what: str, items: list[str], count: int = 0) -> Finding:
    """``what: first, second, third, ...``; ``count`` when there are more items than are known by name."""
    more = ", ..." if max(count, len(items)) > EXAMPLES else ""
    return Finding(severity, kind, f"{what}: {', '.join(items[:EXAMPLES])}{more}", items)


def counted(items: list[Any] | int, noun: str) -> str:
    n = items if isinstance(items, int) else len(items)
    plural = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}{plural}"


def class_counts(dataset: Dataset) -> dict[str, np.ndarray]:
    """Split -> images of each class, int64 (C,)."""
    return {
        name: split.labels.sum(0, np.int64)
        if split.labels.ndim == 2
        else np.bincount(split.labels, minlength=len(dataset.classes))
        for name, split in dataset.splits.items()
    }


def _classes(dataset: Dataset) -> Iterator[Finding]:
    counts = class_counts(dataset)
    train = counts.get("train", np.zeros(len(dataset.classes), np.int64))
    empty = [dataset.classes[i] for i in np.flatnonzero(train == 0)]
    if empty:
        place = "label" if dataset.kind == "table" else "folder"
        what = f"{counted(empty, 'class')} without a training image (add some or remove the {place})"
        yield finding("error", "empty_class", what, empty)
    for name in counts:
        missing = [dataset.classes[i] for i in np.flatnonzero((counts[name] == 0) & (train > 0))]
        if missing:
            yield finding(
                "warning", "missing_class", f"{counted(missing, 'class')} without an image in {name}", missing
            )
    few = [f"{dataset.classes[i]} ({train[i]})" for i in np.flatnonzero((train > 0) & (train < FEW_IMAGES))]
    if few:
        what = f"{counted(few, 'class')} with fewer than {FEW_IMAGES} training images"
        yield finding("warning", "few_images", what, few)
    filled = np.flatnonzero(train > 0)
    if len(filled):
        largest, smallest = filled[np.argmax(train[filled])], filled[np.argmin(train[filled])]
        if train[largest] >= IMBALANCE * train[smallest]:
            items = [f"{dataset.classes[i]} ({train[i]:,})" for i in (largest, smallest)]
            what = f"the largest class has {train[largest] // train[smallest]:,} times the images of the smallest"
            yield finding("warning", "imbalance", what, items)


def _ignored(dataset: Dataset) -> Iterator[Finding]:
    if dataset.ignored:
        what = f"{counted(dataset.ignored, 'file')} passed over: not an image file"
        yield finding("warning", "ignored_files", what, list(dataset.ignored_examples), dataset.ignored)
    if dataset.loose:
        what = f"{counted(len(dataset.loose), 'image')} passed over: not in a class folder"
        yield finding("warning", "loose_images", what, list(dataset.loose))
    if dataset.unlisted:
        what = f"{counted(len(dataset.unlisted), 'image')} passed over: the table has no row for them"
        yield finding("warning", "no_row", what, list(dataset.unlisted))
    if dataset.unused and dataset.kind == "table":
        what = f"{counted(len(dataset.unused), 'column')} passed over: not of images, labels or splits"
        yield finding("warning", "unused_columns", what, list(dataset.unused))
    elif dataset.unused:
        what = f"{counted(len(dataset.unused), 'folder')} passed over: neither train, val nor test"
        yield finding("warning", "unused_folders", what, list(dataset.unused))


def _without_file(dataset: Dataset, split: str, index: int) -> bool:
    return dataset.kind == "table" and dataset.splits[split].sizes[index] < 0


def _read(
    dataset: Dataset, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, dict[tuple[str, int], str]]:
    """sha256 of every image's contents, bytes (N,) over the splits in their order and empty for those that cannot be
    read; and why they cannot, by (split, index)."""
    digests = np.zeros(sum(map(len, dataset.splits.values())), "S32")
    problems: dict[tuple[str, int], str] = {}
    done = 0
    with ThreadPoolExecutor() as pool:  # Pillow decodes and hashlib digests without the interpreter's lock
        for name, split in dataset.splits.items():
            for start in range(0, len(split), CHUNK):
                indices = range(start, min(start + CHUNK, len(split)))
                if split.arrays is None:
                    answers = list(pool.map(_examine, [str(split.image(i)) for i in indices]))
                else:
                    answers = [hashlib.sha256(split.arrays[i].tobytes()).digest() for i in indices]
                for i, answer in zip(indices, answers, strict=True):
                    if isinstance(answer, bytes):
                        digests[done] = answer
                    else:
                        problems[name, i] = answer
                    done += 1
                if progress is not None:
                    progress(done, len(digests))
    return digests, problems


def _examine(path: str) -> bytes | str:
    """sha256 of the file's contents, or in one line why it is no image."""
    try:
        open_image(path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except ImageError as error:
        return str(error)
    except OSError as error:  # gone between the two
        return f"{path}: {error.strerror}"


def _duplicates(dataset: Dataset, digests: np.ndarray) -> Iterator[Finding]:
    """Groups of identical images, by what they do: leak between splits, contradict each other, or merely repeat."""
    splits = list(dataset.splits.values())
    split_of = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    index_of = np.concatenate([np.arange(len(split)) for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    if labels.ndim == 2:  # sets of labels, numbered
        labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    kinds: dict[str, tuple[str, list[str]]] = {
        "duplicate_across_splits": ("in more than one split, so scores will be too good", []),
        "conflicting_labels": ("under more than one label", []),
        "duplicate_within_split": ("more than once in one split", []),
    }
    order = np.argsort(digests, kind="stable")
    edges = np.flatnonzero(digests[order[1:]] != digests[order[:-1]]) + 1
    groups = [places for places in np.split(order, edges) if len(places) > 1 and digests[places[0]]]
    for places in sorted(groups, key=lambda places: int(places[0])):
        first_of_split = places[np.unique(split_of[places], return_index=True)[1]]
        first_of_label = places[np.unique(labels[places], return_index=True)[1]]
        shown = {
            "duplicate_across_splits": first_of_split if len(first_of_split) > 1 else places[:0],
            "conflicting_labels": first_of_label if len(first_of_label) > 1 else places[:0],
            "duplicate_within_split": places if len(first_of_split) < len(places) else places[:0],
        }
        for kind, chosen in shown.items():
            if len(chosen):
                names = [splits[split_of[p]].name(index_of[p]) for p in chosen[:EXAMPLES]]
                more = f" = ... ({len(places):,} in all)" if len(places) > len(names) else ""
                kinds[kind][1].append(" = ".join(names) + more)
    for kind, (what, items) in kinds.items():
        if items:
            yield finding("warning", kind, f"{counted(items, 'image')} {what}", items)
