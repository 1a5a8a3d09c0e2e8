"""What the doctor found in labelled images as one self-contained HTML page: findings, counts, images concerned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitnext.data.dataset import Dataset
from vitnext.data.doctor import ODD, REPEATED, Places, Report, class_counts, odd_ones, repeated
from vitnext.data.survey import Survey
from vitnext.errors import ImageError
from vitnext.evaluation.report import template, thumbnail

GROUPS = 12  # of repeated images shown of each kind
IN_GROUP = 4  # images shown of each
ODD_SHOWN = 12  # of each kind
DOUBTS_SHOWN = 48
DOUBTED = "Labels that features contradict"
EXAMPLES = 6  # images of each class
EXAMPLE_CLASSES = 20  # of which examples are shown
TITLES = {
    "conflicting_labels": "The same image under more than one label",
    "near_conflicting_labels": "Nearly the same image under more than one label",
    "duplicate_across_splits": "The same image in more than one split",
    "near_duplicate_across_splits": "Nearly the same image in more than one split",
    "duplicate_within_split": "The same image more than once under one label of a split",
    "near_duplicate_within_split": "Nearly the same image under one label of a split",
    "small": "Much smaller than the others",
    "odd_shape": "Much wider or taller than the others",
    "flat": "Of nearly one grey value",
}
assert TITLES.keys() == REPEATED.keys() | ODD.keys()


def render(dataset: Dataset, survey: Survey, report: Report, doubts: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page of what `survey.look` saw and `doctor.findings` made of it, and of ``doubts`` about labels, if there are
    any (`api.doubtful_labels`). Equal arguments, equal pages."""
    places = Places(dataset)
    counts = class_counts(dataset)
    groups = repeated(dataset, survey)
    shown: dict[str, list[list[dict[str, Any]]]] = {
        kind: [[_figure(dataset, survey, places, int(p)) for p in group[:IN_GROUP]] for group in groups[kind][:GROUPS]]
        for kind in TITLES
        if kind in groups
    }
    shown |= {
        kind: [[_figure(dataset, survey, places, int(p))] for p in odd[:ODD_SHOWN]]
        for kind, odd in odd_ones(survey).items()
    }
    doubted = [
        {**_figure(dataset, survey, places, doubt["place"]), "labels": f"{doubt['label']}, perhaps {doubt['other']}"}
        for doubt in doubts[:DOUBTS_SHOWN]
    ]
    total = {kind: len(groups[kind]) if kind in groups else len(odd_ones(survey)[kind]) for kind in TITLES}
    return template("data_report.html.j2").render(
        name=dataset.name,
        line=dataset.line,
        classes=dataset.classes,
        splits={name: len(split) for name, split in dataset.splits.items()},
        counts={name: held.tolist() for name, held in counts.items()},
        largest={name: int(held.max()) for name, held in counts.items()},
        facts=report.facts,
        percentiles=_percentiles(survey),
        findings=report.findings,
        errors=len(report.errors),
        warnings=len(report.warnings),
        unreadable=sum(map(len, report.unreadable.values())),
        galleries=[
            *([(DOUBTED, len(doubts), [[figure] for figure in doubted])] if doubted else []),
            *((TITLES[kind], total[kind], shown[kind]) for kind in TITLES if shown.get(kind)),
        ],
        examples=_examples(dataset, survey, places),
        example_classes=EXAMPLE_CLASSES,
    )


def _percentiles(survey: Survey) -> list[tuple[str, list[str]]]:
    """Rows of a table: width, height and their ratio, from the smallest to the largest."""
    sizes = survey.sizes[survey.sizes[:, 0] > 0].astype(np.float64)
    if not len(sizes):
        return []
    at = (0, 5, 50, 95, 100)
    rows = {"Width, pixels": sizes[:, 1], "Height, pixels": sizes[:, 0]}
    table = [(name, [f"{value:,.0f}" for value in np.percentile(row, at)]) for name, row in rows.items()]
    return [*table, ("Width / height", [f"{value:.2f}" for value in np.percentile(sizes[:, 1] / sizes[:, 0], at)])]


def _examples(dataset: Dataset, survey: Survey, places: Places) -> list[tuple[str, list[dict[str, Any]]]]:
    """Of each of the first classes a few images, evenly spread over those that can be read."""
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    held = []
    for i, name in enumerate(dataset.classes[:EXAMPLE_CLASSES]):
        of_class = labels[:, i] > 0 if labels.ndim == 2 else labels == i
        at = np.flatnonzero(of_class & (survey.sizes[:, 0] > 0))
        some = at[np.unique(np.linspace(0, len(at) - 1, min(EXAMPLES, len(at)), dtype=int))] if len(at) else at
        held.append((name, [_figure(dataset, survey, places, int(p)) for p in some]))
    return held


def _figure(dataset: Dataset, survey: Survey, places: Places, place: int) -> dict[str, Any]:
    split, index = places.split(place), int(places.index_of[place])
    labels = split.labels[index]
    names = [dataset.classes[i] for i in (np.flatnonzero(labels) if labels.ndim else [int(labels)])]
    try:
        picture = thumbnail(split.image(index))
    except ImageError:  # gone since it was looked at
        picture = ""
    height, width = survey.sizes[place].tolist()
    return {
        "picture": picture,
        "labels": ", ".join(names) or "no label",
        "split": list(dataset.splits)[places.split_of[place]],
        "file": split.name(index),
        "size": f"{width} × {height}",
    }
