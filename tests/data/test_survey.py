"""What the doctor sees in labelled images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vitnext.cli.main import main
from vitnext.data.dataset import open_dataset
from vitnext.data.doctor import check
from vitnext.data.survey import look
from vitnext.evaluation.report import thumbnail


def photograph(seed, size=(64, 48)):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path):
    """train 6 + 6, test 2 + 2 photographs, nothing wrong with them."""
    root = tmp_path / "<photos>"
    for i, name in enumerate([*["train/a"] * 6, *["train/b"] * 6, *["test/a"] * 2, *["test/b"] * 2]):
        (root / name).mkdir(parents=True, exist_ok=True)
        photograph(i).save(root / name / f"{i:02}.png")
    return root


def found(data, **more):
    return {finding.kind: finding for finding in check(open_dataset(data, val_fraction=0), **more).findings}


def test_nothing_wrong(data):
    assert found(data) == {}


def test_what_is_known_of_each_image(data):
    turned = photograph(0)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(data / "train/a/00.png", exif=exif)
    photograph(1).convert("L").save(data / "train/a/01.jpg")
    survey = look(open_dataset(data, val_fraction=0))
    assert survey.sizes[0].tolist() == [64, 48] and survey.sizes[2].tolist() == [48, 64]  # height, width; upright
    assert survey.turned.tolist() == [True] + [False] * 16
    assert sorted(set(survey.kinds.tolist())) == [b"JPEG L", b"PNG RGB"]
    assert survey.alike[:3].tolist() == [0, 1, 2]  # 01.png is in colours, 01.jpg grey


def test_facts_are_numbers(data):
    photograph(50, (300, 100)).save(data / "train/a/x.gif")
    facts = json.loads(json.dumps(check(open_dataset(data, val_fraction=0)).to_dict()))["facts"]
    assert facts["images"] == {"train": 13, "test": 4}
    assert facts["classes"] == {"a": {"train": 7, "test": 2}, "b": {"train": 6, "test": 2}}
    assert facts["width"] == {"smallest": 64, "median": 64, "largest": 300}
    assert facts["height"] == {"smallest": 48, "median": 48, "largest": 100}
    assert facts["kinds"] == {"PNG RGB": 16, "GIF P": 1} and facts["turned_by_exif"] == 0


def test_nearly_the_same_images(data):
    photograph(0).resize((32 * 4 // 3, 32)).save(data / "test/a/small.jpg", quality=80)
    photograph(3).save(data / "train/b/again.jpg", quality=60)
    report = found(data)
    assert report["near_duplicate_across_splits"].items == ["train/a/00.png ~ test/a/small.jpg"]
    assert report["near_conflicting_labels"].items == ["train/a/03.png ~ train/b/again.jpg"]
    assert report["near_duplicate_across_splits"].message.startswith(
        "1 group of nearly the same image in more than one"
    )
    assert {finding.severity for finding in report.values()} == {"warning"} and len(report) == 2


def test_identical_images_are_not_also_nearly_the_same(data):
    (data / "test/a/copy.png").write_bytes((data / "train/a/00.png").read_bytes())
    assert set(found(data)) == {"duplicate_across_splits"}


def test_tiny_images_are_not_searched_for_near_duplicates(data):
    for path in sorted(data.rglob("*.png")):
        Image.open(path).resize((30, 30)).save(path)
    Image.open(data / "train/a/00.png").save(data / "test/a/small.jpg", quality=90)
    assert found(data) == {}


def test_images_unlike_the_others_in_size_shape_or_content(data):
    photograph(60, (16, 11)).save(data / "train/a/thumb.png")
    photograph(61, (480, 64)).save(data / "train/a/wide.png")
    photograph(62, (48, 300)).save(data / "train/a/tall.png")
    Image.new("RGB", (64, 48), "white").save(data / "train/a/white.png")
    report = found(data)
    assert report["small"].message == (
        "1 image with a short side under a quarter of the median (48 px): train/a/thumb.png (16x11)"
    )
    assert report["odd_shape"].items == ["train/a/tall.png (48x300)", "train/a/wide.png (480x64)"]
    assert report["flat"].items == ["train/a/white.png (64x48)"]


def test_nothing_can_be_read(data):
    for path in data.rglob("*.png"):
        path.write_text("text")
    report = check(open_dataset(data, val_fraction=0))
    assert [finding.kind for finding in report.findings] == ["unreadable"]
    assert report.facts["width"] == {} and report.facts["kinds"] == {}


def test_the_page_shows_what_was_found(data, tmp_path, capsys):
    photograph(0).save(data / "test/b/<i>.jpg", quality=90)
    (data / "train/b/06.png").write_text("text")
    assert main(["check", str(data), "--out", str(tmp_path / "out")]) == 2
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"page: {tmp_path / 'out' / 'check.html'}" and "files: PNG RGB 15, JPEG RGB 1" in out
    page = (tmp_path / "out" / "check.html").read_text()
    assert "Nearly the same image under more than one label" in page and "Mistakes found" in page
    assert thumbnail(str(data / "test/b/<i>.jpg")) in page and thumbnail(str(data / "train/a/00.png")) in page
    assert "<i>" not in page and "&lt;i&gt;.jpg" in page and "<photos>" not in page
    assert "Much smaller than the others" not in page  # nothing was found there


def test_the_page_of_several_labels_and_of_many_classes(data, tmp_path, capsys):
    names = sorted(path.relative_to(data) for path in data.rglob("*.png"))
    lines = ["image,labels"] + [f"{name},{'x;y' if i % 2 else ''}" for i, name in enumerate(names)]
    (data / "several.csv").write_text("\n".join(lines))
    assert main(["check", str(data / "several.csv"), "--out", str(tmp_path / "out")]) == 0
    assert "x, y" in (tmp_path / "out" / "check.html").read_text()
    for i in range(31):
        (data / f"c{i:02}").mkdir()
        for j in range(3):
            photograph(100 + 3 * i + j).save(data / f"c{i:02}" / f"{j}.png")
    for part in ("train", "test"):
        for path in sorted((data / part).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (data / part).rmdir()
    capsys.readouterr()
    assert main(["check", str(data), "--out", str(tmp_path / "many")]) == 0
    assert "train: 1 to 1 image of a class, median 1" in capsys.readouterr().out
