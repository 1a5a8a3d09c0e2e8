"""The learning rate of every step, against the formula written out."""

from __future__ import annotations

import math

import pytest

from vitnext.training.schedules import learning_rate


def warmup_cosine(step, steps, warmup, peak, final_fraction=0.0):
    done = max(0.0, (step - warmup) / max(1, steps - warmup))
    return learning_rate(done, step, warmup, peak, final_fraction=final_fraction)


def naive(steps, warmup, peak, final_fraction):
    """A ramp of ``warmup`` equal rises, then half a cosine period from peak to its final value."""
    ramp = [peak * k / warmup for k in range(1, warmup + 1)]
    low = peak * final_fraction
    rest = steps - warmup
    return ramp + [low + (peak - low) * (1 + math.cos(math.pi * k / rest)) / 2 for k in range(rest)]


@pytest.mark.parametrize(
    ("steps", "warmup", "final"), [(1, 0, 0), (1, 1, 0), (2, 1, 0.5), (10, 0, 0.1), (100, 10, 0), (57, 13, 0.01)]
)
def test_every_step_is_the_formula(steps, warmup, final):
    rates = [warmup_cosine(step, steps, warmup, 3e-3, final) for step in range(steps)]
    assert rates == pytest.approx(naive(steps, warmup, 3e-3, final), rel=1e-12)


def test_the_boundaries():
    def rate(step, **given):
        return warmup_cosine(step, **({"steps": 100, "warmup": 10, "peak": 2.0} | given))

    assert rate(0) == pytest.approx(0.2)  # not 0: the first step trains too
    assert rate(9) == rate(10) == 2.0  # the ramp ends at the peak, the cosine starts there
    assert rate(0, warmup=0) == 2.0
    assert rate(55) == pytest.approx(1.0)  # half way down
    assert rate(55, final_fraction=0.1) == pytest.approx(1.1)
    assert rate(100) == pytest.approx(0.0)  # one past the last
    assert rate(100, final_fraction=0.1) == pytest.approx(0.2)
    assert 0 < rate(99) < 0.001


def test_it_rises_to_the_peak_and_never_rises_again():
    rates = [warmup_cosine(step, 60, 7, 1.0, 0.05) for step in range(60)]
    assert rates[:7] == sorted(rates[:7]) and rates[7:] == sorted(rates[7:], reverse=True)
    assert max(rates) == 1.0 and min(rates[7:]) > 0.05


def test_a_run_that_only_warms_up():
    assert [warmup_cosine(step, 4, 4, 1.0) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine(4, 4, 4, 1.0) == 1.0  # no division by zero


def test_poly_is_a_power_of_what_is_left():
    rates = [learning_rate(k / 10, 5 + k, 5, 2.0, final_fraction=0.1, decay="poly") for k in range(11)]
    assert rates == pytest.approx([0.2 + 1.8 * (1 - k / 10) ** 0.9 for k in range(11)])
    assert learning_rate(1.01, 99, 5, 2.0, decay="poly") == 0.0  # a clock may run over
    assert learning_rate(0.0, 0, 5, 2.0, decay="poly") == pytest.approx(0.4)


def test_linear_is_what_is_left():
    rates = [learning_rate(k / 10, 5 + k, 5, 2.0, final_fraction=0.1, decay="linear") for k in range(11)]
    assert rates == pytest.approx([0.2 + 1.8 * (1 - k / 10) for k in range(11)])
    assert learning_rate(1.01, 99, 5, 2.0, decay="linear") == 0.0


def test_a_clock_ends_the_warm_up_in_time():
    rates = [learning_rate(step / 10, step, 100, 1.0) for step in range(11)]  # a tenth of the time a step
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])  # the ramp, as long as it is lower
    assert rates[-1] == 0 and rates[9] == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)
