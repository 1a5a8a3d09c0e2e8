"""The batch size: the fastest, by a clock that runs as the test says, or the largest that fits."""

from __future__ import annotations

import pytest
import torch

from toy_trial import toy
from vitnext.errors import WorkError
from vitnext.training import batch_size
from vitnext.training.batch_size import choose_batch_size, fastest, largest_that_fits
from vitnext.training.trial import Trial


@pytest.mark.parametrize(
    "seconds, chosen",
    [
        (lambda size: 1.0, 64),  # whatever the size
        (lambda size: size / 100, 8),  # images are as fast in any
        (lambda size: 0.1 + size / 1000 + (100.0 if size > 32 else 0.0), 32),  # 64 do not fit into some cache
        (lambda size: size / (100 if size < 16 else 103), 8),  # faster by less than counts
        (lambda size: size / (100 if size < 16 else 110), 16),
    ],
)
def test_the_fastest_is_taken_and_of_equals_the_smaller(seconds, chosen, monkeypatch):
    now, seen = [0.0], []

    def step(size):
        seen.append(size)
        now[0] += seconds(size)

    monkeypatch.setattr(batch_size.time, "perf_counter", lambda: now[0])
    size, reason = fastest(step, (8, 16, 32, 64), seconds=5.0)
    assert size == chosen and reason.startswith("measured: 8 at ") and reason.count("images/s") == 4
    assert seen[0] == 8 and seen[1:5] == [8, 16, 32, 64] and len(seen) % 4 == 1  # one to set up, then rounds


@pytest.mark.parametrize(
    "room, most, chosen, reason", [(100, 512, 64, "128 does not fit"), (9999, 512, 512, "no fewer")]
)
def test_the_largest_that_fits_into_memory(room, most, chosen, reason):
    def step(size):
        if size > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    size, why = largest_that_fits(step, 2, most)
    assert size == chosen and reason in why


def test_a_size_that_does_not_fit_is_not_chosen():
    def step(size):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(WorkError, match="not even batches of 4 images fit into the GPU's memory: set data.image_size"):
        largest_that_fits(step, 4, 512)


def trial(*sets):
    model, task, recipe, preprocess, precision = toy(*sets)
    return Trial(model, task, recipe, preprocess, precision), next(task.batches.epoch(0))


def test_an_epoch_keeps_ten_steps_and_a_part_two_images(monkeypatch):
    monkeypatch.setattr(batch_size, "fastest", lambda step, sizes: (sizes, ""))

    def sizes(images, *sets):
        return choose_batch_size(*trial(*sets), images)[0]

    assert sizes(10_000, "accumulate=1") == [8, 16, 32, 64]
    assert sizes(330, "accumulate=1") == [8, 16, 32] and sizes(159, "accumulate=1") == [8]
    assert sizes(24, "accumulate=1") == [2] and sizes(24) == [4]
    assert sizes(10_000, "accumulate=3", "augment.repeats=5") == [16, 32, 64]


def test_real_steps_are_taken_on_a_copy(monkeypatch):
    begun, sample = trial("ema=0.9")
    before = {name: tensor.clone() for name, tensor in begun.model.state_dict().items()}
    monkeypatch.setattr(batch_size, "fastest", lambda step, sizes: fastest(step, sizes, seconds=0))
    size, reason = choose_batch_size(begun, sample, 320)
    assert size in (8, 16, 32) and reason.count("images/s") == 3
    for name, tensor in begun.model.state_dict().items():  # at the rate 0
        torch.testing.assert_close(tensor, before[name])
