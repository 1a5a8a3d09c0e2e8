"""`vitnext check`"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from masks import flat_set, ids, mask_set
from vitnext.cli.main import main


@pytest.fixture
def photos(tmp_path):
    """Two classes of 30 images each, all different."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i:02}.png")
    return tmp_path / "photos"


def test_clean_data(capsys, photos):
    assert main(["check", str(photos)]) == 0
    out, err = capsys.readouterr()
    assert "2 classes" in out.splitlines()[0]
    assert [line.split() for line in out.splitlines()[1:4]] == [
        ["class", "train", "val", "test"], ["cat", "24", "3", "3"], ["dog", "24", "3", "3"],
    ]  # fmt: skip
    assert out.splitlines()[4:] == [
        "sizes: median 8 x 8, 8 x 8 to 8 x 8 px (width x height, each by itself)",
        "files: PNG RGB 60",
        "no mistakes found",
    ]
    assert err == ""


def test_warnings_do_not_fail(capsys, photos):
    for name in ("copy.png", "other.png"):
        (photos / "cat" / name).write_bytes((photos / "cat" / "00.png").read_bytes())
    assert main(["check", str(photos)]) == 0
    assert "warning: " in capsys.readouterr().out


def test_errors_are_lines_and_exit_code_2(capsys, photos):
    for i in range(7):
        (photos / "dog" / f"bad{i}.jpg").write_text("no image")
    assert main(["check", str(photos)]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert sum(line.startswith("error: 7 images cannot be read") for line in lines) == 1
    assert lines[-1] == f"vitnext check {photos} --json lists every file"
    assert err == ""


def test_json_lists_everything(capsys, photos):
    for i in range(7):
        (photos / "dog" / f"bad{i}.jpg").write_text("no image")
    assert main(["check", str(photos), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    [unreadable] = [finding for finding in report["findings"] if finding["kind"] == "unreadable"]
    assert len(unreadable["items"]) == 7


def test_a_missing_folder(capsys, tmp_path):
    assert main(["check", str(tmp_path / "nothing")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"vitnext: {tmp_path / 'nothing'}") and err.count("\n") == 1


def test_pixels_of_masks_are_counted(capsys, tmp_path):
    mask_set(tmp_path)
    Image.fromarray(np.full((8, 10), 255, np.uint8)).save(tmp_path / "val/masks/1.png")
    assert main(["check", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:6]] == [
        ["class", "train", "pixels", "images", "val", "pixels", "images", "test", "pixels", "images"],
        ["background", "108", "4", "81", "3", "108", "4"],
        ["road", "108", "4", "81", "3", "108", "4"],
        ["car", "104", "4", "78", "3", "104", "4"],
        ["(void)", "0", "0", "80", "1", "0", "0"],
    ]
    assert lines[6].startswith("warning: 1 mask of nothing but void")
    assert main(["check", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["images"] == {"train": 4, "val": 4, "test": 4}
    assert facts["classes"]["car"] == {
        "train": {"pixels": 104, "images": 4},
        "val": {"pixels": 78, "images": 3},
        "test": {"pixels": 104, "images": 4},
    }
    assert facts["classes"]["(void)"]["val"] == {"pixels": 80, "images": 1}


def test_many_classes_of_masks_are_summed_up(capsys, tmp_path):
    flat_set(tmp_path, count=4, classes="".join(f"{i} c{i}\n" for i in range(31)))
    for i in range(4):
        Image.fromarray(ids((8, 10), 31)).save(tmp_path / "masks" / f"i{i}.png")
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "train: 4 to 6 pixels of a class, median 6",
        "val: 2 to 3 pixels of a class, median 3",
        "test: 2 to 3 pixels of a class, median 3",
    ]
