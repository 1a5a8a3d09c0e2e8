"""What ``bench`` measures fits together; how fast this machine is is not tested."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image
from torch._dynamo.utils import counters

from vitnext.api import bench as measured
from vitnext.api.bench import bench
from vitnext.data.loaders import SmallImages
from vitnext.errors import InputError
from vitnext.training import compilation

TINY = ["model.config.dim=16", "model.config.depth=1", "model.config.heads=2", "batch_size=4", "precision=fp32"]


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(measured, "SIDES", (64,))


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for i in range(16):
        path = tmp_path / "photos" / ("cat" if i % 2 else "dog") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def consistent(found):
    model, peak = found["model"], found["machine"]["peak"]
    assert peak["fp32"] > 0 and peak["bf16"] > 0
    for what, passes in (("inference", 1), ("training", 3)):
        rate = model[what]
        assert rate["flops"] == pytest.approx(rate["rate"] * 2 * model["macs"] * passes)
        assert rate["share_of_peak"] == pytest.approx(rate["flops"] / peak[model["precision"]])
    if "together" in found:
        waiting = found["together"]["waiting"]
        assert 0 <= waiting <= 1 and (found["bottleneck"] == "data") == (waiting > 0.5)
        assert found["together"]["rate"] > 0 and found["data"]["rate"] > 0
    return True


def test_a_model_alone():
    found = bench("vit", overrides=[*TINY, "data.image_size=16", "model.config.patch_size=8"], seconds=0.01)
    assert consistent(found) and set(found) == {"machine", "model"}
    # 4 patches and the class token: embedding, q k v and output, two products of attention, mlp, 1,000 classes
    expected = 4 * 8 * 8 * 3 * 16 + 5 * 16 * 16 * 4 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 64 + 16 * 1000
    assert found["model"]["macs"] == expected and found["model"]["batch_size"] == 4


def test_compiled_steps(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    counters.clear()
    sets = [*TINY, "data.image_size=16", "model.config.patch_size=8", "compile=on"]
    found = bench("vit", overrides=sets, seconds=0.01)
    assert consistent(found) and found["model"]["compiled"] and counters["stats"]["unique_graphs"] == 1


def test_a_model_on_images_in_memory():
    found = bench("vit", "digits", overrides=TINY, seconds=0.01)
    assert consistent(found) and found["model"]["image_size"] == 8 and found["data"]["images"] == 1_295
    assert "rate_of_a_core" not in found["data"]  # they are not decoded


def test_a_model_on_files(photos, tmp_path, heard):
    more = ["augment.trivial_augment=false", "data.image_size=32", "model.config.patch_size=16"]
    found = bench("vit", photos, overrides=[*TINY, *more], seconds=0.01, console=heard)
    data = found["data"]
    assert "measuring each figure for 0.01 s" in heard.file.getvalue()
    assert consistent(found) and heard.file.getvalue().startswith("photos: class folders")
    assert data["share_of_decoding"] == pytest.approx(data["rate_of_a_core"] / data["decoding_of_a_core"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]  # no run was begun


@pytest.mark.parametrize(("slow", "bottleneck"), [("data", "data"), ("step", "training step")])
def test_the_bottleneck_is_what_takes_longer(slow, bottleneck, monkeypatch):
    stream, seconds = SmallImages.stream, 0.1

    def slow_stream(*place):
        for batch in stream(*place):
            time.sleep(seconds)
            yield batch

    if slow == "data":
        monkeypatch.setattr(SmallImages, "stream", slow_stream)
    monkeypatch.setattr(measured, "_step", lambda *_: lambda *_: time.sleep(seconds if slow == "step" else 0))
    found = bench("vit", "digits", overrides=TINY, seconds=0.01)
    assert consistent(found) and found["bottleneck"] == bottleneck


def test_wrong_input_is_told():
    for arguments, message in (
        (("convnext_atto+upernet",), "give --data"),
        (("convnet_tiny",), "convnet_tiny"),
        (("vit", "no such data"), "no such data"),
        (("convnext_atto+upernet", "digits"), "not masks"),
    ):
        with pytest.raises(InputError, match=message):
            bench(*arguments)
    for data in (None, "digits"):
        with pytest.raises(InputError, match="the model is vit_tiny, and model.name=vit: leave one of them out"):
            bench("vit_tiny", data, overrides=["model.name=vit"])
    with pytest.raises(InputError, match="give --data, or a number"):
        bench("vit_tiny", overrides=["batch_size=auto"])
