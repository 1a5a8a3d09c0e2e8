"""The page about a data set with masks: complete, escaped, without a request to anywhere."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from masks import CLASSES, add, mask_set
from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset
from vitnext.data.mask_doctor import findings, look
from vitnext.evaluation.mask_report import PICTURES, chosen, render


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
    assert "9 in 1 mask" in html and "not named in classes.txt</li>" in html
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


def test_the_command_writes_it(tmp_path, capsys):
    mask_set(tmp_path / "d")
    assert main(["check", str(tmp_path / "d"), "--out", str(tmp_path / "out" / "here")]) == 0
    assert capsys.readouterr().out.endswith(f"page: {tmp_path / 'out' / 'here' / 'check.html'}\n")
    assert "No mistakes found" in (tmp_path / "out" / "here" / "check.html").read_text(encoding="utf-8")
