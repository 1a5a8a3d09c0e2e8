"""Mask2Former's export is compared by its decisions: what rounding decides is no mistake, all else is."""

from __future__ import annotations

import numpy as np
import pytest

from vitnext.card import Card
from vitnext.errors import WorkError
from vitnext.exporting.verify import verify
from vitnext.preprocess import Preprocess

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from vitnext.exporting import decisions  # noqa: E402
from vitnext.inference.engines import TorchEngine  # noqa: E402
from vitnext.models import create  # noqa: E402
from vitnext.weights.artifact import save_artifact  # noqa: E402

SIZE = (16, 24)
IMAGES = [np.random.default_rng(i).integers(0, 256, (*SIZE, 3)).astype(np.uint8) for i in range(2)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    torch.manual_seed(0)
    head = {"width": 8, "queries": 3, "layers": 2, "hidden": 8, "pixel_layers": 1, "pixel_hidden": 8, "heads": 2}
    shape = {"stem_stride": 2, "depths": [1, 1], "widths": [8, 12], "layer_scale": 0.0}
    model = create.build("convnext+mask2former", **shape, head=head, classes=2)
    preprocess, config = Preprocess(SIZE, "fit"), create.config_dict(model)
    things = (True, True)
    card = Card(
        "panoptic", "convnext+mask2former", config, ("a", "b"), preprocess, {}, {}, {}, {}, "CC0-1.0", things=things
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_artifact(path, model, card)
    return path


class Deciding(TorchEngine):
    """Decides as ``decide`` says, and answers a little too much by ``off``."""

    def __init__(self, path, decide, off=0.0):
        super().__init__(path, device="cpu")
        self.decide, self.off = decide, off

    def answer(self, images):
        held = []

        def decide(logits):
            held.append(self.decide(logits))
            return held[-1]

        with torch.inference_mode():
            return [part.numpy() for part in self.model(torch.from_numpy(images), decide)], held

    def outputs(self, batch):
        masks, classes = self.answer(batch)[0]
        return masks + np.float32(self.off), classes


class Known(decisions.Decisions):
    """What the engine ``exported`` decides; a file is not asked."""

    def __init__(self, model, exported):
        self.model, self.exported = model, exported

    def of_export(self, images):
        return [held.numpy() for held in self.exported.answer(images)[1]]


def other_side(share):
    """Decides otherwise on the pixels whose logit is within this share of the largest."""
    return lambda logits: torch.where(logits.abs() <= share * logits.abs().amax(), logits < 0, logits >= 0)


def compared(artifact, decide, off=0.0):
    reference, exported = TorchEngine(artifact, device="cpu"), Deciding(artifact, decide, off)
    return verify(reference, exported, IMAGES, Known(reference.model, exported))


def nearest(artifact):
    """The logit nearest to zero, as a share of the largest."""
    found = []

    def decide(logits):
        found.append(float(logits.abs().min() / logits.abs().amax()))
        return logits >= 0

    Deciding(artifact, decide).answer(np.stack([TorchEngine(artifact).card.preprocess(image) for image in IMAGES]))
    return min(found)


def test_what_rounding_decides_is_no_mistake(artifact, monkeypatch):
    flipped = 1.5 * nearest(artifact)
    monkeypatch.setattr(decisions, "ROUNDING", 20 * flipped)
    plain = Deciding(artifact, other_side(flipped))
    with pytest.raises(WorkError, match="probabilities differ by up to"):  # so much does one pixel move
        verify(TorchEngine(artifact, device="cpu"), plain, IMAGES)
    found = compared(artifact, other_side(flipped))
    assert found.max_difference <= 1e-4 and found.redecided >= 1


def test_other_answers_to_the_same_decisions_are_refused(artifact, monkeypatch):
    monkeypatch.setattr(decisions, "ROUNDING", 1.0)
    with pytest.raises(WorkError, match="probabilities differ by up to"):
        compared(artifact, lambda logits: logits >= 0, off=0.01)


def test_other_decisions_than_rounding_makes_are_refused(artifact):
    with pytest.raises(WorkError, match=r"its masks hold other pixels in attention, \d+ of \d+, with logits of up to"):
        compared(artifact, lambda logits: logits < 0)
