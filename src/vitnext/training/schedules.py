"""Learning rates as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from vitnext.recipe import Schedule


def learning_rate(
    done: float, step: int, warmup: int, peak: float, *, final_fraction: float = 0.0, decay: str = "cosine"
) -> float:
    """The rate of ``step``: linear from peak / warmup to peak, then a decay to ``final_fraction * peak``.

    done: share in [0, 1] of what follows the warm-up; above 0 already in it, where a clock decides, the lower of the
    two rates counts. The decay is half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts), "poly",
    (1 - done)^0.9 (Chen et al. 2017, DeepLab, section 4.1), or "linear", 1 - done.
    """
    left = max(0.0, 1 - done)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    falling = {"cosine": cosine, "poly": left**0.9, "linear": left}[decay]
    rate = peak * (final_fraction + (1 - final_fraction) * falling)
    return min(rate, peak * (step + 1) / warmup) if step < warmup else rate


def total_steps(schedule: Schedule, per_epoch: int) -> int:
    """Optimizer steps after which a run ends at the latest; an epoch has ``per_epoch``."""
    return min(schedule.steps or per_epoch * schedule.epochs, per_epoch * schedule.epochs)
