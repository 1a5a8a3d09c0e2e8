"""Instance maps beside masks: the segments they make, against a loop over pixels, and what is refused in one line."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from masks import CLASSES, add_instances, findings_of, flat_set, mask_set
from shared_data import shared_data
from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset, regroup
from vitnext.data.mask_doctor import check, look, pixel_table
from vitnext.data.mask_folder import read_mask_folder
from vitnext.errors import ImageError, InputError

MASK = np.array([[0, 0, 1, 1, 255], [2, 2, 1, 1, 2], [2, 2, 0, 0, 2]], np.uint8)
NUMBERS = np.array([[0, 0, 7, 7, 0], [7, 7, 300, 300, 8], [7, 7, 0, 0, 8]], np.uint16)


def objects_set(root, *, classes=CLASSES, mask=MASK, numbers=NUMBERS, count=4):
    """train/, val/ and test/, all of whose pairs have the same mask and instance map."""
    mask_set(root, count=count, classes=classes)
    for split in ("train", "val", "test"):
        for i in range(count):
            random = np.random.default_rng([i, len(split)])
            pixels = random.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
            Image.fromarray(pixels + np.uint8(len(split))).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
            add_instances(root, f"{i}", numbers, below=split)
    return root


def told_apart(segments):
    """Class and pixels of each segment."""
    return {
        (int(label), tuple(map(tuple, np.argwhere(segments.ids == k).tolist())))
        for k, label in enumerate(segments.labels, start=1)
    }


def naive(mask, numbers, things):
    groups = {}
    for (y, x), label in np.ndenumerate(mask):
        if label != 255:
            groups.setdefault((int(label), int(numbers[y, x]) if things[label] else 0), []).append((y, x))
    return {(label, tuple(places)) for (label, _), places in groups.items()}


def test_segments_combine_the_two(tmp_path):
    dataset = open_dataset(objects_set(tmp_path))
    split = dataset.splits["val"]
    assert split.has_instances and split.values.things == (False, True, True) and dataset.task == "semantic"
    assert np.array_equal(split.mask(0), MASK)
    assert told_apart(split.segments(0)) == naive(MASK, NUMBERS, (False, True, True))
    subset = split.subset([2])
    assert subset.instance_names.tolist() == [b"val/instances/2.png"] and len(subset.segments(0).labels) == 5
    assert dataset.line.startswith(
        f"{tmp_path.name}: images, masks and instance maps, 3 classes, train 4, val 4, test 4 "
    )
    assert dataset.line.endswith(" (split as given); ignored: 255 ignore; things: road, car (classes.txt says of none)")
    (tmp_path / "classes.txt").write_text("".join(f"{9 + i} ignore ({i})\n" for i in range(7)) + "0 sky\n1 road\n2 car")
    few = ", ".join(f"{9 + i} ignore ({i})" for i in range(5))
    assert f"(split as given); ignored: {few}, ...; things" in open_dataset(tmp_path).line
    (tmp_path / "classes.txt").write_text("0 Unlabelled\n1 road\n2 car")
    assert "(split as given); ignored: 0 Unlabelled; things" in open_dataset(tmp_path).line


def test_merged_classes_keep_their_objects_whole(tmp_path):
    """Number 7 lies in road and car: merged they are one object."""
    dataset = regroup(open_dataset(objects_set(tmp_path)), {"vehicle": ["road", "car"]}, [])
    split = dataset.splits["train"]
    assert split.values.things == (False, True)
    merged = np.where(MASK == 255, 255, np.minimum(MASK, 1))
    assert told_apart(split.segments(0)) == naive(merged, NUMBERS, (False, True))
    assert (split.segments(0).labels == 1).sum() == 3
    with_stuff = regroup(open_dataset(tmp_path), {"ground": ["background", "road"]}, []).splits["train"]
    assert with_stuff.values.things == (False, True)
    assert told_apart(with_stuff.segments(0)) == naive(np.array([0, 0, 1, *[255] * 253])[MASK], NUMBERS, (False, True))
    ignored = regroup(open_dataset(tmp_path), {}, ["road"]).splits["train"]
    assert told_apart(ignored.segments(0)) == naive(np.array([0, 255, 1, *[255] * 253])[MASK], NUMBERS, (False, True))


@pytest.mark.parametrize(
    ("classes", "things", "note"),
    [
        ("0 background\n1 road\n2 car thing\n255 ignore", (False, False, True), "); ignored: 255 ignore"),
        ("0 sky\n1 road\n2 car\n255 ignore", (False, True, True), "; things: road, car (classes.txt says of none)"),
        ("1 Background\n0 road\n2 car\n255 ignore", (False, False, True), "; things: car (classes.txt says of none)"),
    ],
)
def test_which_classes_are_things(tmp_path, classes, things, note):
    dataset = open_dataset(objects_set(tmp_path, classes=classes, count=1))
    assert dataset.splits["train"].values.things == things and dataset.line.endswith(note)


def test_without_instance_maps_nothing_is_a_thing_by_itself(tmp_path):
    split = open_dataset(mask_set(tmp_path)).splits["train"]
    assert not split.has_instances and split.values.things == (False, False, False) and split.numbers(0) is None


def test_numbers_of_8_bits(tmp_path):
    flat_set(tmp_path, count=4)
    for i in range(4):
        add_instances(tmp_path, f"i{i}", np.full((8, 10), 3, np.uint8))
    add_instances(tmp_path, "lonely", np.zeros((8, 10), np.uint8))
    found = read_mask_folder(tmp_path)
    assert found.parts["all"].instance_names.tolist() == [f"instances/i{i}.png".encode() for i in range(4)]
    assert found.orphans == ("instances/lonely.png",) and found.counted == ("road", "car")
    assert sorted(found.parts["all"].segments(1).labels.tolist()) == [0, 1, 2]


def test_the_fingerprint_covers_them(tmp_path):
    root = objects_set(tmp_path, count=2)
    first = open_dataset(root).fingerprint
    path = root / "val/instances/1.png"
    path.write_bytes(path.read_bytes() + b"x")
    changed = open_dataset(root).fingerprint
    (root / "classes.txt").write_text(CLASSES.replace("1 road", "1 road stuff").replace("2 car", "2 car thing"))
    assert len({first, changed, open_dataset(root).fingerprint}) == 3


def wrong_size(root):
    add_instances(root, "1", NUMBERS[:2], below="train")


def coloured(root):
    add_instances(root, "1", np.zeros((3, 5, 3), np.uint8), below="train")


def in_void(root):
    add_instances(root, "1", np.where(MASK == 255, 7, NUMBERS).astype(np.uint16), below="train")


def lost(root):
    (root / "train/instances/1.png").unlink()


def lost_in_val(root):
    for path in sorted((root / "val/instances").iterdir()):
        path.unlink()
    (root / "val/instances").rmdir()


def nothing_is_a_thing(root):
    (root / "classes.txt").write_text("0 background stuff\n1 road\n2 car\n255 ignore\n")


SEVERAL = (
    r"warning: 12 objects in several classes: each class counts its part as an object, unless data.merge makes one "
)


@pytest.mark.parametrize(
    ("make", "code", "line"),
    [
        (wrong_size, 2, r"error: 1 image with a mask of another size: train/images/1.png has 5x3 pixels, its instance"),
        (
            coloured,
            2,
            r"error: 1 mask cannot be read: .*train/instances/1.png: an instance map is a grey PNG of 8 or 16 ",
        ),
        (
            lost,
            2,
            r"vitnext: .*: 1 image with a mask but no instance map of their name in train/instances/: .*1.png;",
        ),
        (
            lost_in_val,
            2,
            r"vitnext: .*: has train/instances/ but no val/instances/; add it, or remove instances/ every",
        ),
        (nothing_is_a_thing, 2, r"vitnext: .*: has instances/, but classes.txt calls no class a thing; write 'thing'"),
        (in_void, 0, r"warning: 1 object with pixels in void, which are left out: train/images/1.png \(1\)"),
        (lambda root: None, 0, SEVERAL + r"class of them: train/images/0.png \(1\), train/images/1.png \(1\), .*"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, make, code, line):
    make(objects_set(tmp_path))
    assert main(["check", str(tmp_path)]) == code
    out, err = capsys.readouterr()
    lines = (findings_of(out) if out else []) + err.splitlines()
    lines = [found for found in lines if line.startswith(SEVERAL) or "several" not in found]
    assert len(lines) == 1 and re.match(line, lines[0]), lines


def test_things_without_a_number(tmp_path):
    root = objects_set(tmp_path, numbers=np.where(NUMBERS == 7, 0, NUMBERS).astype(np.uint16), count=1)
    dataset = open_dataset(root)
    [found] = check(dataset).findings
    assert found.message == (
        "18 pixels of things without a number, 60% of theirs: in each image those of a class count as one object: "
        "train/images/0.png (6), val/images/0.png (6), test/images/0.png (6)"
    )


def test_objects_are_counted(tmp_path):
    dataset = open_dataset(objects_set(tmp_path))
    table = pixel_table(dataset, look(dataset))["test"]
    assert table["road"] == {"pixels": 16, "images": 4, "objects": 8}
    assert table["car"] == {"pixels": 24, "images": 4, "objects": 8} and "objects" not in table["background"]


def test_a_map_of_another_size_has_no_segments(tmp_path):
    wrong_size(objects_set(tmp_path))
    with pytest.raises(ImageError, match=r"train/images/1.png: its mask has 5x3 pixels, its instance map 5x2"):
        open_dataset(tmp_path).splits["train"].segments(1)


def test_nuclei():
    """Whole nuclei once they are merged with their outlines: as many as the instance maps hold."""
    dataset = open_dataset(shared_data("nuclei3"))
    whole = regroup(dataset, {"nucleus": ["nucleus", "nucleus_boundary"]}, []).splits["val"]
    for i in range(4):
        numbers = np.array(Image.open(whole._path(whole.instance_names, i)))
        found = whole.segments(i)
        assert (found.labels == 1).sum() == len(np.unique(numbers[numbers > 0]))
        for k in np.flatnonzero(found.labels == 1) + 1:
            assert len(np.unique(numbers[found.ids == k])) == 1
        apart = dataset.splits["val"].segments(i)
        assert (apart.labels == 2).sum() == len(np.unique(numbers[numbers > 0]))
    with pytest.raises(InputError, match="there is no class"):
        regroup(dataset, {"nucleus": ["cell"]}, [])
