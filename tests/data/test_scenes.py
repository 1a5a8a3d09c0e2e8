"""digit-scenes: what must hold of every scene, whatever Pillow's version draws."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from vitnext.data import scenes
from vitnext.data.builtin import digits
from vitnext.data.mask_split import fingerprint_parts
from vitnext.data.mask_values import VOID


@pytest.fixture(scope="module")
def drawn():
    images, labels = digits()
    return [scenes.scene(images, labels, np.random.default_rng((9, i))) for i in range(12)]


def test_a_scene_agrees_with_itself(drawn):
    for image, classes, instances in drawn:
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert classes.shape == instances.shape == (96, 96)
        assert (classes.dtype, instances.dtype) == (np.uint8, np.uint16)
        assert ((classes == 0) | (classes == VOID) == (instances == 0)).all()
        numbers = np.unique(instances[instances > 0])
        assert numbers.tolist() == list(range(1, len(numbers) + 1)) and len(numbers) <= scenes.MOST_DIGITS
        for number in numbers:  # an instance is of one class
            [label] = np.unique(classes[instances == number])
            assert 1 <= label <= 10
    assert len({int(c) for _, classes, _ in drawn for c in np.unique(classes)}) > 6


def test_a_scene_depends_on_its_generator_alone(drawn):
    images, labels = digits()
    again = scenes.scene(images, labels, np.random.default_rng((9, 0)))
    assert all(np.array_equal(a, b) for a, b in zip(again, drawn[0], strict=True))
    assert not np.array_equal(drawn[0][0], drawn[1][0])


def test_digits_that_are_mostly_hidden_are_void():
    owner = np.array([[1, 2, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]], np.uint16)
    classes, instances = scenes._truth(owner, np.array([5, 0, 9, 4]), [4, 6, 4, 7])
    # of the first 1/4 is seen, of the second exactly half, of the third all, of the fourth nothing
    assert classes.tolist() == [[VOID, 1, 1, 1], [10] * 4, [0] * 4]
    assert instances.tolist() == [[0, 1, 1, 1], [2] * 4, [0] * 4]


def test_a_digit_leaves_nine_tenths_of_the_others():
    owner = np.zeros((scenes.SIZE, scenes.SIZE), np.uint16)
    owner[:, :48] = 1
    ink = np.ones((scenes.SIZE, 40), bool)  # hides at least 0 and at most 40 of the 48 columns
    for seed in range(20):
        place = scenes._free_place(owner, ink, [48 * scenes.SIZE], np.random.default_rng(seed))
        if place is not None:
            assert place[1].start >= 44  # 4 of 48 columns are a twelfth, 5 more than a tenth
    assert any(scenes._free_place(owner, ink, [48 * scenes.SIZE], np.random.default_rng(s)) for s in range(20))
    owner[:] = 1
    assert scenes._free_place(owner, ink, [owner.size], np.random.default_rng(0)) is None


def test_digits_hide_parts_of_each_other_in_some_scenes():
    images, labels = digits()
    hidden = []
    truth = scenes._truth

    def spy(owner, chosen, areas):
        seen = np.bincount(owner.reshape(-1), minlength=len(areas) + 1)[1:]
        hidden.extend(1 - seen[seen > 0] / np.array(areas)[seen > 0])
        return truth(owner, chosen, areas)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "_truth", spy)
        for i in range(30):
            scenes.scene(images, labels, np.random.default_rng((8, i)))
    assert np.mean(np.array(hidden) > 0.05) > 0.1


def test_splits(monkeypatch):
    monkeypatch.setattr(scenes, "COUNTS", {"train": 4, "val": 2, "test": 2})
    splits = scenes.splits.__wrapped__()
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "val": 2, "test": 2}
    train = splits["train"]
    assert train.classes == ("background", *"0123456789") and train.values.things == (False, *[True] * 10)
    assert train.name(3) == "train[3]" and train.image(3).shape == (96, 96, 3)
    assert np.array_equal(train.mask(3), train.masks[3]) and train.instances.shape == (4, 96, 96)
    assert len({split.image(i).tobytes() for split in splits.values() for i in range(len(split))}) == 8


def test_splits_are_made_of_different_digits():
    low_high = sorted(scenes.PARTS.values())
    assert low_high[0][0] == 0 and low_high[-1][1] == 20
    assert all(a[1] == b[0] for a, b in itertools.pairwise(low_high))


def test_the_fingerprint_covers_the_instances(monkeypatch):
    monkeypatch.setattr(scenes, "COUNTS", {"train": 2, "val": 1, "test": 1})
    split = scenes.splits.__wrapped__()["train"]
    numbers = split.instances.copy()
    numbers[0][numbers[0] == 1] = 999
    values = replace(split.values, known=tuple(replace(c, thing=False) for c in split.values.known))
    others = [split, replace(split, instances=numbers), replace(split, instances=None), replace(split, values=values)]
    assert len({b"".join(fingerprint_parts(other)) for other in others}) == 4
