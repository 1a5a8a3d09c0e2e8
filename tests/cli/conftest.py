from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitnext.cli.main import main


@pytest.fixture(scope="session")
def artifact(tmp_path_factory):
    """A model trained on the digits for one epoch: bad, but a model."""
    folder = tmp_path_factory.mktemp("trained")
    train = [
        "train",
        "digits",
        "--model",
        "vit",
        "--epochs",
        "1",
        "--set",
        "precision=fp32",
        "--out",
        str(folder / "run"),
    ]
    assert main(train) == 0
    return folder / "run" / "model.safetensors"


@pytest.fixture(scope="session")
def onnx(artifact, tmp_path_factory):
    """Its export."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert main(["export", str(artifact), "--out", str(path)]) == 0
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of five images in two folders, one of them broken."""
    random = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/5.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "b" / "4.png").write_text("no image")
    return tmp_path / "images"
