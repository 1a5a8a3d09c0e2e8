"""What a run prints: one line an epoch everywhere, the bar on terminals alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vitnext.training.console import ConsoleWatcher
from vitnext.training.loop import Progress

METRICS = {"train_loss": 0.5, "loss": 0.25, "top1": 0.975}


def shown(terminal, events):
    out = io.StringIO()
    with ConsoleWatcher(
        Console(file=out, force_terminal=terminal, width=200), epochs=12, held_out="val", score="top1"
    ) as watcher:
        events(watcher)
    return out.getvalue()


def epochs(watcher):
    watcher.start(Progress(), 24, False)
    watcher.step(Progress(step=1), None, 1e-3, 64)
    watcher.step(Progress(step=2), 0.5, 1e-3, 64)
    watcher.epoch(Progress(step=2, epoch=1, seconds=61.4), METRICS, kept=True)
    watcher.epoch(Progress(step=4, epoch=2, seconds=1234.0), METRICS, kept=False)


def test_a_pipe_gets_a_line_an_epoch_and_no_bar():
    assert shown(False, epochs).splitlines() == [
        "epoch   1/12  train loss 0.500  val loss 0.250  top-1 97.50%  61 s  kept",
        "epoch   2/12  train loss 0.500  val loss 0.250  top-1 97.50%  1,234 s",
    ]


def test_a_run_of_masks_that_the_clock_ends_shows_miou_and_no_last_epoch():
    out = io.StringIO()
    with ConsoleWatcher(Console(file=out, width=200), epochs=None, held_out="val", score="miou") as watcher:
        watcher.epoch(
            Progress(step=2, epoch=1, seconds=61.4), {"train_loss": 0.5, "loss": 0.2, "miou": 0.5}, kept=False
        )
    assert out.getvalue() == "epoch   1  train loss 0.500  val loss 0.200  mIoU 50.00%  61 s\n"


def test_an_epoch_without_a_step_shows_no_loss_of_training():
    def events(watcher):
        watcher.epoch(Progress(step=2, epoch=2, seconds=61.4), {"loss": 0.25, "top1": 0.975}, kept=False)

    assert shown(False, events) == "epoch   2/12  val loss 0.250  top-1 97.50%  61 s\n"


def test_a_score_without_a_loss():
    def events(watcher):
        watcher.epoch(Progress(step=2, epoch=2, seconds=61.4), {"train_loss": 0.5, "top1": 0.975}, kept=False)

    assert shown(False, events) == "epoch   2/12  train loss 0.500  val top-1 97.50%  61 s\n"


def test_a_resumed_run_says_where_it_goes_on():
    def events(watcher):
        watcher.start(Progress(step=1234), 5000, False)

    assert shown(False, events).splitlines() == ["going on after step 1,234 of 5,000"]


@pytest.mark.parametrize(
    ("steps", "later"),
    [
        (52, "more --epochs"),
        (90, "a higher schedule.patience"),
        (None, "more --time, or a higher schedule.patience,"),
    ],
)
def test_a_run_that_has_ended_says_what_would_train_on(steps, later):
    end = shown(False, lambda watcher: watcher.start(Progress(step=52), steps, True))
    assert end == f"the run has ended, after step 52, and is measured again; {later} would train on\n"


def test_a_loss_that_is_not_known_yet_is_not_shown():
    watcher = ConsoleWatcher(Console(quiet=True), 3, "val", "top1")
    watcher.start(Progress(), 9, False)
    watcher.step(Progress(step=1), None, 1e-3, 8)
    assert "loss" not in watcher.bar.tasks[0].description
    watcher.step(Progress(step=2), 1.25, 1e-3, 8)
    watcher.step(Progress(step=3), None, 1e-3, 8)
    assert "loss 1.250" in watcher.bar.tasks[0].description


def test_a_terminal_sees_the_bar_with_loss_and_speed():
    out = shown(True, epochs)
    assert "epoch 1/12" in out and "images/s" in out and "loss 0.500" in out


@pytest.mark.parametrize("seconds", [[0.0, 0.0, 0.0], [0.0, 2.0, 4.0]])
def test_the_speed_is_images_over_time_and_never_a_division_by_zero(seconds, monkeypatch):
    clock = iter([0.0, *seconds])
    monkeypatch.setattr("vitnext.training.console.time.monotonic", lambda: next(clock))
    watcher = ConsoleWatcher(Console(file=io.StringIO()), 1, "val", "top1")
    watcher.start(Progress(), 2, False)
    for step in (1, 2):
        watcher.step(Progress(step=step), None, 1e-3, 64)
    assert watcher.speed == (32.0 if seconds[-1] else pytest.approx(64 / 1e-9))
