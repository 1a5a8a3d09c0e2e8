"""`vitnext bench`"""

from __future__ import annotations

import json

import pytest

from vitnext.api import bench as measured
from vitnext.cli.main import main

TINY = ["--seconds", "0.01"]
for _assignment in ("dim=16", "depth=1", "heads=2"):
    TINY += ["--set", f"model.config.{_assignment}"]


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(measured, "SIDES", (64,))


def test_tables(capsys):
    assert main(["bench", "vit", "--data", "digits", *TINY]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("machine", "peak", "model", "data"))] == [
        "machine", "peak", "model", "data",
    ]  # fmt: skip
    assert any(line.startswith("training step") and line.endswith("%") for line in lines)
    assert lines[-1].startswith("bottleneck: the ") and lines[-1].endswith("of the time")
    assert err.startswith("digits: built-in")


def test_json(capsys):
    assert main(["bench", "vit", "--json", "--set", "data.image_size=16", "--set", "batch_size=2", *TINY]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["name"] == "vit" and found["model"]["batch_size"] == 2


def test_a_mistake_is_a_line(capsys):
    assert main(["bench", "--set", "batch_sice=2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
