"""Measure a model file on the user's data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitnext.api.console import Say
from vitnext.card import Card
from vitnext.data.dataset import Dataset, held_out, open_dataset, regroup
from vitnext.errors import InputError
from vitnext.evaluation import evaluate as evaluation
from vitnext.inference.predictor import Predictor, load
from vitnext.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

OTHER_IMAGES = (
    "these are not the very images of the training; where some of them were trained on, the numbers are too good"
)


def evaluate(
    model: Predictor | str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    skip_unreadable: bool = False,
    engine: str = "auto",
    tta: bool = False,
    progress: Callable[[int, int], None] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a model on labelled images; metrics.json and report.html go to ``out`` if given.

    ``engine`` and ``tta`` say how a file is loaded, as of `load`.

    Of data with splits the test images are used, else val, unless ``split`` names another. Of one class-folder tree
    the images that training held out, if the model was trained on this very tree, else all, with a warning, here and in
    what is written, that images of the training may be among them.

    Raises InputError for wrong input, such as a class that the model does not know.
    """
    predictor = model if isinstance(model, Predictor) else load(model, engine=engine, tta=tta)
    same = _as_trained(data, predictor.card)
    dataset = same or open_dataset(data, whole=split is None)
    if split is not None and split not in dataset.splits:
        raise InputError(f"{data} has no {split} split; there are {', '.join(dataset.splits)}")
    name = split or ("all" if "all" in dataset.splits else held_out(dataset)[0])
    _require_task(predictor, dataset)
    if dataset.task == "semantic":
        dataset = _regrouped_as(dataset, predictor.card)
    images = dataset.splits[name]
    say = Say(console)
    say(f"{dataset.name}: {name} split, {counted(images, 'image')}")
    given = name != "all" and name not in dataset.split_rule["fractions"]
    warning = "" if same or given else OTHER_IMAGES
    if warning:
        say(f"warning: {warning}")
    return evaluation.evaluate(
        predictor,
        images,
        out=Path(out) if out is not None else None,
        name=dataset.name,
        split_name=name,
        warning=warning,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )


def _as_trained(data: str | Path, card: Card) -> Dataset[Any] | None:
    """``data`` divided as it was for training, or None if these are not the very images."""
    split = card.data.get("split", {})
    fractions = split.get("fractions", {})
    # A run without a val split must not be given one now: its images were trained on.
    for val_fraction in (fractions.get("val", 0.0), None):
        with contextlib.suppress(InputError):  # data with a val split of its own takes None alone
            dataset = open_dataset(data, seed=split.get("seed", 0), val_fraction=val_fraction)
            if dataset.fingerprint == card.data.get("fingerprint"):
                return dataset
    return None


def _require_task(predictor: Predictor, dataset: Dataset[Any]) -> None:
    """Raises InputError for a model that the data cannot measure."""
    if predictor.card.task == "panoptic" and dataset.task == "semantic" and not dataset.has_instances:
        raise InputError(
            f"{predictor.path} tells objects apart, but the masks of {dataset.name} do not: give instances/ beside them"
        )
    if dataset.task == ("semantic" if predictor.card.task == "panoptic" else predictor.card.task):
        return
    models = {"classification": "classifier", "multilabel": "multi-label model"}
    holds = {
        "classification": "one class an image" if dataset.kind == "table" else "class folders",
        "multilabel": "several labels an image",
        "semantic": "masks",
    }
    wanted = {
        "classification": "class folders, or one label a row",
        "multilabel": "a table of several labels an image",
        "semantic": "images/ and masks/ with classes.txt",
    }
    task, has = predictor.card.task, holds[dataset.task]
    raise InputError(
        f"{predictor.path} is a {models.get(task, 'segmenter')}, but {dataset.name} has {has}: give data with "
        f"{wanted.get(task, wanted['semantic'])}"
    )


def _regrouped_as(dataset: Dataset[Any], card: Card) -> Dataset[Any]:
    """Masks with the classes that the model's training merged and ignored, as far as the data has them."""
    recipe, known = card.recipe.get("data", {}), dataset.classes
    merge = {name: [part for part in parts if part in known] for name, parts in recipe.get("merge", {}).items()}
    merge = {name: parts for name, parts in merge.items() if parts}
    return regroup(dataset, merge, [name for name in recipe.get("ignore", []) if name in known])
