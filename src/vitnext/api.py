"""What ``vitnext.NAME`` and the command line call: the parts, tied together."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from vitnext.card import Card
from vitnext.data import doctor
from vitnext.data.dataset import Dataset, Split, held_out, open_dataset
from vitnext.errors import InputError, require
from vitnext.inference.predictor import Predictor, load
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe, override, read

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from vitnext.data.facts import Facts
    from vitnext.export.onnx import ExportReport


@dataclass(frozen=True)
class TrainResult:
    """artifact: the model file; metrics: of the held-out images, as ``evaluate`` gives them; out: the run's folder."""

    artifact: Path
    metrics: dict[str, Any]
    out: Path


def create_model(name: str, classes: int | Sequence[str] | None = None, **config: Any) -> nn.Module:
    """A freshly initialised model: ``create_model("convnext_tiny", classes=10)``.

    ``classes`` is a count or a list of names (default: the family's, 1000; 0 gives the pooled feature); ``config``
    overrides fields of the family's config. The model maps normalised float images (B, C, H, W) to logits
    (B, classes). Raises InputError for an unknown name, field or value.
    """
    require("torch", "train")
    from vitnext.models import catalog

    if isinstance(classes, str):
        raise InputError(f"classes is {classes!r}: give a count or a list of names")
    if classes is not None:
        config["classes"] = classes if isinstance(classes, int) else len(classes)
    return catalog.build(name, **config)


def train(
    data: str | Path,
    *,
    model: str | None = None,
    out: str | Path | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    skip_unreadable: bool = False,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> TrainResult:
    """Train a classifier on ``data`` and leave model, recipe, journal, metrics and report in ``out``.

    What is not given is chosen from the images and the machine, and said on ``console``. With ``resume`` the run in
    ``out`` goes on where it was stopped; its own recipe is used.

    Raises InputError for wrong input, WorkError for a run that fails, and KeyboardInterrupt (after the run was saved)
    for Ctrl-C.
    """
    require("torch", "train")
    import torch
    from rich.console import Console

    from vitnext.data.facts import look_at
    from vitnext.data.loaders import training_batches
    from vitnext.models import catalog
    from vitnext.training.console import ConsoleWatcher
    from vitnext.training.defaults import choose, model_config
    from vitnext.training.hardware import choose_device, choose_precision, keep_heap, suitable_threads
    from vitnext.training.loop import Interrupted, Metrics, Normalize, Progress, fit
    from vitnext.training.validation import Validator
    from vitnext.weights.artifact import load_artifact, save_artifact

    say = _speaker(console)
    folder = Path(out) if out is not None else Path("runs") / Path(data).resolve().name
    said = list(overrides)
    said += [f"schedule.epochs={epochs}"] if epochs is not None else []
    said += [f"seed={seed}"] if seed is not None else []
    if resume:
        full = _recipe_of_run(folder, model, recipe, said)
        dataset = open_dataset(data, seed=full.seed, val_fraction=full.data.val_fraction)
        say(dataset.line)
    else:
        if (folder / "last.pt").exists():
            raise InputError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")
        if (folder / "model.safetensors").exists():
            raise InputError(f"{folder} holds a model already: choose another --out")
        dataset = open_dataset(data, seed=seed or 0)
        choice = choose(
            look_at(dataset.splits["train"]),
            model=model,
            recipe=recipe,
            gpu=torch.cuda.is_available(),
            overrides=said,
        )
        full = choice.recipe
        if full.data.val_fraction is not None or full.seed != (seed or 0):
            dataset = open_dataset(data, seed=full.seed, val_fraction=full.data.val_fraction)
        say(dataset.line)
        for reason in choice.reasons:
            say(reason)
    dataset = _checked(dataset, skip_unreadable, say)
    facts = look_at(dataset.splits["train"])

    device = choose_device(full.device)
    keep_heap()
    torch.manual_seed(full.seed)
    config = model_config(full, len(dataset.classes))
    preprocess = _preprocess(full, facts)
    network = catalog.build(full.model.name, **config).to(device)
    _fits(network, preprocess, full.model.name)
    if catalog.FAMILIES[catalog.family_of(full.model.name)].channels_last:
        network = network.to(memory_format=torch.channels_last)
    batches = training_batches(dataset.splits["train"], preprocess, full)
    parameters = sum(p.numel() for p in network.parameters())
    say(f"model {full.model.name}: {parameters:,} parameters, {full.data.image_size} px, on {device}")
    say(f"data  {batches.description}")
    macs = catalog.count_macs(network, full.data.image_size) * full.batch_size
    images, labels = (tensor.to(device) for tensor in next(batches.epoch(0)))
    with suitable_threads(macs):
        precision = choose_precision(full.precision, network, Normalize(preprocess, device)(images), labels)
    if full.precision == "auto":  # decided once and written down, so that recipe.yaml repeats the run
        full = dataclasses.replace(full, precision=precision.name)
        say(f"precision {precision.name}: {precision.reason}")

    # Without a validation split the test images are watched but choose nothing: the last epoch is the model.
    select = "val" in dataset.splits
    watched = "val" if select else held_out(dataset)[0]
    if full.schedule.patience and not select:
        raise InputError("schedule.patience needs validation images: set data.val_fraction above 0, or give val/")
    artifact = folder / "model.safetensors"
    card = Card(
        task="classification",
        architecture=full.model.name,
        config=catalog.config_dict(network),
        classes=dataset.classes,
        preprocess=preprocess,
        metrics={},
        data={
            "name": dataset.name,
            "kind": dataset.kind,
            "fingerprint": dataset.fingerprint,
            "split": dataset.split_rule,
            "counts": {name: len(split) for name, split in dataset.splits.items()},
        },
        recipe=full.to_dict(),
        versions=_versions(),
        licence="none: trained from scratch; the licence of the training images applies",
    )

    def keep(network: nn.Module, progress: Progress, metrics: Metrics) -> None:
        values = {watched: metrics, "epoch": progress.epoch}
        save_artifact(artifact, network, dataclasses.replace(card, metrics=values))

    folder.mkdir(parents=True, exist_ok=True)
    if not resume:  # fit may yet refuse what was said with --resume; the run's recipe stays as it is
        temporary = folder / "recipe.yaml.tmp"
        temporary.write_text(yaml.safe_dump(full.to_dict(), sort_keys=False), encoding="utf-8")
        os.replace(temporary, folder / "recipe.yaml")
    watcher = ConsoleWatcher(console or Console(quiet=True), full.schedule.epochs, watched)
    with watcher, suitable_threads(macs):
        try:
            end = fit(
                network,
                batches,
                Validator(dataset.splits[watched], preprocess),
                full,
                preprocess,
                precision,
                folder=folder,
                keep=keep,
                watch=watcher,
                fingerprint=dataset.fingerprint,
                select=select,
                resume=resume,
            )
        except Interrupted:
            again = f"vitnext train {shlex.quote(str(data))} --out {shlex.quote(str(folder))} --resume"
            again += " --skip-unreadable" if skip_unreadable else ""
            raise KeyboardInterrupt(f"stopped and saved; go on with: {again}") from None
    if end.epoch < full.schedule.epochs:
        say(f"stopped early: no better validation top-1 since epoch {end.best_epoch}")

    # The measured thing is the served thing: the artifact is read back and predicts the held-out images.
    from vitnext.evaluation import classification

    name, split = held_out(dataset)
    metrics = classification.evaluate(
        load(artifact), split, out=folder, name=dataset.name, split_name=name, skip_unreadable=skip_unreadable
    )
    measured: dict[str, Any] = {watched: {"top1": end.kept_top1, "loss": end.kept_loss}}
    measured[name] = {key: metrics[key] for key in ("n", "top1", "top1_interval", "top5", "macro_f1", "ece")}
    measured |= {"epoch": end.kept_epoch, "seconds": end.seconds}
    trained, _ = load_artifact(artifact)
    save_artifact(artifact, trained, dataclasses.replace(card, metrics=measured))
    low, high = metrics["top1_interval"]
    say(f"{name} top-1 {100 * metrics['top1']:.2f}% (95%: {100 * low:.1f}-{100 * high:.1f}) of {metrics['n']:,} images")
    say(f"trained in {end.seconds:,.0f} s; report {folder / 'report.html'}")
    return TrainResult(artifact, metrics, folder)


def evaluate(
    model: Predictor | str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    skip_unreadable: bool = False,
    engine: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a model on labelled images; metrics.json and report.html go to ``out`` if given.

    Of data with splits the test images are used, else val, unless ``split`` names another. Of one class-folder tree
    the images that training held out, if the model was trained on this very tree, else all.

    Raises InputError for wrong input, such as a class that the model does not know.
    """
    from vitnext.evaluation import classification

    predictor = model if isinstance(model, Predictor) else load(model, engine=engine)
    dataset, trained_on = _as_trained(data, predictor.card)
    if split is not None:
        if split not in dataset.splits:
            raise InputError(f"{data} has no {split} split; there are {', '.join(dataset.splits)}")
        name, images = split, dataset.splits[split]
    elif set(dataset.split_rule["fractions"]) == {"train", "val", "test"} and not trained_on:
        name, images = "all", _all(dataset)
    else:
        name, images = held_out(dataset)
    say = _speaker(console)
    say(f"{dataset.name}: {name} split, {len(images):,} images")
    if name == "all" and dataset.name == predictor.card.data.get("name"):
        say("warning: the images are not those of the training, which had the same name; some may have been trained on")
    return classification.evaluate(
        predictor,
        images,
        out=Path(out) if out is not None else None,
        name=dataset.name,
        split_name=name,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )


def export(
    model: str | Path, to: str = "onnx", *, out: str | Path | None = None, images: str | Path | None = None
) -> ExportReport:
    """Write an artifact as ONNX beside it, or to ``out``, after it has given the model's own answers on ``images``.

    ``images`` is a folder, a data set or a built-in name; the data the model was trained on is the natural choice.
    Without it, deterministic synthetic images are compared. Raises WorkError if the answers differ, InputError for
    wrong input.
    """
    from vitnext.export.onnx import export_onnx
    from vitnext.inference.sources import find_images

    if to != "onnx":
        raise InputError(f'cannot export to "{to}": give onnx')
    sources: list[Any] | None = None
    if images is not None:
        if Path(images).exists():
            sources = list(find_images([images]))
        else:
            _, split = held_out(open_dataset(images))
            sources = [split.image(i) for i in range(len(split))]
    return export_onnx(Path(model), Path(out) if out is not None else Path(model).with_suffix(".onnx"), sources)


def _recipe_of_run(folder: Path, model: str | None, recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe that the run in ``folder`` was started with; what is given now must not say otherwise."""
    from vitnext.models import catalog

    path = folder / "recipe.yaml"
    if not path.is_file():
        raise InputError(f"there is no run in {folder} to go on with: start it without --resume")
    if recipe is not None:
        raise InputError("--resume goes on with the run's own recipe: leave --recipe out")
    full = read(path)
    if model is not None and model not in (full.model.name, catalog.family_of(full.model.name)):
        raise InputError(f"the run in {folder} trains {full.model.name}, not {model}: leave --model out")
    return override(full, overrides)


def _checked(dataset: Dataset, skip_unreadable: bool, say: Callable[[str], None]) -> Dataset:
    """Let the doctor look before training: warnings are said, errors stop unless they can be skipped."""
    report = doctor.check(dataset)
    for finding in report.warnings:
        say(f"warning: {finding.message}")
    for finding in report.errors:
        if finding.kind == "unreadable" and skip_unreadable:
            say(f"skipped: {finding.message}")
            for item in finding.items[doctor.EXAMPLES :]:  # the message names the first ones
                say(f"skipped: {item}")
        elif finding.kind == "unreadable":
            raise InputError(
                f"{finding.message}; mend or remove them (vitnext check --json lists all), or add --skip-unreadable"
            )
        else:
            raise InputError(finding.message)
    if not report.unreadable:
        return dataset
    splits: dict[str, Split] = {}
    for name, split in dataset.splits.items():
        good = np.setdiff1d(np.arange(len(split)), report.unreadable.get(name, []))
        if not len(good):
            raise InputError(f"{dataset.name}: none of the {len(split):,} {name} images can be read")
        splits[name] = split.subset(good)
    readable = dataclasses.replace(dataset, splits=splits)
    for finding in doctor.check(readable, decode=False).errors:  # a class may have lost all of its images
        raise InputError(finding.message)
    return readable


def _preprocess(recipe: Recipe, facts: Facts) -> Preprocess:
    """The recipe's geometry, normalised by the statistics of the training images."""
    channels = 1 if recipe.data.color == "L" else 3
    if channels == 1 and not facts.grey:
        raise InputError('data.color is "L", but the images have colours: leave it out, or set data.color=RGB')
    return Preprocess(
        image_size=(recipe.data.image_size,) * 2,
        resize=recipe.data.resize,
        crop_fraction=recipe.data.crop_fraction,
        interpolation="bicubic",
        color=recipe.data.color,
        mean=facts.mean if len(facts.mean) == channels else facts.mean * 3,
        std=facts.std if len(facts.std) == channels else facts.std * 3,
    )


def _fits(network: nn.Module, preprocess: Preprocess, name: str) -> None:
    """One image through the network, before anything is written. Raises InputError with the network's reason."""
    import torch

    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, len(preprocess.mean), *preprocess.image_size, device=device))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def _as_trained(data: str | Path, card: Card) -> tuple[Dataset, bool]:
    """``data`` divided as it was for training if these are the very images, and whether they are."""
    split = card.data.get("split", {})
    fractions = split.get("fractions", {})
    # A run without a val split must not be given one now: its images were trained on.
    for val_fraction in (fractions.get("val", 0.0), None):
        with contextlib.suppress(InputError):  # data with a val split of its own takes None alone
            dataset = open_dataset(data, seed=split.get("seed", 0), val_fraction=val_fraction)
            if dataset.fingerprint == card.data.get("fingerprint"):
                return dataset, True
    return open_dataset(data), False


def _all(dataset: Dataset) -> Split:
    """Every image of a tree that was divided, in one split."""
    splits = list(dataset.splits.values())
    together: dict[str, Any] = {
        key: np.concatenate([getattr(split, key) for split in splits]) for key in ("labels", "names", "sizes")
    }
    if splits[0].arrays is not None:
        together["arrays"] = np.concatenate([split.arrays for split in splits])
    return dataclasses.replace(splits[0], **together)


def _versions() -> dict[str, str]:
    names = ("vitnext", "torch", "torchvision", "numpy", "pillow")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _speaker(console: Console | None) -> Callable[[str], None]:
    if console is None:
        return lambda line: None
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)
