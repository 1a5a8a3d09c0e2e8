"""Top-1 and loss on held-out images, against a loop over the images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vitnext.data.dataset import Split
from vitnext.models import catalog
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.training import validation
from vitnext.training.hardware import Precision
from vitnext.training.validation import Validator, images_at_once

FP32 = Precision(torch.float32, "")


@pytest.fixture
def split(tmp_path):
    """Seven colour files of different sizes, three classes."""
    random, names = np.random.default_rng(0), []
    for i in range(7):
        Image.fromarray(random.integers(0, 256, (10 + i, 12, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        names.append(f"{i}.png".encode())
    labels = np.array([0, 1, 2, 0, 1, 2, 1])
    return Split(("a", "b", "c"), labels, np.array(names), np.ones(7, np.int64), root=str(tmp_path))


@pytest.fixture
def preprocess():
    return Preprocess((8, 8), resize="crop", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = catalog.build("vit", image_size=8, patch_size=4, dim=16, depth=1, heads=2, classes=3)
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model.eval()


def naive(model, split, preprocess):
    right, loss = 0, 0.0
    for i in range(len(split)):
        with torch.no_grad():
            logits = model(torch.from_numpy(preprocess(split.image(i)))[None])[0].double().tolist()
        right += logits.index(max(logits)) == split.labels[i]
        loss += math.log(sum(math.exp(x) for x in logits)) - logits[split.labels[i]]
    share = right / len(split)
    likely = (right + 1) / (len(split) + 2)
    error = (likely * (1 - likely) / (len(split) + 2)) ** 0.5
    return {"top1": share, "score_error": pytest.approx(error), "loss": pytest.approx(loss / len(split), rel=1e-5)}


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
@pytest.mark.parametrize("memory", [0, 7 * 8 * 8 * 3 - 1, 7 * 8 * 8 * 3])
def test_it_is_the_mean_over_the_images_and_decodes_once_if_they_fit(
    batch, memory, split, preprocess, model, monkeypatch
):
    monkeypatch.setattr(validation, "cache_limit", lambda: memory)
    decoded, pixels = [], Preprocess.pixels
    monkeypatch.setattr(Preprocess, "pixels", lambda self, source: decoded.append(source) or pixels(self, source))
    validator, expected = Validator(split, preprocess, batch), naive(model, split, preprocess)
    decoded.clear()
    passed = []
    model.register_forward_hook(lambda _module, inputs, _output: passed.append(len(inputs[0])))
    for _ in range(3):
        assert validator(model, FP32) == expected
    assert max(passed) == min(batch, 7)
    assert len(decoded) == (7 if memory == 7 * 8 * 8 * 3 else 21)


def test_it_sees_the_weights_of_now_and_leaves_no_gradient(split, preprocess, model):
    validator = Validator(split, preprocess, 32)
    before = validator(model, FP32)
    torch.nn.init.zeros_(model.head.weight)
    assert validator(model, FP32)["loss"] == pytest.approx(math.log(3)) != before["loss"]
    assert all(p.grad is None for p in model.parameters()) and not model.training


def test_bf16_is_used_for_the_forward_pass_alone(split, preprocess, model):
    seen = []
    model.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    metrics = Validator(split, preprocess, 32)(model, Precision(torch.bfloat16, ""))
    assert set(seen) == {torch.bfloat16}
    assert metrics["loss"] == pytest.approx(Validator(split, preprocess, 32)(model, FP32)["loss"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "images"),
    [(128, 1, 1, 256), (1024, 1, 1, 256), (1024, 16, 1, 128), (64, 1, 1, 128), (1024, 2, 8, 128), (4, 1, 1, 32)],
)
def test_it_passes_no_more_than_twice_what_training_does(batch_size, accumulate, processes, images, monkeypatch):
    monkeypatch.setattr(validation.distributed, "world", lambda: processes)
    assert images_at_once(Recipe(batch_size=batch_size, accumulate=accumulate)) == images
