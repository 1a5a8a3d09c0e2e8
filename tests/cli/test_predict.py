"""`vitnext predict`"""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from vitnext.cli.main import main
from vitnext.cli.predict import print_predictions
from vitnext.types import Failure, PanopticSegmentation, Segments


def test_a_table_in_the_order_given(capsys, onnx, images):
    assert main(["predict", str(onnx), str(images / "b"), str(images / "a" / "1.png")]) == 0
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split() == ["source", "label", "score"]
    assert [row.split()[0] for row in rows] == [
        str(images / name) for name in ("b/3.png", "b/4.png", "b/5.png", "a/1.png")
    ]
    assert rows[1].split()[1] == "error:" and rows[1].count("4.png") == 1
    assert 0 < float(rows[0].split()[2]) <= 1
    assert err == "4 images, 1 unreadable\n"


def test_what_is_passed_over_is_said(capsys, onnx, images):
    (images / "b" / "IMG_6.HEIC").touch()
    (images / "a" / "notes").touch()
    assert main(["predict", str(onnx), str(images)]) == 0
    line, _ = capsys.readouterr().err.splitlines()
    assert line.startswith("2 files passed over: not an image file; HEIC is not read: convert it to JPEG")
    assert line.endswith(f": {images / 'b' / 'IMG_6.HEIC'}, {images / 'a' / 'notes'}")


@pytest.mark.parametrize("model", ["onnx", "artifact"])
def test_a_file_in_a_new_folder(capsys, request, images, tmp_path, model):
    out = tmp_path / "new" / "labels.csv"
    assert main(["predict", str(request.getfixturevalue(model)), str(images), "--out", str(out), "--batch", "2"]) == 0
    done = f"5 images, 1 unreadable; predictions in {out}\n"
    assert capsys.readouterr() == ("", f"new folder {out.parent}\n{done}")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [
        str(images / name) for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png")
    ]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, False]


def test_a_folder_that_is_there_is_not_said(capsys, onnx, images, tmp_path):
    assert main(["predict", str(onnx), str(images), "--out", str(tmp_path / "labels.csv")]) == 0
    assert "new folder" not in capsys.readouterr().err


def test_the_terminal_and_the_file_agree(capsys, onnx, images, tmp_path):
    assert main(["predict", str(onnx), str(images)]) == 0
    labels = [row.split()[1] for row in capsys.readouterr().out.splitlines()[1:]]
    assert main(["predict", str(onnx), str(images), "--out", str(tmp_path / "labels.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert labels == [row["label"] or "error:" for row in rows]


def test_help_says_the_exit_codes(capsys):
    assert main(["predict", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The exit code is 0 also if some images could not be read, and 1 if none could." in text


@pytest.mark.parametrize("flags", [[], ["--out", "labels.csv"]])
def test_exit_code_1_if_nothing_could_be_read(capsys, onnx, images, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(onnx), str(images / "b" / "4.png"), *flags]) == 1
    assert capsys.readouterr().err.startswith("1 image, 1 unreadable")


def test_mistakes(capsys, onnx, images, tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    for arguments, message in (
        (["nothing.onnx", str(images)], "nothing.onnx does not exist"),
        ([str(tmp_path), str(images)], "is a folder, but a model file is needed"),
        ([str(tmp_path / "notes.txt"), str(images)], "not a model file"),
        ([str(onnx), str(tmp_path / "nothing.jpg")], "nothing.jpg"),
        ([str(onnx), str(images), "--out", str(tmp_path / "labels.txt")], ".csv"),
        ([str(onnx), str(images), "--out", str(tmp_path)], "is a folder, but a file is needed"),
        ([str(onnx), str(images), "--engine", "tensorrt"], "tensorrt"),
    ):
        assert main(["predict", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("vitnext: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "labels.txt").exists()


def test_an_export_predicts_without_torch(onnx, images):
    script = (
        "import sys; from vitnext.cli.main import main; "
        f"code = main(['predict', {str(onnx)!r}, {str(images)!r}]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_a_file_name_that_is_not_unicode(onnx, images):
    strange = images / b"caf\xe9.png".decode(errors="surrogateescape")
    try:
        strange.write_bytes((images / "a" / "1.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    script = (
        f"import sys; from vitnext.cli.main import main; sys.exit(main(['predict', {str(onnx)!r}, {str(images)!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, "\\udce9.png" in run.stdout) == (0, True), run.stderr


def test_a_format_of_masks_needs_a_folder_for_them(capsys, tmp_path):
    (tmp_path / "model.onnx").touch()
    assert main(["predict", str(tmp_path / "model.onnx"), "a.png", "--format", "rle"]) == 2
    assert capsys.readouterr().err == "vitnext: --format says how masks are written: give --masks DIR too\n"


def test_objects_are_counted(capsys):
    ids = np.array([[1, 1, 2, 3, 3, 3, 4, 0]], np.int32)
    labels, scores = np.array([1, 1, 0, 2]), np.ones(4, np.float32)
    classes, things = ("road", "cat", "dog", "sky"), (False, True, True, False)
    found = PanopticSegmentation("a.png", classes, things, Segments(ids, labels, np.zeros(4, bool), scores))
    failed = Failure("b.png", "b.png: no such file")
    nothing = PanopticSegmentation(
        "c.png", classes, things, Segments(0 * ids, labels[:0], np.zeros(0, bool), scores[:0])
    )
    assert print_predictions(["a.png", "b.png", "c.png"], [found, failed, nothing], classes, "panoptic") == (2, 1)
    assert capsys.readouterr().out.splitlines() == [
        "source  objects, largest classes",
        "a.png   2 cat, 1 dog, road 37.5%",
        "b.png   error: no such file",
        "c.png   -",
    ]


def test_masks_of_an_earlier_run_are_left_out(capsys, onnx, images):
    assert main(["predict", str(onnx), str(images), "--masks", str(images / "b")]) == 2
    said, mistake = capsys.readouterr().err.splitlines()
    assert said == "3 files left out: masks of an earlier run"
    assert mistake == "vitnext: a classification model gives no masks: leave --masks out"
