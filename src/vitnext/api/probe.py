"""``train --probe``: what the frozen features of a backbone are worth, as a model like any other."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitnext.api import network
from vitnext.api.checks import checked
from vitnext.api.console import Say
from vitnext.api.folder import ARTIFACT, STATE, require_free
from vitnext.api.run import card_of
from vitnext.card import Card, read_card
from vitnext.data.dataset import Dataset, held_out, open_dataset
from vitnext.data.facts import Facts, look_at
from vitnext.errors import InputError
from vitnext.evaluation.evaluate import HEADLINES, evaluate
from vitnext.files import held
from vitnext.inference.activations import sigmoid
from vitnext.inference.multilabel import average_precision, best_thresholds
from vitnext.inference.predictor import load
from vitnext.models import catalog, create, neighbours
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe, override
from vitnext.training import defaults
from vitnext.training.features import BATCH, FrozenFeatures
from vitnext.training.hardware import Precision, suitable_threads
from vitnext.training.probe import KINDS, Held, cross_entropy, fit_linear, fit_neighbours, put_linear, scores
from vitnext.training.task import require_labels
from vitnext.weights import pretrained
from vitnext.weights.artifact import save_artifact

SEEN = ("image_size", "resize", "crop_fraction", "color", "val_fraction", "skip_unreadable")  # of data.*
FIELDS = (*(f"data.{name}" for name in SEEN), "seed", "device", "precision")  # that a probe has a use for


def probe(
    data: str | Path,
    kind: str,
    folder: Path,
    *,
    model: str | None,
    weights: str,
    overrides: Sequence[str],
    say: Say,
) -> dict[str, Any]:
    """Leave a probe as the artifact of ``folder``, with its report; returns the metrics of the held-out images.

    kind: "knn" or "linear"; model, weights and overrides: as of ``train``, which says what is raised.
    """
    start = time.perf_counter()
    recipe, dataset, facts = _choose(data, kind, folder, model=model, weights=weights, overrides=overrides, say=say)
    built, preprocess, licence = network.build(recipe, dataset, facts, say)
    if recipe.model.pretrained == "none":
        say("warning: there are no weights, so the features are those of a random network: name some by --pretrained")
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f"{STATE}.lock", f"another training is writing to {folder}: choose another --out"):
        require_free(folder)
        train, val = _features(recipe, dataset, built, preprocess, say)
        card = card_of(recipe, dataset, built, preprocess, licence)
        card = _fitted(kind, built.cpu(), train, val, card, say)
        seconds = time.perf_counter() - start
        name, split = held_out(dataset)
        skip = recipe.data.skip_unreadable
        with tempfile.TemporaryDirectory(dir=folder) as draft:  # what is stopped here leaves no model behind
            save_artifact(Path(draft) / ARTIFACT, built, card)
            predictor = load(Path(draft) / ARTIFACT)
        metrics = evaluate(predictor, split, out=folder, name=dataset.name, split_name=name, skip_unreadable=skip)
        headline = {key: metrics[key] for key in HEADLINES[card.task]}
        measured = {**card.metrics, name: headline, "seconds": seconds}
        save_artifact(folder / ARTIFACT, built, replace(card, metrics=measured))
    say(f"probed in {seconds:,.0f} s")
    return metrics


def _choose(
    data: str | Path,
    kind: str,
    folder: Path,
    *,
    model: str | None,
    weights: str,
    overrides: Sequence[str],
    say: Say,
) -> tuple[Recipe, Dataset[Any], Facts]:
    """The network, what it sees, and the data, which is checked before weights are fetched; and the facts of it.

    Raises InputError for what a probe cannot be made of, and for what would do nothing.
    """
    if kind not in KINDS:
        raise InputError(f'there is no probe "{kind}": give {" or ".join(KINDS)}')
    for key in (assignment.partition("=")[0].strip() for assignment in overrides):
        if not key.startswith("model.") and key not in FIELDS:
            raise InputError(f"{key} is for training, and a probe trains no network: leave it out")
    if model is not None:
        create.family_of(model)
    asked = override(Recipe(), overrides)
    with say.waiting(f"opening {data}"):
        dataset = open_dataset(data, seed=asked.seed, val_fraction=asked.data.val_fraction)
    if dataset.task == "semantic":
        raise InputError(f"--probe is for images with labels, and {dataset.name} has masks: leave --probe out")
    if dataset.task == "multilabel" and kind == "knn":
        raise InputError(f"{dataset.name} has several labels an image, which a k-NN probe cannot: give --probe linear")
    require_labels(model or "", dataset)
    require_free(folder)
    say(dataset.line)
    facts = look_at(dataset.splits["train"])
    start = defaults.starting_point(weights, facts, model=model, recipe=None, overrides=overrides)
    dataset = checked(dataset, asked.data.skip_unreadable, say)
    if start.fetch:
        start = defaults.fetched(start, weights, model)
    require_labels(start.model or "", dataset)
    said = [*overrides, *start.overrides]
    # gpu: each image is seen once, so that also a CPU can look at it as closely as a GPU does in training.
    recipe = defaults.choose(facts, model=start.model, pretrained=start.pretrained, gpu=True, overrides=said).recipe
    recipe = override(recipe, [*_as_known(recipe.model.pretrained, facts.grey), *said])
    if catalog.FAMILIES[catalog.family_of(recipe.model.name)].has("representation"):  # the features are of the backbone
        config = {**recipe.model.config, "representation": 0}
        recipe = replace(recipe, model=replace(recipe.model, config=config))
    for reason in start.reasons:
        say(reason)
    return recipe, dataset, facts


def _as_known(weights: str, grey: bool) -> list[str]:
    """What the recipe has to say so that the weights of an artifact see images as they know them."""
    if weights == "none":
        return []
    card = None
    with contextlib.suppress(InputError):  # no artifact
        card = read_card(pretrained.locate(weights)[0])
    if card is None or card.task not in ("classification", "multilabel"):
        return []
    seen, of_color = card.preprocess, [f"data.color={card.preprocess.color}"] if grey else []
    height, width = seen.image_size
    if height != width:
        raise InputError(
            f"{weights} sees images of {height} x {width} px, and data has squares: make another of it first, with "
            f"vitnext convert {weights} --image-size {max(height, width)} --out square.safetensors"
        )
    return [
        f"data.image_size={height}",
        f"data.resize={seen.resize}",
        f"data.crop_fraction={seen.crop_fraction}",
        *of_color,
    ]


def _features(
    recipe: Recipe,
    dataset: Dataset[Any],
    built: nn.Module,
    preprocess: Preprocess,
    say: Say,
) -> tuple[Held, Held | None]:
    """Features and labels of the training and the validation images."""
    precision = Precision(torch.bfloat16 if recipe.precision == "bf16" else torch.float32)  # auto: as in prediction
    macs = catalog.count_macs(built, recipe.data.image_size) * BATCH
    frozen = FrozenFeatures(built, recipe.model.name, preprocess, precision, say=say)
    splits = {name: dataset.splits[name] for name in ("train", "val") if name in dataset.splits}
    found: dict[str, Held] = {}
    for name, split in splits.items():
        with say.progress(f"features of {name}") as progress, suitable_threads(macs):
            found[name] = frozen.of(split, progress), split.labels
    of = f"{sum(map(len, splits.values())):,} images in {precision.name}, {frozen.computed:,} of them computed now"
    say(f"features of {of}; kept in {frozen.folder}")
    return found["train"], found.get("val")


def _fitted(kind: str, built: nn.Module, train: Held, val: Held | None, card: Card, say: Say) -> Card:
    """Give the network its head, and the card what was chosen and how it does on the validation images."""
    settings = {"model": card.recipe["model"], "data": {name: card.recipe["data"][name] for name in SEEN}}
    settings |= {name: card.recipe[name] for name in ("seed", "device", "precision")}
    chosen: dict[str, Any]
    if kind == "knn":
        vote = fit_neighbours(train, val, len(card.classes))
        neighbours.attach(built, vote)
        chosen = {"neighbours": vote.config.neighbours, "temperature": vote.config.temperature}
        card = replace(card, architecture=f"{card.architecture}+{neighbours.NAME}", config=create.config_dict(built))
        what = f"{vote.config.neighbours} nearest neighbours of {vote.config.samples:,}"
    else:
        found = fit_linear(train, val)
        put_linear(built, found)
        chosen = {"C": found.strength}
        what = f"logistic regression, C {found.strength:g}"
    card = replace(card, recipe={"probe": kind, **chosen, **settings})
    if val is None:
        say(f"probe {kind}: {what}: not chosen, as there are no validation images")
        return card
    features, truth = val
    logits = scores(built, features)
    measured: dict[str, float | None] = {"loss": cross_entropy(logits, truth)}
    if card.task == "multilabel":
        rows = sigmoid(logits)
        precisions = average_precision(rows, truth)
        shown = precisions[~np.isnan(precisions)]
        value = measured["map"] = float(shown.mean()) if len(shown) else None
        score = "mAP"
        card = replace(card, thresholds=tuple(best_thresholds(rows, truth).tolist()))
    else:
        value = measured["top1"] = float((logits.argmax(1) == truth).mean())
        score = "top-1"
    say(f"probe {kind}: {what}: val {score} {'undefined, no label is true' if value is None else f'{value:.2%}'}")
    return replace(card, metrics={"val": measured})
