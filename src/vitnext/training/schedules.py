"""Learning rates as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: int, peak: float, final_fraction: float = 0.0) -> float:
    """The learning rate of ``step`` in [0, steps): linear from peak / warmup to peak, then a cosine to
    ``final_fraction * peak`` (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))
