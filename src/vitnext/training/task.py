"""What a task trains with: its batches, what it minimises, how it is validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vitnext.data.dataset import Dataset
from vitnext.data.loaders import Batches, training_batches
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_loaders import MaskedImages
from vitnext.errors import InputError
from vitnext.models import create, segmenter
from vitnext.preprocess import Preprocess
from vitnext.recipe import Augment, Data, Loss, Recipe
from vitnext.training.loop import Objective, Validate
from vitnext.training.losses import LabelLoss, MaskLoss, MultiLabelLoss, balance
from vitnext.training.mask_validation import MaskValidator
from vitnext.training.validation import MultiLabelValidator, Validator


@dataclass(frozen=True)
class Task:
    """The parts of ``loop.fit`` that depend on what is learnt."""

    batches: Batches
    objective: Objective
    validate: Validate


def task_of(dataset: Dataset[Any], watched: str, preprocess: Preprocess, recipe: Recipe) -> Task:
    """The parts for the data's task; ``watched`` is the split that validates."""
    train, held_out = dataset.splits["train"], dataset.splits[watched]
    if dataset.task == "classification":
        batches = training_batches(train, preprocess, recipe)
        return Task(batches, LabelLoss(recipe.label_smoothing), Validator(held_out, preprocess))
    if dataset.task == "multilabel":
        batches = training_batches(train, preprocess, recipe)
        return Task(batches, MultiLabelLoss(recipe.label_smoothing), MultiLabelValidator(held_out, preprocess))
    masked = MaskedImages(train, preprocess, recipe)
    weights = balance(pixel_counts(masked, train)) if recipe.loss.balanced else None
    return Task(masked, MaskLoss(recipe, weights), MaskValidator(held_out, preprocess))


def require_labels(name: str, dataset: Dataset[Any]) -> None:
    """Raises InputError for a segmenter on data without masks."""
    if create.is_segmenter(name) and dataset.task in ("classification", "multilabel"):
        has = "labels" if dataset.kind == "table" else "class folders"
        raise InputError(
            f"{name} is a segmenter, but {dataset.name} has {has}, not masks: give images/ and masks/, or "
            f"--model {create.backbone_of(name)}"
        )


def require_suitable(recipe: Recipe, dataset: Dataset[Any]) -> None:
    """Raises InputError for a model that is not for the data's task, and for a field that is set but does nothing."""
    name = recipe.model.name
    require_labels(name, dataset)
    if not create.is_segmenter(name) and dataset.task == "semantic":
        heads = " or ".join(f"{name}+{head}" for head in segmenter.HEADS)
        raise InputError(f"{name} is a classifier, but {dataset.name} has masks: give --model {heads}")
    _require_useful(recipe, dataset.task)
    if dataset.task == "semantic":
        _require_loss(recipe)


def require_statistics(network: nn.Module, recipe: Recipe, images: int) -> None:
    """Raises InputError where batch norm would see a single value of a channel, of which there is no variance.

    images: how many there are to train on.
    """
    if min(images, recipe.batch_size) > 1 or not isinstance(network, segmenter.Segmenter):
        return
    head, backbone = create.head_of(recipe.model.name), network.backbone
    stages: Any = backbone.stages
    one_cell = recipe.data.image_size <= stages[-1].stride
    normalised = head == "linear" or any(isinstance(part, nn.BatchNorm2d) for part in backbone.modules())
    if head == "upernet" or (one_cell and normalised):
        raise InputError(f"{recipe.model.name} needs batches of 2 images or more: set batch_size, or add images")


def _require_loss(recipe: Recipe) -> None:
    loss, head = recipe.loss, create.head_of(recipe.model.name)
    if not (loss.cross_entropy or loss.focal or loss.dice or loss.lovasz):
        raise InputError("every loss has the weight 0, so nothing would be learnt: set one of loss.* above 0")
    for name, value, default in (
        ("loss.hardest", loss.hardest, Loss().hardest),
        ("loss.balanced", loss.balanced, Loss().balanced),
        ("label_smoothing", recipe.label_smoothing, 0.0),
    ):
        if value != default and not loss.cross_entropy:
            raise InputError(f"{name} belongs to the cross-entropy, whose weight is 0: leave it out")
    if loss.auxiliary != Loss().auxiliary and head != "upernet":
        raise InputError(f"loss.auxiliary is for the auxiliary head of upernet, {head} has none: leave it out")


def _require_useful(recipe: Recipe, task: str) -> None:
    of_masks = {
        "data": (Data(), ("window", "short_side", "merge", "ignore")),
        "augment": (Augment(), ("scale",)),
        "loss": (Loss(), tuple(Loss.__dataclass_fields__)),
    }
    of_labels: dict[str, tuple[Any, tuple[str, ...]]] = {
        "data": (Data(), ("resize", "crop_fraction")),
        "augment": (Augment(), ("crop_scale", "crop_padding", "trivial_augment", "erasing")),
    }
    useless, other = (
        (of_masks, "segmentation") if task in ("classification", "multilabel") else (of_labels, "classification")
    )
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
