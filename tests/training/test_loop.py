"""The loop: it learns, it repeats itself bit for bit, and it may be stopped anywhere."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from vitnext.data.loaders import batch_indices
from vitnext.errors import InputError, WorkError
from vitnext.preprocess import Preprocess
from vitnext.training import loop
from vitnext.training.checkpoint import load_checkpoint, save_checkpoint
from vitnext.training.loop import Interrupted, Normalize

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

STEPS = 3  # an epoch of the toy run in conftest.py
PLAIN = (  # nothing random but the order
    *("model.config.dropout=0", "model.config.stochastic_depth=0"),
    *("augment.crop_padding=0", "augment.horizontal_flip=0", "augment.erasing=0"),
)
ONE_STEP = (*PLAIN, "batch_size=24", "schedule.epochs=1", "schedule.warmup_epochs=0")
CONVNEXT = (
    "model.name=convnext",
    "model.config={stem_stride: 2, depths: [1, 1], widths: [8, 16], stochastic_depth: 0.3, dropout: 0.1}",
    *("data.image_size=16", "data.color=RGB", "augment.color_jitter=0.4", "augment.trivial_augment=true"),
    "augment.crop_scale=[0.5, 1.0]",
)


@pytest.fixture
def look_at_every_step(monkeypatch):
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)


# ---- learning


def test_the_loss_goes_down_and_the_toy_is_learnt(run, journal):
    end = run("run", *PLAIN, "schedule.epochs=30", "label_smoothing=0")
    epochs = journal(event="epoch")
    assert [line["epoch"] for line in epochs] == list(range(1, 31))
    assert epochs[-1]["train_loss"] < 0.5 * epochs[0]["train_loss"]
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    assert epochs[-1]["top1"] == end.progress.best_score == 1.0
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


# ---- stopped and resumed

PLACES = [("step", step) for step in range(1, 2 * STEPS + 1)] + [("epoch", 1), ("epoch", 2)]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]} {place[1]}")
def test_a_run_stopped_anywhere_ends_with_the_same_weights_and_journal(place, run, journal, look_at_every_step):
    whole = run("whole")
    with pytest.raises(Interrupted):
        run("stopped", press=place)
    resumed = run("stopped", resume=True)
    assert resumed == whole
    assert journal("stopped") == journal("whole")
    assert [line["step"] for line in journal("stopped", "step")] == [1, 2, 3, 4, 5, 6]
    assert replace(resumed.progress, seconds=0) == replace(whole.progress, seconds=0)


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
    with pytest.raises(InputError, match="has come to step 5, and the schedule now ends at 3: let it end later"):
        run("run", "schedule.epochs=1", resume=True)


@pytest.mark.parametrize(
    ("sets", "difference"),
    [
        (["optimizer.learning_rate=0.02"], "optimizer.learning_rate was 0.005, is 0.02"),
        (["schedule.epochs=5", "schedule.warmup_epochs=0"], "(schedule.warmup_epochs was 1.0, is 0.0)"),
        (["model.config.depth=3"], "model.config.depth was 2, is 3"),
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


def test_other_data_are_refused(run):
    run()
    with pytest.raises(InputError, match="the images or labels have changed"):
        run(resume=True, fingerprint="other")


def test_a_checkpoint_of_something_else_is_refused(run, tmp_path):
    run()
    save_checkpoint(tmp_path / "run" / "last.pt", {"model": {}, "epoch": 3})
    with pytest.raises(InputError, match="not one of this version"):
        run(resume=True)


def test_resuming_nothing_is_refused(run):
    with pytest.raises(InputError, match="nothing to resume"):
        run(resume=True)


def test_sigterm_is_told_from_ctrl_c(run):
    with pytest.raises(Interrupted) as caught:
        run(on=lambda *place: os.kill(os.getpid(), signal.SIGTERM) if place == ("step", 4) else None)
    assert caught.value.signal == signal.SIGTERM
    assert run(resume=True) == run("whole")


# ---- what is not finite


class Poisoned(nn.Module):
    """Gives logits that are not finite in its ``at``-th training step."""

    def __init__(self, model, at, value):
        super().__init__()
        self.model, self.at, self.value, self.calls = model, at, value, 0

    def forward(self, images):
        self.calls += self.training
        logits = self.model(images)
        return logits * self.value if self.training and self.calls == self.at else logits


@pytest.mark.parametrize("at", range(1, 2 * STEPS + 1))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_step_and_learning_rate(at, value, run, tmp_path):
    with pytest.raises(WorkError) as caught:
        run("run", wrap=lambda model: Poisoned(model, at, value))
    # Seen at the end of the epoch, when the learning rate is that of the epoch's last step.
    last = STEPS if at <= STEPS else 2 * STEPS
    rate = 5e-3 if last == STEPS else 0.5 * 5e-3 * (1 + math.cos(math.pi * 2 / 3))
    message = str(caught.value)
    assert f"at step {at}, learning rate {rate:.2e}" in message and len(message.splitlines()) == 1
    checkpoint = tmp_path / "run" / "last.pt"
    assert checkpoint.exists() == (at > STEPS)
    if at > STEPS:  # the last good one
        saved = load_checkpoint(checkpoint)
        assert saved["progress"]["step"] == STEPS
        assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())


def test_it_is_named_when_it_is_looked_at(run, look_at_every_step):
    with pytest.raises(WorkError, match=r"at step 5, learning rate 3\.75e-03"):
        run("run", wrap=lambda model: Poisoned(model, 5, math.nan))


def test_ctrl_c_does_not_save_what_is_not_finite(run, tmp_path):
    with pytest.raises(WorkError, match="at step 2"):
        run("run", wrap=lambda model: Poisoned(model, 2, math.nan), press=("step", 1))
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_is_an_error_and_the_weights_are_not_kept(loss, run, tmp_path):
    answers = iter([{"top1": 0.5, "score_error": 0.1, "loss": 1.0}, {"top1": 1.0, "score_error": 0.0, "loss": loss}])
    with pytest.raises(WorkError, match=f"the loss is {loss} at step {2 * STEPS}"):
        run("run", validate=scored(lambda *_: next(answers)))
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["best_epoch"] == 1


def test_a_learning_rate_that_is_too_high_is_found(run):
    with pytest.raises(WorkError, match="lower optimizer.learning_rate"):
        run("run", "optimizer.learning_rate=1e30", "schedule.warmup_epochs=0", "schedule.epochs=5")


# ---- the best and the last


def validation(*results):
    """Validation that answers with these (top-1, loss), one an epoch, as if on 100 images."""
    answers = iter(results)

    def validate(model, precision):
        assert not model.training
        top1, loss = next(answers)
        return {"top1": top1, "score_error": (top1 * (1 - top1) / 100) ** 0.5, "loss": loss}

    return scored(validate)


def scored(validate):
    validate.score = "top1"
    return validate


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
