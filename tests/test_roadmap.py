"""The roadmap on real images: every step is a run of its own, read back or gone on with, and drawn."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vitnext import roadmap
from vitnext.data.facts import Facts
from vitnext.errors import InputError
from vitnext.models import roadmap as models
from vitnext.models.roadmap import STEPS

FAST = ("precision=fp32", "batch_size=256", "model.config.depths=[1, 1]")


def facts(side):
    return Facts(count=100, short_side=side, grey=True, mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("column", ["r50", "r200"])
def test_the_table_is_the_paper_s(column):
    points = roadmap.steps(column)
    assert [point.name for point in points] == [step.name for step in STEPS[column]]
    assert [point.paper_top1 for point in points] == [step.top1 for step in STEPS[column]]
    assert all(point.own_top1 is None for point in points)
    assert sum(not point.kept for point in points) == 2
    for point in points[:15]:  # the last two are printed with another count: see models/roadmap.py
        assert point.macs / 1e9 == pytest.approx(point.paper_gmacs, abs=0.0051)


def test_a_column_that_is_not_there():
    with pytest.raises(InputError, match='no column "r18": give r50 or r200'):
        roadmap.steps("r18")


@pytest.mark.parametrize(
    ("side", "stages", "stem"), [(8, 2, 1), (16, 2, 1), (17, 3, 2), (28, 3, 2), (64, 3, 2), (65, 4, 4), (500, 4, 4)]
)
def test_small_images_get_small_variants_of_every_step(side, stages, stem):
    for step in STEPS["r50"]:
        small = roadmap.variant(step.design, facts(side), gpu=False)
        assert (len(small.widths), len(small.depths), small.stem_stride) == (stages, stages, stem)
        assert small.widths[0] == step.design.widths[0] // 4
        assert small.stride <= side
    published = STEPS["r50"][3].design
    assert roadmap.variant(published, facts(65), gpu=True) == published
    assert roadmap.variant(published, facts(64), gpu=True) != published


@pytest.mark.parametrize(("device", "gpu"), [("auto", True), ("cuda:1", True), ("cpu", False)])
def test_a_gpu_that_is_not_to_be_used_does_not_count(device, gpu, monkeypatch, tmp_path):
    class Asked(Exception):
        pass

    def asked(design, facts, gpu):
        raise Asked(gpu)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(roadmap, "variant", asked)
    with pytest.raises(Asked) as caught:
        roadmap.train("digits", out=tmp_path, overrides=[f"device={device}"])
    assert caught.value.args == (gpu,)


@pytest.fixture
def short(monkeypatch):
    """The first two steps and the last."""
    steps = STEPS["r50"]
    monkeypatch.setitem(models.STEPS, "r50", (steps[0], steps[1], steps[16]))
    names = {"roadmap_r50_02": "roadmap_r50_16"}
    described = roadmap.steps

    def three(column):
        points = described(column)
        return [roadmap.Point(**{**vars(p), "model": names.get(p.model, p.model)}) for p in points]

    monkeypatch.setattr(roadmap, "steps", three)


def test_every_step_is_trained_read_back_and_drawn(short, tmp_path):
    tmp_path = tmp_path / "new" / "folder"
    points = roadmap.train("digits", out=tmp_path, epochs=1, overrides=FAST)
    assert [point.model for point in points] == ["roadmap_r50_00", "roadmap_r50_01", "roadmap_r50_16"]
    plain, modern, convnext = points
    assert plain.own_macs == modern.own_macs != convnext.own_macs
    for point in points:
        metrics = json.loads((tmp_path / point.model / "metrics.json").read_text())
        assert point.own_top1 == metrics["top1"] and point.seconds > 0
        low, high = point.own_interval
        assert low <= point.own_top1 <= high
    written = json.loads((tmp_path / "roadmap.json").read_text())
    assert [point["own_top1"] for point in written] == [point.own_top1 for point in points]
    with Image.open(tmp_path / "roadmap.png") as figure:
        assert figure.width > 1000
    assert "<svg" in (tmp_path / "roadmap.svg").read_text()

    # Again: what is there is read, what is missing is trained.
    before = (tmp_path / "roadmap_r50_00" / "model.safetensors").stat().st_mtime_ns
    for path in (tmp_path / "roadmap_r50_16").iterdir():
        path.unlink()
    again = roadmap.train("digits", out=tmp_path, epochs=1, overrides=FAST)
    assert (tmp_path / "roadmap_r50_00" / "model.safetensors").stat().st_mtime_ns == before
    assert [point.own_top1 for point in again] == [point.own_top1 for point in points]

    # Another question has no answer there.
    for other in ({"epochs": 2}, {"seed": 1}, {"overrides": (*FAST, "label_smoothing=0.2")}):
        with pytest.raises(InputError, match="holds steps trained with .*: choose another --out"):
            roadmap.train("digits", **{"out": tmp_path, "epochs": 1, "overrides": FAST} | other)


def test_the_first_step_is_trained_without_the_modern_recipe(short, tmp_path):
    roadmap.train("digits", out=tmp_path, epochs=1, overrides=FAST)
    plain, modern = ((tmp_path / f"roadmap_r50_0{i}" / "recipe.yaml").read_text() for i in (0, 1))
    assert "label_smoothing: 0.0" in plain and "label_smoothing: 0.1" in modern
    assert "erasing: 0.0" in plain and "erasing: 0.0" not in modern


def test_a_folder_with_other_models_is_refused(short, tmp_path):
    roadmap.train("digits", out=tmp_path, epochs=1, overrides=FAST)
    (tmp_path / "roadmap_r50_00").rename(tmp_path / "x")
    (tmp_path / "roadmap_r50_01").rename(tmp_path / "roadmap_r50_00")
    with pytest.raises(InputError, match="is a roadmap_r50_01, not the roadmap_r50_00"):
        roadmap.train("digits", out=tmp_path, epochs=1, overrides=FAST)
