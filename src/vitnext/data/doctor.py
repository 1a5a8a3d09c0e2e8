"""The dataset doctor: what is wrong with a data set, found before training instead of after.

errors    files that cannot be read, rows of a table without a file, classes without a training image
warnings  the same image, or nearly the same, in two splits (measured numbers will be too good), with two labels, or
          twice under one label of a split; images much smaller or longer than the others, or of one grey value;
          classes missing from val or test; classes of very unequal size; very few images of a class; class names that
          differ in case or spaces alone; files, loose images, folders, columns and images without a row that are passed
          over; folders in class folders that hold no image themselves
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from vitnext.data.dataset import Dataset, Split
from vitnext.data.survey import Survey, look
from vitnext.files import passed_over
from vitnext.wording import counted, shortened

FEW_IMAGES = 5  # fewer training images of a class than this, and what is learnt is those images
IMBALANCE = 50  # largest class / smallest class; ImageNet-LT (Liu et al. 2019) calls 256 extreme, CIFAR-LT 10 to 100
EXAMPLES = 3
SMALL = 4  # times smaller than the median short side: a thumbnail among photographs
LONG = 3  # times wider or taller than the median shape: of such an image little is left after a crop
SCORES = "so scores will be too good"
REPEATED = {
    "duplicate_across_splits": f"in more than one split, {SCORES}",
    "conflicting_labels": "under more than one label",
    "duplicate_within_split": "more than once under one label of a split",
    "near_duplicate_across_splits": f"of nearly the same image in more than one split, {SCORES}",
    "near_conflicting_labels": "of nearly the same image under more than one label",
    "near_duplicate_within_split": "of nearly the same image under one label of a split",
}
ODD = {
    "small": "with a short side under a quarter of the median ({short:.0f} px)",
    "odd_shape": "three times as wide or as tall as the others",
    "flat": "of nearly one grey value",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a line for the reader, and everything it concerns."""

    severity: Literal["error", "warning"]
    kind: str
    message: str
    items: list[str]


@dataclass(frozen=True)
class Report:
    """Findings, errors first; the indices of the images that cannot be read, for each split that has any; what the
    images are (``facts``); how many of them were not looked at; and, if none, the sha256 of all their contents."""

    findings: list[Finding] = field(default_factory=list)
    unreadable: dict[str, list[int]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    unseen: int = 0
    contents: str = ""

    @property
    def errors(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "warning"]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(
    dataset: Dataset,
    *,
    decode: bool = True,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look for what goes wrong in practice.

    ``decode=True`` reads and decodes every image, or as many as ``survey.look`` does with a ``limit``; ``decode=False``
    opens no file and looks only at classes and counts. ``progress`` is called as it does.
    """
    return findings(dataset, look(dataset, limit=limit, progress=progress) if decode else None)


def findings(dataset: Dataset, survey: Survey | None) -> Report:
    """What is wrong with the classes and counts and, if the images were looked at, with them; errors first."""
    found = [*_classes(dataset), *alike_classes(dataset, "give them one name"), *_ignored(dataset)]
    if survey is None:
        return Report(sorted(found, key=lambda finding: finding.severity))
    unreadable: dict[str, list[int]] = {}
    for split, index in survey.problems:
        unreadable.setdefault(split, []).append(index)
    reasons = [why for place, why in survey.problems.items() if not _without_file(dataset, *place)]
    if reasons:
        found.append(finding("error", "unreadable", f"{counted(reasons, 'image')} cannot be read", reasons))
    names = [dataset.splits[split].name(i) for split, i in survey.problems if _without_file(dataset, split, i)]
    if names:
        found.append(finding("error", "no_file", f"{counted(names, 'row')} without a file", names))
    places = Places(dataset)
    for kind, groups in repeated(dataset, survey).items():
        near, what = kind.startswith("near_"), REPEATED[kind]
        items = [places.line(group, " ~ " if near else " = ") for group in groups]
        noun = "group" if near else "image"
        if items:
            found.append(finding("warning", kind, f"{counted(items, noun)} {what}", items))
    for kind, odd in odd_ones(survey).items():
        what, short = ODD[kind], np.median(survey.sizes[survey.sizes[:, 0] > 0].min(1)) if len(odd) else 0
        items = [f"{places.name(p)} ({survey.sizes[p, 1]}x{survey.sizes[p, 0]})" for p in odd]
        if items:
            found.append(finding("warning", kind, f"{counted(items, 'image')} {what.format(short=short)}", items))
    found.sort(key=lambda finding: finding.severity)
    contents = hashlib.sha256(survey.digests.tobytes()).hexdigest() if not survey.unseen else ""
    return Report(found, unreadable, facts(dataset, survey), survey.unseen, contents)


def with_doubts(report: Report, doubts: Sequence[Mapping[str, Any]], accuracy: float | None) -> Report:
    """The report with a warning, and facts, of labels that features contradict, and with the accuracy of the probe that
    does: what ``api.doubtful_labels`` found."""
    facts = {**report.facts, "doubtful_labels": [dict(doubt) for doubt in doubts], "probe_accuracy": accuracy}
    if not doubts:
        return replace(report, facts=facts)
    items = [f"{doubt['file']} ({doubt['label']}, perhaps {doubt['other']})" for doubt in doubts]
    what = f"{counted(items, 'label')} that features contradict"
    return replace(report, findings=[*report.findings, finding("warning", "doubtful_label", what, items)], facts=facts)


class Places:
    """Images numbered over the splits in their order, as a ``Survey`` does."""

    def __init__(self, dataset: Dataset) -> None:
        self.splits = list(dataset.splits.values())
        self.split_of = np.repeat(np.arange(len(self.splits)), [len(split) for split in self.splits])
        self.index_of = np.concatenate([np.arange(len(split)) for split in self.splits])
        self.labels = np.concatenate([split.labels for split in self.splits])
        if self.labels.ndim == 2:  # sets of labels, numbered
            self.labels = np.unique(self.labels, axis=0, return_inverse=True)[1].reshape(-1)

    def split(self, place: int) -> Split:
        return self.splits[self.split_of[place]]

    def name(self, place: int) -> str:
        return self.split(place).name(int(self.index_of[place]))

    def line(self, group: np.ndarray, between: str) -> str:
        """The first images of a group by name, and how many there are."""
        shown = [self.name(place) for place in group[:EXAMPLES]]
        more = f"{between}... ({len(group):,} in all)" if len(group) > len(shown) else ""
        return between.join(shown) + more


def finding(severity: Literal["error", "warning"], kind: str, what: str, items: list[str], count: int = 0) -> Finding:
    """``what: first, second, third, ...``; ``count`` when there are more items than are known by name."""
    more = ", ..." if max(count, len(items)) > EXAMPLES else ""
    return Finding(severity, kind, f"{what}: {', '.join(items[:EXAMPLES])}{more}", items)


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


def alike_classes(dataset: Dataset[Any], remedy: str) -> Iterator[Finding]:
    """Names that somebody typed in two ways: they differ in case, spaces, hyphens or underscores alone."""
    groups: dict[str, list[str]] = {}
    for name in dataset.classes:
        groups.setdefault(re.sub(r"[\s_-]+", " ", name).strip().casefold(), []).append(name)
    alike = [" = ".join(names) for names in groups.values() if len(names) > 1]
    if alike:
        what = f"classes whose names differ in case or spaces alone (if they are one, {remedy})"
        yield finding("warning", "alike_classes", what, alike)


def _ignored(dataset: Dataset) -> Iterator[Finding]:
    if dataset.nested:
        what = f"no image lies in a class folder itself, but in {counted(dataset.nested, 'folder')} below"
        what += f" (classes are {shortened(dataset.classes)}; give one of these folders if those below it are meant)"
        yield finding("warning", "nested_folders", what, list(dataset.nested))
    if dataset.ignored:
        what = passed_over(dataset.ignored, dataset.ignored_examples)
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


def repeated(dataset: Dataset, survey: Survey) -> dict[str, list[np.ndarray]]:
    """Kind -> groups of images that are the same, or (near_) look the same, by what they do: leak between splits,
    contradict each other, or merely repeat. Those that make the difference come first, of each split or label one."""
    places = Places(dataset)
    kinds: dict[str, list[np.ndarray]] = {kind: [] for kind in REPEATED}
    readable = np.flatnonzero(survey.sizes[:, 0] > 0)
    for prefix, key in (("", survey.digests), ("near_", survey.alike)):
        order = readable[np.argsort(key[readable], kind="stable")]
        edges = np.flatnonzero(key[order[1:]] != key[order[:-1]]) + 1
        groups = [group for group in np.split(order, edges) if len(group) > 1]
        for group in sorted(groups, key=lambda group: int(group[0])):
            of_split = group[np.unique(places.split_of[group], return_index=True)[1]]
            of_label = group[np.unique(places.labels[group], return_index=True)[1]]
            if len(of_split) > 1:
                kinds[f"{prefix}duplicate_across_splits"].append(_first(of_split, group))
            if len(of_label) > 1:
                kinds[f"{prefix}conflicting_labels"].append(_first(of_label, group))
            if len(set(zip(places.split_of[group], places.labels[group], strict=True))) < len(group):
                kinds[f"{prefix}duplicate_within_split"].append(group)
    return kinds


def _first(these: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.concatenate([these, np.setdiff1d(group, these)])


def odd_ones(survey: Survey) -> dict[str, np.ndarray]:
    """Kind -> images whose size or shape is far from the others'."""
    readable = survey.sizes[:, 0] > 0
    if not readable.any():
        return {kind: np.zeros(0, np.int64) for kind in ODD}
    sizes = np.where(readable[:, None], survey.sizes, 1).astype(np.float64)
    short, shape = sizes.min(1), np.log(sizes[:, 1] / sizes[:, 0])
    small = short * SMALL < np.median(short[readable])
    long = np.abs(shape - np.median(shape[readable])) > np.log(LONG)
    return {
        "small": np.flatnonzero(readable & small),
        "odd_shape": np.flatnonzero(readable & long),
        "flat": np.flatnonzero(survey.flat),
    }


def facts(dataset: Dataset, survey: Survey) -> dict[str, Any]:
    """What the images are, in numbers for JSON: per class and split how many, sizes, file formats and modes."""
    sizes = survey.sizes[survey.sizes[:, 0] > 0]
    kinds, counts = np.unique(survey.kinds[survey.kinds != b""], return_counts=True)
    held = class_counts(dataset)
    heights, widths = (
        (np.percentile(column, (0, 50, 100)).round().astype(int).tolist() for column in sizes.T)
        if len(sizes)
        else ([], [])
    )
    return {
        "images": {name: len(split) for name, split in dataset.splits.items()},
        "classes": {
            label: {name: int(counts[i]) for name, counts in held.items()} for i, label in enumerate(dataset.classes)
        },
        "width": dict(zip(("smallest", "median", "largest"), widths, strict=False)),
        "height": dict(zip(("smallest", "median", "largest"), heights, strict=False)),
        "kinds": {kind.decode(): int(n) for kind, n in sorted(zip(kinds, counts, strict=True), key=lambda k: -k[1])},
        "turned_by_exif": int(survey.turned.sum()),
    }
