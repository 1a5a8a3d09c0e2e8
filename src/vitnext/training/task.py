"""What a task trains with: its batches, what it minimises, how it is validated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from vitnext.data.dataset import Dataset
from vitnext.data.loaders import Batches, training_batches
from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_loaders import MaskedImages
from vitnext.data.mixing import Mixing
from vitnext.errors import InputError
from vitnext.models import create, neighbours, segmenter
from vitnext.models.names import answers_with_queries
from vitnext.preprocess import Preprocess
from vitnext.recipe import AUTO, Augment, Data, Loss, Recipe
from vitnext.training import distributed
from vitnext.training.loop import Mix, Objective, Validate
from vitnext.training.losses import LabelLoss, MaskLoss, MultiLabelLoss, balance
from vitnext.training.mask_classification import MaskClassificationLoss
from vitnext.training.mask_validation import MaskValidator
from vitnext.training.panoptic_deeplab import PanopticDeepLabLoss
from vitnext.training.panoptic_validation import PanopticValidator, Quality
from vitnext.training.validation import MultiLabelValidator, Validator, images_at_once


@dataclass(frozen=True)
class Task:
    """The parts of ``loop.fit`` that depend on what is learnt."""

    batches: Batches
    objective: Objective
    validate: Validate
    mix: Mix | None = None


def task_name(dataset: Dataset[Any], model: str) -> Literal["classification", "multilabel", "semantic", "panoptic"]:
    """What ``model`` learns of the data, as its card says: "panoptic" if the data and the model tell objects apart."""
    if dataset.task == "semantic" and create.tells_objects_apart(model) and dataset.has_instances:
        return "panoptic"
    return dataset.task


def task_of(
    dataset: Dataset[Any],
    watched: str,
    preprocess: Preprocess,
    recipe: Recipe,
    quality: Callable[[Sequence[str], Sequence[bool]], Quality],
) -> Task:
    """The parts for what the recipe's model learns of the data; ``watched`` is the split that validates, ``quality``
    what measures segments."""
    name = recipe.model.name
    train, held_out = dataset.splits["train"], dataset.splits[watched]
    if dataset.task in ("classification", "multilabel"):
        batches = training_batches(train, preprocess, recipe)
        classes = len(dataset.classes)
        mix = Mixing(recipe.augment, classes) if recipe.augment.mixup or recipe.augment.cutmix else None
        validated = held_out, preprocess, images_at_once(recipe)
        if dataset.task == "multilabel":
            return Task(batches, MultiLabelLoss(recipe.label_smoothing), MultiLabelValidator(*validated), mix)
        weights = class_weights(train.labels, classes) if recipe.loss.balanced else None
        loss = LabelLoss(recipe.label_smoothing, binary=recipe.loss.binary, weights=weights)
        return Task(batches, loss, Validator(*validated), mix)
    panoptic, by_queries = task_name(dataset, name) == "panoptic", answers_with_queries(name)
    masked = MaskedImages(train, preprocess, recipe, objects=panoptic or by_queries)
    objective: Objective
    if by_queries:
        objective = MaskClassificationLoss(len(train.classes))
    else:
        weights = balance(pixel_counts(masked, train)) if recipe.loss.balanced else None
        objective = PanopticDeepLabLoss(recipe, things_of(train), weights) if panoptic else MaskLoss(recipe, weights)
    if panoptic:
        return Task(masked, objective, PanopticValidator(held_out, preprocess, name, things_of(train), quality))
    return Task(masked, objective, MaskValidator(held_out, preprocess, by_queries=by_queries))


def things_of(split: MaskSplit) -> tuple[bool, ...]:
    """Of each class, whether the truth tells its objects apart."""
    return tuple(split.has_instances and thing for thing in split.values.things)


def require_labels(name: str, dataset: Dataset[Any]) -> None:
    """Raises InputError for a segmenter on data without masks, and for what a probe alone makes."""
    if create.head_of(name) == neighbours.NAME:
        backbone = create.backbone_of(name)
        raise InputError(f"{name} is not trained, a probe makes it: give --model {backbone} --probe {neighbours.NAME}")
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
    if create.head_of(name) == "panoptic_deeplab" and not dataset.has_instances:
        raise InputError(
            f"{name} tells objects apart, but the masks of {dataset.name} do not: give instances/ beside masks/, or "
            f"--model {create.composed(create.backbone_of(name), 'segformer')}"
        )
    if recipe.optimizer.name == "muon" and recipe.parallel == "fsdp" and distributed.active():
        raise InputError(
            "muon needs whole matrices, which parallel=fsdp divides: set parallel=ddp or optimizer.name=adamw"
        )
    _require_useful(recipe, dataset.task)
    _require_batches(recipe)
    if dataset.task == "semantic":
        _require_loss(recipe)


def require_statistics(network: nn.Module, recipe: Recipe, images: int) -> None:
    """Raises InputError where batch norm would see a single value of a channel, of which there is no variance.

    images: how many there are to train on.
    """
    if recipe.batch_size == AUTO:  # not decided yet
        return
    if min(images, recipe.batch_size) // recipe.accumulate > 1 or not isinstance(network, segmenter.Segmenter):
        return
    head, backbone = create.head_of(recipe.model.name), network.backbone
    stages: Any = backbone.stages
    one_cell = recipe.data.image_size <= stages[-1].stride
    normalised = head == "linear" or any(isinstance(part, nn.BatchNorm2d) for part in backbone.modules())
    if head == "upernet" or (one_cell and normalised):
        raise InputError(
            f"{recipe.model.name} needs batches of 2 images or more, in each part too: set batch_size, or add images"
        )


def _require_loss(recipe: Recipe) -> None:
    loss, head = recipe.loss, create.head_of(recipe.model.name)
    if answers_with_queries(recipe.model.name):
        if loss != Loss() or recipe.label_smoothing:
            raise InputError(
                f"{recipe.model.name} learns from its own loss of queries: leave loss.* and label_smoothing out"
            )
        return
    if not (loss.cross_entropy or loss.focal or loss.dice or loss.lovasz):
        raise InputError("every loss has the weight 0, so nothing would be learnt: set one of loss.* above 0")
    for name, value, default in (
        ("loss.hardest", loss.hardest, Loss().hardest),
        ("loss.balanced", loss.balanced, Loss().balanced),
        ("label_smoothing", recipe.label_smoothing, 0.0),
    ):
        if value != default and not loss.cross_entropy:
            raise InputError(f"{name} belongs to the cross-entropy, whose weight is 0: leave it out")
    if distributed.world() > 1 and (loss.lovasz or loss.hardest < 1):
        raise InputError(
            "loss.lovasz and loss.hardest put the pixels of a whole batch in order, of which each process has a part: "
            "leave them out, or train in one process"
        )
    if loss.auxiliary != Loss().auxiliary and head != "upernet":
        raise InputError(f"loss.auxiliary is for the auxiliary head of upernet, {head} has none: leave it out")


def _require_batches(recipe: Recipe) -> None:
    size, augment = recipe.batch_size, recipe.augment
    if size != AUTO and recipe.accumulate > size:
        raise InputError(f"accumulate is {recipe.accumulate}, more parts than the {size} images of batch_size")
    if size != AUTO and (augment.mixup or augment.cutmix) and -(-size // augment.repeats) < 2:
        raise InputError("augment.mixup and augment.cutmix need two different images in a batch: set batch_size higher")
    if augment.trivial_augment and augment.rand_augment[0]:
        raise InputError(
            "augment.trivial_augment and augment.rand_augment do the same kind of thing: set "
            "augment.trivial_augment=false or augment.rand_augment=[0,0]"
        )
    if recipe.loss.balanced and recipe.data.class_sampling < 1:
        raise InputError(
            "loss.balanced and data.class_sampling both make up for unequal classes, together twice: set one of them"
        )


def _require_useful(recipe: Recipe, task: str) -> None:
    of_masks = {
        "data": (Data(), ("window", "short_side", "merge", "ignore")),
        "augment": (Augment(), ("scale", "aspect", "rotation")),
        "loss": (Loss(), tuple(name for name in Loss.__dataclass_fields__ if name not in ("balanced", "binary"))),
    }
    of_labels: dict[str, tuple[Any, tuple[str, ...]]] = {
        "data": (Data(), ("resize", "crop_fraction", "class_sampling")),
        "augment": (
            Augment(),
            (
                *("crop_scale", "crop_padding", "trivial_augment", "rand_augment", "erasing"),
                *("mixup", "cutmix", "repeats"),
            ),
        ),
        "loss": (Loss(), ("binary",)),
    }
    of_one_label = {"data": (Data(), ("class_sampling",)), "loss": (Loss(), ("balanced", "binary"))}
    if answers_with_queries(recipe.model.name):  # which of things sees whole images
        of_labels["data"] = (Data(), ("crop_fraction", "class_sampling"))
    refused = [
        (of_masks, "segmentation") if task in ("classification", "multilabel") else (of_labels, "classification")
    ]
    if task == "multilabel":  # each class is learnt by itself, with binary cross-entropy
        refused.append((of_one_label, "data with one label an image"))
    for useless, other in refused:
        for section, (default, names) in useless.items():
            for name in names:
                if getattr(getattr(recipe, section), name) != getattr(default, name):
                    raise InputError(f"{section}.{name} is for {other}, and does nothing here: leave it out")


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """What an image of each class counts (C,), all images over (classes x the class's images): 1 on average, and of
    every class the same in all."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * np.maximum(counts, 1))).float()


def pixel_counts(masked: MaskedImages, split: MaskSplit) -> torch.Tensor:
    """Pixels of each class in the training masks (C,)."""
    counts = np.zeros(256, np.int64)
    for i in range(len(split)):
        counts += np.bincount(masked.pair(i)[1].reshape(-1), minlength=256)
    return torch.from_numpy(counts[: len(split.classes)])
