"""`vitnext roadmap`"""

from __future__ import annotations

import json

import pytest

from vitnext.cli.main import main
from vitnext.models.roadmap import STEPS


def test_the_table_without_data(capsys):
    assert main(["roadmap"]) == 0
    out, err = capsys.readouterr()
    header, *rows, note = out.splitlines()
    assert err == ""
    assert header.split() == ["step", "what", "changes", "parameters", "MACs", "paper's", "MACs", "paper's", "top-1"]
    assert [row.strip().split("  ")[0] for row in rows] == [step.name for step in STEPS["r50"]]
    assert rows[0].split() == ["ResNet", "90", "epochs", "25.56", "M", "4.089", "G", "4.09", "G", "76.13%"]
    assert all(step.change in row for step, row in zip(STEPS["r50"], rows, strict=True))
    assert "28.59 M" in rows[-1] and "4.456 G" in rows[-1] and "81.97%" in rows[-1]
    assert "ImageNet-1k" in note


def test_json_of_the_other_column(capsys):
    assert main(["roadmap", "--column", "r200", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert [point["model"] for point in points] == [f"roadmap_r200_{i:02d}" for i in range(17)]
    assert points[-1]["paper_top1"] == 83.6 and points[-1]["own_top1"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--column", "r18"], 'the roadmap has no column "r18": give r50 or r200'),
        (["--epochs", "3"], "--epochs is for training: name the DATA to train on as well"),
        (["nowhere"], "nowhere: no such folder, nor a built-in data set"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert main(["roadmap", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
