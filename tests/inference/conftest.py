import numpy as np
import pytest

from vitnext.card import Card
from vitnext.inference.predictor import Predictor
from vitnext.preprocess import Preprocess


class Brightness:
    """An engine of two classes: how dark and how bright the image is. Remembers the sizes of its batches."""

    def __init__(self):
        preprocess = Preprocess((4, 4), color="L", mean=(0.0,), std=(1.0,))
        self.card = Card("classification", "none", {}, ("dark", "bright"), preprocess, {}, {}, {}, {}, "CC0-1.0")
        self.batches = []

    def run(self, batch):
        self.batches.append(len(batch))
        mean = batch.mean(axis=(1, 2, 3))
        return np.stack([1 - mean, mean], axis=1)


@pytest.fixture
def predictor(tmp_path):
    return Predictor(tmp_path / "model.onnx", Brightness(), threads=2)


@pytest.fixture
def grey():
    """Make a 4x4 array of one value."""
    return lambda value: np.full((4, 4), value, np.uint8)


@pytest.fixture(scope="session", params=["vit", "convnext"])
def model_files(request, tmp_path_factory):
    """The same tiny random model as an artifact and as its export."""
    torch = pytest.importorskip("torch")
    from vitnext.exporting.onnx import export_onnx
    from vitnext.models import catalog
    from vitnext.weights.artifact import save_artifact

    torch.manual_seed(0)
    config = {
        "vit": {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2, "classes": 3},
        "convnext": {"stem_stride": 2, "depths": [1, 1], "widths": [16, 32], "layer_scale": 1.0, "classes": 3},
    }[request.param]
    model = catalog.build(request.param, **config)
    for parameter in model.parameters():  # away from initialisation, so that every part moves the answer
        torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp(request.param)
    preprocess = Preprocess((16, 16), resize="crop", crop_fraction=0.875)
    config = catalog.config_dict(model)
    card = Card("classification", request.param, config, ("one", "två", "3"), preprocess, {}, {}, {}, {}, "Apache-2.0")
    save_artifact(folder / "model.safetensors", model, card)
    export_onnx(folder / "model.safetensors", folder / "model.onnx")
    return folder / "model.safetensors", folder / "model.onnx"
