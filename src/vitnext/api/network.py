"""The network of a run, and how an image becomes its input."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from vitnext.api.console import Say
from vitnext.card import Card
from vitnext.data.dataset import Dataset
from vitnext.data.facts import Facts
from vitnext.errors import InputError
from vitnext.models import catalog, create
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.training import defaults
from vitnext.training.freezing import freeze
from vitnext.training.hardware import choose_device, keep_heap
from vitnext.training.task import require_statistics
from vitnext.weights import pretrained
from vitnext.weights.artifact import build_model

UNLICENSED = "none: trained from scratch; the licence of the training images applies"


def build(recipe: Recipe, dataset: Dataset[Any], known: Facts | Card, say: Say) -> tuple[nn.Module, Preprocess, str]:
    """The network on its device, as the recipe starts it; how an image becomes its input; and its licence.

    known: of a new run the facts of the training images, of one that goes on the card it began with. Raises InputError
    for a network that does not fit the images, and for weights that cannot be read or do not fit it.
    """
    device = choose_device(recipe.device)
    keep_heap()
    torch.manual_seed(recipe.seed)
    name, config = recipe.model.name, defaults.model_config(recipe, len(dataset.classes))
    preprocess = known.preprocess if isinstance(known, Card) else _preprocess(recipe, known)
    licence = UNLICENSED
    if recipe.model.pretrained == "none":
        network = create.build(name, **config).to(device)
    elif isinstance(known, Card):  # the weights are in last.pt, and where they began is no longer needed
        network, licence = build_model(known).to(device), known.licence
    else:
        loaded = pretrained.load(recipe.model.pretrained, name, config, classes=dataset.classes)
        for line in loaded.lines:
            say(line)
        network, licence = loaded.model.to(device), loaded.licence
        # The colours that the weights have learnt to see.
        theirs = loaded.preprocess or pretrained.customary(create.backbone_of(name), config, loaded.path)
        if len(theirs.mean) == len(preprocess.mean):
            preprocess = dataclasses.replace(
                preprocess, mean=theirs.mean, std=theirs.std, interpolation=theirs.interpolation
            )
    create.require_fit(network, name, preprocess.channels, preprocess.image_size, (recipe.data.image_size,) * 2)
    require_statistics(network, recipe, len(dataset.splits["train"]))
    if recipe.optimizer.train_blocks is not None:
        if recipe.model.pretrained == "none":
            say("warning: optimizer.train_blocks freezes blocks that nothing has trained: give --pretrained")
        freeze(network, recipe.optimizer.train_blocks)
    if catalog.FAMILIES[create.family_of(name)].channels_last:
        network = network.to(memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in network.parameters())
    say(f"model {name}: {parameters:,} parameters, {recipe.data.image_size} px, on {device}")
    return network, preprocess, licence


def _preprocess(recipe: Recipe, facts: Facts) -> Preprocess:
    """The recipe's geometry, normalised by the statistics of the training images."""
    channels = 1 if recipe.data.color == "L" else 3
    if channels == 1 and not facts.grey:
        raise InputError('data.color is "L", but the images have colours: leave it out, or set data.color=RGB')
    return Preprocess(
        image_size=recipe.data.window or (recipe.data.image_size,) * 2,
        resize="window" if recipe.data.window else recipe.data.resize,
        short_side=recipe.data.short_side,
        crop_fraction=recipe.data.crop_fraction,
        interpolation="bicubic",
        color=recipe.data.color,
        mean=facts.mean if len(facts.mean) == channels else facts.mean * 3,
        std=facts.std if len(facts.std) == channels else facts.std * 3,
    )
