"""Trackers: the journal's numbers, told once, in one run however often it is stopped."""

from __future__ import annotations

import inspect
import json
import logging
import sys
import types

import pytest

from vitnext.errors import InputError
from vitnext.recipe import Recipe
from vitnext.training import trackers
from vitnext.training.journal import Journal

CONFIG = Recipe(title="a title").to_dict()


class Told:
    """A tracker that remembers what it was told."""

    runs: list[Told] = []

    def __init__(self, folder, config, known, step):
        self.id, self.config, self.known, self.step = known or f"run{len(self.runs)}", config, known, step
        self.rows, self.stopped = [], None
        self.runs.append(self)

    def log(self, values, step):
        self.rows.append((step, values))

    def close(self, stopped):
        self.stopped = stopped


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(Told, "runs", [])
    monkeypatch.setitem(trackers.KINDS, "mlflow", Told)
    monkeypatch.setitem(trackers.PACKAGES, "mlflow", ("json", "mlflow"))
    return Told.runs


def run(folder, steps, offset=None, track="mlflow", start=0):
    """Steps with their loss, an epoch every second of them -> where the journal was after each."""
    journal, offsets = Journal(folder, track=track, offset=offset, config=CONFIG, step=start), {}
    for step in steps:
        journal.write("step", step, loss=1 / step, note="no number")
        if step % 2 == 0:
            journal.write("epoch", step, epoch=step // 2, kept=True)
        offsets[step] = journal.offset
    journal.close()
    return offsets


def test_numbers_are_told_with_the_name_of_their_event(tmp_path, told):
    run(tmp_path, [1, 2])
    assert told[0].config == CONFIG and told[0].stopped is False
    assert told[0].rows == [
        (1, {"step/loss": 1.0}),
        (2, {"step/loss": 0.5}),
        (2, {"epoch/epoch": 1.0, "epoch/kept": 1.0}),
    ]


def test_a_resumed_run_goes_on_in_its_own_and_tells_nothing_twice(tmp_path, told):
    offsets = run(tmp_path, [1, 2, 3, 4, 5])
    run(tmp_path, [3, 4, 5, 6, 7], offsets[2], start=2)  # a kill: the checkpoint is that of step 2
    run(tmp_path, [3], offsets[2], start=2)  # another, before it came as far again
    run(tmp_path, [4, 5, 6, 7, 8], offsets[3], start=3)
    assert [one.id for one in told] == ["run0"] * 4 and [one.step for one in told] == [0, 2, 2, 3]
    rows = [(step, *values) for one in told for step, values in one.rows]
    assert [row for row in rows if row[1] == "step/loss"] == [(step, "step/loss") for step in range(1, 9)]
    assert [row[0] for row in rows if row[1] == "epoch/epoch"] == [2, 4, 6, 8]


def test_the_epoch_that_a_stop_left_out_is_told(tmp_path, told):
    journal = Journal(tmp_path, track="mlflow", config=CONFIG)
    journal.write("step", 2, loss=1.0)
    offset = journal.offset
    journal.close()
    journal = Journal(tmp_path, track="mlflow", offset=offset, config=CONFIG, step=2)
    journal.write("epoch", 2, top1=0.5)
    journal.close()
    assert told[1].rows == [(2, {"epoch/top1": 0.5})]


def test_a_new_run_in_the_folder_is_a_new_one_there(tmp_path, told):
    run(tmp_path, [1, 2])
    run(tmp_path, [1, 2])
    assert [one.known for one in told] == [None, None] and told[1].rows == told[0].rows


def test_a_tracker_that_is_named_later_begins_where_the_run_is(tmp_path, told):
    offsets = run(tmp_path, [1, 2], track="none")
    run(tmp_path, [3], offsets[2], start=2)
    assert told[0].known is None and told[0].rows == [(3, {"step/loss": 1 / 3})]


def test_a_stop_is_told(tmp_path, told):
    from contextlib import closing

    with pytest.raises(KeyboardInterrupt), closing(Journal(tmp_path, track="mlflow", config=CONFIG)):
        raise KeyboardInterrupt
    assert told[0].stopped is True


def test_a_tracker_that_fails_is_given_up_and_the_journal_goes_on(tmp_path, told, monkeypatch, caplog):
    def log(self, values, step):
        raise ConnectionError("no\nserver")

    monkeypatch.setattr(Told, "log", log)
    with caplog.at_level(logging.WARNING, "vitnext"):
        run(tmp_path, [1, 2, 3])
    assert [record.message for record in caplog.records] == [
        "mlflow takes no more (no server): the journal has what it lacks"
    ]
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 4


def test_a_tracker_that_does_not_begin_is_one_line_and_nothing_is_written(tmp_path, told, monkeypatch):
    monkeypatch.setitem(trackers.KINDS, "mlflow", lambda *given: 1 / 0)
    with pytest.raises(InputError, match=r"^track is mlflow, which does not begin: division by zero$"):
        Journal(tmp_path, track="mlflow", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("track, extra", [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "track")])
def test_a_missing_library_is_one_line(track, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, track, None)
    with pytest.raises(InputError, match=rf"'{track}', which is not installed: pip install \"vitnext\[{extra}\]\""):
        trackers.require_tracker(track)


# ---- the libraries


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path):
    pytest.importorskip("tensorboard", reason="needs vitnext[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    offsets = run(tmp_path, [1, 2, 3, 4], track="tensorboard")
    run(tmp_path, [3, 4, 5], offsets[2], track="tensorboard", start=2)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("step/loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in board.Scalars("epoch/epoch")] == [2, 4]


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about what it builds on
def test_mlflow_keeps_one_run_with_the_recipe_as_parameters(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs vitnext[mlflow]")
    pytest.importorskip("sqlalchemy", reason="needs the whole of mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a run"
    folder.mkdir()
    offsets = run(folder, [1, 2, 3, 4])
    run(folder, [3, 4, 5], offsets[2], start=2)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    [found] = client.search_runs([client.get_experiment_by_name("vitnext").experiment_id])
    assert (found.info.run_name, found.info.status) == ("a run", "FINISHED")
    assert found.data.params["title"] == "a title" and found.data.params["optimizer.learning_rate"] == "0.001"
    losses = client.get_metric_history(found.info.run_id, "step/loss")
    assert sorted((one.step, one.value) for one in losses) == [(step, 1 / step) for step in range(1, 6)]
    assert [file.name for file in tmp_path.iterdir()] == ["a run"]


def test_wandb_keeps_one_run_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs vitnext[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    offsets = run(tmp_path, [1, 2, 3, 4], track="wandb")
    run(tmp_path, [3, 4, 5], offsets[2], track="wandb", start=2)
    name = json.loads((tmp_path / "tracker.json").read_text())["wandb"]["id"]
    kept = sorted((tmp_path / "wandb").glob(f"offline-run-*-{name}*/run-{name}*.wandb"))
    assert len(kept) >= 1 and wandb.run is None


class Run:
    """What the tracker uses of a wandb.Run."""

    def __init__(self, given):
        self.given, self.id, self.rows, self.code = given, given["id"] or "abc", [], None
        self.config = {}

    def log(self, data, step=None, commit=None):
        self.rows.append((step, data))

    def finish(self, exit_code=None, quiet=None):
        self.code = exit_code


class Config(dict):
    def update(self, d, allow_val_change=None):
        assert allow_val_change
        super().update(d)


def test_what_wandb_is_told(tmp_path, monkeypatch):
    begun = []

    def init(**given):
        run = Run(given)
        run.config = Config()
        begun.append(run)
        return run

    fake = types.SimpleNamespace(init=init, Settings=lambda silent, console: None)
    try:
        import wandb

        assert set(inspect.signature(wandb.init).parameters) >= {"project", "name", "id", "resume", "dir", "settings"}
        assert set(inspect.signature(wandb.Run.log).parameters) >= {"data", "step"}
    except ImportError:
        pass
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folder = tmp_path / "a run"
    folder.mkdir()
    offsets = run(folder, [1, 2, 3], track="wandb")
    run(folder, [3, 4], offsets[2], track="wandb", start=2)
    first, second = begun
    assert (first.given["id"], first.given["resume"], first.given["name"]) == (None, None, "a run")
    assert (second.given["id"], second.given["resume"]) == ("abc", "allow")
    assert first.config == second.config == CONFIG and first.code == second.code == 0
    assert [(step, *data) for step, data in first.rows + second.rows if "step/loss" in data] == [
        (step, "step/loss") for step in (1, 2, 3, 4)
    ]
