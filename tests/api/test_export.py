"""The export that a user asks for."""

from __future__ import annotations

import numpy as np
import pytest

import vitnext
from colours import mistake
from vitnext import api


@pytest.fixture(scope="session")
def exported(trained, tree, tmp_path_factory):
    return api.export(trained.artifact, out=tmp_path_factory.mktemp("export") / "model.onnx", images=tree)


def test_the_export_gives_the_model_s_answers(exported, trained, tree):
    assert exported.images == 39 and not exported.synthetic and exported.max_difference <= 1e-4
    model, onnx = vitnext.load(trained.artifact), vitnext.load(exported.path)
    assert onnx.card == model.card
    paths = sorted(tree.glob("*/*.png"))
    for ours, theirs in zip(model.predict_many(paths), onnx.predict_many(paths), strict=True):
        assert ours.label == theirs.label
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5)
    assert api.evaluate(onnx, tree)["nll"] == pytest.approx(trained.metrics["nll"], abs=1e-5)


def test_what_cannot_be_exported_is_one_line(trained, tmp_path):
    assert 'cannot export to "tflite": give onnx' in mistake(api.export, trained.artifact, "tflite")
    assert "no such" in mistake(api.export, trained.artifact, out=tmp_path / "x.onnx", images=tmp_path / "none")
