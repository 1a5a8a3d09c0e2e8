"""The folder of a run: what it holds, and whether a run may begin or go on in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitnext.card import Card, read_card
from vitnext.errors import DiskError, ImageError, InputError, WorkerError, WorkError
from vitnext.files import writable_folder
from vitnext.recipe import Recipe, override, read

ARTIFACT, STATE, RECIPE = "model.safetensors", "last.pt", "recipe.yaml"
BEGUN = "card.json"  # the card of its model before anything was measured


def run_name(data: str | Path) -> str:
    """What a run on ``data`` is called if nothing is said: a folder's name, or a table's without its extension."""
    path = Path(data).resolve()
    return path.stem if path.is_file() else path.name


def require_free(folder: Path) -> None:
    """Raises InputError if no new run can be kept in ``folder``."""
    writable_folder(folder)
    if (folder / STATE).exists():
        raise InputError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")
    if (folder / ARTIFACT).exists():
        raise InputError(f"{folder} holds a model already: choose another --out")


def finished(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end: its model is measured. Raises InputError for a damaged model."""
    artifact = folder / ARTIFACT
    return artifact.is_file() and (folder / "metrics.json").is_file() and "seconds" in read_card(artifact).metrics


def require_run(folder: Path) -> None:
    """Raises InputError if there is no run in ``folder``, or none that can go on."""
    if not (folder / RECIPE).is_file():
        raise InputError(f"there is no run in {folder} to go on with: start it without --resume")
    if not (folder / STATE).exists():
        other = " and with another --out" if (folder / ARTIFACT).exists() else ""
        raise InputError(f"there is nothing to resume: {folder / STATE} does not exist; start without --resume{other}")


def recipe_of_run(folder: Path, model: str | None, recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe that the run in ``folder`` was started with; what is given now must not say otherwise."""
    from vitnext.models import catalog, create

    require_run(folder)
    if recipe is not None:
        raise InputError("--resume goes on with the run's own recipe: leave --recipe out")
    full = read(folder / RECIPE)
    known = full.model.name
    if model not in (None, known) and (create.is_segmenter(known) or model != catalog.family_of(known)):
        raise InputError(f"the run in {folder} trains {known}, not {model}: leave --model out")
    return override(full, overrides)


def card_of_run(folder: Path) -> Card:
    """The card that the run in ``folder`` began with. Raises InputError if there is none, or it is damaged."""
    from vitnext.training.checkpoint import ANEW

    try:
        return Card.from_json((folder / BEGUN).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder / BEGUN} cannot be read ({error.strerror}): {ANEW}") from error


def require_weights(artifact: Path, card: Card, stopped: dict[str, Any], recipe: Recipe, select: bool) -> None:
    """Raises InputError if a run's model file is not the one that it kept, or is gone, and neither last.pt nor the
    epochs to come can replace it."""
    from vitnext.training.checkpoint import ANEW

    kept, epoch = stopped["kept_epoch"], stopped["epoch"]
    needed = select and kept and not kept == epoch == recipe.schedule.epochs
    if artifact.exists():
        with contextlib.suppress(InputError):  # damaged
            there = read_card(artifact)
            found = there.architecture, there.classes, there.metrics.get("epoch")
            if found == (card.architecture, card.classes, kept):
                return
        mend = ANEW if needed else "remove it to go on"
        raise InputError(f"{artifact} is damaged, or not what the run kept (epoch {kept}): put that back, or {mend}")
    if needed:
        raise InputError(f"{artifact} is gone, and with it the weights of epoch {kept}: {ANEW}")


@contextlib.contextmanager
def disk_may_be_full(folder: Path, again: str) -> Iterator[None]:
    """Adds to a DiskError what is left of the run, and ``again``, the command that goes on with it."""
    try:
        yield
    except DiskError as error:
        left = f"the last checkpoint is kept; make room and go on with: {again}"
        if not (folder / STATE).exists():
            left = "nothing was saved yet; make room and start again"
        raise DiskError(f"{error}; {left}") from error


@contextlib.contextmanager
def workers_may_die(folder: Path, again: str) -> Iterator[None]:
    """Raises WorkError if a process that decodes images is killed; ``again`` is the command that goes on, which an
    image that cannot be read is told with, too."""
    try:
        yield
    except ImageError as error:
        if not (folder / STATE).exists():
            raise ImageError(f"{error}; mend or remove it, or add --skip-unreadable") from None
        on = f"{again} --accept-changes" if "--accept-changes" not in again else again
        raise ImageError(f"{error}; mend it, or add --skip-unreadable, and go on with: {on}") from None
    except WorkerError as error:
        saved = (folder / STATE).exists()
        go_on = f"go on from the last checkpoint with: {again}" if saved else "nothing was saved yet: start again"
        raise WorkError(f"{error}; {go_on}") from error
