"""What a run is to do: its recipe, in which nothing is left open, and the data, recognised, divided and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vitnext.api.checks import checked
from vitnext.api.console import Say
from vitnext.api.folder import card_of_run, recipe_of_run, require_free
from vitnext.card import Card
from vitnext.data.dataset import Dataset, held_out, open_dataset, regroup
from vitnext.data.facts import Facts, look_at
from vitnext.data.loaders import on_gpu
from vitnext.errors import InputError
from vitnext.models import create
from vitnext.recipe import AUTO, Recipe, override, read
from vitnext.training import defaults, distributed, mask_defaults
from vitnext.training.task import require_labels, require_suitable


def begin(
    data: str | Path,
    folder: Path,
    *,
    model: str | None,
    pretrained: str,
    recipe: str | None,
    overrides: Sequence[str],
    say: Say,
    keeps: bool = True,
    opened: Callable[[], Dataset[Any]] | None = None,
) -> tuple[Recipe, Dataset[Any], Facts | Card]:
    """Of a new run: what the user left open is chosen from the images and the machine, and said. The third are the
    facts of the training images.

    keeps: whether the run is to be kept in ``folder``, where then no other may be; opened: what gives the data set, if
    it is not to be opened here.

    Mistakes in the arguments are found first, then those in the layout of the data, then in ``folder``; only then is
    every image read, and only then are weights fetched.
    """
    require_one_model(model, overrides)
    if model is not None:
        create.family_of(model)
    asked = override(read(recipe) if recipe is not None else Recipe(), overrides)
    if opened is None:
        opened = partial(open_dataset, data, seed=asked.seed, val_fraction=asked.data.val_fraction)
    with say.waiting(f"opening {data}"):
        dataset = opened()
    for named in (model, read(recipe).model.name if recipe is not None else None):
        require_labels(named or "", dataset)
    if keeps:
        require_free(folder)
    say(dataset.line)
    dataset = regroup(dataset, asked.data.merge, asked.data.ignore)
    facts = look_at(dataset.splits["train"])
    semantic, gpu = dataset.task == "semantic", on_gpu(asked)
    watched = len(dataset.splits.get("val", ())) or len(held_out(dataset)[1])
    default, small = ("masks_finetune", mask_defaults.SMALL) if semantic else ("photos_finetune", defaults.SMALL)
    start = defaults.starting_point(
        pretrained, facts, model=model, recipe=recipe, overrides=overrides, default=default, small=small
    )

    # The recipes' learning rates suit both optimizers.
    divided = ["optimizer.name=adamw"] if asked.parallel == "fsdp" and distributed.active() and recipe is None else []

    def choose() -> defaults.Choice:
        require_labels(start.model or "", dataset)
        said = [*divided, *overrides, *start.overrides]
        if semantic:
            choice = mask_defaults.choose_segmenter(
                facts,
                model=start.model,
                recipe=recipe,
                pretrained=start.pretrained,
                gpu=gpu,
                objects=dataset.has_instances,
                watched=watched,
                overrides=said,
            )
        else:
            choice = defaults.choose(
                facts, model=start.model, recipe=recipe, pretrained=start.pretrained, gpu=gpu, overrides=said
            )
        require_suitable(choice.recipe, dataset)
        return choice

    choice = choose() if start.model is not None or not start.fetch else None
    dataset = checked(dataset, asked.data.skip_unreadable, say)
    if start.fetch:
        start = defaults.fetched(start, pretrained, model)
        choice = choose()
    assert choice is not None
    for reason in (*start.reasons, *choice.reasons):
        say(reason)
    if divided and not any(said.startswith("optimizer.name=") for said in overrides):
        say("optimizer adamw: muon needs whole matrices, which parallel=fsdp divides")
    return choice.recipe, dataset, facts


def require_one_model(model: str | None, overrides: Sequence[str]) -> None:
    """Raises InputError where an override names another model than ``model``."""
    named = dict(each.partition("=")[::2] for each in overrides).get("model.name", model)
    if model is not None and named != model:
        raise InputError(f"the model is {model}, and model.name={named}: leave one of them out")


def go_on(
    data: str | Path,
    folder: Path,
    *,
    model: str | None,
    pretrained: str,
    recipe: str | None,
    overrides: Sequence[str],
    say: Say,
) -> tuple[Recipe, Dataset[Any], Facts | Card]:
    """Of the run in ``folder``: its own recipe, in which ``overrides`` may change a few fields, and the card that it
    began with."""
    theirs = recipe_of_run(folder, model, recipe, overrides)
    same = pretrained in ("auto", theirs.model.pretrained) or str(Path(pretrained).resolve()) == theirs.model.pretrained
    if not same:
        began = "from scratch" if theirs.model.pretrained == "none" else f"from {theirs.model.pretrained}"
        raise InputError(f"the run in {folder} began {began}, not from {pretrained}: leave --pretrained out")
    if AUTO in (theirs.optimizer.learning_rate, theirs.batch_size):
        raise InputError("--resume goes on with what the run decided: leave auto out")
    with say.waiting(f"opening {data}"):
        dataset = open_dataset(data, seed=theirs.seed, val_fraction=theirs.data.val_fraction)
    say(dataset.line)
    dataset = regroup(dataset, theirs.data.merge, theirs.data.ignore)
    require_suitable(theirs, dataset)
    return theirs, checked(dataset, theirs.data.skip_unreadable, say), card_of_run(folder)
