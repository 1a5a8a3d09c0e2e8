"""Batches of images with masks: the same wherever a run starts and however they are held."""

from __future__ import annotations

import itertools
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from masks import add, flat_set, ids, split_of_objects
from vitnext.data import loaders, mask_loaders
from vitnext.data.loaders import Part
from vitnext.data.mask_folder import read_mask_folder
from vitnext.data.mask_loaders import MaskedImages, SegmentTargets, class_mask, pair
from vitnext.errors import ImageError
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict
from vitnext.types import Segments

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
RECIPE = {
    "data": {"image_size": 8},
    "augment": {"scale": [0.5, 2.0], "horizontal_flip": 0.5, "color_jitter": 0.3},
    "batch_size": 3,
    "workers": 0,
    "seed": 5,
}
WINDOW = Preprocess((8, 8), resize="window")


@pytest.fixture
def split(tmp_path):
    root = flat_set(tmp_path, count=6)
    add(root, "wide", ids((9, 31)))
    return read_mask_folder(root).parts["all"]


def batches(split, epoch=0, start=0, preprocess=WINDOW, **more):
    return list(MaskedImages(split, preprocess, from_dict(RECIPE | more)).epoch(epoch, start))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_batches_depend_on_the_place_alone(split, monkeypatch):
    whole = batches(split)
    assert [(image.shape, mask.shape) for image, mask in whole] == [((3, 3, 8, 8), (3, 8, 8))] * 2
    assert whole[0][0].dtype == torch.uint8 and whole[0][1].dtype == torch.int64
    torch.manual_seed(123)
    assert same(batches(split), whole)
    assert same(batches(split, start=1), whole[1:])  # resumed in the middle
    assert not same(batches(split, epoch=1), whole)
    assert not same(batches(split, seed=6), whole)
    assert same(batches(split, workers=1), whole)
    with closing(MaskedImages(split, WINDOW, from_dict(RECIPE)).stream(0, 1)) as stream:
        assert same(list(itertools.islice(stream, 3)), [whole[1], *batches(split, epoch=1)])
    third = MaskedImages(split, WINDOW, from_dict(RECIPE)).epoch(0, part=Part(1, 3))
    assert same(list(third), [tuple(values[1:2] for values in batch) for batch in whole])
    monkeypatch.setattr(mask_loaders, "cache_limit", lambda: 0)
    held = MaskedImages(split, WINDOW, from_dict(RECIPE))
    assert held.decoded is None and "read from files" in held.description
    assert same(list(held.epoch(0)), whole)


def test_workers_are_used_where_memory_does_not_do(split, monkeypatch):
    assert MaskedImages(split, WINDOW, from_dict(RECIPE | {"workers": -1})).workers == 0
    monkeypatch.setattr(mask_loaders, "cache_limit", lambda: 0)
    assert MaskedImages(split, WINDOW, from_dict(RECIPE | {"workers": -1})).workers >= 1
    assert loaders.cache_limit() > 0


def test_an_epoch_holds_each_image_once(split):
    order = np.concatenate(loaders.batch_indices(len(split), 3, 5, 0))
    assert len(set(order.tolist())) == len(order) == 6
    assert MaskedImages(split, WINDOW, from_dict(RECIPE)).steps_per_epoch == 2


def test_a_pair_at_the_scale_of_the_network(tmp_path):
    root = flat_set(tmp_path, count=1)
    mask = np.kron(np.array([[0, 1], [2, 255]], np.uint8), np.ones((20, 30), np.uint8))
    add(root, "big", mask)
    split = read_mask_folder(root).parts["all"]
    image, found = pair(split, WINDOW, 0)
    assert image.shape == (40, 60, 3) and np.array_equal(found, mask)
    image, found = pair(split, Preprocess((8, 8), resize="window", short_side=20), 0)
    assert image.shape == (20, 30, 3) and np.array_equal(found, mask[::2, ::2])  # exact, and not shifted
    grey = Preprocess((8, 8), resize="window", short_side=20, color="L", mean=(0.5,), std=(0.5,))
    assert pair(split, grey, 0)[0].shape == (20, 30, 1)
    assert batches(split, preprocess=grey, batch_size=2)[0][0].shape == (2, 1, 8, 8)


def test_a_pair_of_two_sizes_is_refused(tmp_path):
    root = flat_set(tmp_path, count=1)
    Image.fromarray(ids((10, 8))).save(root / "masks" / "i0.png")
    with pytest.raises(ImageError, match=r"images/i0.png: the image has 10x8 pixels, its mask 8x10"):
        pair(read_mask_folder(root).parts["all"], WINDOW, 0)


def test_merged_classes_reach_the_batches(split):
    merged = split.regrouped({}, ["car"])
    held = {int(v) for _, mask in batches(merged) for v in mask.unique()}
    assert held <= {0, 1, 255} and {0, 1} <= held
    assert 2 in {int(v) for _, mask in batches(split) for v in mask.unique()}


def segment_batches(split, epoch=0, **more):
    return list(MaskedImages(split, WINDOW, from_dict(RECIPE | more), objects=True).epoch(epoch))


def test_batches_of_segments_are_those_of_masks_with_objects_told_apart():
    split = split_of_objects()
    given = batches(split)
    found = segment_batches(split)
    assert len(found) == len(given) == 2
    several = 0
    for (image, mask), (again, targets) in zip(given, found, strict=True):
        assert torch.equal(image, again) and torch.equal(targets.classes(), mask)
        assert targets.ids.dtype == targets.labels.dtype == torch.int64
        for numbers, labels in zip(targets.ids, targets.labels, strict=True):
            present = numbers.unique()
            assert torch.equal(present[present > 0], torch.arange(1, int((labels >= 0).sum()) + 1))  # none is empty
            several += len(labels[labels > 0]) > len(labels[labels > 0].unique())
    assert several  # crops with two objects of a class


def test_segments_from_workers_and_files_are_the_same(monkeypatch):
    split = split_of_objects()
    whole = segment_batches(split)
    monkeypatch.setattr(mask_loaders, "cache_limit", lambda: 0)
    for workers in (0, 1):
        again = segment_batches(split, workers=workers)
        for (a, s), (b, t) in zip(whole, again, strict=True):
            assert torch.equal(a, b) and torch.equal(s.ids, t.ids) and torch.equal(s.labels, t.labels)


def test_crowds_teach_nothing():
    ids = np.array([[0, 1, 2]], np.int32)
    crowd = np.array([False, True])
    assert class_mask(Segments(ids, np.array([3, 4]), crowd)).tolist() == [255, 3, 255]


def test_targets_know_their_classes():
    targets = SegmentTargets(torch.tensor([[[0, 1, 2]], [[1, 1, 0]]]), torch.tensor([[4, 2], [3, -1]]))
    assert targets.classes().tolist() == [[[255, 4, 2]], [[3, 3, 255]]]
    first, second = targets.tensor_split(2)
    assert first.classes().tolist() == [[[255, 4, 2]]] and second.labels.tolist() == [[3, -1]]
    assert len(targets) == 2 and torch.equal(targets.to(torch.device("cpu")).ids, targets.ids)
