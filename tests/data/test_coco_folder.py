"""COCO's JSON files as data sets: layouts, truth, and what is refused in one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from masks import findings_of
from shared_data import shared_data
from vitnext.card import Card
from vitnext.cli.main import main
from vitnext.data import rle
from vitnext.data.coco import Category, CocoImage
from vitnext.data.coco_folder import category_ids
from vitnext.data.coco_panoptic import read_panoptic, write_panoptic
from vitnext.data.dataset import open_dataset, regroup
from vitnext.data.mask_doctor import check, look, pixel_table
from vitnext.errors import ImageError, InputError
from vitnext.evaluation.panoptic import PanopticCounts
from vitnext.preprocess import Preprocess
from vitnext.types import Detections, PanopticSegmentation, Segments

CATEGORIES = (
    Category(7, "cat"),
    Category(3, "sky", False, (0, 128, 255)),
    Category(9, "dog"),
    Category(1, "sea", False),
)
IDS = np.array([[1, 1, 2, 2, 0], [3, 1, 2, 4, 4], [5, 5, 5, 4, 4]], np.int32)
LABELS = (0, 1, 0, 2, 3)  # cat, sky, cat, dogs (a crowd), sea
CROWD = (False, False, False, True, False)


def square(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def picture(path, *, seed=0, size=(3, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def panoptic(path, folder, images, *, categories=CATEGORIES, count=4):
    """A JSON file, its PNGs, and images that all have one truth."""
    entries = [CocoImage(i, f"{i}.png", *IDS.shape) for i in range(count)]
    segments = Segments(IDS, np.array(LABELS), np.array(CROWD))
    write_panoptic(path, folder, categories, [(entry, segments) for entry in entries])
    for i in range(count):
        picture(images / f"{i}.png", seed=hash(path.name) % 1000 + i)


def annotation(segmentation, *, image=0, category=1, crowd=0):
    return {"image_id": image, "category_id": category, "iscrowd": crowd, "segmentation": segmentation}


def instances(path, images, annotations=None, *, count=4, names=("cat", "dog"), size=(3, 5)):
    """A JSON file and its images; without annotations, one cat in each."""
    if annotations is None:
        annotations = [annotation(square(0, 0, 2, 2), image=i, category=1 + i % len(names)) for i in range(count)]
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 3, "width": 5} for i in range(count)],
        "annotations": [{"id": i + 1, **entry} for i, entry in enumerate(annotations)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for i in range(count):
        picture(images / f"{i}.png", seed=len(str(path)) * 100 + i, size=size)


def members(dataset):
    return {split: [images.name(i) for i in range(len(images))] for split, images in dataset.splits.items()}


@pytest.fixture
def both(tmp_path):
    """Panoptic train and val."""
    for split in ("train", "val"):
        panoptic(tmp_path / f"panoptic_{split}.json", tmp_path / f"panoptic_{split}", tmp_path / split)
    return tmp_path


def test_panoptic_truth(both):
    dataset = open_dataset(both)
    assert (dataset.kind, dataset.task, dataset.classes) == ("coco", "semantic", ("cat", "sky", "dog", "sea"))
    assert dataset.line == f"{both.name}: COCO panoptic JSON, 4 classes, train 4, val 4 images (split as given)"
    split = dataset.splits["train"]
    assert split.has_instances and split.values.things == (True, False, True, False)
    assert split.values.palette[1] == "#0080ff"
    assert members(dataset)["train"] == [f"train/{i}.png" for i in range(4)]
    found = split.segments(2)
    assert np.array_equal(found.ids, IDS) and found.labels.tolist() == list(LABELS)
    assert found.crowd.tolist() == list(CROWD)
    assert np.array_equal(split.mask(2), np.array([255, *LABELS])[IDS])  # crowds keep their class
    assert split.subset([3, 1]).name(1) == "train/1.png" and len(split.subset([3]).segments(0).labels) == 5
    assert check(dataset).findings == []
    assert pixel_table(dataset, look(dataset))["val"]["cat"] == {"pixels": 16, "images": 4, "objects": 8}


def test_the_ids_of_categories(both, tmp_path):
    dataset = open_dataset(both)
    assert category_ids(dataset.splits["train"]) == [7, 3, 9, 1]
    water = regroup(dataset, {"water": ["sky", "sea"]}, ["cat"]).splits["val"]
    assert water.classes == ("water", "dog") and category_ids(water) == [10, 9]
    instances(tmp_path / "i" / "instances_train.json", tmp_path / "i" / "train")
    assert category_ids(open_dataset(tmp_path / "i").splits["train"]) == [3, 1, 2]  # background, cat, dog


def test_merged_categories(both):
    """Cats and dogs stay apart as animals; with the sea they are stuff; sky and sea become one; void is left out."""
    dataset = open_dataset(both)
    animals = regroup(dataset, {"animal": ["cat", "dog"]}, []).splits["val"]
    assert animals.classes == ("animal", "sky", "sea") and animals.values.things == (True, False, False)
    assert animals.segments(0).labels.tolist() == [0, 1, 0, 0, 2]
    water = regroup(dataset, {"backdrop": ["sky", "sea"]}, ["cat"]).splits["val"]
    assert water.values.things == (False, True)
    found = water.segments(0)
    assert found.labels.tolist() == [0, 1] and found.crowd.tolist() == [False, True]
    assert np.array_equal(found.ids, np.array([0, 0, 1, 0, 2, 1])[IDS])
    assert np.array_equal(water.mask(0), np.array([255, 255, 0, 255, 1, 0])[IDS])
    mixed = regroup(dataset, {"all": ["cat", "sea"]}, []).splits["val"]
    assert mixed.values.things == (False, False, True)
    assert np.array_equal(mixed.segments(0).ids, np.array([0, 1, 2, 1, 3, 1])[IDS])


def test_the_fingerprint_covers_the_json_and_the_pngs(both):
    first = open_dataset(both).fingerprint
    assert open_dataset(both).fingerprint == first
    path = both / "panoptic_val.json"
    path.write_text(path.read_text().replace('"iscrowd": 1', '"iscrowd": 0'))  # of one size
    second = open_dataset(both).fingerprint
    png = both / "panoptic_train/0.png"
    png.write_bytes(png.read_bytes() + b"x")
    assert len({first, second, open_dataset(both).fingerprint}) == 3


@pytest.mark.parametrize(
    ("file", "pngs", "images"),
    [
        ("panoptic_{0}.json", "panoptic_{0}", "{0}"),
        ("panoptic_{0}.json", "{0}/panoptic", "{0}/images"),
        ("annotations/panoptic_{0}2017.json", "annotations/panoptic_{0}2017", "{0}2017"),
        ("annotations/panoptic_{0}2017.json", "panoptic_{0}2017", "images/{0}2017"),
        ("{0}/_annotations.coco.json", "{0}/panoptic", "{0}"),
        ("coco_{0}.json", "panoptic/{0}", "images/{0}"),
    ],
)
def test_layouts(tmp_path, file, pngs, images):
    for split in ("train", "val"):
        panoptic(*(tmp_path / name.format(split) for name in (file, pngs, images)))
    dataset = open_dataset(tmp_path)
    assert members(dataset)["val"] == [f"{images.format('val')}/{i}.png" for i in range(4)]
    assert dataset.splits["val"].mask_path(1) == str(tmp_path / pngs.format("val") / "1.png")
    assert len(dataset.splits["train"].segments(0).labels) == 5
    alone = open_dataset(tmp_path / file.format("val"), whole=True)
    assert alone.name == (tmp_path / file.format("val")).name and len(alone.splits["all"].segments(3).labels) == 5


def test_instances(tmp_path):
    runs = {"size": [3, 5], "counts": [9, 6]}  # the columns 3 and 4
    shapes = [
        annotation(square(0, 0, 4, 2)),
        annotation(square(1, 0, 2, 2), category=2),  # before or in a hole of the first
        annotation(runs, category=2, crowd=1),
    ]
    instances(tmp_path / "train.json", tmp_path / "images", shapes)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "cat", "dog")
    assert dataset.line == (
        f"{tmp_path.name}: COCO instances JSON, 3 classes, train 2, val 1, test 1 images (split 80/10/10, seed 0)"
    )
    split = open_dataset(tmp_path, whole=True).splits["all"]
    assert split.has_instances and split.values.things == (False, True, True)
    assert split.mask(0).tolist() == [[1, 2, 1, 1, 255], [1, 2, 1, 1, 255], [0, 0, 0, 255, 255]]
    found = split.segments(0)
    assert sorted(zip(found.labels.tolist(), found.crowd.tolist(), strict=True)) == [
        (0, False), (1, False), (2, False), (2, True),
    ]  # fmt: skip
    assert found.labels[found.ids - 1].tolist() == [[1, 2, 1, 1, 2], [1, 2, 1, 1, 2], [0, 0, 0, 2, 2]]
    assert split.mask(3).tolist() == [[0] * 5] * 3


def test_a_category_called_background_is_it(tmp_path):
    instances(tmp_path / "a.json", tmp_path, names=("dog", "background"))
    split = open_dataset(tmp_path, whole=True).splits["all"]
    assert split.classes == ("background", "dog") and split.values.things == (False, True)
    assert split.segments(1).labels.tolist() == [0] and split.mask(1).max() == 0


def test_categories_are_matched_by_name(tmp_path):
    instances(tmp_path / "train.json", tmp_path / "train", names=("cat", "dog", "emu"))
    instances(tmp_path / "val.json", tmp_path / "val", names=("dog", "cat"))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "cat", "dog", "emu")
    assert dataset.splits["train"].mask(0).max() == 1 and dataset.splits["val"].mask(0).max() == 2


def test_panoptic_goes_before_instances(both):
    for split in ("train", "val"):
        instances(both / f"instances_{split}.json", both / split)
    dataset = open_dataset(both)
    assert dataset.classes == ("cat", "sky", "dog", "sea")
    assert dataset.line.endswith("; passed over: instances_train.json, instances_val.json")
    alone = open_dataset(both / "instances_val.json")
    assert alone.classes == ("background", "cat", "dog") and list(alone.splits) == ["train", "val", "test"]
    (both / "panoptic_train.json").unlink()  # what is left has no train
    assert open_dataset(both).line.endswith(" (split as given); passed over: panoptic_val.json")


def test_other_files_stay_what_they_were(tmp_path):
    for name in ("cat", "dog"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", seed=i)
    (tmp_path / "meta.json").write_text("{")
    (tmp_path / "captions.json").write_text('{"images": [], "annotations": [{"caption": "x"}]}')
    assert open_dataset(tmp_path).kind == "image_folder"


def refused(data):
    with pytest.raises(InputError) as caught:
        open_dataset(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(tmp_path):
    instances(tmp_path / "a/val.json", tmp_path / "a")
    instances(tmp_path / "a/test.json", tmp_path / "a")
    assert "a: has test.json and val.json, but none whose name tells of train; name one" in refused(tmp_path / "a")
    instances(tmp_path / "a/train.json", tmp_path / "a")
    instances(tmp_path / "a/train2017.json", tmp_path / "a")
    assert "a: train.json and train2017.json are about train; give one of them" in refused(tmp_path / "a")
    (tmp_path / "a/train2017.json").rename(tmp_path / "a/more.json")
    assert "the name of more.json tells of no split; rename or remove it" in refused(tmp_path / "a")
    (tmp_path / "a/more.json").rename(tmp_path / "a/train_val.json")
    assert "train_val.json: its name tells of train and val; name it after one" in refused(tmp_path / "a")
    (tmp_path / "a/train_val.json").unlink()
    instances(tmp_path / "a/val.json", tmp_path / "a", names=("cat", "gnu"))
    assert "val.json: has the category 'gnu' (thing), which train.json has not" in refused(tmp_path / "a")
    (tmp_path / "a/instances_train.json").write_text("{")
    assert "instances_train.json: not a JSON file" in refused(tmp_path / "a")
    instances(tmp_path / "b.json", tmp_path / "b")
    assert refused(tmp_path / "b.json") == (
        f"{tmp_path / 'b.json'}: none of its images, as 0.png, is there; looked in ., images of {tmp_path}"
    )
    instances(tmp_path / "c.json", tmp_path, names=[f"c{i}" for i in range(255)])
    assert "c.json: 256 classes, background among them; a segmenter tells 2 to 255 apart" in refused(
        tmp_path / "c.json"
    )
    instances(tmp_path / "c.json", tmp_path, names=[f"c{i}" for i in range(254)])
    assert len(open_dataset(tmp_path / "c.json").classes) == 255
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text().replace("1.png", "0.png"))
    assert "c.json: two images have the file_name '0.png'" in refused(tmp_path / "c.json")
    (tmp_path / "d.json").write_text('{"shapes": []}')
    assert "d.json: is no COCO file of masks: it needs images, categories" in refused(tmp_path / "d.json")
    panoptic(tmp_path / "e.json", tmp_path / "elsewhere", tmp_path)
    assert "e.json: none of its PNGs, as 0.png, is there; looked in e, panoptic, annotations/e of" in refused(
        tmp_path / "e.json"
    )


@pytest.mark.parametrize("name", ["a\nb.png", "a\0b.png", "\ud800.png"])
def test_names_that_no_file_has(tmp_path, name):
    instances(tmp_path / "a.json", tmp_path)
    document = json.loads((tmp_path / "a.json").read_text())
    document["images"][2]["file_name"] = name
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert "a.json: images[2]: file_name must be a text, not " in refused(tmp_path / "a.json")


def test_polygons_need_pycocotools(tmp_path, monkeypatch):
    import sys

    instances(tmp_path / "a.json", tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    assert 'pip install "vitnext[coco]"' in refused(tmp_path / "a.json")


def outside(root):
    instances(
        root / "train.json", root / "train", [annotation(square(0, 0, 7, 2)), annotation([[1, 1, 2, 2]], image=0)]
    )


def missing(root):
    (root / "train/2.png").unlink()


def other_size(root):
    picture(root / "train/2.png", seed=99, size=(4, 5))


def overlapping(root):
    shapes = [annotation(square(0, 0, 2, 2), image=i, category=1 + i % 2) for i in range(4)]
    instances(root / "train.json", root / "train", [*shapes, annotation(square(1, 0, 3, 2), image=1)])


def hiding(root):
    shapes = [annotation(square(0, 0, 2, 2), image=i, category=1 + i % 2) for i in range(4)]
    shapes += [annotation(square(0, 0, 2, 2), image=1)]
    instances(root / "train.json", root / "train", shapes)


def empty(root):
    shapes = [annotation(square(0, 0, 2, 2), image=i, category=1 + i % 2) for i in range(3)]
    instances(root / "val.json", root / "val", shapes)


def unused_class(root):
    shapes = [annotation(square(0, 0, 2, 2), image=i, category=1 + i % 2) for i in range(4)]
    instances(root / "train.json", root / "train", shapes, names=("cat", "dog", "emu", "gnu", "yak"))


@pytest.mark.parametrize(
    ("make", "code", "lines"),
    [
        (lambda root: None, 0, ["no mistakes found"]),
        (
            outside,
            2,
            [
                r"error: 1 mask cannot be read: .*train.json: annotations\[0\] of image 0.png: polygon 1 lies outside "
                r"the image: x = 7, which is 0 to 5; annotations\[1\] of image 0.png: polygon 1 has 4 numbers",
                r"warning: 3 images without an object",
            ],
        ),
        (missing, 2, [r"error: 1 image cannot be read: .*train/2.png: no such file"]),
        (
            other_size,
            2,
            [r"error: 1 image with a mask of .*: train/2.png has 5x4 pixels, its mask 5x3 \(mend the size in"],
        ),
        (
            overlapping,
            0,
            [r"warning: objects overlap in 1 image, in 5.9% of their pixels, .* smaller one: .*1.png \(2\)"],
        ),
        (
            hiding,
            0,
            [
                r"warning: objects overlap in 1 image, in 12% of their pixels",
                r"warning: 1 object of which nothing is seen, because smaller ones lie over them: train/1.png \(1\)",
            ],
        ),
        (empty, 0, [r"warning: 1 image without an object, all background: val/3.png"]),
        (unused_class, 0, [r"warning: 3 classes without a pixel in train, so not learnt: emu, gnu, yak"]),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, make, code, lines):
    for split in ("train", "val"):
        instances(tmp_path / f"{split}.json", tmp_path / split)
    make(tmp_path)
    assert main(["check", str(tmp_path)]) == code
    found = findings_of(capsys.readouterr().out)
    assert len(found) == len(lines), found
    for line, said in zip(lines, found, strict=True):
        assert re.match(line, said), said


def test_what_cannot_be_drawn_is_an_image_that_cannot_be_read(tmp_path):
    for split in ("train", "val"):
        instances(tmp_path / f"{split}.json", tmp_path / split)
    outside(tmp_path)
    split = open_dataset(tmp_path).splits["train"]
    for read in (split.mask, split.segments):
        with pytest.raises(ImageError, match="lies outside the image"):
            read(0)


def test_coco():
    """133 categories of which 26 images hold some: masks as those that were made by others from the same PNGs."""
    folder = shared_data("coco_panoptic_cc")
    dataset = open_dataset(folder)
    assert dataset.line == (
        "coco_panoptic_cc: COCO panoptic JSON, 133 classes, train 26, val 27 images (split as given); passed over: "
        "instances_train.json, instances_val.json"
    )
    split = dataset.splits["val"]
    assert sum(split.values.things) == 80
    coco = read_panoptic(folder / "panoptic_val.json", folder / "val" / "panoptic")
    index = np.full(256, 255, np.uint8)
    index[[category.id for category in coco.categories]] = range(133)
    for i in range(3):
        name = split.name(i).removeprefix("val/images/")
        semantic = np.array(Image.open(folder / "val/semantic" / name.replace(".jpg", ".png")))
        assert np.array_equal(split.mask(i), index[semantic])
        truth, found = coco.segments(i), split.segments(i)
        assert np.array_equal(truth.ids, found.ids) and np.array_equal(truth.labels, found.labels)


def test_overlaps_of_coco_are_drawn_as_they_are():
    """Polygons cannot have holes, so what stands before an object is claimed twice: the panoptic PNGs say by whom."""
    folder = shared_data("coco_panoptic_cc")
    objects = open_dataset(folder / "instances_val.json", whole=True).splits["all"]
    panoptic_split = open_dataset(folder).splits["val"]
    names = np.array(objects.classes)
    agree = total = 0
    for i in range(3):
        drawn, truth = objects.drawn(i), panoptic_split.mask(i)
        thing = np.isin(truth, np.flatnonzero(panoptic_split.values.things))
        seen = thing & (drawn.mask != 255)
        true = np.array([*panoptic_split.classes, *[""] * (256 - 133)])[truth]
        agree += (names[drawn.mask[seen]] == true[seen]).sum()
        total += seen.sum()
    assert agree / total > 0.995


def test_average_precision_takes_the_objects_of_annotations_whole(tmp_path):
    """As COCO's own evaluation does, while segments are cut where others lie over them."""
    annotations = [
        annotation(square(0, 0, 5, 3)),
        annotation(square(1, 0, 4, 2), category=2),
        annotation(square(3, 1, 5, 3), category=3),
    ]
    instances(tmp_path / "instances.json", tmp_path, annotations, count=1, names=("cat", "dog", "cow"))
    [split] = regroup(open_dataset(tmp_path, whole=True), {"pet": ["cat", "dog"]}, ["cow"]).splits.values()
    assert split.classes == ("background", "pet")
    cat, dog = np.zeros((2, 3, 5), bool)
    cat[:], dog[:2, 1:4] = True, True
    objects = split.objects(0)
    np.testing.assert_array_equal(objects.masks, [cat, dog])
    assert objects.labels.tolist() == [1, 1] and objects.crowd.tolist() == [False, False]
    assert [int((split.segments(0).ids == k).sum()) for k in (1, 2)] != [15, 6]
    scores = np.array([0.9, 0.8], np.float32)
    found = Detections((3, 5), (rle.encode(cat), rle.encode(dog)), np.array([1, 1]), scores)
    counts = PanopticCounts(Told(split.classes, split.values.things), split, "pets")
    counts.add(0, PanopticSegmentation("0.png", split.classes, split.values.things, scored(split), lambda: found))
    assert counts.result()["ap"] == 1


def scored(split):
    segments = split.segments(0)
    return Segments(segments.ids, segments.labels, segments.crowd, np.ones(len(segments.labels), np.float32))


class Told:
    """What a predictor says of its model."""

    def __init__(self, classes, things):
        preprocess = Preprocess((8, 8), "window", mean=(0.0,) * 3, std=(1.0,) * 3)
        self.card = Card("panoptic", "x+y", {}, classes, preprocess, {}, {}, {}, {}, "CC0-1.0", (), things)
