"""A run as the user sees it: a progress bar with speed and time left, and one line an epoch."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from vitnext.training.loop import Metrics, Progress

SCORES = {"top1": "top-1", "map": "mAP", "miou": "mIoU", "pq": "PQ"}  # how a metric is called in print


class ConsoleWatcher:
    """Watches a run on ``console``. The bar appears on terminals alone; the epochs' lines everywhere."""

    def __init__(self, console: Console, epochs: int | None, held_out: str, score: str) -> None:
        """``epochs``: how many there will be, if that is known; ``score``: the metric of ``held_out`` that is shown."""
        self.console, self.held_out, self.score = console, held_out, score
        self.of_epochs = f"/{epochs}" if epochs is not None else ""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.bar = Bar(
            *columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
        )
        self.task = self.bar.add_task("training", total=None)
        self.speed, self.loss, self.last = 0.0, float("nan"), time.monotonic()

    def __enter__(self) -> ConsoleWatcher:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def start(self, state: Progress, steps: int | None, ended: bool) -> None:
        if state.step:
            of_steps = f" of {steps:,}" if steps is not None else ""
            said = f"going on after step {state.step:,}{of_steps}"
            if ended:
                later = "more --time, or a higher schedule.patience," if steps is None else "a higher schedule.patience"
                later = "more --epochs" if steps is not None and state.step >= steps else later
                said = f"the run has ended, after step {state.step:,}, and is measured again; {later} would train on"
            self.console.print(said, highlight=False)
        self.bar.update(self.task, total=steps, completed=state.step)
        self.last = time.monotonic()

    def step(self, state: Progress, loss: float | None, learning_rate: float, images: int) -> None:
        now = time.monotonic()
        speed = images / max(now - self.last, 1e-9)
        self.speed, self.last = (0.95 * self.speed + 0.05 * speed if self.speed else speed), now
        if loss is not None:
            self.loss = loss
        known = "" if math.isnan(self.loss) else f"  loss {self.loss:.3f}"
        text = f"epoch {state.epoch + 1}{self.of_epochs}{known}  {self.speed:,.0f} images/s"
        self.bar.update(self.task, completed=state.step, description=text)

    def epoch(self, state: Progress, values: Metrics, kept: bool) -> None:
        trained = f"  train loss {values['train_loss']:.3f}" if "train_loss" in values else ""
        measured = ""
        if self.score in values:  # not every epoch is validated
            score = f"{SCORES[self.score]} {100 * values[self.score]:.2f}%"
            loss = f" loss {values['loss']:.3f} " if "loss" in values else ""
            measured = f"  {self.held_out}{loss} {score}"
        self.console.print(
            f"epoch {state.epoch:>3}{self.of_epochs}{trained}{measured}"
            f"  {state.seconds:,.0f} s{'  kept' if kept else ''}",
            highlight=False,
        )
        self.last = time.monotonic()
