"""Mixed images and targets agree with each other, and with loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitnext.data.mixing import Mixing, box
from vitnext.recipe import Augment

BATCH, CLASSES = 5, 7
LABELS = torch.tensor([3, 0, 6, 3, 1])


def mixed(seed, **augment):
    """A batch whose i-th image holds i everywhere, mixed."""
    torch.manual_seed(seed)
    images = torch.arange(float(BATCH))[:, None, None, None].expand(BATCH, 2, 12, 10)
    mixing = Mixing(Augment(**augment), CLASSES)
    return (images, *mixing(images, LABELS))


def expected_targets(share):
    targets = torch.zeros(BATCH, CLASSES)
    for i in range(BATCH):
        targets[i, LABELS[i]] += share
        targets[i, LABELS[i - 1]] += 1 - share
    return targets


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_each_image_and_its_label_with_those_before(seed):
    images, pictures, targets = mixed(seed, mixup=0.8)
    share = float(pictures[1, 0, 0, 0])  # the second image holds 1, the first 0
    for i in range(BATCH):
        assert torch.allclose(pictures[i], images[i] * share + images[i - 1] * (1 - share), atol=1e-5)
    assert torch.allclose(targets, expected_targets(share), atol=1e-5)
    assert 0 < share < 1


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_puts_a_rectangle_of_the_image_before_in_and_shares_labels_by_its_area(seed):
    images, pictures, targets = mixed(seed, cutmix=1.0)
    inside = (pictures != images)[1, 0]  # of the second image, which holds 1, where 0 is
    for i in range(BATCH):
        assert torch.equal(pictures[i], torch.where(inside, images[i - 1], images[i]))
    if inside.any():
        rows, columns = inside.any(1), inside.any(0)
        assert torch.equal(inside, rows[:, None] & columns)  # a rectangle ...
        for line in (rows, columns):  # ... in one piece
            assert (line.int().diff().abs().sum() + line[0] + line[-1]) == 2
    assert torch.allclose(targets, expected_targets(1 - float(inside.float().mean())), atol=1e-5)


def test_lambda_follows_the_beta_distribution():
    shares = np.array([float(mixed(seed, mixup=0.8)[1][1, 0, 0, 0]) for seed in range(400)])
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.2)  # of Beta(a, a)


def test_with_both_half_of_the_batches_get_each():
    cut = [set(mixed(seed, mixup=0.8, cutmix=1.0)[1][1].unique().tolist()) <= {0.0, 1.0} for seed in range(200)]
    assert 75 < sum(cut) < 125


def test_boxes_have_their_area_where_they_do_not_leave_the_image():
    torch.manual_seed(0)
    areas = []
    for _ in range(300):
        top, bottom, left, right = box(40, 60, 0.75)
        assert 0 <= top <= bottom <= 40 and 0 <= left <= right <= 60
        areas.append((bottom - top) * (right - left) / 2400)
    assert max(areas) == pytest.approx(0.25, abs=0.01)
    assert np.mean(np.isclose(areas, max(areas))) == pytest.approx(0.25, abs=0.12)  # centre in the middle half


def test_the_draws_are_those_of_the_seed_alone():
    one, other = mixed(3, mixup=0.8, cutmix=1.0), mixed(3, mixup=0.8, cutmix=1.0)
    assert torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])
    assert not torch.equal(mixed(4, mixup=0.8)[1], mixed(5, mixup=0.8)[1])
