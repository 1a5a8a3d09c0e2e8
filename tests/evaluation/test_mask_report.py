"""The page about a data set with masks: complete, escaped, without a request to anywhere."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from masks import CLASSES, add, add_instances, mask_set
from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset
from vitnext.data.mask_doctor import findings, look
from vitnext.evaluation.mask_report import PICTURES, chosen, outlines, picture, render
from vitnext.types import Segments


@pytest.fixture
def data(tmp_path):
    """With an unnamed id, an unreadable mask, and names that are markup."""
    mask_set(tmp_path / "d", count=9, classes=CLASSES.replace("car", "<script>alert(1)</script>"))
    add(tmp_path / "d", "a&<b>", np.full((8, 10), 9, np.uint8), below="val")
    (tmp_path / "d" / "train/masks/0.png").write_text("text")
    return tmp_path / "d"


def page(data):
    dataset = open_dataset(data)
    looked = look(dataset)
    return render(dataset, looked, findings(dataset, looked))


def test_the_page(data):
    html = page(data)
    assert html == page(data)
    assert "alert(1)" in html and "<script>alert" not in html and "a&<b>" not in html and "a&amp;&lt;b&gt;" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html) and "http://" not in html and "https://" not in html
    assert html.count("<figure") == PICTURES
    assert html.count('alt="its mask laid over it"') == PICTURES - 1  # an unreadable one has none
    assert "does not name (9 in " in html and "not named in classes.txt</li>" in html
    [row] = re.findall(r"</span>road</th>.*", html.replace("\n", ""))[:1]
    assert f"<td>{8 * 27}</td><td>8</td>" in row and f"<td>{9 * 27}</td><td>9</td>" in row  # train without 0; val, test


def test_findings_come_first_then_every_class(data):
    dataset = open_dataset(data)
    looked = look(dataset)
    places = chosen(looked, [("train", 0), ("val", 9)])
    assert places[:2] == [("train", 0), ("val", 9)] and len(set(places)) == len(places) == PICTURES


def test_pictures_show_where_each_class_is_largest(tmp_path):
    mask_set(tmp_path, count=1)
    Image.fromarray(np.full((8, 10), 1, np.uint8)).save(tmp_path / "val/masks/0.png")
    Image.fromarray(np.full((8, 10), 2, np.uint8)).save(tmp_path / "test/masks/0.png")
    assert chosen(look(open_dataset(tmp_path)), []) == [("train", 0), ("val", 0), ("test", 0)]


def test_outlines_by_a_loop_over_pixels():
    """Below and right of a border between two things, and inside a thing towards what is none."""
    ids = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(np.int32)
    labels = np.array([0, 1, 1])
    found = outlines(Segments(ids, labels, np.zeros(3, bool)), (False, True), (7, 6))

    def thing(id):
        return id > 1

    for (y, x), id in np.ndenumerate(ids):
        before = [ids[at] for at in ((y - 1, x), (y, x - 1)) if min(at) >= 0]
        behind = [ids[at] for at in ((y + 1, x), (y, x + 1)) if at[0] < 6 and at[1] < 7]
        edge = any(other != id for other in before) or any(other != id and not thing(other) for other in behind)
        assert found[y, x] == (thing(id) and edge)


def test_objects_are_counted_and_outlined(tmp_path):
    """Two objects of one class that touch: only the outline tells them apart."""
    mask_set(tmp_path, count=4, classes="0 background\n1 cell\n255 ignore\n")
    numbers = np.zeros((64, 64), np.uint8)
    numbers[16:48, 16:32], numbers[16:48, 32:48] = 1, 2
    for split in ("train", "val", "test"):
        for i in range(4):
            Image.fromarray(np.full((64, 64, 3), 10 * i, np.uint8)).save(tmp_path / split / "images" / f"{i}.png")
            Image.fromarray((numbers > 0).astype(np.uint8)).save(tmp_path / split / "masks" / f"{i}.png")
            add_instances(tmp_path, f"{i}", numbers, below=split)
    html = page(tmp_path)
    assert html.count('<th scope="col">Objects</th>') == 3 and "Objects are outlined in white." in html
    [row] = re.findall(r"</span>cell</th>.*", html.replace("\n", ""))[:1]
    assert row.count("<td>4096</td><td>4</td><td>8</td>".replace("4096", "4,096")) == 3
    uri = picture(open_dataset(tmp_path).splits["val"], 0)["mask"]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L")).astype(int)
    assert (drawn[20:44, 32] > drawn[20:44, 24] + 60).all() and (drawn[20:44, 40] < 200).all()


def test_the_page_of_sound_masks_has_no_objects(tmp_path):
    html = page(mask_set(tmp_path))
    assert "Objects" not in html and "outlined" not in html


def test_the_command_writes_it(tmp_path, capsys):
    mask_set(tmp_path / "d")
    assert main(["check", str(tmp_path / "d"), "--out", str(tmp_path / "out" / "here")]) == 0
    assert capsys.readouterr().out.endswith(f"page: {tmp_path / 'out' / 'here' / 'check.html'}\n")
    assert "No mistakes found" in (tmp_path / "out" / "here" / "check.html").read_text(encoding="utf-8")
