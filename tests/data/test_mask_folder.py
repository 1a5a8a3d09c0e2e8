"""Layouts of images and masks, classes.txt and lists: what is read, and what is refused in one line."""

from __future__ import annotations

import pytest

from masks import CLASSES, add, flat_set, ids, mask_set
from vitnext.data.mask_folder import has_masks, read_classes, read_mask_folder
from vitnext.errors import InputError


def names(split):
    return [split.name(i) for i in range(len(split))]


def refused(root):
    with pytest.raises(InputError) as error:
        read_mask_folder(root)
    assert str(error.value).startswith(str(root)) and "\n" not in str(error.value)
    return str(error.value).removeprefix(str(root))


def classes(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    return read_classes(tmp_path / "classes.txt", tmp_path)


def known(values):
    return [(c.id, c.name) for c in values.known]


def test_lines_of_classes(tmp_path):
    values = classes(
        tmp_path, "\ufeff3 traffic light #8040FF\n\n0 car thing #010203\n7 sea #040506 stuff\n255 Ignore (x)"
    )
    assert known(values) == [(3, "traffic light"), (0, "car"), (7, "sea")]
    assert [c.color for c in values.known] == [(128, 64, 255), (1, 2, 3), (4, 5, 6)]
    assert [c.thing for c in values.known] == [None, True, False]
    assert [c.id for c in values.void] == [255]


def test_lines_without_ids_are_counted(tmp_path):
    values = classes(tmp_path, "sky\nroad\n255 ignore\n")
    assert known(values) == [(0, "sky"), (1, "road")]
    assert values.unnumbered and values.regrouped({"all": ["sky"]}, []).unnumbered
    assert not classes(tmp_path, "0 sky\n1 road\n").unnumbered
    assert known(classes(tmp_path, "255 ignore\nsky\nroad\n")) == [(0, "sky"), (1, "road")]
    values = classes(tmp_path, "unlabeled\nsky\nroad\n")
    assert known(values) == [(1, "sky"), (2, "road")] and [c.id for c in values.void] == [0]
    assert known(classes(tmp_path, "void space\nunlabeled cells\n")) == [(0, "void space"), (1, "unlabeled cells")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 a\n0 b\n", "two lines have the id 0; "),
        ("0 a\n1 b\n1 ignore\n", "two lines have the id 1; "),
        ("0 a\n1 a\n", "two lines have the name a; "),
        ("a #010203\nb #010203\n", "two lines have the colour #010203; "),
        ("0 a\nb\n", "line 2: has no id"),
        ("0 a\n1 b\nignore\n", "line 3: has no id"),
        ("0\n1\n", "line 1: is a number alone"),
        ("70000 a\n1 b", "line 1: the id is 70000"),
        ("a\nb\n-1 ignore", "line 3: the id is -1; a mask's pixel holds 0 to 65535"),
        ("a\n# b", "line 2: # is no colour"),
        ("a\nb #80", "line 2: #80 is no colour"),
        ("a\n255 ignore", "1 class"),
        ("1: road\n2: car\n", "line 1: in '1: road' more than a space stands behind the id; write 1 road$"),
        ("1,road\n2,car\n", "line 1: in '1,road' .* write 1 road$"),
        ("0 sky\n1) road\n", "line 2: in '1\\) road' .* write 1 road$"),
        ("a\n(1) road\n", "line 2: .* write 1 road$"),
        ("1;road\n2;car\n", "line 1: .* write 1 road$"),
        ("1. traffic light\n2. car\n", "line 1: .* write 1 traffic light$"),
        ("1.road\n2.car\n", "line 1: .* write 1 road$"),
        ("1=road\n2=car\n", "line 1: .* write 1 road$"),
        ("1 = road\n2 = car\n", "line 1: .* write 1 road$"),
        ("1 - road\n2 - car\n", "line 1: .* write 1 road$"),
        ('"1","road"\n"2","car"\n', "line 1: .* write 1 road$"),
        ("1,road,128,64,128\n2,car,0,0,255\n", "line 1: .* write 1 road$"),
        ("1:\n2:\n", "line 1: .* write 1 road$"),
        ("id,name\n0,background\n1,road\n", "line 1: 'id,name' is the header of a table; remove it"),
        ("Class;Label ID;R;G;B\nroad;1\n", "line 1: .* is the header of a table"),
        ("class_name, r, g, b\nroad\n", "line 1: .* is the header of a table"),
        ("road: 1\ncar: 2\n", "line 1: 'road: 1' ends in numbers; write an id, a space and the name, as 1 road"),
        ("road,128,64,128\ncar,0,0,255\n", "line 1: .* ends in numbers"),
        ("\n".join(f"c{i}" for i in range(256)), "256 classes; at most 255"),
    ],
)
def test_lines_that_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        classes(tmp_path, text)


def test_names_that_begin_with_digits(tmp_path):
    names = ["3d_object", "2-seater", "2.5d", "100m sprint", "4x4", "3D: car", "road 1", "label"]
    assert known(classes(tmp_path, "\n".join(names))) == list(enumerate(names))
    assert known(classes(tmp_path, "".join(f"{i} {i}\n" for i in range(10)))) == [(i, str(i)) for i in range(10)]
    values = classes(tmp_path, "0 1,000 m\n1 road, 2 lanes\n2 2: second\n")
    assert known(values) == [(0, "1,000 m"), (1, "road, 2 lanes"), (2, "2: second")]


def test_classes_that_are_no_text(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_classes(tmp_path / "classes.txt", tmp_path)


def test_one_tree(tmp_path):
    root = flat_set(tmp_path, count=2)
    add(root, "sub folder/a b.c")
    (root / "masks" / "i1.png").rename(root / "masks" / "i1_mask.png")
    add(root, "alone")
    (root / "masks" / "alone.png").rename(root / "masks" / "other.png")
    for hidden in ("images/.x.png", "masks/.x.png", "images/notes.txt"):
        (root / hidden).touch()
    found = read_mask_folder(root)
    assert names(found.parts["all"]) == ["images/i0.png", "images/i1.png", "images/sub folder/a b.c.png"]
    assert found.parts["all"].mask_names.tolist() == [
        b"masks/i0.png",
        b"masks/i1_mask.png",
        b"masks/sub folder/a b.c.png",
    ]
    assert found.unmasked == ("images/alone.png",) and found.orphans == ("masks/other.png",)
    assert (found.parts["all"].mask(2) == ids()).all()
    subset = found.parts["all"].subset([2, 0])
    assert names(subset) == ["images/sub folder/a b.c.png", "images/i0.png"] and (subset.sizes > 0).all()


def test_a_mask_serves_one_image(tmp_path):
    root = flat_set(tmp_path, count=1)
    add(root, "a_mask")
    (root / "images" / "a.png").write_bytes((root / "images" / "a_mask.png").read_bytes())
    found = read_mask_folder(root)
    assert names(found.parts["all"]) == ["images/a_mask.png", "images/i0.png"]
    assert found.unmasked == ("images/a.png",)


def test_folders_of_splits(tmp_path):
    root = mask_set(tmp_path, count=1)
    (root / "train").rename(root / "Training")
    (root / "val").rename(root / "valid")
    (root / "test").rename(root / "testing")
    assert has_masks(root)
    found = read_mask_folder(root)
    assert {part: names(split) for part, split in found.parts.items()} == {
        "train": ["Training/images/0.png"],
        "val": ["valid/images/0.png"],
        "test": ["testing/images/0.png"],
    }


def test_train_alone_is_one_tree_and_may_have_lists(tmp_path):
    for name in "ab":
        add(tmp_path, name, below="train")
    (tmp_path / "classes.txt").write_text(CLASSES)
    assert list(read_mask_folder(tmp_path).parts) == ["all"]
    (tmp_path / "train.txt").write_text("train/images/a.png\n")
    (tmp_path / "val.txt").write_text("b\n")
    parts = read_mask_folder(tmp_path).parts
    assert names(parts["train"]) == ["train/images/a.png"] and names(parts["val"]) == ["train/images/b.png"]


def test_lists(tmp_path):
    root = flat_set(tmp_path)
    add(root, "sub/x.y")
    (root / "train.txt").write_text("i3.png\n\nimages/i1.png\nsub/x.y\n")
    (root / "validation.txt").write_text("i0\n")
    found = read_mask_folder(root)
    assert names(found.parts["train"]) == ["images/i3.png", "images/i1.png", "images/sub/x.y.png"]  # as listed
    assert names(found.parts["val"]) == ["images/i0.png"] and list(found.parts) == ["train", "val"]
    assert found.unlisted == ("images/i2.png", "images/i4.png", "images/i5.png")


def test_a_whole_name_goes_before_one_without_extension(tmp_path):
    root = flat_set(tmp_path, count=1)
    add(root, "a")
    add(root, "a.png")  # a.png.png, whose name without extension is that of the other
    (root / "train.txt").write_text("a.png\n")
    assert names(read_mask_folder(root).parts["train"]) == ["images/a.png"]


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"train": "i0\nnone\n"}, "/train.txt, line 2: none is not in images/"),
        ({"train": "i0\ni1", "val": "i1.png"}, "/val.txt, line 1: i1.png stands in train.txt and in val.txt"),
        ({"train": "i0\ni0"}, "/train.txt, line 2: i0 stands twice in train.txt"),
        ({"train": "i0\nimages/bare.png"}, "/train.txt, line 2: images/bare.png has no mask in masks/"),
        ({"train": "i0", "val": "\n"}, "/val.txt: names no image"),
        ({"val": "i0"}, ": has val.txt but no train.txt"),
        ({"train": "i0", "val": "i1", "valid": "i2"}, ": val.txt and valid.txt are both a val split"),
        ({"train": b"\xff\xff"}, "/train.txt: cannot be read (is no text in UTF-8)"),
    ],
)
def test_lists_that_are_refused(tmp_path, lists, says):
    root = flat_set(tmp_path, count=3)
    add(root, "bare")
    (root / "masks" / "bare.png").unlink()
    for name, text in lists.items():
        (root / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused(root).startswith(says)


def test_layouts_that_are_refused(tmp_path):
    root = mask_set(tmp_path / "a", count=1)
    (root / "train.txt").write_text("0")
    assert "has the folder train/ and the list train.txt" in refused(root)
    (root / "train.txt").unlink()
    add(root, "x")
    assert "keep one of the two" in refused(root)
    root = mask_set(tmp_path / "b", count=1)
    (root / "val" / "masks").rename(root / "val" / "gone")
    assert refused(root).startswith("/val: no masks/ in it")
    root = mask_set(tmp_path / "c", count=1)
    (root / "train").rename(root / "more")
    assert "no train/ with images/ and masks/" in refused(root)
    root = flat_set(tmp_path / "d", count=1)
    (root / "images" / "i0.jpg").touch()
    assert "images/i0.jpg and images/i0.png have one name" in refused(root)
    root = flat_set(tmp_path / "e", count=1)
    (root / "masks" / "i0.png").rename(root / "masks" / "i0_labels.png")
    assert "no image in images/ has a mask of its name" in refused(root)
    (root / "images" / "i0.png").unlink()
    assert "no image in images/ (wanted" in refused(root)
    (root / "classes.txt").unlink()
    assert ": no classes.txt" in refused(root)


def test_what_looks_like_masks_but_is_not_laid_out_so(tmp_path):
    root = flat_set(tmp_path, count=1)
    (root / "masks").rename(root / "labels")
    with pytest.raises(InputError, match="has images/ and labels/; if these are masks, rename it"):
        has_masks(root)
    (root / "labels").rename(root / "elsewhere")
    with pytest.raises(InputError, match="has images/ but no masks/"):
        has_masks(root)
    (root / "classes.txt").unlink()
    assert not has_masks(root)


@pytest.mark.parametrize("line", ["ignore 255", "Void 0"])
def test_an_id_behind_a_void_name_is_refused(tmp_path, line):
    (tmp_path / "classes.txt").write_text(f"0 sky\n1 road\n{line}\n")
    name, number = line.split()
    with pytest.raises(InputError, match=f"line 3: '{line}' has its id behind the name; write {number} {name}"):
        read_classes(tmp_path / "classes.txt", tmp_path)
