"""Which images an epoch takes: classes by their frequency's power, images more than once."""

from __future__ import annotations

import numpy as np
import pytest

from vitnext.data.loaders import batch_indices, generator, label_batches
from vitnext.data.sampling import class_order, occurrences
from vitnext.recipe import from_dict

LABELS = np.repeat([0, 2, 1, 3], [600, 300, 90, 10])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_come_by_the_power_of_their_frequency(power):
    drawn = np.bincount(LABELS[class_order(LABELS, power, generator(0))], minlength=4)
    chances = np.bincount(LABELS).astype(float) ** power
    expected = 1000 * chances / chances.sum()
    assert drawn.sum() == 1000
    assert np.all(np.abs(drawn - expected) < 4 * np.sqrt(expected))


def test_within_a_class_all_images_come_before_one_comes_again():
    order = class_order(LABELS, 0.0, generator(1))
    for label in range(4):
        times = np.bincount(order[LABELS[order] == label], minlength=1000)[label == LABELS]
        assert times.max() - times.min() <= 1


def test_a_class_without_images_is_never_drawn():
    labels = np.repeat([0, 4], 5)
    assert set(labels[class_order(labels, 0.0, generator(0))]) <= {0, 4}


def test_occurrences_are_counted_from_zero():
    order = np.random.default_rng(0).integers(0, 20, 200)
    expected = [int(np.sum(order[:i] == order[i])) for i in range(200)]
    assert occurrences(order).tolist() == expected
    assert occurrences(np.array([5, 3, 5, 5])).tolist() == [0, 0, 1, 2]


def batches(**fields):
    return label_batches(LABELS, from_dict({"batch_size": 8, "seed": 3} | fields), 2)


def test_by_default_each_image_comes_once():
    for one, other in zip(batches(), batch_indices(1000, 8, 3, 2), strict=True):
        assert np.array_equal(one, other)


def test_repeats_fill_a_batch_with_fewer_images_none_beside_itself():
    made = batches(augment={"repeats": 4})
    assert len(made) == 125
    assert all(len(batch) == 8 and len(set(batch)) == 2 for batch in made)
    assert all((batch != np.roll(batch, 1)).all() for batch in made)
    assert len(set(np.concatenate(made))) == 250  # of 1,000: as many steps, fewer images


def test_a_batch_that_is_no_multiple_of_the_repeats_is_cut_off():
    first = batches(augment={"repeats": 3})[0]
    assert len(first) == 8 and sorted(np.unique(first, return_counts=True)[1]) == [2, 3, 3]


def test_sampling_differs_between_epochs_and_seeds():
    sampled = {"data": {"class_sampling": 0.0}}
    orders = [np.concatenate(batches(**sampled, seed=seed)).tolist() for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]
