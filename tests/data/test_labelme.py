"""labelme's JSON files as a data set: shapes against loops over pixels, and what is refused in one line."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from masks import findings_of
from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset, regroup
from vitnext.data.mask_doctor import check, look, pixel_table
from vitnext.errors import ImageError, InputError

SIZE = (12, 16)
BOX = [[2, 2], [10, 8]]


def shape(label, points, kind="polygon", group=None):
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}


def stored(label, points, image):
    """A shape that labelme's AI tools draw: a PNG in base64, which the box of the points holds."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return shape(label, points, "mask") | {"mask": base64.b64encode(file.getvalue()).decode()}


def picture(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def annotate(root, name, shapes, **changes):
    """An image and the JSON file beside it."""
    picture(root / f"{name}.png", list(f"{root.name}{name}".encode()))
    document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None}
    document |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1]} | changes
    (root / f"{name}.json").write_text(json.dumps(document))


def sound(root, *, count=6, below=""):
    """A dog in every image, and a cat in every second."""
    for i in range(count):
        shapes = [shape("dog", BOX, "rectangle")] + [shape("cat", [[12, 9], [14, 9]], "circle")] * (i % 2)
        annotate(root / below, f"i{i}", shapes)
    return root


def whole(root):
    return open_dataset(root, whole=True).splits["all"]


def drawn_alone(tmp_path, *shapes, **changes):
    annotate(tmp_path, "a", list(shapes), **changes)
    return whole(tmp_path).mask(0)


def inside(points, x, y):
    """Whether a point lies in a polygon: how many of its edges a ray to the right crosses."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        crossings += (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax
    return crossings % 2 == 1


def test_it_is_recognised_and_divided(tmp_path):
    dataset = open_dataset(sound(tmp_path / "pets", count=10))
    assert (dataset.kind, dataset.task, dataset.classes) == ("labelme", "semantic", ("background", "cat", "dog"))
    assert dataset.line == "pets: labelme JSON, 3 classes, train 8, val 1, test 1 images (split 80/10/10, seed 0)"
    split = open_dataset(tmp_path / "pets", whole=True).splits["all"]
    assert split.has_instances and split.values.things == (False, True, True)
    assert split.name(3) == "i3.png" and split.mask_path(3) == str(tmp_path / "pets" / "i3.json")
    undivided = open_dataset(tmp_path / "pets", whole=True)
    assert check(undivided).findings == []
    table = pixel_table(undivided, look(undivided))
    assert table["all"]["dog"] == {"pixels": 480, "images": 10, "objects": 10}
    assert table["all"]["cat"]["objects"] == 5


def test_folders_of_splits(tmp_path):
    for below in ("train", "valid/day"):
        sound(tmp_path, count=2, below=below)
    annotate(tmp_path / "more", "x", [])
    dataset = open_dataset(tmp_path)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "val": 2}
    assert dataset.splits["val"].name(0) == "valid/day/i0.png" and dataset.unlisted == ("more/x.png",)
    assert check(dataset).findings[0].message == "1 image passed over: in none of the lists: more/x.png"


POLYGON = [[1.3, 1.2], [14.1, 2.4], [12.7, 10.6], [7.2, 5.1], [2.6, 10.9]]


def test_polygons_by_a_loop_over_pixels(tmp_path):
    """COCO's rule differs from that of pixels' centres along the outline only."""
    mask = drawn_alone(tmp_path, shape("a", POLYGON))
    for (y, x), label in np.ndenumerate(mask):
        corners = {inside(POLYGON, x + dx, y + dy) for dx in (-0.6, 0.5, 1.6) for dy in (-0.6, 0.5, 1.6)}
        assert len(corners) == 2 or label == corners.pop()


def test_rectangles_and_circles_by_a_loop_over_pixels(tmp_path):
    mask = drawn_alone(
        tmp_path, shape("a", [[10, 8], [2, 2]], "rectangle"), shape("b", [[13, 10], [14.5, 12]], "circle")
    )
    for (y, x), label in np.ndenumerate(mask):
        circle = (x + 0.5 - 13) ** 2 + (y + 0.5 - 10) ** 2 <= 2.5**2  # cut off by the edge of the image
        assert label == (2 if circle else 1 if 2 <= x < 10 and 2 <= y < 8 else 0)


@pytest.mark.parametrize(
    ("corner", "left", "top"),
    [((3, 2), 3, 2), ((3.3, 1.8), 3, 2), ((2.6, 2.4), 3, 2), ((0, 0), 0, 0), ((-1, -0.7), -1, -1), ((12, 8), 12, 8)],
)
def test_masks_by_a_loop_over_pixels(tmp_path, corner, left, top):
    """Both corners are of the box; one that was moved lies between pixels, and may stand a pixel over the edge."""
    pixels = np.random.default_rng(3).random((5, 4)) < 0.5
    points = [list(corner), [corner[0] + 3, corner[1] + 4]]
    expected = np.zeros(SIZE, int)
    for y, x in np.argwhere(pixels):
        if 0 <= top + y < SIZE[0] and 0 <= left + x < SIZE[1]:
            expected[top + y, left + x] = 1
    for i, image in enumerate(
        (Image.fromarray(pixels), *(Image.fromarray(pixels.astype(np.uint8) * k) for k in (1, 255)))
    ):
        assert np.array_equal(drawn_alone(tmp_path / str(i), stored("a", points, image)), expected)


def test_oriented_rectangles_and_shapes_of_no_type_are_polygons(tmp_path):
    corners = [[2, 5], [8, 2], [11, 7], [5, 10]]
    expected = drawn_alone(tmp_path / "a", shape("a", corners))
    assert expected.any()
    for kind in ("oriented_rectangle", None):
        assert np.array_equal(drawn_alone(tmp_path / str(kind), shape("a", corners, kind)), expected)


def test_shapes_of_one_group_are_one_object(tmp_path):
    left, right = [[0, 0], [3, 3]], [[5, 0], [8, 3]]
    shapes = [shape("dog", left, "rectangle", 1), shape("dog", [[10, 0], [13, 3]], "rectangle")]
    shapes += [shape("dog", right, "rectangle", 1), shape("cat", [[0, 6], [3, 9]], "rectangle", 1)]
    annotate(tmp_path, "a", shapes)
    found = whole(tmp_path).segments(0)
    assert sorted(found.labels.tolist()) == [0, 1, 2, 2]  # background, cat, two dogs
    assert found.ids[0, 0] == found.ids[0, 6] != found.ids[0, 11] != found.ids[7, 0]


def test_a_smaller_shape_lies_on_top(tmp_path):
    shapes = [shape("cat", [[3, 3], [5, 5]], "rectangle"), shape("dog", BOX, "rectangle")]
    mask = drawn_alone(tmp_path, *shapes)
    assert (mask == 1).sum() == 4 and (mask == 2).sum() == 44


def test_background_and_void(tmp_path):
    shapes = [shape("dog", BOX, "rectangle"), shape("_background_", [[3, 3], [5, 5]], "rectangle")]
    shapes += [shape("ignore", [[6, 3], [8, 5]], "rectangle"), shape("__ignore__", [[12, 3], [14, 5]], "rectangle")]
    annotate(tmp_path, "a", shapes)
    split = whole(tmp_path)
    assert split.classes == ("background", "dog")
    assert np.bincount(split.mask(0).reshape(-1))[[0, 1, 255]].tolist() == [192 - 48 + 4 - 4, 48 - 8, 8]
    assert split.segments(0).labels.tolist() == [1, 0]


def test_classes_txt(tmp_path):
    sound(tmp_path)
    (tmp_path / "classes.txt").write_text("dog thing #010203\ncat\ngrass stuff\nbackground #040506\n")
    split = whole(tmp_path)
    assert split.classes == ("background", "dog", "cat", "grass") and split.values.things == (False, True, False, False)
    assert split.values.palette[:2] == ("#040506", "#010203") and split.mask(0).max() == 1
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert whole(tmp_path).values.things == (False, True, True)
    merged = regroup(open_dataset(tmp_path, whole=True), {"pet": ["dog", "cat"]}, []).splits["all"]
    assert merged.classes == ("background", "pet") and sorted(merged.segments(1).labels.tolist()) == [0, 1, 1]
    (tmp_path / "classes.txt").write_text("dog\n")
    with pytest.raises(InputError, match=r"1 label that classes.txt does not name: cat in i1.json; add lines"):
        open_dataset(tmp_path)


def test_the_fingerprint_covers_what_they_say(tmp_path):
    first = open_dataset(sound(tmp_path)).fingerprint
    path = tmp_path / "i2.json"
    path.write_text(path.read_text().replace("[2, 2]", "[3, 2]"))
    assert first != open_dataset(tmp_path).fingerprint


def test_sizes_that_the_json_lacks_are_the_images(tmp_path):
    assert drawn_alone(tmp_path, shape("a", BOX, "rectangle"), imageHeight=None, imageWidth=None).sum() == 48


def test_what_is_refused(tmp_path):
    annotate(tmp_path / "a", "x", [shape("ignore", BOX, "rectangle")])
    with pytest.raises(InputError, match="a: 0 classes beside the background; a segmenter tells 1 to 254 apart"):
        open_dataset(tmp_path / "a")
    annotate(tmp_path / "b", "x", [shape("a", BOX, "rectangle")])
    picture(tmp_path / "b" / "x.jpg", 1)
    with pytest.raises(InputError, match=r"b: x.jpg and x.png have one name; rename or remove one"):
        open_dataset(tmp_path / "b")
    for folder in ("val", "valid", "train"):
        sound(tmp_path / "c", count=2, below=folder)
    with pytest.raises(InputError, match=r"c: both val/ and valid/ are a val split; keep one of them"):
        open_dataset(tmp_path / "c")


@pytest.mark.parametrize(
    ("named", "other"),
    [
        ("x.png", ""),
        ("..\\\\images\\\\X.JPG", ""),
        ("../images/x.jpg", ""),
        (None, ""),
        ("y.png", "x.json (y.png)"),
        ("../x/y.png", "x.json (y.png)"),
        ("x.1.png", "x.json (x.1.png)"),
    ],
)
def test_the_image_that_was_drawn_on(tmp_path, named, other):
    """Files move from folder to folder, and are converted; their names stay."""
    annotate(tmp_path, "x", [shape("a", BOX, "rectangle")], imagePath=named)
    assert open_dataset(tmp_path, whole=True).strange == ((other,) if other else ())


def test_other_json_files_beside_images_stay_out(tmp_path):
    for name in ("cat", "dog"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", i)
            (tmp_path / name / f"{i}.json").write_text('{"caption": "x"}')
    assert open_dataset(tmp_path).kind == "image_folder"


DOG = ["dog", BOX, "rectangle"]


@pytest.mark.parametrize(
    ("shapes", "changes", "line"),
    [
        (
            [shape("dog", [[1, 1], [30, 1], [5, 5]])],
            {},
            r"shapes\[0\] \(dog\): polygon 1 lies outside the image: x = 30, ",
        ),
        (
            [shape(*DOG), shape("cat", [[1, 1], [3, 3]])],
            {},
            r"shapes\[1\] \(cat\): polygon 1 has 4 numbers, but three po",
        ),
        (
            [shape("dog", [[1, 1]], "point")],
            {},
            r"shapes\[0\] \(dog\): is a point, which covers no pixels here: remove it, or draw a polygon",
        ),
        ([shape("dog", BOX, "mask")], {}, r"shapes\[0\] \(dog\): its mask is no PNG in base64, or a damaged one"),
        (
            [shape("dog", BOX, "mask") | {"mask": "AAAA"}],
            {},
            r"shapes\[0\] \(dog\): its mask is no PNG in base64, or a",
        ),
        (
            [stored("dog", BOX, Image.new("1", (8, 6), 1))],
            {},
            r"shapes\[0\] \(dog\): its mask has 8 x 6 pixels, its points a box of 9 x 7",
        ),
        (
            [stored("dog", [[8, 2], [16.5, 8]], Image.new("1", (9, 7), 1))],
            {},
            r"shapes\[0\] \(dog\): its mask lies outside the image: 8, 2 to 16.5, 8 of 16 x 12",
        ),
        (
            [stored("dog", BOX, Image.new("RGBA", (9, 7)))],
            {},
            r"shapes\[0\] \(dog\): its mask must be black and white or",
        ),
        ([stored("dog", BOX, Image.new("L", (9, 7)))], {}, r"shapes\[0\] \(dog\): has no pixel: remove it"),
        ([shape("dog", [[1, 1]], "circle")], {}, r"shapes\[0\] \(dog\): a circle has two points, and this one has 1"),
        (
            [shape("dog", [[-9, 1], [3, 3]], "circle")],
            {},
            r"shapes\[0\] \(dog\): its centre lies outside the image: -9, 1",
        ),
        ([shape("dog", [[1, "2"]])], {}, r"shapes\[0\] \(dog\): points must be a list of pairs of numbers"),
        ([shape("dog", [[1, 1], [1, 1]], "circle")], {}, r"shapes\[0\] \(dog\): has no pixel: remove it"),
        ([shape("a\nb", BOX, "rectangle")], {}, r".*i0.json: shapes\[0\]: label must be a text, not 'a\\nb'"),
        (
            [shape("dog", [[1, 1], [1e308, -1e308]], "circle"), shape("dog", [[1, 1]])],
            {},
            r"shapes\[1\] \(dog\): polygon 1 has 2",
        ),
        ([{"points": BOX}], {}, r".*i0.json: shapes\[0\]: label must be a text, not None"),
        ([shape(*DOG)], {"imageHeight": 0}, r".*i0.json: 0 x 16 is not the size of an image"),
        ([shape(*DOG)], {"imageHeight": "x"}, r".*i0.json: imageHeight must be a whole number, not 'x'"),
    ],
)
def test_shapes_that_cannot_be_drawn(tmp_path, shapes, changes, line):
    sound(tmp_path)
    annotate(tmp_path, "i0", shapes, **changes)
    with pytest.raises(ImageError) as caught:
        whole(tmp_path).segments(0)
    assert str(caught.value).startswith(f"{tmp_path / 'i0.json'}: ")
    assert re.match(
        line, str(caught.value).removeprefix(f"{tmp_path / 'i0.json'}: ") if line[0] == "s" else str(caught.value)
    )


@pytest.mark.parametrize(
    ("make", "code", "line"),
    [
        (
            lambda root: (root / "train/i1.json").write_text("{"),
            2,
            r"error: 1 mask cannot be .*i1.json: not a JSON file",
        ),
        (
            lambda root: (root / "train/i1.json").unlink(),
            0,
            r"warning: 1 image passed over: no JSON file of that name: tr",
        ),
        (
            lambda root: (root / "train/i1.png").unlink(),
            0,
            r"warning: 1 JSON file passed over: no image of that name: tra",
        ),
        (
            lambda root: picture(root / "train/i1.png", 7, (13, 16)),
            2,
            r"error: 1 image with a mask of another size: train/i1.png has 16x13 pixels, its mask 16x12 \(mend the",
        ),
        (
            lambda root: annotate(root / "train", "x", []),
            0,
            r"warning: 1 image without an object, all background: train/x",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, make, code, line):
    for split in ("train", "val"):
        sound(tmp_path, count=4, below=split)
    make(tmp_path)
    assert main(["check", str(tmp_path)]) == code
    [found] = findings_of(capsys.readouterr().out)
    assert re.match(line, found), found
