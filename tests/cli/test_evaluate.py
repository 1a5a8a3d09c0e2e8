"""`vitnext evaluate`"""

from __future__ import annotations

import json
import shutil

from vitnext.cli.evaluate import print_labels, print_segments, print_summary
from vitnext.cli.main import main


def test_the_report_goes_beside_the_model(capsys, artifact, tmp_path):
    model = shutil.copy(artifact, tmp_path)
    assert main(["evaluate", str(model), "digits"]) == 0
    out, err = capsys.readouterr()
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert f"images    {metrics['n']}\n" in out
    assert f"top-1     {metrics['top1']:.2%}  (95% interval" in out
    assert f"report  {tmp_path / 'evaluation' / 'report.html'}\n" in out
    assert (tmp_path / "evaluation" / "report.html").read_text().startswith("<!doctype html")
    assert "test split" in err


def test_out_split_and_engine(capsys, onnx, tmp_path):
    flags = ["--out", str(tmp_path / "report"), "--split", "val", "--engine", "onnxruntime"]
    assert main(["evaluate", str(onnx), "digits", *flags]) == 0
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["split"] == "val"


def test_mistakes(capsys, artifact, tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        (["nothing.onnx", "digits"], "nothing.onnx does not exist"),
        ([str(artifact), "digits", "--split", "holdout"], "no holdout split"),
        ([str(artifact), "digits", "--engine", "onnxruntime"], "onnxruntime"),
        ([str(artifact), str(tmp_path / "nothing")], "nothing"),
        ([str(artifact), "digits", "--out", str(tmp_path / "file")], "is a file, not a folder"),
    ):
        assert main(["evaluate", *arguments]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("vitnext: ") and message in line


def test_the_summary_shows_the_worst_classes(capsys):
    f1 = {"cat": 0.9, "dog": 0.8, "fox": 0.7, "hen": 0.6, "owl": 0.5, "yak": 0.4}
    rows = [{"class": name, "n": 3, "precision": None, "recall": 1.0, "f1": value} for name, value in f1.items()]
    rows.append({"class": "absent", "n": 0, "precision": 0.0, "recall": None, "f1": None})
    headline = {"n": 1234, "top1": 0.5, "top1_interval": [0.25, 0.75], "top5": 1.0, "macro_f1": 0.65, "ece": 0.01}
    print_summary({**headline, "per_class": rows})
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["images    1,234", "top-1     50.00%  (95% interval 25.00% to 75.00%)"]
    assert lines[2] == "top-5     100.00%"
    assert lines[6].split() == ["lowest", "F1", "images", "precision", "recall", "F1"]
    assert [line.split()[0] for line in lines[7:]] == ["yak", "owl", "hen", "fox", "dog"]
    assert lines[7].split() == ["yak", "3", "-", "1.000", "0.400"]


def test_a_summary_of_few_classes_shows_all(capsys):
    row = {"class": "cat", "n": 3, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    headline = {"n": 3, "top1": 1.0, "top1_interval": [1.0, 1.0], "top5": 1.0, "macro_f1": 1.0, "ece": 0.0}
    print_summary({**headline, "per_class": [row]})
    out = capsys.readouterr().out
    assert "lowest" not in out and "top-5" not in out


def test_a_summary_of_labels_leaves_out_an_interval_of_no_width(capsys):
    row = {"class": "cat", "n": 3, "ap": 1.0, "threshold": 0.5, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    metrics = {"n": 3, "map": 1.0, "micro_f1": 1.0, "macro_f1": 1.0, "exact": 1.0, "per_class": [row]}
    for interval, said in (
        ([1.0, 1.0], "mAP              100.00%"),
        ([0.9, 1.0], "mAP              100.00%  (95% interval 90.00% to 100.00%)"),
    ):
        print_labels(metrics | {"map_interval": interval})
        assert capsys.readouterr().out.splitlines()[1] == said
    print_labels(metrics | {"map": None, "per_class": [row | {"n": 0}]})
    assert "mAP" not in capsys.readouterr().out


def test_a_summary_of_segments(capsys):
    row = {"thing": True, "n": 3, "pq": 0.5, "sq": 0.75, "rq": 2 / 3, "ap": 0.25}
    rows = [row | {"class": "cat"}, row | {"class": "sky", "thing": False, "pq": 0.25, "ap": None}]
    rows.append(row | dict.fromkeys(("pq", "sq", "rq", "ap")) | {"class": "dog"})
    quality = {"pq": 0.375, "things": {"pq": 0.5}, "stuff": {"pq": None}, "miou": 0.5}
    metrics = {"n": 2, **quality, "ap": 0.25, "detections": 100, "per_class": rows}
    print_segments(metrics)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "panoptic quality  37.50%  (things 0.500, stuff -)" and lines[2] == "mask AP           0.250"
    assert [line.split()[0] for line in lines[6:]] == ["sky", "cat"]
    assert lines[7].split() == ["cat", "3", "0.500", "0.750", "0.667", "0.250"]
    print_segments(metrics | {"ap": None, "detections": None})
    assert "vitnext[coco]" in capsys.readouterr().out
    print_segments(metrics | {"ap": None, "detections": None, "per_class": rows[1:2]})
    assert "mask AP" not in capsys.readouterr().out
