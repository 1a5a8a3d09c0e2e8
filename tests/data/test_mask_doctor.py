"""Wrong sets of masks: each is one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masks import CLASSES, findings_of, flat_set, ids, mask_set
from shared_data import shared_data
from vitnext.cli.main import main
from vitnext.data.coco import Category, CocoImage
from vitnext.data.coco_panoptic import write_panoptic
from vitnext.data.dataset import open_dataset, regroup
from vitnext.data.mask_doctor import check, findings, look, pixel_table, remarks
from vitnext.data.mask_values import distinct
from vitnext.types import Segments


@dataclass(frozen=True)
class Mistake:
    """make: a sound set (train, val, test of 4 pairs each) -> the same with the mistake; line: what is said of it;
    sound: what makes the sound set, if it is not of masks."""

    make: Callable[[Path], object]
    line: str
    code: int = 2
    sound: Callable[[Path], object] = mask_set


def rewrite(root, change, below="train"):
    """Every mask of a split, changed."""
    for path in sorted((root / below / "masks").iterdir()):
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def everywhere(change):
    return lambda root: [rewrite(root, change, below) for below in ("train", "val", "test")]


def classes(text):
    return lambda root: (root / "classes.txt").write_text(text)


def oriented(root, shape):
    """Image 0 of train, whose EXIF orientation says that a quarter turn is due, with a mask of this shape."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(root / "train/images/0.jpg", exif=exif)
    (root / "train/images/0.png").unlink()
    Image.fromarray(ids(shape)).save(root / "train/masks/0.png")


def with_palette(root, *colors, corner=0):
    """Mask 0 of train, with these colours of its indices."""
    mask = ids()
    mask[0, 0] = corner
    image = Image.fromarray(mask).convert("P")
    image.putpalette([value for color in colors for value in color])
    image.save(root / "train/masks/0.png")


def palette(root):
    classes("0 background #000000\n1 road #804080\n2 car #0000ff\n")(root)
    with_palette(root, (128, 64, 128), (0, 0, 0), (0, 0, 255))


def pictures(folder):
    """0.png to 3.png, all different, and their names."""
    folder.mkdir(exist_ok=True)
    for i in range(4):
        pixels = np.random.default_rng(list(f"{folder.name}{i}".encode())).integers(0, 256, (8, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(4)]


BOXES = [("road", 0, 5, 10, 8), ("car", 0, 0, 3, 3)]  # of every image: left, top, right, bottom


def coco_instances(root, *more):
    """Boxes as polygons, and more of them in the first image of train."""
    for split in ("train", "val"):
        names = pictures(root / split)
        boxes = [(i, *box) for i in range(4) for box in BOXES] + [(0, *box) for box in more if split == "train"]
        document = {
            "images": [{"id": i, "file_name": name, "height": 8, "width": 10} for i, name in enumerate(names)],
            "categories": [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}],
            "annotations": [
                {"id": k, "image_id": i, "category_id": 1 + (name == "car"), "segmentation": [[a, b, c, b, c, d, a, d]]}
                for k, (i, name, a, b, c, d) in enumerate(boxes, start=1)
            ],
        }
        (root / f"instances_{split}.json").write_text(json.dumps(document))


def coco_panoptic(root):
    """Two segments an image."""
    segments = Segments((np.arange(80).reshape(8, 10) % 2 + 1).astype(np.int32), np.array([0, 1]), np.zeros(2, bool))
    for split in ("train", "val"):
        images = [(CocoImage(i, name, 8, 10), segments) for i, name in enumerate(pictures(root / split))]
        categories = (Category(1, "road", False), Category(2, "car"))
        write_panoptic(root / f"panoptic_{split}.json", root / f"panoptic_{split}", categories, images)


def other_segment(root):
    path = root / "panoptic_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["segments_info"][1]["id"] = 7
    path.write_text(json.dumps(document))


def labelme(root, *more):
    """Boxes as rectangles, and more of them in the first image of train."""
    for split in ("train", "val"):
        for i, name in enumerate(pictures(root / split)):
            boxes = [*BOXES, *(more if (split, i) == ("train", 0) else ())]
            shapes = [{"label": b[0], "points": [b[1:3], b[3:]], "shape_type": "rectangle"} for b in boxes]
            document = {"shapes": shapes, "imagePath": name, "imageHeight": 8, "imageWidth": 10}
            (root / split / f"{i}.json").write_text(json.dumps(document))


def other_image(path, named):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"imagePath": named}))


def listed(**lists):
    def make(root):
        for split in ("train", "val", "test"):
            for path in sorted(root.glob(f"{split}/*/*")):
                path.unlink()
            for inner in ("images", "masks"):
                (root / split / inner).rmdir()
            (root / split).rmdir()
        flat_set(root)
        for name, text in lists.items():
            (root / f"{name}.txt").write_text(text)

    return make


MISTAKES = {
    "unreadable image": Mistake(
        lambda root: (root / "val/images/1.png").write_text("text"),
        r"error: 1 image cannot be read: .*val/images/1.png: not a JPEG, PNG",
    ),
    "truncated mask": Mistake(
        lambda root: (root / "train/masks/2.png").write_bytes((root / "train/masks/2.png").read_bytes()[:48]),
        r"error: 1 mask cannot be read: .*train/masks/2.png: cannot be decoded, damaged or truncated",
    ),
    "JPEG masks": Mistake(
        lambda root: [
            (Image.open(p).save(p.with_suffix(".jpg")), p.unlink()) for p in sorted((root / "train/masks").iterdir())
        ],
        r"error: 4 masks cannot be read: .*0.jpg: JPEG changes the values of pixels: save masks as PNG",
    ),
    "mask of another size": Mistake(
        lambda root: Image.fromarray(ids((4, 5))).save(root / "test/masks/3.png"),
        r"error: 1 image with a mask of another size: test/images/3.png has 10x8 pixels, its mask 5x4 \(draw or resize",
    ),
    "EXIF-turned image, mask before turning": Mistake(
        lambda root: oriented(root, (8, 10)),
        r"error: 1 image with a mask of another size: .*EXIF orientation turns it, its mask was drawn before: turn",
    ),
    "EXIF-turned image, mask of its size": Mistake(
        lambda root: oriented(root, (10, 8)),
        r"warning: 1 image turned by an EXIF orientation: their masks must lie on the turned image: train/images/0.jpg",
        0,
    ),
    "0 and 255 alone, 255 ignored": Mistake(
        everywhere(lambda mask: (mask > 0).astype(np.uint8) * 255),
        r"error: masks hold 0 and 255 alone, and classes.txt ignores 255: .* Then write '255 NAME'",
    ),
    "0 and 255 alone": Mistake(
        lambda root: (
            classes("0 background\n1 cell\n")(root),
            everywhere(lambda mask: (mask > 0).astype(np.uint8) * 255)(root),
        ),
        r"error: masks hold 0 and 255 alone: write '255 cell' into classes.txt, and '0 background'$",
    ),
    "ids not in classes.txt": Mistake(
        lambda root: rewrite(root, lambda mask: mask + 7, "val"),
        r"error: masks hold ids .* \(7 in val/masks/0.png and 3 other masks, 8 in .*, 9 in .*\); it names 0, 1, 2",
    ),
    "grey values spread over 0 to 255": Mistake(
        lambda root: (
            classes("background\nroad\ncar\n")(root),
            everywhere(lambda mask: np.array([0, 127, 255], np.uint8)[mask])(root),
        ),
        r"error: masks hold values .* \(127 in train/masks/0.png and 11 other masks, 255 in train/masks/0.png and 11 "
        r"other masks\); it names 0, 1, 2: write each class with its value, as '127 NAME', or, .* blurred edges$",
    ),
    "lines without ids, 0 not labelled": Mistake(
        lambda root: (classes("road\ncar\nbus\n")(root), everywhere(lambda _: ids((8, 10), 4))(root)),
        r"error: lines of classes.txt without ids count from 0 \(0 = road, 1 = car, 2 = bus\), but masks hold ids from "
        r"0 to 3 \(3 in .*\): write the ids, as '1 road', and '0 ignore' or '0 background'; only if 0 is road, add a ",
    ),
    "lines without ids, masks from 1 on": Mistake(
        lambda root: (classes("road\ncar\nbus\n")(root), everywhere(lambda mask: mask + 1)(root)),
        r"error: lines of classes.txt without ids .*, but masks hold ids from 1 to 3 \(3 in train/masks/0.png and 11 "
        r"other masks\): write the ids, as '1 road'; only if 0 is road, add a line for 3",
    ),
    "0 not named": Mistake(
        classes("1 road\n2 car\n"),
        r"error: the id 0 in train/masks/0.png and 11 other masks, .* write '0 background' if it is a class, ",
    ),
    "255 not named": Mistake(
        lambda root: (
            classes("0 background\n1 road\n2 car\n")(root),
            everywhere(lambda mask: np.where(np.arange(10) < 2, 255, mask).astype(np.uint8))(root),
        ),
        r"error: the id 255 in train/masks/0.png and 11 other masks, .* write '255 ignore'",
    ),
    "255 ignored, by another name": Mistake(
        lambda root: (
            classes("0 background\n1 road\n2 car\n255 void area\n")(root),
            everywhere(lambda mask: np.where(np.arange(10) < 2, 255, mask).astype(np.uint8))(root),
        ),
        r"warning: 1 class trained and measured, though by name not labelled \(if so, write '255 ignore' into "
        r"classes.txt, or set data.ignore\): void area",
        0,
    ),
    "255 a class among small ids": Mistake(
        lambda root: (
            classes("0 background\n1 road\n2 car\n255 rest\n")(root),
            everywhere(lambda mask: np.where(np.arange(10) < 2, 255, mask).astype(np.uint8))(root),
        ),
        r"warning: 255, which stands for what is not labelled where ids are otherwise 0 to 2, is the class rest: if it "
        r"is not labelled, write '255 ignore' into classes.txt",
        0,
    ),
    "a class never used": Mistake(
        classes(CLASSES + "3 bus\n"),
        r"error: 1 class without a pixel in train \(label some, or write it as ignore\): bus",
    ),
    "a class missing from val": Mistake(
        lambda root: rewrite(root, lambda mask: np.minimum(mask, 1), "val"),
        r"warning: 1 class without a pixel in val, so not measured there: car",
        0,
    ),
    "RGB masks without a table": Mistake(
        everywhere(lambda mask: np.array([[0, 0, 0], [128, 64, 128], [0, 0, 255]], np.uint8)[mask]),
        r"error: masks are in colours \(#000000 in train/masks/0.png and 11 .*\), but classes.txt names none: end its ",
    ),
    "grey saved as RGB": Mistake(
        everywhere(lambda mask: np.repeat(mask[..., None], 3, axis=2)),
        r"error: masks are grey, but saved as RGB \(.*\): save them as grey PNG, whose values are the ids",
    ),
    "colours with blurred edges": Mistake(
        lambda root: (
            classes("0 background #000000\n1 road #804080\n2 car #0000ff\n")(root),
            rewrite(root, lambda mask: np.array([[0, 0, 0], [128, 64, 128], [0, 0, 254]], np.uint8)[mask]),
        ),
        r"error: masks hold colours .* not name \(#0000fe in train/masks/0.png and 3 other masks\): add .* blurred",
    ),
    "palette numbered anew": Mistake(
        palette,
        r"error: 1 mask cannot be read: .*0.png: its palette gives index 0 the colour of road, whose id is 1: save",
    ),
    "a palette, but no colours in classes.txt": Mistake(
        lambda root: with_palette(root, (0, 0, 0), (128, 64, 128), (0, 0, 255)),
        r"warning: 1 mask with a palette, whose indices are taken as ids; classes.txt names no colours to check them "
        r"against \(end its lines with them, as #804080\): train/masks/0.png",
        0,
    ),
    "transparent masks": Mistake(
        lambda root: Image.fromarray(np.zeros((8, 10, 4), np.uint8)).save(root / "train/masks/0.png"),
        r"error: 1 mask cannot be read: .*has transparent pixels, .*: save it without transparency",
    ),
    "images without masks": Mistake(
        lambda root: (root / "train/masks/0.png").unlink(),
        r"warning: 1 image passed over: no mask of that name: train/images/0.png",
        0,
    ),
    "masks without images": Mistake(
        lambda root: (root / "train/images/0.png").unlink(),
        r"warning: 1 mask passed over: no image of that name: train/masks/0.png",
        0,
    ),
    "only void": Mistake(
        lambda root: Image.fromarray(np.full((8, 10), 255, np.uint8)).save(root / "train/masks/0.png"),
        r"warning: 1 mask of nothing but void: train/images/0.png",
        0,
    ),
    "the same image in two splits": Mistake(
        lambda root: (root / "val/images/1.png").write_bytes((root / "train/images/2.png").read_bytes()),
        r"warning: 1 image in more than one split, so .*: train: train/images/2.png = val: val/images/1.png",
        0,
    ),
    "an image that no list names": Mistake(
        listed(train="i0\ni1\n", val="i2\n", test="i3\ni5\n"),
        r"warning: 1 image passed over: in none of the lists: images/i4.png",
        0,
    ),
    "a list names an absent image": Mistake(
        listed(train="i0\ni1\n", val="i9\n"), r"vitnext: .*val.txt, line 1: i9 is not in images/; mend the list"
    ),
    "an image in two lists": Mistake(
        listed(train="i0\ni1\n", val="i1\n"),
        r"vitnext: .*val.txt, line 1: i1 stands in train.txt and in val.txt; an image",
    ),
    "no classes.txt": Mistake(
        lambda root: (root / "classes.txt").unlink(), r"vitnext: .*: no classes.txt, so nothing says .*; write one"
    ),
    "one id twice": Mistake(classes("0 sky\n0 road\n1 car\n"), r"vitnext: .*: two lines have the id 0; give each one"),
    "a colon behind an id": Mistake(
        classes("0: sky\n1: road\n2: car\n"),
        r"vitnext: .*, line 1: in '0: sky' more than a space stands behind the id; write 0 sky$",
    ),
    "the header of a table": Mistake(
        classes("id,name\n0,sky\n1,road\n"), r"vitnext: .*, line 1: 'id,name' is the header of a table; remove it"
    ),
    "masks in labels/": Mistake(
        lambda root: (root / "train/masks").rename(root / "train/labels"),
        r"vitnext: .*train: has images/ and labels/; if these are masks, rename it to masks/",
    ),
    "COCO: an annotation outside its image": Mistake(
        lambda root: coco_instances(root, ("car", 8, 0, 14, 3)),
        r"error: 1 mask cannot be read: .*instances_train.json: annotations\[8\] of image 0.png: polygon 1 lies "
        r"outside the image: x = 14, which is 0 to 10",
        sound=coco_instances,
    ),
    "COCO: objects that overlap": Mistake(
        lambda root: coco_instances(root, ("car", 2, 0, 5, 4)),
        r"warning: objects overlap in 1 image, in 0.93% of their pixels, .* the smaller one: train/0.png \(3\)",
        0,
        sound=coco_instances,
    ),
    "COCO: a panoptic PNG and the JSON disagree": Mistake(
        other_segment,
        r"error: 1 mask cannot be read: .*panoptic_train/0.png: segment 2 is in the PNG but not in panoptic_train.json"
        r"; segment 7 is in panoptic_train.json but not in the PNG",
        sound=coco_panoptic,
    ),
    "labelme: a shape outside its image": Mistake(
        lambda root: labelme(root, ("car", 8, 0, 14, 3)),
        r"error: 1 mask cannot be read: .*train/0.json: shapes\[2\] \(car\): polygon 1 lies outside the image: x = 14",
        sound=labelme,
    ),
    "labelme: objects that overlap": Mistake(
        lambda root: labelme(root, ("car", 2, 0, 5, 4)),
        r"warning: objects overlap in 1 image, in 0.93% of their pixels, .* the smaller one: train/0.png \(3\)",
        0,
        sound=labelme,
    ),
    "labelme: a label in two cases": Mistake(
        lambda root: [
            path.write_text(path.read_text().replace("car", "Car"))
            for path in (root / "train/2.json", root / "val/1.json")
        ],
        r"warning: classes whose names differ in case or spaces alone \(if they are one, rename them, or set data.merge"
        r"\): Car = car$",
        0,
        sound=labelme,
    ),
    "labelme: drawn on another image": Mistake(
        lambda root: other_image(root / "train/2.json", "1.png"),
        r"warning: 1 JSON file whose imagePath names another image than the one beside it: make sure .*: train/2.json "
        r"\(1.png\)",
        0,
        sound=labelme,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, tmp_path, capsys):
    mistake = MISTAKES[name]
    mistake.sound(tmp_path)
    mistake.make(tmp_path)
    assert main(["check", str(tmp_path)]) == mistake.code
    out, err = capsys.readouterr()
    lines = (findings_of(out) if out else []) + err.splitlines()
    assert len(lines) == 1 and re.match(mistake.line, lines[0]), lines


def test_nothing_wrong(tmp_path):
    report = check(open_dataset(mask_set(tmp_path)))
    assert report.findings == [] and report.unreadable == {}


def test_usual_palettes_are_not_remarked(tmp_path):
    """PASCAL VOC's colour map, which our own masks have too, and greys that are their indices."""
    mask_set(tmp_path)
    voc = [distinct(i) for i in range(255)]
    with_palette(tmp_path, *voc, (0, 0, 0), corner=255)
    assert check(open_dataset(tmp_path)).findings == []
    with_palette(tmp_path, *((i, i, i) for i in range(256)))
    assert check(open_dataset(tmp_path)).findings == []
    with_palette(tmp_path, *voc[1:])
    assert [found.kind for found in check(open_dataset(tmp_path)).findings] == ["palette"]


VOID_LIKE = ["ignored", "ignore_label", "Ignore me", "void area", "road_void", "dontcare", "don't care", "do_not_care"]
VOID_LIKE += ["unlabeled area", "unlabelled_1", "Unannotated"]


@pytest.mark.parametrize("name", [*VOID_LIKE, "avoid", "devoid", "voids", "care", "labelled", "unknown"])
def test_classes_that_by_name_may_be_void(tmp_path, name):
    """Ids, no ids, and data.ignore, which settles it."""
    for kind, text in (("ids", f"0 sky\n1 {name}\n2 car\n"), ("none", f"sky\n{name}\ncar\n")):
        dataset = open_dataset(mask_set(tmp_path / kind, classes=text))
        messages = [finding.message for finding in check(dataset).findings]
        assert [finding.kind for finding in check(dataset).findings] == ["void_like"] * (name in VOID_LIKE)
        assert all(("write '1 ignore'" if kind == "ids" else "write 'ignore'") in message for message in messages)
        assert check(regroup(dataset, {}, [name])).findings == []


@pytest.mark.parametrize(
    ("ids_", "far"), [((0, 255), False), ((0, 127, 255), False), ((1, 2, 255), True), ((0, 10, 20, 255), True)]
)
def test_255_as_a_class(tmp_path, ids_, far):
    """It is suspicious only where it lies far from the other ids."""
    mask_set(tmp_path, classes="".join(f"{i} c{i}\n" for i in ids_))
    everywhere(lambda _: np.array(ids_, np.uint8)[ids((8, 10), len(ids_))])(tmp_path)
    assert [finding.kind for finding in check(open_dataset(tmp_path)).findings] == ["void_like"] * far


def test_classes_that_differ_in_case_or_spaces_alone(tmp_path):
    dataset = open_dataset(mask_set(tmp_path, classes="0 traffic light\n1 Traffic_Light\n2 traffic1\n255 ignore\n"))
    [found] = check(dataset).findings
    assert found.kind == "alike_classes" and found.items == ["traffic light = Traffic_Light"]
    assert check(regroup(dataset, {"traffic light": ["traffic light", "Traffic_Light"]}, [])).findings == []


def test_objects_that_all_overlap(tmp_path):
    coco_instances(tmp_path)
    for path in tmp_path.glob("*.json"):
        document = json.loads(path.read_text())
        again = [one | {"id": 100 + one["id"]} for one in document["annotations"]]
        path.write_text(json.dumps(document | {"annotations": document["annotations"] + again}))
    [found] = [found for found in check(open_dataset(tmp_path)).findings if found.kind == "overlap"]
    assert found.message.startswith("objects overlap in 8 images, in 100% of their pixels, ")


def test_unreadable_are_listed_by_split_and_index(tmp_path):
    mask_set(tmp_path)
    (tmp_path / "train/masks/1.png").write_text("text")
    (tmp_path / "train/images/3.png").write_text("text")
    Image.fromarray(ids((2, 2))).save(tmp_path / "val/masks/0.png")
    report = check(open_dataset(tmp_path))
    assert report.unreadable == {"train": [1, 3], "val": [0]}
    assert sorted(finding.kind for finding in report.errors) == ["size", "unreadable", "unreadable_mask"]


def test_255_between_other_unknown_ids(tmp_path):
    """Among ids that lie near each other it is void, as a rule; among greys it is one of them."""
    mask_set(tmp_path, classes="0 background\n1 road\n")
    for values, said in (((0, 1, 2, 255), ["255 ignore", "2 in train"]), ((0, 254, 255), ["'254 NAME'"])):
        mask = np.array(values, np.uint8)[ids((8, 10), len(values))]
        everywhere(lambda _, mask=mask: mask)(tmp_path)
        messages = [found.message for found in check(open_dataset(tmp_path)).findings]
        assert len(messages) == len(said) and all(map(str.__contains__, messages, said))


def test_every_unknown_id_is_told_apart(tmp_path):
    """An unnamed 0 does not hide the other ids."""
    mask_set(tmp_path, classes="1 road\n2 car\n")
    rewrite(tmp_path, lambda mask: np.where(mask == 2, 9, mask).astype(np.uint8))
    messages = [finding.message for finding in check(open_dataset(tmp_path)).errors]
    assert (
        len(messages) == 2
        and "0 background" in messages[0]
        and "9 in train/masks/0.png and 3 other masks" in messages[1]
    )


def test_table_and_remarks_by_naive_loops(tmp_path):
    mask_set(tmp_path)
    Image.fromarray(np.full((8, 10), 255, np.uint8)).save(tmp_path / "val/masks/1.png")
    rewrite(tmp_path, lambda mask: np.where(mask == 2, 9, mask).astype(np.uint8), "test")
    dataset = open_dataset(tmp_path)
    seen = []
    looked = look(dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    table = pixel_table(dataset, looked)
    for split in ("train", "val", "test"):
        masks = [np.array(Image.open(p)) for p in sorted((tmp_path / split / "masks").iterdir())]
        for value, label in ((0, "background"), (1, "road"), (2, "car"), (255, "(void)")):
            pixels = [sum(int(v) == value for v in mask.reshape(-1)) for mask in masks]
            assert table[split][label] == {"pixels": sum(pixels), "images": sum(n > 0 for n in pixels)}
    said = remarks(dataset, looked)
    assert said["val", 1] == "nothing but void" and said["test", 0] == "holds what classes.txt does not name: 9"
    assert set(said) == {("val", 1), *(("test", i) for i in range(4))}
    assert [f.kind for f in findings(dataset, looked).findings] == ["unknown_ids", "only_void"]


def test_merged_and_ignored_classes(tmp_path):
    dataset = regroup(open_dataset(mask_set(tmp_path)), {"way": ["background", "road"]}, [])
    table = pixel_table(dataset, look(dataset))["train"]
    assert table["way"]["pixels"] == 4 * (27 + 27) and table["car"]["pixels"] == 4 * 26
    ignoring = regroup(open_dataset(tmp_path), {}, ["car"])
    assert pixel_table(ignoring, look(ignoring))["train"]["(void)"]["pixels"] == 4 * 26
    assert check(ignoring).findings == []


def test_real_masks():
    """nuclei3 holds ids of 8 bits, numbered as its classes."""
    dataset = open_dataset(shared_data("nuclei3"))
    small = {name: split.subset(range(4)) for name, split in dataset.splits.items()}
    assert (dataset.task, dataset.classes) == ("semantic", ("background", "nucleus", "nucleus_boundary"))
    for split in small.values():
        for i in range(4):
            assert np.array_equal(split.mask(i), np.array(Image.open(split.mask_path(i))))


def test_the_page_of_mistakes_is_true():
    page = (Path(__file__).parents[2] / "docs/wrong_masks.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (\d) \| `.+` \|$", page, re.MULTILINE))
    lines = dict(re.findall(r"^\| (.+?) \| \d \| `(.+)` \|$", page, re.MULTILINE))
    assert list(rows) == list(MISTAKES)
    for name, mistake in MISTAKES.items():
        assert int(rows[name]) == mistake.code and re.match(mistake.line, lines[name]), name
