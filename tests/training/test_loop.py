"""The loop: it learns, it repeats itself bit for bit, and each step is what it should be."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from contextlib import nullcontext
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from toy_run import CONVNEXT, PLAIN, STEPS, scored, validation
from vitnext.data.loaders import batch_indices
from vitnext.errors import WorkError
from vitnext.preprocess import Preprocess
from vitnext.training import loop
from vitnext.training.checkpoint import load_checkpoint
from vitnext.training.loop import Interrupted, Normalize

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

ONE_STEP = (*PLAIN, "batch_size=24", "schedule.epochs=1", "schedule.warmup_epochs=0")


# ---- learning


def test_the_loss_goes_down_and_the_toy_is_learnt(run, journal):
    end = run("run", *PLAIN, "schedule.epochs=30", "label_smoothing=0")
    epochs = journal(event="epoch")
    assert [line["epoch"] for line in epochs] == list(range(1, 31))
    assert epochs[-1]["train_loss"] < 0.5 * epochs[0]["train_loss"]
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    assert max(line["top1"] for line in epochs) == end.progress.best_score == 1.0
    assert end.progress.epoch == 30 and end.progress.step == 30 * STEPS


def test_the_watcher_sees_every_step_and_every_epoch(run):
    seen = run().watcher
    assert (seen.began.step, seen.total) == (0, 2 * STEPS)
    assert [step for step, *_ in seen.steps] == [1, 2, 3, 4, 5, 6]
    assert [images for *_, images in seen.steps] == [8] * 6
    # The loss is looked at when the epoch ends, and else every CHECK_EVERY steps.
    assert [loss is None for _, loss, *_ in seen.steps] == [True, True, False] * 2
    assert [state.epoch for state, *_ in seen.epochs] == [1, 2]
    assert set(seen.epochs[0][1]) == {"train_loss", "loss", "top1", "score_error"}


def test_seconds_are_counted_epoch_by_epoch(run):
    seen = run(on=lambda *_: time.sleep(0.002)).watcher
    first, second = (state.seconds for state, *_ in seen.epochs)
    assert 0.004 < first < second


def test_seconds_of_an_epoch_that_was_stopped_are_counted(run, tmp_path):
    def slow(_, step):
        time.sleep(0.002)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(on=slow)
    before = load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["seconds"]
    assert before > 0.002
    assert run(resume=True).progress.seconds > before


def test_the_clock_saves_at_whatever_step_it_is_time(run, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(loop, "save_checkpoint", lambda path, state: saved.append(state["progress"]["step"]))

    def on(event, step):
        clock[0] += 61 * (event == "step" and step % 3 == 1)

    run("run", "schedule.epochs=4", "save_minutes=1", on=on)
    assert saved == [2, 3, 5, 6, 8, 9, 11, 12]  # when more than a minute has passed, and after each epoch


def test_epochs_are_not_saved_where_that_takes_longer_than_training(run, monkeypatch):
    """Epochs of 3 s and states of 1 s: the first one, which tells, then each that is 20 s of the last one, and the
    end; with a state what has been kept last is written before it, and named after it."""
    clock, seen = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def save(path, state):
        clock[0] += 1
        seen.append(("saved", state["progress"]["kept_epoch"]))

    def on(event, step):
        clock[0] += event == "step"

    def keep(model, progress, metrics):
        def write():
            seen.append(("written", progress.epoch))
            return lambda: seen.append(("named", progress.epoch))

        return write

    monkeypatch.setattr(loop, "save_checkpoint", save)
    same = validation(*[(0.5, 1.0)] * 17)
    run("run", "schedule.epochs=17", on=on, keep=keep, validate=same)
    assert seen == [(what, epoch) for epoch in (1, 8, 15, 17) for what in ("written", "saved", "named")]


def test_a_signal_in_a_validation_stops_an_epoch_that_would_not_be_saved(run, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "AT_ONCE", -1.0)

    def validate(model, precision):
        if (calls := next(count)) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"top1": 0.1 * calls, "score_error": 0.0, "loss": 1.0}

    count = itertools.count()
    with pytest.raises(Interrupted):
        run("run", "schedule.epochs=9", validate=scored(validate))
    progress = load_checkpoint(tmp_path / "run" / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (2, 2 * STEPS)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2]), (5, [1, 2, 3])])
def test_the_time_runs_out_while_an_epoch_is_saved(run, journal, monkeypatch, every, epochs):
    """What has been validated is not validated again, and an epoch without a step has no loss of training."""
    clock = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def late(place, number):
        if (place, number) == ("epoch", 2):
            clock[0] += 60

    sets = ("schedule.epochs=30", "schedule.minutes=1", f"schedule.validate_epochs={every}")
    end = run("run", *sets, on=late)
    lines = journal(event="epoch")
    assert [line["epoch"] for line in lines] == epochs and end.progress.step == 2 * STEPS
    assert ["train_loss" in line for line in lines] == [True, True, False][: len(epochs)]
    assert "loss" in lines[-1] and [epoch for epoch, _ in end.kept][-1] == epochs[-1]
    assert run("run", *sets, resume=True).progress == end.progress  # no time is left


def test_a_signal_while_the_last_state_is_saved_ends_the_run_as_one(run, monkeypatch):
    """The time has run out, and nothing is left to be trained; what follows is the measurement."""
    clock, saves, save = [0.0], [], loop.save_checkpoint
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def saving(*given):
        save(*given)
        saves.append(1)
        if len(saves) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def late(place, number):
        clock[0] += 60 * ((place, number) == ("epoch", 2))

    monkeypatch.setattr(loop, "save_checkpoint", saving)
    with pytest.raises(Interrupted) as caught:
        run("run", "schedule.epochs=30", "schedule.minutes=1", on=late)
    assert caught.value.signal == signal.SIGTERM and len(saves) == 3


# ---- reproducible


@pytest.mark.parametrize("sets", [(), CONVNEXT], ids=["vit", "convnext"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(sets, run):
    first = run("a", *sets)
    assert run("b", *sets) == first
    assert run("c", *sets, "seed=1") != first


@pytest.mark.parametrize(
    "setting",
    [
        *("model.config.dropout=0", "model.config.stochastic_depth=0", "augment.crop_padding=0"),
        *("augment.horizontal_flip=0", "augment.erasing=0", "label_smoothing=0", "optimizer.weight_decay=0.5"),
        *("optimizer.learning_rate=1e-3", "optimizer.betas=[0.5, 0.9]", "optimizer.clip_norm=0.01"),
        *("schedule.warmup_epochs=0", "schedule.final_fraction=0.5", "schedule.epochs=3", "batch_size=12"),
        *("optimizer.name=muon", "precision=bf16", "optimizer.train_blocks=1", "loss.binary=true", "accumulate=2"),
        *("augment.mixup=0.8", "augment.cutmix=1", "augment.repeats=2", "data.class_sampling=0"),
        *("augment.rand_augment=[9, 0]", "augment.rand_augment=[9, 0.5]", "augment.trivial_augment=true"),
    ],
)
def test_every_choice_of_the_recipe_changes_the_weights(setting, run):
    assert run("changed", setting) != run("plain")


# ---- one step


@pytest.fixture
def gradient_descent(monkeypatch):
    """Plain steps, theta - rate * gradient, so that a step shows its gradient."""
    monkeypatch.setattr(
        loop, "build_optimizers", lambda model, recipe: [torch.optim.SGD(model.parameters(), lr=recipe.learning_rate)]
    )


def step_norm(run, name, *sets):
    """Length of the first step for a learning rate of 1."""
    begun = {}

    def remember(model):
        begun.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model

    end = run(name, *ONE_STEP, "optimizer.learning_rate=1", *sets, wrap=remember)
    return math.sqrt(sum(float((tensor - begun[name]).square().sum()) for name, tensor in end.weights.items()))


def test_the_gradient_is_clipped_to_its_norm(run, gradient_descent):
    free = step_norm(run, "free", "optimizer.clip_norm=0")
    assert free > 0.1
    assert step_norm(run, "loose", f"optimizer.clip_norm={2 * free}") == pytest.approx(free, rel=1e-4)
    for norm in (free / 2, free / 10):
        assert step_norm(run, f"clipped {norm}", f"optimizer.clip_norm={norm}") == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("parts", [2, 3, 5, 24])
def test_a_batch_in_parts_gives_the_step_of_the_whole(parts, run, gradient_descent):
    whole = run("whole", *ONE_STEP, "optimizer.learning_rate=1", "optimizer.clip_norm=0.1")
    in_parts = run("parts", *ONE_STEP, "optimizer.learning_rate=1", "optimizer.clip_norm=0.1", f"accumulate={parts}")
    for name, tensor in whole.weights.items():
        assert torch.allclose(in_parts.weights[name], tensor, atol=1e-6)
    assert in_parts.watcher.steps[0][1] == pytest.approx(whole.watcher.steps[0][1], rel=1e-6)
    assert in_parts.watcher.steps[0][3] == 24


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_cross_entropy_with_label_smoothing(smoothing, run, journal):
    seen = []

    def listen(model):
        model.register_forward_hook(lambda m, _, out: seen.append(out.detach().tolist()) if m.training else None)
        return model

    run("run", *ONE_STEP, f"label_smoothing={smoothing}", wrap=listen)
    [logits], losses = seen, []
    for index, row in zip(batch_indices(24, 24, seed=0, epoch=0)[0], logits, strict=True):
        log_p = [x - math.log(sum(math.exp(y) for y in row)) for x in row]
        truth = index % 2  # of the toy's images
        losses.append(-(1 - smoothing) * log_p[truth] - smoothing * sum(log_p) / 2)
    assert journal(event="step")[0]["loss"] == pytest.approx(sum(losses) / 24, rel=1e-5)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0, 5.0])
def test_every_step_has_the_scheduled_learning_rate(warmup, run, journal, look_at_every_step):
    sets = (f"schedule.warmup_epochs={warmup}", "schedule.final_fraction=0.1", "schedule.epochs=4")
    seen = run("run", *sets).watcher
    ramp = round(STEPS * min(warmup, 2))  # at most half of the epochs
    steps, peak = 4 * STEPS, 5e-3
    expected = [
        peak * (k + 1) / ramp
        if k < ramp
        else peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (k - ramp) / (steps - ramp))))
        for k in range(steps)
    ]
    assert [line["learning_rate"] for line in journal(event="step")] == pytest.approx(expected, rel=1e-9)
    assert [rate for _, _, rate, _ in seen.steps] == pytest.approx(expected, rel=1e-9)


# ---- pixels


@pytest.mark.parametrize("color", ["RGB", "L"])
def test_normalizing_on_the_device_gives_the_bits_of_preprocess(color):
    channels = 3 if color == "RGB" else 1
    values = {"mean": (0.485, 0.456, 0.406)[:channels], "std": (0.229, 0.224, 0.225)[:channels]}
    preprocess = Preprocess((4, 64), color=color, **values)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 4, 64, 1).repeat(channels, axis=3)
    expected = preprocess.normalize(pixels)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    kept = images.clone()
    assert torch.equal(Normalize(preprocess, torch.device("cpu"))(images), torch.from_numpy(expected))
    assert torch.equal(images, kept)


# ---- worker processes


@pytest.mark.parametrize("fails", [False, True])
def test_the_same_processes_read_for_all_epochs_and_none_is_left(run, fails):
    seen = []

    def on(event, number):
        seen.append({process.pid for process in active_children()})
        if fails and (event, number) == ("epoch", 2):
            raise WorkError("the disk is gone")

    expected = pytest.raises(WorkError) if fails else nullcontext()
    with expected as error:  # which holds the frames of the loop
        run("run", *CONVNEXT, "workers=2", "schedule.epochs=3", on=on)
    assert len(seen) == (2 if fails else 3) * (STEPS + 1)
    assert len(seen[0]) == 2 and all(processes == seen[0] for processes in seen)
    assert active_children() == [] and (error is not None) == fails
