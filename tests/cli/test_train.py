"""`vitnext train`"""

from __future__ import annotations

import pytest

from vitnext import api
from vitnext.card import read_card
from vitnext.cli.main import main

QUICK = ("--model", "vit", "--epochs", "1", "--set", "precision=fp32")


def test_the_model_is_named_on_stdout_and_the_rest_goes_to_stderr(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out == "model  runs/digits/model.safetensors\n"
    assert "10 classes" in err
    assert len(read_card(tmp_path / "runs" / "digits" / "model.safetensors").classes) == 10


def test_every_flag_reaches_the_training(capsys, monkeypatch, tmp_path):
    seen = {}

    def train(data, *, console, **given):
        seen.update(given, data=data)
        return api.TrainResult(tmp_path / "model.safetensors", {}, tmp_path)

    monkeypatch.setattr(api, "train", train)
    flags = ["--model", "vit", "--out", str(tmp_path), "--recipe", "r.yaml", "--epochs", "3", "--seed", "7"]
    flags += ["--steps", "9", "--time", "90s", "--probe", "knn"]
    flags += ["--pretrained", "none", "--resume", "--accept-changes", "--skip-unreadable"]
    flags += ["--set", "a.b=1", "--set", "c=2"]
    assert main(["train", "photos", *flags]) == 0
    assert seen == {
        "data": "photos",
        "model": "vit",
        "pretrained": "none",
        "probe": "knn",
        "out": tmp_path,
        "recipe": "r.yaml",
        "epochs": 3,
        "steps": 9,
        "minutes": 1.5,
        "seed": 7,
        "resume": True,
        "accept_changes": True,
        "skip_unreadable": True,
        "overrides": ["a.b=1", "c=2"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        (["digits", "--model", "vti"], "vti"),
        (["digits", "--recipe", "no.yaml"], "no.yaml"),
        (["digits", "--set", "optimiser.learning_rate=1"], "optimizer"),
        (["digits", "--set", "optimizer.learning_rate"], "path.to.field=value"),
        (["digits", "--resume"], "--resume"),
        (["digits", "--lr", "0.1"], "no such option: --lr; write --set optimizer.learning_rate=VALUE"),
        (["digits", "--batch-size", "8"], "no such option: --batch-size; write --set batch_size=VALUE"),
        (["digits", "--time", "15"], '--time "15": write a number and its unit'),
        (["digits", "--time", "-3m"], '--time "-3m": write a number and its unit'),
        (["digits", "--epochs", "3", "--steps", "9"], "--epochs and --steps or --time both say how long"),
        (["digits", "--epochs", "3", "--time", "9m"], "--epochs and --steps or --time both say how long"),
        (["digits", "--set", "schedule.epochs=3", "--steps", "9"], "both say how long to train: leave one of them out"),
        (["digits", "--model", "segformer_b0"], "segformer_b0 is a segmenter, but digits has class folders"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("vitnext: ") and message in line
    assert not any("Traceback" in other for other in before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_left_alone(capsys, artifact):
    before = artifact.read_bytes()
    assert main(["train", "digits", *QUICK, "--out", str(artifact.parent)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert artifact.read_bytes() == before


def test_data_is_checked_before_out(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["train", "nothing", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "nothing: no such folder" in capsys.readouterr().err
    assert main(["train", "digits", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
