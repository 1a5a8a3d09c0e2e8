"""Which epoch the loop keeps, and when it stops because none is better."""

from __future__ import annotations

import pytest
import torch

from toy_run import validation
from vitnext.training.loop import Interrupted

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

RESULTS = [(0.5, 1.0), (0.7, 0.9), (0.65, 0.8), (0.66, 0.8), (0.7, 0.1), (0.6, 0.85)]  # standard error 0.046


def test_the_latest_within_a_standard_error_of_the_best_is_kept(run, journal):
    end = run("run", "schedule.epochs=6", validate=validation(*RESULTS))
    assert [epoch for epoch, _ in end.kept] == [1, 2, 4, 5]
    assert (end.progress.best_epoch, end.progress.best_score) == (2, 0.7)
    assert (end.progress.kept_epoch, end.progress.kept_score, end.progress.kept_loss) == (5, 0.7, 0.1)
    assert [line["kept"] for line in journal(event="epoch")] == [True, True, False, True, True, False]
    assert [kept for *_, kept in end.watcher.epochs] == [True, True, False, True, True, False]


def test_without_selection_each_is_kept_and_the_last_stays(run):
    end = run("run", "schedule.epochs=6", select=False, validate=validation(*RESULTS))
    assert [epoch for epoch, _ in end.kept] == [1, 2, 3, 4, 5, 6]
    assert (end.progress.kept_epoch, end.progress.kept_score, end.progress.kept_loss) == (6, 0.6, 0.85)
    assert all(torch.equal(tensor, end.kept[-1][1][name]) for name, tensor in end.weights.items())


def test_an_epoch_without_a_right_answer_is_kept_while_there_is_no_better(run):
    assert [epoch for epoch, _ in run(validate=validation((0.0, 9.0), (0.0, 9.5))).kept] == [1, 2]


def test_the_best_is_remembered_when_a_run_is_resumed(run):
    with pytest.raises(Interrupted):
        run("run", "schedule.epochs=3", validate=validation((0.9, 1.0), (0.5, 1.0)), press=("epoch", 1))
    end = run("run", "schedule.epochs=3", validate=validation((0.8, 0.1), (0.9, 0.9)), resume=True)
    assert [epoch for epoch, _ in end.kept] == [3]
    assert (end.progress.best_epoch, end.progress.kept_loss) == (1, 0.9)


def test_not_every_epoch_needs_to_be_validated(run, journal):
    every = run("every", "schedule.epochs=5")
    some = run("some", "schedule.epochs=5", "schedule.validate_epochs=2")
    assert some == every  # validation changes no weights
    validated = [state.epoch for state, values, _ in some.watcher.epochs if "top1" in values]
    assert validated == [2, 4, 5] and len(some.watcher.epochs) == 5
    assert [entry["epoch"] for entry in journal("some", "epoch") if "top1" in entry] == [2, 4, 5]
    assert {epoch for epoch, _ in some.kept} <= {2, 4, 5}
    with pytest.raises(Interrupted):
        run("stopped", "schedule.epochs=5", "schedule.validate_epochs=2", press=("step", 8))
    again = run("stopped", "schedule.epochs=5", "schedule.validate_epochs=2", resume=True)
    assert again == some and again.progress.kept_epoch == some.progress.kept_epoch


def test_patience_stops_a_run_that_no_longer_improves(run):
    sets = ("run", "schedule.epochs=9", "schedule.patience=2")
    results = [(0.5, 1.0), (0.6, 1.0), (0.6, 1.1), (0.6, 0.9), (0.9, 0.1)]
    end = run(*sets, validate=validation(*results))
    assert (end.progress.epoch, end.progress.best_epoch) == (4, 2)
    again = run(*sets, resume=True, validate=validation())  # and stays stopped
    assert again.progress == end.progress


def test_patience_ends_no_run_without_a_look(run):
    sets = ("run", "schedule.epochs=9", "schedule.patience=2", "schedule.validate_epochs=5")
    end = run(*sets, validate=validation((0.5, 1.0), (0.6, 1.0), (0.6, 1.1), (0.6, 1.2)))
    validated = [state.epoch for state, values, _ in end.watcher.epochs if "top1" in values]
    assert validated == [2, 4, 5, 6]  # after two epochs without a better one, and every five
    assert (end.progress.epoch, end.progress.best_epoch) == (6, 4)


def test_without_patience_it_never_stops_early(run):
    assert run("run", "schedule.epochs=5", validate=validation(*[(0.5, 1.0)] * 5)).progress.epoch == 5
