import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masks import CLASSES, flat_set, mask_set
from vitnext.data import builtin
from vitnext.data.dataset import Dataset, Split, _stratified, held_out, open_dataset, regroup
from vitnext.errors import InputError


def tree(root, **counts):
    """Class folders with that many files; listing never opens one."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.jpg").write_bytes(f"{name}{i}".encode())
    return root


def members(dataset):
    return {split: {images.name(i) for i in range(len(images))} for split, images in dataset.splits.items()}


def counts(dataset):
    return {s: np.bincount(x.labels, minlength=len(dataset.classes)).tolist() for s, x in dataset.splits.items()}


# ---- splits


def test_one_tree_is_split_per_class(tmp_path):
    dataset = open_dataset(tree(tmp_path / "pets", cat=30, dog=15, emu=3))
    assert (dataset.name, dataset.kind, dataset.classes) == ("pets", "image_folder", ("cat", "dog", "emu"))
    assert list(dataset.splits) == ["train", "val", "test"]
    # 10% of 30, of 15 (1.5 is rounded up) and of 3 (at least one)
    assert counts(dataset) == {"train": [24, 11, 1], "val": [3, 2, 1], "test": [3, 2, 1]}
    everyone = [name for names in members(dataset).values() for name in names]
    assert len(everyone) == len(set(everyone)) == 48
    assert dataset.split_rule == {
        "rule": "stratified",
        "seed": 0,
        "fractions": {"train": 0.8, "val": 0.1, "test": 0.1},
    }
    assert dataset.line == (
        "pets: class folders, 3 classes, train 36, val 6, test 6 images (split 80/10/10 per class, seed 0)"
    )
    assert held_out(dataset) == ("test", dataset.splits["test"])


def test_the_split_depends_on_the_seed_and_on_nothing_else(tmp_path):
    here, there = tree(tmp_path / "x" / "here", a=40, b=40), tree(tmp_path / "there", a=40, b=40)
    first = open_dataset(here)
    assert members(first) == members(open_dataset(str(there)))
    assert first.fingerprint == open_dataset(there).fingerprint
    assert members(first) != members(open_dataset(here, seed=1))
    assert open_dataset(here, seed=1).split_rule["seed"] == 1


def test_a_known_split_never_changes(tmp_path):
    """Golden: artifacts record seed and fractions, so the same folder must be divided the same way for ever."""
    dataset = open_dataset(tree(tmp_path / "t", a=10, b=10))
    assert members(dataset)["test"] == {"a/000.jpg", "b/009.jpg"}
    assert members(dataset)["val"] == {"a/002.jpg", "b/008.jpg"}


def test_adding_images_moves_few_of_the_others(tmp_path):
    tree(tmp_path, a=100, b=100)
    before = members(open_dataset(tmp_path))["test"]
    (tmp_path / "a" / "new.jpg").touch()
    assert len(before - members(open_dataset(tmp_path))["test"]) <= 1


@given(st.lists(st.integers(0, 25), min_size=2, max_size=5), st.integers(0, 99), st.sampled_from([0.01, 0.1, 0.5]))
def test_stratified_divides_every_class(sizes, seed, share):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = np.array([b"%d" % i for i in range(len(labels))], dtype=np.bytes_)
    whole = Split(tuple(map(str, sizes)), labels, names, labels * 0)
    shuffled = whole.subset(np.random.default_rng(0).permutation(len(labels)))
    if not len(labels):
        return
    parts = _stratified(whole, {"val": share, "test": 0.2}, seed)
    again = _stratified(shuffled, {"val": share, "test": 0.2}, seed)
    for split in ("train", "val", "test"):
        assert set(parts[split].names.tolist()) == set(again[split].names.tolist())
    assert sorted(n for part in parts.values() for n in part.names.tolist()) == sorted(names.tolist())
    for label, size in enumerate(sizes):
        n = {split: int((part.labels == label).sum()) for split, part in parts.items()}
        if size < 3:
            assert n == {"train": size, "val": 0, "test": 0}
        else:
            assert min(n.values()) >= 1
            assert abs(n["test"] - 0.2 * size) <= 1


def test_given_splits_stay_as_they_are(tmp_path):
    for split, n in (("train", 5), ("val", 2), ("test", 1)):
        tree(tmp_path / split, a=n, b=n)
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train": [5, 5], "val": [2, 2], "test": [1, 1]}
    assert dataset.split_rule == {"rule": "given", "seed": 0, "fractions": {}}
    assert dataset.line.endswith("train 10, val 4, test 2 images (split as given)")


def test_train_and_test_give_a_val(tmp_path):
    tree(tmp_path / "train", a=20, b=10, c=1)
    tree(tmp_path / "test", a=3, b=3, c=3)
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train": [18, 9, 1], "val": [2, 1, 0], "test": [3, 3, 3]}
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.split_rule == {"rule": "stratified", "seed": 0, "fractions": {"train": 0.9, "val": 0.1}}
    assert "val is 10% of train per class" in dataset.line


def test_train_and_val_without_test_measure_on_val(tmp_path):
    tree(tmp_path / "train", a=4, b=4)
    tree(tmp_path / "valid", a=2, b=2)
    dataset = open_dataset(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert held_out(dataset)[0] == "val"


def test_val_fraction(tmp_path):
    tree(tmp_path / "tree", a=20, b=20)
    assert counts(open_dataset(tmp_path / "tree", val_fraction=0.25)) == {
        "train": [13, 13],
        "val": [5, 5],
        "test": [2, 2],
    }
    without = open_dataset(tmp_path / "tree", val_fraction=0)
    assert counts(without) == {"train": [18, 18], "test": [2, 2]}
    assert without.split_rule["fractions"] == {"train": 0.9, "test": 0.1}
    tree(tmp_path / "given" / "train", a=20, b=20)
    tree(tmp_path / "given" / "test", a=1, b=1)
    whole = open_dataset(tmp_path / "given", val_fraction=0)
    assert counts(whole) == {"train": [20, 20], "test": [1, 1]}
    assert whole.split_rule["rule"] == "given"
    tree(tmp_path / "given" / "val", a=1, b=1)
    with pytest.raises(InputError, match="val split of its own"):
        open_dataset(tmp_path / "given", val_fraction=0.1)
    for share in (-0.1, 0.6, float("nan")):
        with pytest.raises(InputError, match="val_fraction is"):
            open_dataset(tmp_path / "tree", val_fraction=share)


def test_too_few_images_to_split(tmp_path):
    with pytest.raises(InputError, match=r"no class has 3 images, too few to split into train, val and test: add"):
        open_dataset(tree(tmp_path, a=2, b=2, c=0))


def test_a_class_too_small_to_split_is_all_in_train_and_the_others_are_divided_as_without_it(tmp_path):
    sound = members(open_dataset(tree(tmp_path / "sound", a=10, b=10)))
    with_small = members(open_dataset(tree(tmp_path / "small", a=10, b=10, c=2, d=1, e=0)))
    assert with_small.pop("train") == sound.pop("train") | {"c/000.jpg", "c/001.jpg", "d/000.jpg"}
    assert with_small == sound


def test_a_known_fingerprint_never_changes(tmp_path):
    """Golden: by it a model's data are known again."""
    fingerprint = open_dataset(tree(tmp_path / "t", a=10, b=10)).fingerprint
    assert fingerprint == "9e3ac890bc44afc3348358b909afd6a4b0045f586f0470991ef84db62130deb1"


def test_whole_divides_nothing(tmp_path):
    dataset = open_dataset(tree(tmp_path / "tree", a=5, b=2, c=0), whole=True)
    assert counts(dataset) == {"all": [5, 2, 0]}
    assert dataset.split_rule == {"rule": "given", "seed": 0, "fractions": {}}
    assert dataset.line == "tree: class folders, 3 classes, all 7 images (not divided)"
    one = open_dataset(tree(tmp_path / "one", a=1, b=0), whole=True)
    assert one.line == "one: class folders, 2 classes, all 1 image (not divided)"
    tree(tmp_path / "given" / "train", a=20, b=20)
    tree(tmp_path / "given" / "test", a=3, b=3)
    assert counts(open_dataset(tmp_path / "given", whole=True)) == {"train": [20, 20], "test": [3, 3]}
    assert len(open_dataset("digits", whole=True).splits["all"]) == 1797


def test_neither_test_nor_val():
    split = Split(("a",), np.zeros(1, np.int64), np.array([b"x"]), np.zeros(1, np.int64))
    dataset = Dataset("d", "image_folder", ("a",), {"train": split}, {}, "", "")
    with pytest.raises(InputError, match="neither a test nor a val"):
        held_out(dataset)


# ---- one split


def test_a_split_of_files(tmp_path):
    split = open_dataset(tree(tmp_path / "t", a=10, b=10)).splits["train"]
    assert len(split) == 16 and split.classes == ("a", "b") and split.labels.dtype == np.int64
    assert split.name(0).startswith("a/0") and split.image(0) == str(tmp_path / "t" / split.name(0))
    assert re.fullmatch(rb"[ab]/\d{3}.jpg", split.names[3])
    assert [split.name(i) for i in range(16)] == sorted(split.name(i) for i in range(16))


def test_a_split_of_arrays():
    arrays = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
    names = np.array([b"x[0]", b"x[1]", b"x[2]"])
    split = Split(("a", "b"), np.array([0, 1, 0]), names, np.full(3, 4), arrays=arrays)
    np.testing.assert_array_equal(split.image(1), arrays[1])
    part = split.subset([2, 0])
    assert (len(part), part.name(0), part.labels.tolist()) == (2, "x[2]", [0, 0])
    np.testing.assert_array_equal(part.image(0), arrays[2])
    assert len(split.subset([])) == 0


def test_a_name_that_is_not_utf8_can_be_printed():
    split = Split(("a",), np.zeros(1, np.int64), np.array([b"a/\xff.jpg"]), np.zeros(1, np.int64), root="r")
    split.name(0).encode()


# ---- fingerprint


def test_the_fingerprint_sees_names_sizes_labels_classes_and_splits(tmp_path):
    tree(tmp_path, a=5, b=5)
    seen = [open_dataset(tmp_path).fingerprint]
    assert re.fullmatch("[0-9a-f]{64}", seen[0]) and open_dataset(tmp_path).fingerprint == seen[0]
    seen.append(open_dataset(tmp_path, seed=3).fingerprint)
    (tmp_path / "a" / "000.jpg").write_bytes(b"longer than before")
    seen.append(open_dataset(tmp_path).fingerprint)
    (tmp_path / "a" / "000.jpg").rename(tmp_path / "a" / "x.jpg")
    seen.append(open_dataset(tmp_path).fingerprint)
    (tmp_path / "a" / "x.jpg").rename(tmp_path / "b" / "x.jpg")
    seen.append(open_dataset(tmp_path).fingerprint)
    (tmp_path / "b").rename(tmp_path / "c")
    seen.append(open_dataset(tmp_path).fingerprint)
    assert len(set(seen)) == 6


# ---- what a name means


def test_digits():
    dataset = open_dataset("digits")
    assert (dataset.name, dataset.kind, dataset.classes) == ("digits", "builtin", tuple("0123456789"))
    assert {s: len(x) for s, x in dataset.splits.items()} == {"train": 1295, "val": 143, "test": 359}
    assert dataset.split_rule["fractions"] == {"train": 0.72, "val": 0.08, "test": 0.2}
    image = dataset.splits["test"].image(0)
    assert image.shape == (8, 8) and image.dtype == np.uint8
    assert re.fullmatch(r"digits\[\d+\]", dataset.splits["test"].name(0))
    assert dataset.fingerprint == open_dataset("digits").fingerprint != open_dataset("digits", seed=1).fingerprint
    share = np.bincount(dataset.splits["test"].labels) / np.bincount(builtin.digits()[1])
    np.testing.assert_allclose(share, 0.2, atol=0.004)


def test_fashion_mnist(monkeypatch, tmp_path):
    def fashion_mnist(folder):
        assert folder == tmp_path
        labels = np.tile(np.arange(10), 40)
        return {s: (np.zeros((len(x), 28, 28), np.uint8), x) for s, x in (("train", labels), ("test", labels[:50]))}

    monkeypatch.setattr(builtin, "fashion_mnist", fashion_mnist)
    dataset = open_dataset("fashion-mnist", fashion_mnist_dir=tmp_path)
    assert counts(dataset) == {"train": [38] * 10, "val": [2] * 10, "test": [5] * 10}
    assert dataset.classes[9] == "Ankle boot"
    assert "val is 5% of train" in dataset.line
    whole = open_dataset("fashion-mnist", fashion_mnist_dir=tmp_path, val_fraction=0)
    assert counts(whole) == {"train": [40] * 10, "test": [5] * 10}
    assert whole.splits["train"].name(7) == "train[7]"


def test_a_path_that_exists_wins_over_a_built_in_name(tmp_path, monkeypatch):
    tree(tmp_path / "digits", a=5, b=5)
    monkeypatch.chdir(tmp_path)
    assert open_dataset("digits").kind == "image_folder"


def test_the_name_of_a_folder_given_as_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tree(tmp_path / "pets", a=5, b=5))
    assert open_dataset(".").name == "pets"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("digit", "did you mean digits"),
        ("Fashion_MNIST", "did you mean fashion-mnist"),
        ("{}/flower", "did you mean {}/flowers"),
        ("{}/nothing/like/it", "no such folder, nor a built-in data set (digits, fashion-mnist, digit-scenes)"),
        ("{}/a.txt", "is a file"),
        ("{}/a.csv", "is empty"),
        ("{}/b.csv", "no such file"),
        ("", "is empty"),
        ("x" * 5000, "no such folder"),
        ("a\0b", "no such folder"),
        ("~nobody-of-that-name/x", "no such folder"),
    ],
)
def test_what_cannot_be_recognised(tmp_path, monkeypatch, data, says):
    (tmp_path / "flowers").mkdir()
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        open_dataset(data.format(tmp_path))
    assert says.format(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_for_fashion_mnist_with_other_data(tmp_path):
    with pytest.raises(InputError, match="leave it out"):
        open_dataset("digits", fashion_mnist_dir=tmp_path)


def test_the_card_can_hold_what_is_recorded(tmp_path):
    dataset = open_dataset(tree(tmp_path, a=5, b=5))
    json.dumps([dataset.classes, dataset.split_rule, dataset.fingerprint])


# ---- masks


def test_images_with_masks_are_recognised_and_divided(tmp_path):
    dataset = open_dataset(flat_set(tmp_path / "street", count=20))
    assert (dataset.kind, dataset.task, dataset.classes) == ("mask_folder", "semantic", ("background", "road", "car"))
    assert dataset.line == (
        "street: images and masks, 3 classes, train 16, val 2, test 2 images (split 80/10/10, seed 0); "
        "ignored: 255 ignore"
    )
    everyone = [name for names in members(dataset).values() for name in names]
    assert sorted(everyone) == sorted(f"images/i{i}.png" for i in range(20))
    assert members(dataset) == members(open_dataset(tmp_path / "street"))
    assert members(dataset) != members(open_dataset(tmp_path / "street", seed=1))


def test_given_splits_of_masks_stay(tmp_path):
    dataset = open_dataset(mask_set(tmp_path, count=2))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert dataset.split_rule["rule"] == "given"


def test_too_few_masks(tmp_path):
    flat_set(tmp_path, count=2)
    with pytest.raises(InputError, match="2 images with a mask, too few to split into train, val and test"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, whole=True).splits["all"]) == 2
    (tmp_path / "train.txt").write_text("i0")  # of which none is left for val
    with pytest.raises(InputError, match="1 image with a mask, too few to split into train, val"):
        open_dataset(tmp_path)


def test_the_fingerprint_of_masks(tmp_path):
    root = mask_set(tmp_path)
    prints = {open_dataset(root).fingerprint}

    def changed():
        prints.add(open_dataset(root).fingerprint)
        return len(prints)

    assert changed() == 1
    (root / "classes.txt").write_text(CLASSES.replace("0 background\n1 road", "1 background\n0 road"))
    assert changed() == 2  # the same names, another truth
    (root / "classes.txt").write_text(CLASSES.replace("255", "254"))
    assert changed() == 3
    (root / "train/masks/0.png").write_bytes((root / "train/masks/0.png").read_bytes() + b"x")
    assert changed() == 4


def test_regrouped_classes(tmp_path):
    dataset = open_dataset(mask_set(tmp_path))
    assert regroup(dataset, {}, []) is dataset
    merged = regroup(dataset, {"way": ["road", "background"]}, [])
    assert merged.classes == ("way", "car") and merged.fingerprint == dataset.fingerprint
    assert np.array_equal(merged.splits["val"].mask(0), np.array([0, 0, 1])[dataset.splits["val"].mask(0)])
    with pytest.raises(InputError, match="are for classes of masks"):
        regroup(open_dataset("digits"), {}, ["1"])
