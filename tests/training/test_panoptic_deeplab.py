"""Targets against loops, the loss of perfect answers, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masks import split_of_objects
from vitnext.data.mask_loaders import MaskedImages, SegmentTargets
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.inference.centers import UNIT
from vitnext.models import create
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict
from vitnext.training.hardware import Precision
from vitnext.training.panoptic_deeplab import PanopticDeepLabLoss, center_targets
from vitnext.training.panoptic_validation import PanopticValidator

THINGS = (False, True, True)


def targets():
    ids = torch.zeros(2, 10, 12, dtype=torch.long)
    ids[0, :, 6:], ids[0, 1:5, 1:4], ids[0, 6:9, 2:9] = 1, 2, 3
    ids[1, 2:4] = 1
    return SegmentTargets(ids, torch.tensor([[0, 1, 2], [2, -1, -1]]))


def test_centres_and_offsets_are_those_of_a_loop():
    given, spread = targets(), 2.5
    heat, offsets, inside = center_targets(given, torch.tensor(THINGS), spread)
    for i in range(2):
        expected, own = np.zeros((10, 12)), {}
        for k, label in enumerate(given.labels[i].tolist(), start=1):
            places = np.argwhere(given.ids[i].numpy() == k)
            if label >= 0 and THINGS[label]:
                own[k] = places.mean(axis=0)
                for y in range(10):
                    for x in range(12):
                        distance = ((np.array([y, x]) - own[k]) ** 2).sum()
                        expected[y, x] = max(expected[y, x], np.exp(-distance / (2 * spread**2)))
        assert heat[i].numpy() == pytest.approx(expected, abs=1e-6)
        for y in range(10):
            for x in range(12):
                k = int(given.ids[i, y, x])
                assert bool(inside[i, y, x]) == (k in own)
                if k in own:
                    assert offsets[i, :, y, x].numpy() == pytest.approx(own[k] - [y, x], abs=1e-4)


def perfect(given, spread):
    heat, offsets, _ = center_targets(given, torch.tensor(THINGS), spread)
    classes = torch.nn.functional.one_hot(given.classes().clamp(max=2), 3).permute(0, 3, 1, 2) * 40.0
    return torch.cat([classes, heat[:, None], offsets / UNIT], dim=1)


def test_perfect_answers_cost_nothing_and_every_part_counts():
    given = targets()
    loss, answers = PanopticDeepLabLoss(from_dict({}), THINGS), perfect(given, 2.0)
    assert float(loss.of(answers, given, 2.0)) == pytest.approx(0, abs=1e-4)
    for channel in range(6):
        worse = answers.clone()
        worse[:, channel] += 50.0 if channel < 3 else 0.5
        assert float(loss.of(worse, given, 2.0)) > 0.01
    void = given.ids == 0
    worse = answers.clone()
    worse.permute(0, 2, 3, 1)[void] = 9.0  # where nothing is labelled anything may be said
    assert float(loss.of(worse, given, 2.0)) == pytest.approx(0, abs=1e-4)


def test_nothing_labelled_and_no_things():
    loss = PanopticDeepLabLoss(from_dict({}), THINGS)
    for ids, labels in ((0, [-1]), (1, [0])):
        out = torch.zeros(1, 6, 4, 4, requires_grad=True)
        value = loss.of(out, SegmentTargets(torch.full((1, 4, 4), ids), torch.tensor([labels])), 2.0)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(out.grad).all()


def test_a_network_learns_to_tell_objects_apart():
    torch.manual_seed(0)
    split = split_of_objects(4, (32, 32))
    recipe = from_dict({"data": {"image_size": 32, "window": [32, 32]}, "batch_size": 4, "workers": 0})
    window = Preprocess((32, 32), resize="window")
    config = {"stem_stride": 2, "depths": [1, 1], "widths": [16, 24], "layer_scale": 0.0}
    model = create.build("convnext+panoptic_deeplab", **config, head={"width": 24, "dropout": 0.0}, classes=3)
    loss, optimizer = PanopticDeepLabLoss(recipe, THINGS), torch.optim.AdamW(model.parameters(), 1e-2)
    masked, steps = MaskedImages(split, window, recipe, objects=True), 120
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        for images, truth in masked.epoch(step):
            optimizer.zero_grad()
            loss(model.train(), (images.float() / 255 - 0.4) / 0.25, truth, step / steps).backward()
            optimizer.step()
    seen = Preprocess((32, 32), resize="window", mean=(0.4,) * 3, std=(0.25,) * 3)
    validate = PanopticValidator(split, seen, "convnext+panoptic_deeplab", THINGS, PanopticQuality)
    metrics = validate(model.eval(), Precision(torch.float32))
    assert metrics["pq"] > 0.8 and set(metrics) == {"pq", "score_error", "objects"}
