"""What a classifier's task makes of the recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitnext.data.dataset import Dataset, Split
from vitnext.errors import InputError
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict
from vitnext.training.task import require_suitable, task_of

LABELS = np.array([0, 0, 0, 1])
BASE = {"model": {"name": "vit"}, "data": {"image_size": 8, "color": "L"}, "batch_size": 4}
SEVERAL = np.array([[1, 1], [0, 0], [1, 0], [0, 1]], np.uint8)


def dataset(labels=LABELS):
    names = np.array([f"{i}".encode() for i in range(4)])
    split = Split(("a", "b"), labels, names, np.ones(4, np.int64), arrays=np.zeros((4, 8, 8, 1), np.uint8))
    return Dataset("toy", "builtin", split.classes, {"train": split, "val": split}, {}, "toy", "toy")


def task(labels=LABELS, **fields):
    preprocess = Preprocess((8, 8), resize="stretch", color="L", mean=(0.5,), std=(0.5,))
    return task_of(dataset(labels), "val", preprocess, from_dict(BASE | fields), PanopticQuality)


def test_balanced_classes_count_by_the_inverse_of_their_frequency():
    logits, labels = torch.randn(4, 2), torch.from_numpy(LABELS)
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (plain * torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0])).mean()
    found = task(loss={"balanced": True}).objective(torch.nn.Identity(), logits, labels, 0.0)
    assert torch.allclose(found, expected)
    assert torch.allclose(task().objective(torch.nn.Identity(), logits, labels, 0.0), plain.mean())


def test_images_are_mixed_if_the_recipe_says_so():
    assert task().mix is None
    for field in ("mixup", "cutmix"):
        _, targets = task(augment={field: 1.0}).mix(torch.zeros(4, 1, 8, 8), torch.from_numpy(LABELS))
        assert targets.shape == (4, 2)


@pytest.mark.parametrize("field", ["mixup", "cutmix"])
def test_images_with_several_labels_are_mixed_and_their_loss_is_that_of_a_loop(field):
    assert task(SEVERAL).mix is None
    made = task(SEVERAL, augment={field: 1.0}, label_smoothing=0.1)
    torch.manual_seed(3)
    images, targets = made.mix(torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8), torch.from_numpy(SEVERAL))
    share = float(images[1].mean())  # the second image holds 1, the first 0
    assert 0 < share < 1
    logits, total = torch.randn(4, 2), 0.0
    for i in range(4):
        for k in range(2):
            target = share * SEVERAL[i][k] + (1 - share) * SEVERAL[i - 1][k]
            assert float(targets[i, k]) == pytest.approx(target, abs=1e-6)
            smooth, p = target * 0.9 + 0.1 / 2, float(logits[i, k].sigmoid())
            total -= smooth * np.log(p) + (1 - smooth) * np.log(1 - p)
    found = made.objective(torch.nn.Identity(), logits, targets, 0.0)
    assert float(found) == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"data": {**BASE["data"], "class_sampling": 0.5}}, "data.class_sampling"),
        ({"loss": {"balanced": True}}, "loss.balanced"),
        ({"loss": {"binary": True}}, "loss.binary"),
    ],
)
def test_what_is_for_one_label_an_image_is_refused_where_there_are_several(fields, name):
    recipe = from_dict(BASE | fields)
    require_suitable(recipe, dataset())
    with pytest.raises(InputError, match=f"{name} is for data with one label an image, and does nothing here"):
        require_suitable(recipe, dataset(SEVERAL))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulate": 5}, "accumulate is 5, more parts than the 4 images of batch_size"),
        ({"augment": {"mixup": 1.0}, "batch_size": 1}, "need two different images in a batch"),
        ({"augment": {"cutmix": 1.0, "repeats": 4}}, "need two different images in a batch"),
        ({"augment": {"trivial_augment": True, "rand_augment": [9, 0]}}, "set augment.trivial_augment=false or"),
        ({"loss": {"dice": 1.0}}, "loss.dice is for segmentation"),
        ({"augment": {"aspect": (0.5, 2.0)}}, "augment.aspect is for segmentation"),
        ({"augment": {"rotation": 30.0}}, "augment.rotation is for segmentation"),
    ],
)
def test_what_does_not_go_together_is_one_line(fields, message):
    with pytest.raises(InputError) as caught:
        require_suitable(from_dict(BASE | fields), dataset())
    assert message in str(caught.value)


def test_classes_are_not_balanced_twice():
    sets = {"loss": {"balanced": True}, "data": {**BASE["data"], "class_sampling": 0.5}}
    with pytest.raises(InputError, match="loss.balanced and data.class_sampling both make up for unequal classes"):
        require_suitable(from_dict(BASE | sets), dataset())
