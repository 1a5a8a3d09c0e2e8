"""What ``vitnext.NAME`` and the command line call: the parts, tied together."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from vitnext.card import Card, read_card
from vitnext.data import doctor, mask_doctor, table
from vitnext.data.coco_folder import category_ids
from vitnext.data.dataset import Dataset, Split, held_out, open_dataset, regroup
from vitnext.errors import InputError, Terminated, WorkError, require
from vitnext.files import atomic_write, held, writable_folder
from vitnext.inference.predictor import Predictor, load
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe, override, read

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from vitnext.data.facts import Facts
    from vitnext.export.onnx import ExportReport
    from vitnext.weights.adapt import Resize


HEADLINES = {  # of the metrics, what the card repeats
    "classification": ("n", "top1", "top1_interval", "top5", "macro_f1", "ece"),
    "multilabel": ("n", "map", "map_interval", "micro_f1", "macro_f1"),
    "semantic": ("n", "miou", "pixel_accuracy", "boundary_iou", "ece"),
    "panoptic": ("n", "pq", "sq", "rq", "miou", "ap", "ap50", "ap75"),
}
UNREADABLE = ("unreadable", "unreadable_mask", "size", "no_file")  # findings that --skip-unreadable leaves out
ENDLESS = 100_000  # epochs, where steps or minutes end a run
BEGUN = "card.json"  # of a run: the card of its model before anything was measured


@dataclass(frozen=True)
class TrainResult:
    """artifact: the model file; metrics: of the held-out images, as ``evaluate`` gives them; out: the run's folder."""

    artifact: Path
    metrics: dict[str, Any]
    out: Path


def create_model(
    name: str,
    classes: int | Sequence[str] | None = None,
    *,
    pretrained: str | Path | None = None,
    resize: Resize = "antialias",
    **config: Any,
) -> nn.Module:
    """A model, freshly initialised or with weights: ``create_model("convnext_tiny", classes=10)``.

    ``classes`` is a count or a list of names (default: the weights', else the family's; 0 gives the pooled feature);
    ``config`` overrides fields of the family's config. ``pretrained`` is a file of weights, in whose names whatever
    (timm's, torchvision's, transformers', the authors', our own), or a name on the hub: "timm/convnext_tiny.fb_in1k".
    What they do not fit, they are adapted to (image size, channels, windows, a new head); ``resize`` says how position
    embeddings are: "antialias", "offset" (as DINOv2's authors) or "plain". What was done is logged by
    ``logging.getLogger("vitnext")`` at level INFO, and at WARNING what restricts the use of the weights.

    The model maps normalised float images (B, C, H, W) to logits (B, classes); a segmenter, "convnext_tiny+upernet" or
    "segformer_b0", to logits (B, classes, H, W); "vit_small+eomt" and "swin_tiny+mask2former" to masks and
    classes of queries. A segmenter takes a segmenter's weights, or a classifier's for its backbone alone.

    Raises InputError for an unknown name, field or value and for weights that cannot be read or do not fit, and
    WorkError when they cannot be downloaded.
    """
    require("torch", "train")
    from vitnext.models import create

    if isinstance(classes, str):
        raise InputError(f"classes is {classes!r}: give a count or a list of names")
    if classes is not None:
        config["classes"] = classes if isinstance(classes, int) else len(classes)
    if pretrained is None:
        return create.build(name, **config)
    from vitnext.weights.pretrained import load as load_weights

    loaded = load_weights(pretrained, name, config, resize=resize)
    for line in loaded.lines:
        logging.getLogger("vitnext").info(line)
    if loaded.source is not None and not loaded.source.permissive:
        logging.getLogger("vitnext").warning("%s: %s", loaded.source.name, loaded.source.terms)
    return loaded.model


def train(
    data: str | Path,
    *,
    model: str | None = None,
    pretrained: str | Path = "auto",
    out: str | Path | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    seed: int | None = None,
    skip_unreadable: bool = False,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> TrainResult:
    """Train a classifier, or on data with masks a segmenter, and leave model, recipe, journal, metrics and report in
    ``out``.

    What is not given is chosen from the images and the machine, and said on ``console``. ``pretrained`` is "none", a
    file of weights or a name on the hub; "auto" takes, for photographs and without a ``recipe``, published weights of
    the model that allow any use, if they are in the cache or can be fetched, else none. With ``resume`` the run in
    ``out`` goes on where it was stopped; its own recipe is used, and what is said may change the fields of
    ``training.checkpoint.CHANGEABLE`` in it. Mistakes in the arguments are found first, then those in the layout of the
    data, then in ``out``; only then is every image read.

    Raises InputError for wrong input, WorkError for a run that fails, and, after the run was saved, KeyboardInterrupt
    for Ctrl-C and Terminated, a SystemExit, for SIGTERM.
    """
    require("torch", "train")
    import torch
    from rich.console import Console

    from vitnext.data.facts import look_at
    from vitnext.evaluation.multilabel import choose_thresholds
    from vitnext.evaluation.panoptic import PanopticQuality
    from vitnext.inference.multilabel import UNDECIDED
    from vitnext.models import catalog, create
    from vitnext.training import defaults, mask_defaults
    from vitnext.training.checkpoint import load_run
    from vitnext.training.console import SCORES, ConsoleWatcher
    from vitnext.training.freezing import freeze
    from vitnext.training.hardware import choose_device, choose_precision, keep_heap, suitable_threads
    from vitnext.training.loop import Interrupted, Metrics, Normalize, Progress, fit
    from vitnext.training.task import (
        require_labels,
        require_statistics,
        require_suitable,
        task_name,
        task_of,
        things_of,
    )
    from vitnext.weights.artifact import build_model, load_artifact, save_artifact
    from vitnext.weights.pretrained import customary
    from vitnext.weights.pretrained import load as load_weights

    say = _speaker(console)
    folder = Path(out) if out is not None else Path("runs") / run_name(data)
    said = list(overrides)
    said += [f"schedule.epochs={epochs}"] if epochs is not None else []
    said += [f"schedule.steps={steps}"] if steps is not None else []
    said += [f"schedule.minutes={minutes}"] if minutes is not None else []
    if (steps is not None or minutes is not None) and epochs is None:
        said += [f"schedule.epochs={ENDLESS}"]
    said += [f"seed={seed}"] if seed is not None else []
    said += ["data.skip_unreadable=true"] if skip_unreadable else []
    if resume:
        if pretrained != "auto":
            raise InputError("--resume goes on from the run's own weights: leave --pretrained out")
        full = _recipe_of_run(folder, model, recipe, said)
        dataset = open_dataset(data, seed=full.seed, val_fraction=full.data.val_fraction)
        say(dataset.line)
    else:
        if model is not None:
            create.family_of(model)
        override(read(recipe) if recipe is not None else Recipe(), said)
        dataset = open_dataset(data, seed=seed or 0)
        for named in (model, read(recipe).model.name if recipe is not None else None):
            require_labels(named or "", dataset)
        _require_free(folder)
        facts = look_at(dataset.splits["train"])
        semantic = dataset.task == "semantic"
        default, small = ("masks_finetune", mask_defaults.SMALL) if semantic else ("photos_finetune", defaults.SMALL)
        start = defaults.starting_point(
            str(pretrained), facts, model=model, recipe=recipe, overrides=said, default=default, small=small
        )
        require_labels(start.model or "", dataset)
        said += start.overrides
        gpu = torch.cuda.is_available()
        if semantic:
            choice = mask_defaults.choose_segmenter(
                facts,
                model=start.model,
                recipe=recipe,
                pretrained=start.pretrained,
                gpu=gpu,
                objects=dataset.has_instances,
                watched=len(dataset.splits.get("val", ())) or len(held_out(dataset)[1]),
                overrides=said,
            )
        else:
            choice = defaults.choose(
                facts, model=start.model, recipe=recipe, pretrained=start.pretrained, gpu=gpu, overrides=said
            )
        full = choice.recipe
        if full.data.val_fraction is not None or full.seed != (seed or 0):
            dataset = open_dataset(data, seed=full.seed, val_fraction=full.data.val_fraction)
        say(dataset.line)
        for reason in (*start.reasons, *choice.reasons):
            say(reason)
    require_suitable(full, dataset)
    dataset = regroup(dataset, full.data.merge, full.data.ignore)
    dataset = _checked(dataset, full.data.skip_unreadable, say)
    facts = look_at(dataset.splits["train"])

    device = choose_device(full.device)
    keep_heap()
    torch.manual_seed(full.seed)
    config = defaults.model_config(full, len(dataset.classes))
    preprocess = _preprocess(full, facts)
    licence = "none: trained from scratch; the licence of the training images applies"
    if full.model.pretrained == "none":
        network = create.build(full.model.name, **config).to(device)
    elif resume:  # the weights are in last.pt, and where they began is no longer needed
        begun = _card_of_run(folder)
        network, licence, preprocess = build_model(begun).to(device), begun.licence, begun.preprocess
    else:
        loaded = load_weights(full.model.pretrained, full.model.name, config, classes=dataset.classes)
        for line in loaded.lines:
            say(line)
        network, licence = loaded.model.to(device), loaded.licence
        theirs = loaded.preprocess or customary(
            create.backbone_of(full.model.name), config, loaded.path
        )  # the colours that the weights have learnt to see
        if len(theirs.mean) == len(preprocess.mean):
            preprocess = dataclasses.replace(
                preprocess, mean=theirs.mean, std=theirs.std, interpolation=theirs.interpolation
            )
    crop = (full.data.image_size,) * 2
    _fits(network, full.model.name, preprocess.channels, preprocess.image_size, crop)
    require_statistics(network, full, len(dataset.splits["train"]))
    if full.optimizer.train_blocks is not None:
        freeze(network, full.optimizer.train_blocks)
    if catalog.FAMILIES[create.family_of(full.model.name)].channels_last:
        network = network.to(memory_format=torch.channels_last)
    # Without a validation split the test images are watched but choose nothing: the last epoch is the model.
    select = "val" in dataset.splits
    watched = "val" if select else held_out(dataset)[0]
    task = task_of(dataset, watched, preprocess, full, PanopticQuality)
    learnt = task_name(dataset, full.model.name)
    parameters = sum(p.numel() for p in network.parameters())
    say(f"model {full.model.name}: {parameters:,} parameters, {full.data.image_size} px, on {device}")
    say(f"data  {task.batches.description}")
    macs = catalog.count_macs(network, full.data.image_size) * full.batch_size
    again = f"vitnext train {shlex.quote(str(data))} --out {shlex.quote(str(folder))} --resume"
    with _workers_may_die(folder, again):
        images, truth = (tensor.to(device) for tensor in next(task.batches.epoch(0)))
    with suitable_threads(macs):
        sample = (Normalize(preprocess, device)(images), truth)
        precision = choose_precision(full.precision, network, task.objective, sample)
    if full.precision == "auto":  # decided once and written down, so that recipe.yaml repeats the run
        full = dataclasses.replace(full, precision=precision.name)
        say(f"precision {precision.name}: {precision.reason}")

    if full.schedule.patience and not select:
        raise InputError("schedule.patience needs validation images: set data.val_fraction above 0, or give val/")
    artifact = folder / "model.safetensors"
    card = Card(
        task=learnt,
        architecture=full.model.name,
        config=create.config_dict(network),
        classes=dataset.classes,
        preprocess=preprocess,
        metrics={},
        data={
            "name": dataset.name,
            "kind": dataset.kind,
            "fingerprint": dataset.fingerprint,
            "split": dataset.split_rule,
            "counts": {name: len(split) for name, split in dataset.splits.items()},
            **_category_ids(dataset),
        },
        recipe=full.to_dict(),
        versions=_versions(),
        licence=licence,
        colors=dataset.splits["train"].values.palette if dataset.task == "semantic" else (),
        things=things_of(dataset.splits["train"]) if learnt == "panoptic" else (),
        thresholds=(UNDECIDED,) * len(dataset.classes) if dataset.task == "multilabel" else (),
    )

    def keep(network: nn.Module, progress: Progress, metrics: Metrics) -> None:
        values = {watched: metrics, "epoch": progress.epoch}
        save_artifact(artifact, network, dataclasses.replace(card, metrics=values))

    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / "last.pt.lock", f"another training is writing to {folder}: choose another --out"):
        saved = None
        if resume:  # what was said with it may yet be refused; then the run stays as it is
            saved = load_run(folder / "last.pt", full, dataset.fingerprint, task.batches.steps_per_epoch)
            if not artifact.exists():
                _require_weights(artifact, saved["progress"], full, select)
        else:
            _require_free(folder)  # another run may have come and gone since
        with atomic_write(folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(full.to_dict(), sort_keys=False), encoding="utf-8")
        if not resume:
            with atomic_write(folder / BEGUN) as temporary:
                temporary.write_text(card.to_json() + "\n", encoding="utf-8")
        score = task.validate.score
        known = full.schedule.epochs if full.schedule.epochs < ENDLESS else None
        watcher = ConsoleWatcher(console or Console(quiet=True), known, watched, score)
        with watcher, suitable_threads(macs), _workers_may_die(folder, again):
            try:
                end = fit(
                    network,
                    task.batches,
                    task.objective,
                    task.validate,
                    full,
                    preprocess,
                    precision,
                    folder=folder,
                    keep=keep,
                    watch=watcher,
                    fingerprint=dataset.fingerprint,
                    mix=task.mix,
                    select=select,
                    resume=saved,
                )
            except Interrupted as stop:
                if stop.signal == signal.SIGTERM:
                    raise Terminated(f"terminated and saved; go on with: {again}") from None
                raise KeyboardInterrupt(f"stopped and saved; go on with: {again}") from None
        if not artifact.exists():  # the kept epoch is the last one
            keep(network, end, {score: end.kept_score, "loss": end.kept_loss})
        patience = full.schedule.patience
        if patience and end.epoch - end.best_epoch >= patience and end.epoch < full.schedule.epochs:
            say(f"stopped early: no better validation {SCORES[score]} since epoch {end.best_epoch}")

        trained, _ = load_artifact(artifact)
        if dataset.task == "multilabel" and select:  # never on test images
            chosen = choose_thresholds(load(artifact), dataset.splits["val"], full.data.skip_unreadable)
            card = dataclasses.replace(card, thresholds=chosen)
            keep(trained, end, {score: end.kept_score, "loss": end.kept_loss})
            say("thresholds: of each class the one with the highest F1 on the validation images")
        elif dataset.task == "multilabel":
            say(f"thresholds: {UNDECIDED} for every class, as there are no validation images")

        # The measured thing is the served thing: the artifact is read back and predicts the held-out images.
        name, split = held_out(dataset)
        metrics = _evaluator(learnt)(
            load(artifact),
            split,
            out=folder,
            name=dataset.name,
            split_name=name,
            skip_unreadable=full.data.skip_unreadable,
        )
        measured: dict[str, Any] = {watched: {score: end.kept_score, "loss": end.kept_loss}}
        measured[name] = {key: metrics[key] for key in HEADLINES[learnt]}
        measured |= {"epoch": end.kept_epoch, "seconds": end.seconds}
        save_artifact(artifact, trained, dataclasses.replace(card, metrics=measured))
    if learnt == "panoptic":
        say(f"{name} PQ {100 * metrics['pq']:.2f}%, mIoU {100 * metrics['miou']:.2f}% of {metrics['n']:,} images")
    elif learnt == "semantic":
        say(f"{name} mIoU {100 * metrics['miou']:.2f}% of {metrics['n']:,} images")
    elif dataset.task == "multilabel":
        found = "undefined, no label is true," if metrics["map"] is None else f"{100 * metrics['map']:.2f}%"
        say(f"{name} mAP {found} of {metrics['n']:,} images")
    else:
        low, high = (100 * bound for bound in metrics["top1_interval"])
        say(f"{name} top-1 {100 * metrics['top1']:.2f}% (95%: {low:.1f}-{high:.1f}) of {metrics['n']:,} images")
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
    tta: bool = False,
    progress: Callable[[int, int], None] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a model on labelled images; metrics.json and report.html go to ``out`` if given.

    ``engine`` and ``tta`` say how a file is loaded, as of `load`.

    Of data with splits the test images are used, else val, unless ``split`` names another. Of one class-folder tree
    the images that training held out, if the model was trained on this very tree, else all.

    Raises InputError for wrong input, such as a class that the model does not know.
    """
    predictor = model if isinstance(model, Predictor) else load(model, engine=engine, tta=tta)
    dataset = _as_trained(data, predictor.card) or open_dataset(data, whole=split is None)
    if split is not None and split not in dataset.splits:
        raise InputError(f"{data} has no {split} split; there are {', '.join(dataset.splits)}")
    name = split or ("all" if "all" in dataset.splits else held_out(dataset)[0])
    _require_task(predictor, dataset)
    if dataset.task == "semantic":
        dataset = _regrouped_as(dataset, predictor.card)
    images = dataset.splits[name]
    say = _speaker(console)
    say(f"{dataset.name}: {name} split, {len(images):,} images")
    if name == "all" and dataset.name == predictor.card.data.get("name"):
        say("warning: the images are not those of the training, which had the same name; some may have been trained on")
    return _evaluator(predictor.card.task)(
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

    ``images`` is a folder, a table or a built-in name; the data the model was trained on is the natural choice.
    Without it, deterministic synthetic images are compared. Raises WorkError if the answers differ, InputError for
    wrong input.
    """
    from vitnext.export.onnx import export_onnx
    from vitnext.inference.sources import find_images

    if to != "onnx":
        raise InputError(f'cannot export to "{to}": give onnx')
    sources: list[Any] | None = None
    if images is not None:
        if Path(images).exists() and Path(images).suffix.lower() not in table.EXTENSIONS:
            sources = list(find_images([images]))
        else:
            _, split = held_out(open_dataset(images))
            sources = [split.image(i) for i in range(len(split))]
    return export_onnx(Path(model), Path(out) if out is not None else Path(model).with_suffix(".onnx"), sources)


def _evaluator(task: str) -> Callable[..., dict[str, Any]]:
    from vitnext.evaluation import classification, multilabel, panoptic, semantic

    evaluators: dict[str, Callable[..., dict[str, Any]]] = {
        "classification": classification.evaluate,
        "multilabel": multilabel.evaluate,
        "semantic": semantic.evaluate,
        "panoptic": panoptic.evaluate,
    }
    return evaluators[task]


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


def _category_ids(dataset: Dataset[Any]) -> dict[str, list[int]]:
    """For the card: what COCO's file calls the classes, if they come from one."""
    ids = category_ids(dataset.splits["train"]) if dataset.kind == "coco" else None
    return {} if ids is None else {"category_ids": ids}


def _require_free(folder: Path) -> None:
    """Raises InputError if no new run can be kept in ``folder``."""
    writable_folder(folder)
    if (folder / "last.pt").exists():
        raise InputError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")
    if (folder / "model.safetensors").exists() and not _barely_begun(folder):
        raise InputError(f"{folder} holds a model already: choose another --out")


def _barely_begun(folder: Path) -> bool:
    """Whether the model in ``folder`` is that of a run which was killed before its first last.pt: it may begin anew."""
    with contextlib.suppress(InputError):
        return (folder / BEGUN).exists() and not finished(folder)
    return False


def finished(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end: its model is measured. Raises InputError for a damaged model."""
    artifact = folder / "model.safetensors"
    return artifact.is_file() and (folder / "metrics.json").is_file() and "seconds" in read_card(artifact).metrics


def _card_of_run(folder: Path) -> Card:
    """The card that the run in ``folder`` began with. Raises InputError if there is none, or it is damaged."""
    from vitnext.training.checkpoint import ANEW

    try:
        return Card.from_json((folder / BEGUN).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder / BEGUN} cannot be read ({error.strerror}): {ANEW}") from error


@contextlib.contextmanager
def _workers_may_die(folder: Path, again: str) -> Iterator[None]:
    """Raises WorkError if a process that decodes images is killed; ``again`` is the command that goes on."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two where it died in handing a batch over
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        go_on = f", and go on from the last checkpoint with: {again}" if (folder / "last.pt").exists() else ""
        raise WorkError(
            f"a worker process died, perhaps because memory ran out: if so, set workers lower{go_on}"
        ) from error


def _require_weights(artifact: Path, stopped: dict[str, Any], recipe: Recipe, select: bool) -> None:
    """Of a run whose model file is gone: raises InputError if neither last.pt nor the epochs to come can replace it."""
    from vitnext.training.checkpoint import ANEW

    kept, epoch = stopped["kept_epoch"], stopped["epoch"]
    if select and kept and not kept == epoch == recipe.schedule.epochs:
        raise InputError(f"{artifact} is gone, and with it the weights of epoch {kept}: {ANEW}")


def convert(
    weights: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    console: Console | None = None,
) -> Path:
    """Write other people's weights, a file or a name on the hub, as an artifact; what was done is said on ``console``.

    ``model`` is recognised if not given. ``classes`` names the outputs of the head in their order: a list, or a file
    with a name a line; outputs without names are numbered. Images are prepared as is published of these weights, or,
    if nothing is known of them, in the customary way, which is said.

    Raises InputError for wrong input and WorkError when the weights cannot be downloaded or ``out`` not be written.
    """
    require("torch", "train")
    from vitnext.models import create
    from vitnext.weights import pretrained
    from vitnext.weights.artifact import save_artifact
    from vitnext.weights.hub import sha256

    say = _speaker(console)
    loaded = pretrained.load(weights, model, as_published=True)
    for line in loaded.lines:
        say(line)
    if loaded.new_head:
        raise InputError(
            f"{weights} has no head of a {loaded.name}, which would predict nothing: train it, with --pretrained"
        )
    full = create.config_dict(loaded.model)
    preprocess = loaded.preprocess
    if preprocess is None:
        preprocess = pretrained.customary(loaded.name, full, loaded.path)
        size = preprocess.image_size[0]
        how = f"stretched to {size} x {size} px"
        if preprocess.resize == "crop":
            how = f"{size} px from the centre of {round(size / preprocess.crop_fraction)}"
        say(
            f"images: how these weights want them is not known; customary is taken: {how}, mean {preprocess.mean}, "
            f"std {preprocess.std}"
        )
    _fits(loaded.model, loaded.name, preprocess.channels, preprocess.image_size)
    names = _class_names(classes, loaded.classes, full["classes"])
    if not names:
        say("there is no head, so nothing is predicted: train from it, with --pretrained")
    elif names == tuple(map(str, range(len(names)))):
        say(f"the classes have no names: they are numbered 0 to {len(names) - 1} (--classes FILE names them)")
    card = Card(
        task=create.task_of(loaded.name) if names else "features",
        architecture=loaded.name,
        config=full,
        classes=names,
        preprocess=preprocess,
        metrics=loaded.source.published if loaded.source else {},
        data={"name": str(weights), "kind": "weights", "sha256": sha256(loaded.path)},
        recipe={},
        versions=_versions(),
        licence=loaded.licence,
    )
    if loaded.card is not None:  # an artifact of ours, which knows what it was trained and measured on
        card = dataclasses.replace(loaded.card, config=full, classes=names, preprocess=preprocess)
    out = Path(out)
    save_artifact(out, loaded.model, card)
    return out


def _class_names(
    given: str | Path | Sequence[str] | None, known: tuple[str, ...] | None, outputs: int
) -> tuple[str, ...]:
    """A name for each of a head's outputs: the given ones, those that the weights came with, or numbers."""
    if given is None:
        return known if known is not None else tuple(map(str, range(outputs)))
    if isinstance(given, str | Path):
        try:
            lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is no text in UTF-8"
            raise InputError(f"{given}: the names of the classes cannot be read ({reason})") from error
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(given)
    if len(names) != outputs:
        raise InputError(f"{len(names)} names of classes for a head of {outputs}: give one for each output, in order")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f'two classes are called "{twice}": give each a name of its own')
    return names


def run_name(data: str | Path) -> str:
    """What a run on ``data`` is called if nothing is said: a folder's name, or a table's without its extension."""
    path = Path(data).resolve()
    return path.stem if path.is_file() else path.name


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


def _checked(dataset: Dataset[Any], skip_unreadable: bool, say: Callable[[str], None]) -> Dataset:
    """Let the doctor look before training: warnings are said, errors stop unless they can be skipped."""
    semantic = dataset.task == "semantic"
    report = mask_doctor.check(dataset) if semantic else doctor.check(dataset)
    for finding in report.warnings:
        say(f"warning: {finding.message}")
    for finding in report.errors:
        if finding.kind in UNREADABLE and skip_unreadable:
            say(f"skipped: {finding.message}")
            for item in finding.items[doctor.EXAMPLES :]:  # the message names the first ones
                say(f"skipped: {item}")
        elif finding.kind in UNREADABLE:
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
            raise InputError(f"{dataset.name}: none of the {len(split):,} {name} images can be used")
        splits[name] = split.subset(good)
    readable = dataclasses.replace(dataset, splits=splits)
    again = mask_doctor.check(readable) if semantic else doctor.check(readable, decode=False)
    for finding in again.errors:  # a class may have lost all of its images
        raise InputError(finding.message)
    return readable


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


def _fits(network: nn.Module, name: str, channels: int, *sizes: tuple[int, int]) -> None:
    """An image of each size through the network, before anything is written. Raises InputError with its reason."""
    import torch

    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            for size in dict.fromkeys(sizes):
                network.eval()(torch.zeros(1, channels, *size, device=device))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


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
