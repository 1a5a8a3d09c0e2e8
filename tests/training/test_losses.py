"""The losses against loops over images, pixels and classes, written out from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vitnext.data.mask_values import VOID
from vitnext.models import segmenter
from vitnext.recipe import from_dict
from vitnext.training.losses import LabelLoss, MaskLoss, balance, dice, focal, hardest_mean, lovasz
from vitnext.training.task import class_weights

CLASSES = 4


def example(seed=0, void=0.2):
    """Logits (2, 4, 5, 6) and truth with void; class 3 is in no pixel."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, CLASSES - 1, (2, 5, 6))
    truth[random.random(truth.shape) < void] = 255
    return torch.tensor(random.normal(0, 2, (2, CLASSES, 5, 6)), dtype=torch.float32), torch.from_numpy(truth)


def pixels(logits, truth):
    """(probabilities (C,), class) of each labelled pixel, in float64."""
    for b, y, x in np.argwhere(truth.numpy() != 255):
        powers = [math.exp(v) for v in logits[b, :, y, x].double().tolist()]
        yield [p / sum(powers) for p in powers], int(truth[b, y, x])


def of(logits, truth, weights=None, **fields):
    smoothing = fields.pop("label_smoothing", 0.0)
    recipe = from_dict({"label_smoothing": smoothing, "loss": fields})
    return MaskLoss(recipe, weights).of(logits, truth).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 0.25, 3.0, 2.0]])
def test_cross_entropy_with_void_weights_and_smoothing(smoothing, weights):
    logits, truth = example()
    total = mass = 0.0
    scale = weights or [1.0] * CLASSES
    for p, label in pixels(logits, truth):
        target = [smoothing / CLASSES + (1 - smoothing) * (c == label) for c in range(CLASSES)]
        total -= sum(t * w * math.log(q) for t, w, q in zip(target, scale, p, strict=True))
        mass += scale[label]
    given = None if weights is None else torch.tensor(weights)
    assert of(logits, truth, given, label_smoothing=smoothing) == pytest.approx(total / mass, rel=1e-5)


def test_the_hardest_pixels_alone():
    logits, truth = example(1)
    losses = sorted((-math.log(p[label]) for p, label in pixels(logits, truth)), reverse=True)
    count = round(0.25 * len(losses))
    assert of(logits, truth, hardest=0.25) == pytest.approx(sum(losses[:count]) / count, rel=1e-5)
    one = hardest_mean(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[0, 1, 255]]), 0.01)
    assert one.item() == 5.0  # at least one pixel, and no void


def test_focal():
    logits, truth = example(2)
    found = [(1 - p[label]) ** 2 * -math.log(p[label]) for p, label in pixels(logits, truth)]
    assert focal(logits, truth).item() == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_dice():
    logits, truth = example(3)
    seen = list(pixels(logits, truth))
    scores = []
    for c in range(CLASSES):
        area = sum(label == c for _, label in seen)
        if area:
            shared = sum(p[c] for p, label in seen if label == c)
            scores.append(2 * shared / (sum(p[c] for p, _ in seen) + area))
    assert len(scores) == 3
    assert dice(logits, truth).item() == pytest.approx(1 - sum(scores) / 3, rel=1e-5)


def naive_lovasz(seen):
    """Berman et al. 2018, algorithm 1 for each class in the truth: errors in decreasing order, each times the step of
    the Jaccard loss when its pixel joins the wrong ones."""
    losses = []
    for c in range(CLASSES):
        truth = [label == c for _, label in seen]
        if not any(truth):
            continue
        errors = [1 - p[c] if label == c else p[c] for p, label in seen]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        before = total = 0.0
        for k in range(1, len(order) + 1):
            wrong = order[:k]
            missed = sum(truth[i] for i in wrong)
            union = sum(truth) + sum(not truth[i] for i in wrong)
            jaccard = 1 - (sum(truth) - missed) / union
            total += errors[order[k - 1]] * (jaccard - before)
            before = jaccard
        losses.append(total)
    return sum(losses) / len(losses)


def test_dice_of_millions_of_pixels():
    """In fp32 they do not add up one after the other."""
    truth = torch.zeros(4, 1024, 1024, dtype=torch.int64)
    truth[:, ::7] = 1
    logits = torch.stack([torch.full(truth.shape, 3.0), torch.zeros(truth.shape)], dim=1)
    assert float(dice(logits, truth)) == pytest.approx(float(dice(logits.double(), truth)), abs=1e-6)


def test_dice_does_not_look_at_void():
    logits, truth = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    truth[0, 0, 0] = VOID
    expected = dice(logits, truth)
    logits[0, :, 0, 0] = float("nan")
    assert torch.equal(dice(logits, truth), expected)


def test_lovasz_is_algorithm_1():
    logits, truth = example(4)
    assert lovasz(logits, truth).item() == pytest.approx(naive_lovasz(list(pixels(logits, truth))), rel=1e-5)


def test_lovasz_of_certain_answers_is_one_minus_iou():
    truth = torch.tensor([[[0, 0, 1, 1, 255]]])
    guess = torch.tensor([[[0, 1, 1, 1, 0]]])
    logits = 100.0 * torch.nn.functional.one_hot(guess, 2).permute(0, 3, 1, 2).float()
    assert lovasz(logits, truth).item() == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)
    assert dice(logits, truth).item() == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)


def test_the_sum_is_weighted():
    logits, truth = example(5)
    parts = {"cross_entropy": 0.5, "focal": 2.0, "dice": 3.0, "lovasz": 0.25}
    alone = {name: of(logits, truth, **{"cross_entropy": 0.0, name: 1.0}) for name in parts}
    assert of(logits, truth, **parts) == pytest.approx(sum(parts[name] * alone[name] for name in parts), rel=1e-5)


def test_void_alone_costs_nothing_and_its_gradient_is_finite():
    logits, _ = example()
    truth = torch.full((2, 5, 6), 255)
    logits.requires_grad_()
    recipe = from_dict({"loss": {"focal": 1.0, "dice": 1.0, "lovasz": 1.0, "hardest": 0.5}})
    loss = MaskLoss(recipe, torch.ones(CLASSES)).of(logits, truth)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_the_device_is_asked_for_no_number_and_weights_stay_on_it():
    """The device "meta" has no numbers to give: a question to it, for which a GPU would have to wait, raises."""
    logits, truth = (tensor.to("meta") for tensor in example())
    loss = MaskLoss(from_dict({"loss": {"focal": 1.0, "dice": 1.0}}), torch.ones(CLASSES))
    assert loss.of(logits, truth).is_meta
    there = loss.weights
    loss.of(logits, truth)
    assert there.is_meta and loss.weights is there
    of_labels = LabelLoss(0.1, weights=torch.ones(CLASSES))
    of_labels(torch.nn.Identity(), torch.ones(2, CLASSES, device="meta"), torch.ones(2, CLASSES, device="meta"), 0.0)
    assert of_labels.weights.is_meta


def test_gradients_reach_labelled_pixels_alone():
    logits, truth = example(6)
    logits.requires_grad_()
    MaskLoss(from_dict({"loss": {"focal": 1.0, "dice": 1.0, "lovasz": 1.0}})).of(logits, truth).backward()
    touched = logits.grad.abs().sum(1) > 0
    assert torch.equal(touched, truth != 255)


def test_balance_is_the_median_over_each_count():
    assert balance(torch.tensor([100, 10, 0, 1000])).tolist() == pytest.approx([1.0, 10.0, 1.0, 0.1])


@pytest.fixture(scope="module")
def upernet():
    torch.manual_seed(0)
    config = {"stem_stride": 2, "depths": [1, 1], "widths": [8, 12]}
    return segmenter.build("convnext+upernet", **config, classes=3, head={"width": 8, "auxiliary_width": 4})


def test_the_auxiliary_head_adds_its_share(upernet):
    upernet.eval()
    images, truth = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16))
    without, half, whole = (
        MaskLoss(from_dict({"loss": {"auxiliary": share}}))(upernet, images, truth, 0.0).item() for share in (0, 0.5, 1)
    )
    assert without < half < whole and half == pytest.approx((without + whole) / 2, rel=1e-5)


def test_every_loss_under_bf16_is_near_that_of_fp32(upernet):
    upernet.eval()
    images, truth = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16))
    loss = MaskLoss(from_dict({"loss": {"focal": 1.0, "dice": 1.0, "lovasz": 1.0, "hardest": 0.5}}))
    exact = loss(upernet, images, truth, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(upernet, images, truth, 0.0)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)


# ---- classifiers


@pytest.mark.parametrize("weights", [None, [1.0, 0.25, 3.0, 2.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_of_labels_and_of_mixed_targets(mixed, binary, smoothing, weights):
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 2, (6, CLASSES)), random.integers(0, CLASSES, 6)
    targets = np.eye(CLASSES)[labels]
    if mixed:
        targets = 0.7 * targets + 0.3 * targets[::-1]
    losses = []
    for row, target in zip(logits, targets, strict=True):
        smooth = target * (1 - smoothing) + smoothing / CLASSES
        if binary:
            p = 1 / (1 + np.exp(-row))
            loss = -np.mean(smooth * np.log(p) + (1 - smooth) * np.log(1 - p))
        else:
            loss = -np.sum(smooth * (row - np.log(np.exp(row).sum())))
        losses.append(loss * (1.0 if weights is None else float(np.dot(target, weights))))
    truth = torch.from_numpy(targets).float() if mixed else torch.from_numpy(labels)
    given = None if weights is None else torch.tensor(weights)
    found = LabelLoss(smoothing, binary=binary, weights=given)(
        torch.nn.Identity(), torch.from_numpy(logits), truth, 0.0
    )
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_every_class_counts_the_same_in_all():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    weights = class_weights(labels, 3)[labels]
    assert weights.mean().item() == pytest.approx(1.0)
    assert [weights[labels == label].sum().item() for label in range(3)] == pytest.approx([100 / 3] * 3)
