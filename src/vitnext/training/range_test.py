"""The learning-rate range test (Smith 2017, arXiv:1506.01186, section 3.3): a short run whose rate grows at every step.

Smith raises it linearly and reads a plot; here it grows exponentially, from 1e-6 to 1 in at most 100 steps, and a rule
reads the plot: a tenth of the rate at which the smoothed loss is lowest, a customary distance from where it rises
again, if it lies below the first losses by more than chance explains. It is a start for a run of this batch size and
this augmentation, no measurement of accuracy.
"""

from __future__ import annotations

import csv
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from vitnext.errors import WorkError
from vitnext.files import atomic_write
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.training.hardware import Precision
from vitnext.training.task import Task
from vitnext.training.trial import Trial

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
MEMORY = 0.9  # of the smoothed loss, a step
DIVERGED = 4  # times the lowest smoothed loss: the rest of the rates is left out
FIRST = 10  # steps, at rates that change nothing yet, which the lowest loss is compared with
CLEAR = 3  # standard errors by which the lowest smoothed loss must be below the mean of the first losses


@dataclass(frozen=True)
class RangeTest:
    """rates and losses of each step; smoothed: losses averaged over some ten steps back; suggestion: see above."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def write(self, folder: Path) -> None:
        """``lr_test.csv`` and ``lr_test.png``."""
        from matplotlib.figure import Figure

        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "lr_test.csv") as temporary, open(temporary, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("learning_rate", "loss", "smoothed_loss"))
            table.writerows(zip(self.rates.tolist(), self.losses.tolist(), self.smoothed.tolist(), strict=True))
        figure = Figure((7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.semilogx(self.rates, self.losses, color="0.75", label="loss")
        axes.semilogx(self.rates, self.smoothed, color="C0", label="smoothed")
        axes.axvline(self.suggestion, color="C3", linestyle="--", label=f"suggestion: {self.suggestion:.1e}")
        axes.set(xlabel="learning rate", ylabel="loss", ylim=(None, 1.5 * self.losses[0]))
        axes.legend()
        with atomic_write(folder / "lr_test.png") as temporary:
            figure.savefig(temporary, format="png", dpi=120)


def range_test(
    model: nn.Module, task: Task, recipe: Recipe, preprocess: Preprocess, precision: Precision, *, steps: int = STEPS
) -> RangeTest:
    """Try the rates on a copy of ``model``, with the recipe's optimizer, batches, augmentation and loss.

    Raises WorkError if the loss falls clearly at no rate.
    """
    trial = Trial(model, task, recipe, preprocess, precision)
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    with closing(task.batches.stream(0)) as stream:
        for step, (rate, (images, truth)) in enumerate(zip(rates, stream, strict=False)):
            loss = trial.step(images, truth, rate, step)
            if not abs(loss) < float("inf"):
                break
            mean = MEMORY * mean + (1 - MEMORY) * loss
            losses.append(loss)
            smoothed.append(mean / (1 - MEMORY ** (step + 1)))  # without the zero that the mean begins with
            if smoothed[-1] > DIVERGED * min(smoothed):
                break
    return _read(rates[: len(losses)], np.array(losses), np.array(smoothed))


def _read(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> RangeTest:
    lowest = FIRST + int(smoothed[FIRST:].argmin()) if len(losses) > FIRST else 0
    # What losses differ by from step to step without trend or outliers: 0.6745 is the median of |N(0, 1)|.
    noise = np.median(np.abs(np.diff(losses))) / (0.6745 * 2**0.5) if lowest else 0.0
    chance = noise * (1 / FIRST + (1 - MEMORY) / (1 + MEMORY)) ** 0.5  # of a mean of the first less a smoothed loss
    if not lowest or smoothed[lowest] >= losses[:FIRST].mean() - CLEAR * chance:
        raise WorkError(
            "the learning-rate range test suggests nothing: the loss fell at no rate; set optimizer.learning_rate"
        )
    return RangeTest(rates, losses, smoothed, max(LOWEST, float(f"{rates[lowest] / 10:.1e}")))
