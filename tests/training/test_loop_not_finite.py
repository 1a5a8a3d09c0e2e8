"""A loss that is not finite ends a run with its place, and nothing of it is kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from toy_run import STEPS, scored
from vitnext.errors import WorkError
from vitnext.training.checkpoint import load_checkpoint

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


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
