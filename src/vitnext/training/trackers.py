"""Experiment trackers beside the journal: TensorBoard, Weights & Biases, MLflow, each if it is installed and asked for.

One run of training is one run there, with the recipe as its configuration: ``folder/tracker.json`` remembers which, so
that a resumed run goes on in it. What was told before a kill and is measured again after it is told once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vitnext.errors import InputError, require
from vitnext.files import atomic_write

PROJECT = "vitnext"  # of W&B, where WANDB_PROJECT does not say otherwise, and the experiment of MLflow
REMEMBERED = "tracker.json"
PACKAGES = {"tensorboard": ("tensorboard", "track"), "wandb": ("wandb", "wandb"), "mlflow": ("mlflow", "mlflow")}


class Tracker(Protocol):
    """Where a run's curves are drawn."""

    id: str  # by which a resumed run is found

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self, stopped: bool) -> None: ...  # stopped: before its end


class TensorBoard:
    """Files in ``folder/tensorboard``. What lies beyond the step that a run goes on from is hidden."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = folder.name
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if known else None)
        if known is None:
            self._writer.add_text("recipe", "```\n" + json.dumps(config, indent=2) + "\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, stopped: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B, set by its own environment variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline, ..."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None, step: int) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=known,
            resume="allow" if known else None,
            dir=str(folder),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.config.update(dict(config), allow_val_change=True)
        self.id = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, stopped: bool) -> None:
        self._run.finish(exit_code=int(stopped))


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says, else in ``folder/mlflow.db``. Its parameters are those that the
    run began with: MLflow lets none change."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None, step: int) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        if known is not None:
            self.id = known
            self._client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        self.id = self._client.create_run(number, run_name=folder.resolve().name).info.run_id
        self._client.log_batch(self.id, params=[Param(key, str(value)) for key, value in _leaves(config)])

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, stopped: bool) -> None:
        self._client.set_terminated(self.id, status="KILLED" if stopped else "FINISHED")


KINDS: dict[str, Callable[[Path, Mapping[str, Any], str | None, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def require_tracker(track: str) -> None:
    """Raises InputError if the recipe's tracker is not installed."""
    if track in PACKAGES:
        require(*PACKAGES[track])


class Tracking:
    """The run of ``folder`` in the tracker that the recipe names.

    config: the recipe; told: the last event of the journal before it is cut back, (step, whether it ends an epoch), or
    None of a new run; step: the one that the run goes on from. A tracker that fails later is given up with a warning:
    the journal has all.

    Raises InputError if it is not installed or does not begin.
    """

    def __init__(
        self, track: str, folder: Path, config: Mapping[str, Any], told: tuple[int, bool] | None, step: int
    ) -> None:
        require_tracker(track)
        path = folder / REMEMBERED
        before = {} if told is None else _remembered(path).get(track, {})
        self._track, self._again = track, track != "tensorboard"
        self._told = max(told or (0, False), (before["step"], before["epoch"])) if before else (0, False)
        try:
            self._tracker: Tracker | None = KINDS[track](folder, config, before.get("id"), step)
        except Exception as error:  # each tracker has errors of its own
            offline = "; WANDB_MODE=offline keeps the run here" if track == "wandb" else ""
            raise InputError(f"track is {track}, which does not begin: {_in_short(error)}{offline}") from error
        entry = {"id": self._tracker.id, "step": self._told[0], "epoch": self._told[1]}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(_remembered(path) | {track: entry}) + "\n", encoding="utf-8")

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Tell the numbers of an event of the journal: "event/name"."""
        if self._tracker is None or (self._again and (step, event == "epoch") <= self._told):
            return
        numbers = {f"{event}/{name}": float(value) for name, value in values.items() if isinstance(value, int | float)}
        try:
            self._tracker.log(numbers, step)
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """End the run there; of one that was stopped, by an exception under way, as stopped."""
        if self._tracker is None:
            return
        try:
            self._tracker.close(stopped=sys.exc_info()[0] is not None)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tracker = None
        warn = logging.getLogger("vitnext").warning
        warn("%s takes no more (%s): the journal has what it lacks", self._track, _in_short(error))


def _remembered(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it, and the tracker begins a new run") from error
    return known


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """{"schedule": {"epochs": 3}} -> [("schedule.epochs", 3)]"""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found


def _in_short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
