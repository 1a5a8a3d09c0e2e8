"""The loop may be stopped anywhere: the run goes on as if it had not been."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace

import pytest
import torch

from toy_run import CONVNEXT, STEPS, validation
from vitnext.errors import InputError
from vitnext.training.checkpoint import load_checkpoint, save_checkpoint
from vitnext.training.loop import Interrupted

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PLACES = [("step", step) for step in range(1, 2 * STEPS + 1)] + [("epoch", 1), ("epoch", 2)]


def timeless(progress):
    return replace(progress, seconds=0, validation_seconds=0)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]} {place[1]}")
def test_a_run_stopped_anywhere_ends_with_the_same_weights_and_journal(place, run, journal, look_at_every_step):
    whole = run("whole")
    with pytest.raises(Interrupted):
        run("stopped", press=place)
    resumed = run("stopped", resume=True)
    assert resumed == whole
    assert journal("stopped") == journal("whole")
    assert [line["step"] for line in journal("stopped", "step")] == [1, 2, 3, 4, 5, 6]
    assert timeless(resumed.progress) == timeless(whole.progress)


def test_the_step_under_way_is_finished_and_no_other_begun(run):
    with pytest.raises(Interrupted):
        run(press=("step", 1))
    with pytest.raises(Interrupted):
        run(resume=True, press=("step", 4))


MIXED = (
    *("augment.mixup=0.8", "augment.cutmix=1", "augment.rand_augment=[9, 0.5]", "augment.repeats=2", "accumulate=3"),
    *("data.class_sampling=0.5", "loss.binary=true", "optimizer.train_blocks=1", "ema=0.9", "workers=0"),
)


@pytest.mark.parametrize("sets", [(), CONVNEXT, MIXED], ids=["vit", "convnext", "mixed"])
def test_a_run_stopped_again_and_again_ends_with_the_same_weights(sets, run, journal, tmp_path, look_at_every_step):
    whole, last, came_to = run("whole", *sets), None, [0]
    while last is None:
        try:
            last = run("stopped", *sets, resume=len(came_to) > 1, press=("step", came_to[-1] + 1))
        except Interrupted:
            came_to.append(load_checkpoint(tmp_path / "stopped" / "last.pt")["progress"]["step"])
    assert came_to == [0, 2, 3, 5, 6]
    assert last == whole
    assert journal("stopped") == journal("whole")


def test_journals_agree_when_losses_are_looked_at_rarely(run, journal):
    run("whole")
    with pytest.raises(Interrupted):
        run("stopped", press=("step", 1))
    run("stopped", resume=True)
    # The looks lie elsewhere, the epochs do not.
    assert journal("stopped", "epoch") == [
        {**line, "train_loss": pytest.approx(line["train_loss"], rel=1e-6)} for line in journal("whole", "epoch")
    ]
    steps = [line["step"] for line in journal("stopped", "step")]
    assert steps == sorted(set(steps)) == [2, 3, 6]


class Crash(Exception):
    pass


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]} {place[1]}")
def test_a_run_that_crashes_anywhere_goes_on_from_its_last_checkpoint(place, run, journal, look_at_every_step):
    """As after a kill: nothing is done when it happens."""
    often = "save_minutes=0"  # a checkpoint after each look

    def crash(*at):
        if at == place:
            raise Crash

    whole = run("whole")
    resume = place != ("step", 1)  # before the first checkpoint there is nothing to resume
    with pytest.raises(Crash):
        run("crashed", often, on=crash)
    assert run("crashed", often, resume=resume) == whole
    assert journal("crashed") == journal("whole")


def test_between_checkpoints_the_last_epoch_s_is_taken(run, journal, tmp_path, look_at_every_step):
    def crash(*at):
        if at == ("step", 5):
            raise Crash

    with pytest.raises(Crash):
        run("crashed", on=crash)
    assert load_checkpoint(tmp_path / "crashed" / "last.pt")["progress"]["step"] == STEPS
    resumed = run("crashed", resume=True)
    assert (resumed.watcher.began.step, resumed) == (STEPS, run("whole"))
    assert journal("crashed") == journal("whole")


def test_muon_goes_on_with_its_momentum(run):
    whole = run("whole", "optimizer.name=muon")
    with pytest.raises(Interrupted):
        run("stopped", "optimizer.name=muon", press=("step", 4))
    assert run("stopped", "optimizer.name=muon", resume=True) == whole


def test_a_finished_run_resumed_is_left_as_it_is(run, journal):
    end, before = run(), journal()
    again = run(resume=True)
    assert again == end and again.kept == [] and journal() == before
    assert again.progress == end.progress


@pytest.mark.parametrize(("steps", "came_to"), [(2, 4), (4, 4), (0, 3)])
def test_checkpoints_within_an_epoch_come_every_so_many_steps(steps, came_to, run, tmp_path):
    def crash(*at):
        if at == ("step", 5):
            raise Crash

    with pytest.raises(Crash):
        run("run", f"save_steps={steps}", on=crash)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == came_to
    assert run("run", f"save_steps={steps}", resume=True) == run("whole")


def test_worker_processes_change_nothing_mid_epoch_either(run):
    whole = run("whole", *CONVNEXT)
    with pytest.raises(Interrupted):
        run("stopped", *CONVNEXT, "workers=2", press=("step", 4))
    assert run("stopped", *CONVNEXT, "workers=2", resume=True) == whole


def test_a_run_that_has_ended_goes_on_with_more_epochs(run, journal):
    run()
    more = run("run", "schedule.epochs=4", resume=True)
    assert (more.watcher.began.step, more.progress.step) == (2 * STEPS, 4 * STEPS)
    rates = [line["learning_rate"] for line in journal(event="step")]
    run("whole", "schedule.epochs=4")
    assert rates[2:] == [line["learning_rate"] for line in journal("whole", "step")][2:]


@pytest.mark.parametrize("sets", [(), CONVNEXT], ids=["vit", "convnext"])
def test_an_epoch_that_was_cut_short_goes_on_where_it_was(sets, run, journal):
    """At a constant rate, so that the end does not matter before it comes."""
    sets = (*sets, "schedule.warmup_epochs=0", "schedule.final_fraction=0.999999", "ema=0.9")
    run("run", *sets, "schedule.steps=4")
    more = run("run", *sets, "schedule.steps=6", resume=True)
    whole = run("whole", *sets)
    assert (more.progress.step, more.progress.epoch) == (6, 2)
    for name, tensor in more.weights.items():
        if "qkv.bias" not in name:  # the keys' has no gradient but rounding, which AdamW scales up
            assert torch.allclose(tensor, whole.weights[name], atol=1e-5), name
    assert [line["step"] for line in journal(event="epoch")] == [3, 4, 6]


def test_a_run_does_not_end_before_where_it_is(run):
    with pytest.raises(Interrupted):
        run(press=("step", 4))
    where = (
        "to step 5 (epoch 2), and the schedule now ends at step 3 (epoch 1): let it end later, by --epochs 2 or more"
    )
    with pytest.raises(InputError, match=re.escape(where)):
        run("run", "schedule.epochs=1", resume=True)


@pytest.mark.parametrize(
    ("sets", "difference"),
    [
        (["optimizer.learning_rate=0.02"], "(optimizer.learning_rate was 0.005, is 0.02): add --accept-changes"),
        (["schedule.epochs=5", "schedule.warmup_epochs=0"], "(schedule.warmup_epochs was 1.0, is 0.0)"),
        (["model.config.depth=3"], "model.config.depth was 2, is 3): a run that goes on cannot change model.config.d"),
        (["augment.erasing=0", "seed=4"], "augment.erasing was 0.5, is 0.0; seed was 0, is 4"),
    ],
)
def test_another_recipe_is_refused_with_the_difference_and_nothing_is_lost(sets, difference, run, tmp_path):
    with pytest.raises(Interrupted):
        run(press=("step", 2))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError) as caught:
        run("run", *sets, resume=True)
    assert difference in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert run(resume=True) == run("whole")


@pytest.mark.parametrize("sets", [["model.config.depth=3"], ["ema=0.9"], ["optimizer.name=muon"], ["data.color=RGB"]])
def test_what_the_state_does_not_fit_is_refused_in_any_case(sets, run):
    with pytest.raises(Interrupted):
        run(press=("step", 2))
    with pytest.raises(InputError, match="a run that goes on cannot change"):
        run("run", *sets, resume=True, accept=True)


def test_an_accepted_recipe_counts_from_there_on(run, journal, tmp_path, look_at_every_step):
    with pytest.raises(Interrupted):
        run(press=("step", 3))
    sets = ("optimizer.weight_decay=0.5", "optimizer.betas=[0.8, 0.9]", "optimizer.learning_rate=0.02")
    run("run", *sets, resume=True, accept=True)
    optimizers = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["optimizers"]
    groups = [group for optimizer in optimizers for group in optimizer["param_groups"]]
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.9)}
    run("whole")
    before, after = ([line["learning_rate"] for line in journal(name, "step")] for name in ("whole", "run"))
    assert after[:3] == before[:3] and after[3:] == pytest.approx([4 * rate for rate in before[3:]])


def test_an_accepted_batch_size_leaves_the_run_as_far_in_its_epoch(run):
    with pytest.raises(Interrupted):
        run(press=("step", 4))  # saved after step 5, two thirds into the second epoch
    end = run("run", "batch_size=4", resume=True, accept=True)
    assert (end.watcher.began.step, end.watcher.began.epoch) == (10, 1)
    assert (end.progress.step, end.progress.epoch) == (12, 2)


def test_steps_of_another_batch_size_are_no_end(run):
    with pytest.raises(Interrupted):
        run("run", "schedule.steps=6", press=("step", 4))
    with pytest.raises(InputError, match="an epoch had 3 steps and has 6, but the run ends after a number of steps"):
        run("run", "schedule.steps=6", "batch_size=4", resume=True, accept=True)


def test_other_data_are_refused_with_the_difference(run):
    run()
    few = {"fingerprint": "other", "contents": "", "classes": ["up", "down"], "counts": {"train": 20, "val": 10}}
    message = r"the images or labels have changed since the run was stopped \(train had 24 images, has 20\): add --acc"
    with pytest.raises(InputError, match=message):
        run(resume=True, data=few)
    with pytest.raises(InputError, match="as many as before"):
        run(resume=True, data=few | {"counts": {"train": 24, "val": 10}})
    with pytest.raises(InputError, match=r"class down is gone; class left is new.*\): start anew"):
        run(resume=True, accept=True, data=few | {"classes": ["up", "left"]})


def test_with_other_data_what_was_best_before_does_not_count(run):
    with pytest.raises(Interrupted):
        run(press=("step", 4), validate=validation((0.99, 0.1)))
    other = {"fingerprint": "other", "contents": "", "classes": ["up", "down"], "counts": {"train": 24, "val": 10}}
    end = run(resume=True, accept=True, data=other, validate=validation((0.5, 1.0)))
    assert [epoch for epoch, _ in end.kept] == [2] and end.progress.best_score == 0.5


def test_a_checkpoint_of_something_else_is_refused(run, tmp_path):
    run()
    save_checkpoint(tmp_path / "run" / "last.pt", {"model": {}, "epoch": 3})
    with pytest.raises(InputError, match="not one of this version"):
        run(resume=True)


def test_resuming_nothing_is_refused(run):
    with pytest.raises(InputError, match="cannot be read"):
        run(resume=True)


def test_sigterm_is_told_from_ctrl_c(run):
    with pytest.raises(Interrupted) as caught:
        run(on=lambda *place: os.kill(os.getpid(), signal.SIGTERM) if place == ("step", 4) else None)
    assert caught.value.signal == signal.SIGTERM
    assert run(resume=True) == run("whole")
