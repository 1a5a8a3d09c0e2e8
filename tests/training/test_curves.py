"""The picture shows what the journal says."""

from __future__ import annotations

import json

import pytest
from matplotlib.figure import Figure
from PIL import Image

from vitnext.training.curves import draw

JOURNAL = [
    {"event": "step", "step": 2, "loss": 3.0, "learning_rate": 0.1},
    {"event": "step", "step": 4, "loss": 2.0, "learning_rate": 0.2},
    {"event": "epoch", "step": 4, "epoch": 1, "kept": True, "train_loss": 2.5, "miou": 0.5, "loss": 2.2},
    {"event": "step", "step": 8, "loss": 1.0, "learning_rate": 0.1},
    {"event": "epoch", "step": 8, "epoch": 2, "kept": False, "train_loss": 1.0},  # not validated
    {"event": "epoch", "step": 9, "epoch": 3, "kept": False, "miou": 0.4, "loss": 2.4},  # ended before its first step
]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *to, **how: figures.append(self) or save(self, *to, **how))

    def lines(journal):
        (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))
        draw(tmp_path, "val", "miou", "mIoU")
        with Image.open(tmp_path / "curves.png") as image:
            assert image.format == "PNG" and image.width > 1000
        return {
            (axes.get_title(), line.get_label() if axes.get_legend() else ""): line.get_xydata().tolist()
            for axes in figures[-1].axes
            for line in axes.lines
        }

    return lines


def test_every_curve_has_its_points(drawn):
    assert drawn(JOURNAL) == {
        ("loss", "training"): [[2, 3], [4, 2], [8, 1]],
        ("loss", "training, of an epoch"): [[4, 2.5], [8, 1]],
        ("loss", "val"): [[4, 2.2], [9, 2.4]],
        ("mIoU", "val"): [[4, 0.5], [9, 0.4]],
        ("mIoU", "the model"): [[4, 0.5]],
        ("learning rate", ""): [[2, 0.1], [4, 0.2], [8, 0.1]],
    }


def test_a_score_without_a_loss(drawn):
    journal = [{key: value for key, value in line.items() if key != "loss" or "miou" not in line} for line in JOURNAL]
    curves = drawn(journal)
    assert ("loss", "val") not in curves and curves["mIoU", "val"] == [[4, 0.5], [9, 0.4]]


def test_a_run_that_ended_at_once_is_drawn_too(drawn):
    assert drawn([JOURNAL[-1]])[("mIoU", "val")] == [[9, 0.4]]
