"""Labels that the features of a model contradict, found in a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitnext.api.console import Say
from vitnext.data.dataset import Dataset
from vitnext.errors import InputError, require

if TYPE_CHECKING:
    from rich.console import Console


def doubtful_labels(
    model: str | Path,
    dataset: Dataset[Any],
    unreadable: Mapping[str, Sequence[int]],
    *,
    progress: Callable[[int, int], None] | None = None,
    console: Console | None = None,
) -> tuple[list[dict[str, Any]], float | None]:
    """Images whose labels are likely wrong, the surest first: {place, file, label, probability, other,
    other_probability}, place numbering the images over the splits in their order. And the share of the labels that the
    probe, cross-validated, names itself, by which to judge the list; None if no class has images enough for a probe.

    model: the artifact of a classifier, whose frozen features a linear probe judges. unreadable: of each split the
    images to pass over. Raises InputError for other models and data.
    """
    require("torch", "train")
    import torch

    from vitnext.models import create
    from vitnext.training.features import FrozenFeatures
    from vitnext.training.hardware import Precision, choose_device
    from vitnext.training.label_noise import doubtful
    from vitnext.weights.artifact import load_artifact

    if dataset.task != "classification":
        raise InputError(f"{dataset.name} has no single label for each image to doubt")
    network, card = load_artifact(Path(model))
    if create.is_segmenter(card.architecture):
        raise InputError(f"{model}: a segmenter; doubts about labels need a classifier's features")
    frozen = FrozenFeatures(
        network.to(choose_device("auto")),
        card.architecture,
        card.preprocess,
        Precision(torch.float32),
        say=Say(console),
    )
    rows, labels, places, names, start = [], [], [], [], 0
    total, done = sum(map(len, dataset.splits.values())), 0
    for name, split in dataset.splits.items():
        good = np.setdiff1d(np.arange(len(split)), unreadable.get(name, []))
        if len(good):
            report = None if progress is None else (lambda n, _, done=done: progress(done + n, total))
            rows.append(frozen.of(split.subset(good), report))
            labels.append(split.labels[good])
            places.append(start + good)
            names += [split.name(int(i)) for i in good]
        start, done = start + len(split), done + len(good)
    found = doubtful(np.concatenate(rows), np.concatenate(labels))
    place = np.concatenate(places)
    doubts = [
        {
            "place": int(place[image]),
            "file": names[image],
            "label": dataset.classes[given],
            "probability": float(p),
            "other": dataset.classes[other],
            "other_probability": float(q),
        }
        for image, given, other, p, q in zip(
            found.images, found.given, found.other, found.p_given, found.p_other, strict=True
        )
    ]
    return doubts, found.accuracy
