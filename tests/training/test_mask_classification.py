"""Matching against loops, the annealing against the authors' numbers, and learning."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vitnext.data.mask_loaders import SegmentTargets
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.inference.queries import segments
from vitnext.models import create
from vitnext.models.eomt import annealed
from vitnext.training import mask_classification as mc
from vitnext.training.mask_classification import MaskClassificationLoss, matching_cost
from vitnext.types import Segments


def test_the_annealing_is_that_of_the_published_recipe():
    # 88,692 steps on COCO with 4 blocks: masks fade from these steps to those.
    starts, ends = [14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910]
    for step in (0, 14782, 20000, 29564, 50000, 73910, 88691):
        faded = [(step - a) / (b - a) for a, b in zip(starts, ends, strict=True)]
        expected = [(1 - min(max(t, 0.0), 1.0)) ** 0.9 for t in faded]
        assert annealed(step / 88692, 4) == pytest.approx(expected, abs=1e-9)


def test_the_cost_of_every_pair_is_the_formula():
    torch.manual_seed(0)
    logits, classes = torch.randn(3, 20), torch.randn(3, 5)
    ids, labels = torch.randint(0, 3, (20,)), torch.tensor([3, 1])
    cost = matching_cost(logits, classes, ids, labels)
    for i, j in itertools.product(range(3), range(2)):
        binary = shared = size = 0.0
        for p in range(20):
            if ids[p] == 0:
                continue  # void
            wanted, probability = float(ids[p] == j + 1), float(logits[i, p].sigmoid())
            binary -= np.log(probability if wanted else 1 - probability)
            shared, size = shared + probability * wanted, size + probability + wanted
        binary /= int((ids > 0).sum())
        dice = 1 - (2 * shared + 1) / (size + 1)
        expected = 5 * binary + 5 * dice - 2 * float(classes[i].softmax(0)[labels[j]])
        assert float(cost[i, j]) == pytest.approx(expected, rel=1e-4)


def loss_of(masks, classes, ids, labels):
    return MaskClassificationLoss(classes.shape[2] - 1).of(masks, classes, SegmentTargets(ids, labels))


def test_segments_go_to_the_queries_that_fit_them_and_the_rest_says_no_object():
    ids = torch.ones(1, 16, 16, dtype=torch.long)
    ids[:, :, 8:] = 2
    labels = torch.tensor([[1, 0]])
    left = torch.where(ids == 1, 9.0, -9.0)
    masks = torch.stack([-left, torch.full_like(left, -9.0), left], dim=1)  # (1, 3, 16, 16)
    classes = torch.full((1, 3, 3), -9.0)
    classes[0, 0, 0] = classes[0, 1, 2] = classes[0, 2, 1] = 9.0
    right = float(loss_of(masks, classes, ids, labels))
    assert right < 0.3
    assert float(loss_of(masks[:, [2, 1, 0]], classes[:, [2, 1, 0]], ids, labels)) == pytest.approx(right, abs=0.1)
    assert float(loss_of(masks[:, [2, 1, 0]], classes, ids, labels)) > right + 1
    assert float(loss_of(masks, classes[:, [1, 0, 2]], ids, labels)) > right + 1


def test_void_teaches_masks_nothing():
    torch.manual_seed(0)
    ids = torch.ones(1, 8, 8, dtype=torch.long)
    ids[:, 4:] = 0
    masks = torch.randn(1, 1, 8, 8, requires_grad=True)
    loss_of(masks, torch.zeros(1, 1, 2), ids, torch.tensor([[0]])).backward()
    assert masks.grad[0, 0, 5:].abs().max() == 0 and masks.grad[0, 0, :3].abs().max() > 0


def test_an_image_without_segments_teaches_no_object():
    masks, classes = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 2, 3, requires_grad=True)
    loss = loss_of(masks, classes, torch.zeros(1, 8, 8, dtype=torch.long), torch.full((1, 2), -1))
    loss.backward()
    assert loss.item() == pytest.approx(2 * np.log(3), rel=1e-5)
    assert masks.grad.abs().max() == 0 and classes.grad[..., :2].min() > 0 > classes.grad[..., 2].max()


def test_more_segments_than_queries_are_said_once(caplog):
    torch.manual_seed(0)
    loss = MaskClassificationLoss(2)
    ids = torch.arange(1, 17).reshape(1, 4, 4)
    targets = SegmentTargets(ids, torch.zeros(1, 16, dtype=torch.long))
    for _ in range(2):
        loss.of(torch.randn(1, 6, 4, 4), torch.randn(1, 6, 3), targets)
    [record] = caplog.records
    assert "an image has 16 segments, but the model 6 queries" in record.message
    assert "--set model.config.queries=50 of EoMT" in record.message


def test_what_is_no_number_gives_a_loss_that_is_none():
    targets = SegmentTargets(torch.ones(1, 4, 4, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    nothing = torch.full((1, 3, 4, 4), torch.nan), torch.full((1, 3, 3), torch.nan)
    assert MaskClassificationLoss(2).of(*nothing, targets).isnan()  # which the loop says


def test_points_gather_where_a_mask_is_unsure():
    masks = torch.linspace(-8, 8, 32).expand(2, 32, 32)  # unsure in the middle column
    torch.manual_seed(0)
    places = mc.unsure_points(masks, 400)
    assert places.shape == (2, 400, 2) and places.min() >= 0 and places.max() <= 1
    near = (places[..., 0] - 0.5).abs() < 0.2
    assert near[:, :300].float().mean() > 0.95 and 0.2 < near[:, 300:].float().mean() < 0.6


LEARNERS = {
    "vit+eomt": {"image_size": 32, "patch_size": 4, "dim": 32, "depth": 3, "heads": 4, "queries": 6, "blocks": 2},
    "convnext+mask2former": {
        "stem_stride": 2,
        "depths": [1, 1, 1],
        "widths": [16, 24, 32],
        "head": {
            "width": 32,
            "queries": 6,
            "layers": 2,
            "hidden": 64,
            "pixel_layers": 1,
            "pixel_hidden": 32,
            "heads": 4,
        },
    },
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_model_of_queries_learns_its_images(name):
    """Loss, matching, targets, inference and metric together: two scenes to a panoptic quality above 0.9."""
    torch.manual_seed(0)
    ids = torch.ones(2, 32, 32, dtype=torch.long)  # ground, and things of two kinds
    ids[0, 2:14, 2:14], ids[0, 18:30, 10:26] = 2, 3
    ids[1, 4:28, 4:14], ids[1, 6:18, 18:30] = 2, 3
    labels = torch.tensor([[0, 1, 1], [0, 1, 2]])
    colours = torch.tensor([[0.0, 0, 0], [1, 0, -1], [-1, 1, 0]])
    images = torch.stack([colours[labels[i][ids[i] - 1]] for i in range(2)]).permute(0, 3, 1, 2)
    model = create.build(name, **LEARNERS[name], classes=3)
    objective, steps = MaskClassificationLoss(3), 120
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        loss = objective(model, images, SegmentTargets(ids, labels), step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    quality, things = PanopticQuality(["ground", "red", "green"], [False, True, True]), [False, True, True]
    with torch.no_grad():
        masks, classes = (out.numpy() for out in model.eval()(images))
    for i in range(2):
        truth = Segments(ids[i].numpy().astype(np.int32), labels[i].numpy(), np.zeros(3, bool))
        quality.update(truth, segments(masks[i], classes[i], things, (32, 32)))
    assert quality.result()["pq"] > 0.9
