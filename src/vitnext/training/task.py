"""What a task trains with: its batches, what it minimises, how it is validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitnext.data.dataset import Dataset
from vitnext.data.loaders import Batches, training_batches
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_loaders import MaskedImages
from vitnext.errors import InputError
from vitnext.preprocess import Preprocess
from vitnext.recipe import Augment, Data, Loss, Recipe
from vitnext.training.loop import Objective, Validate
from vitnext.training.losses import LabelLoss, MaskLoss, balance
from vitnext.training.mask_validation import MaskValidator
from vitnext.training.validation import Validator


@dataclass(frozen=True)
class Task:
    """The parts of ``loop.fit`` that depend on what is learnt."""

    batches: Batches
    objective: Objective
    validate: Validate


def task_of(dataset: Dataset[Any], watched: str, preprocess: Preprocess, recipe: Recipe) -> Task:
    """The parts for the data's task; ``watched`` is the split that validates.

    Raises InputError for fields of the recipe that the task has no use for.
    """
    train, held_out = dataset.splits["train"], dataset.splits[watched]
    require_useful(recipe, dataset.task)
    if dataset.task == "classification":
        batches = training_batches(train, preprocess, recipe)
        return Task(batches, LabelLoss(recipe.label_smoothing), Validator(held_out, preprocess))
    masked = MaskedImages(train, preprocess, recipe)
    weights = balance(pixel_counts(masked, train)) if recipe.loss.balanced else None
    return Task(masked, MaskLoss(recipe, weights), MaskValidator(held_out, preprocess))


def require_useful(recipe: Recipe, task: str) -> None:
    """Raises InputError for a field that is set, but does nothing for this task."""
    of_masks = {
        "data": (Data(), ("window", "short_side", "merge", "ignore")),
        "augment": (Augment(), ("scale",)),
        "loss": (Loss(), tuple(Loss.__dataclass_fields__)),
    }
    of_labels: dict[str, tuple[Any, tuple[str, ...]]] = {
        "data": (Data(), ("crop_fraction",)),
        "augment": (Augment(), ("crop_scale", "crop_padding", "trivial_augment", "erasing")),
    }
    useless, other = (of_masks, "segmentation") if task == "classification" else (of_labels, "classification")
    for section, (default, names) in useless.items():
        for name in names:
            if getattr(getattr(recipe, section), name) != getattr(default, name):
                raise InputError(f"{section}.{name} is for {other}, and does nothing here: leave it out")


def pixel_counts(masked: MaskedImages, split: MaskSplit) -> torch.Tensor:
    """Pixels of each class in the training masks (C,)."""
    counts = np.zeros(256, np.int64)
    for i in range(len(split)):
        counts += np.bincount(masked.pair(i)[1].reshape(-1), minlength=256)
    return torch.from_numpy(counts[: len(split.classes)])
