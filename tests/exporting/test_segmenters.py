"""Segmenters as ONNX: every head, the same masks, and no torch to predict them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vitnext.card import Card
from vitnext.errors import WorkError
from vitnext.exporting.verify import Agreement, network_input, verify
from vitnext.inference import queries
from vitnext.inference.predictor import load
from vitnext.preprocess import Preprocess

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from vitnext.exporting.decisions import Decisions, WithDecisions  # noqa: E402
from vitnext.exporting.onnx import export_onnx  # noqa: E402
from vitnext.inference.engines import OnnxRuntimeEngine, TorchEngine  # noqa: E402
from vitnext.models import create  # noqa: E402
from vitnext.models.names import answers_with_queries  # noqa: E402
from vitnext.weights.artifact import save_artifact  # noqa: E402

CONVNEXT = {"stem_stride": 2, "depths": [1, 1], "widths": [8, 12], "layer_scale": 0.0}
MODELS = {
    "vit+linear": {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2},
    "convnext+segformer": {**CONVNEXT, "head": {"width": 8}},
    "convnext+upernet": {**CONVNEXT, "head": {"width": 8, "auxiliary_width": 4}},
}
PANOPTIC = {
    "convnext+panoptic_deeplab": {**CONVNEXT, "head": {"width": 8}},
    "vit+eomt": {**MODELS["vit+linear"], "queries": 4, "blocks": 1},
    "convnext+mask2former": {
        **CONVNEXT,
        "head": {"width": 8, "queries": 4, "layers": 2, "hidden": 8, "pixel_layers": 1, "pixel_hidden": 8, "heads": 2},
    },
}
CLASSES = ("road", "sky", "tree")


def save(name, path, task="semantic"):
    torch.manual_seed(0)
    model = create.build(name, **(MODELS | PANOPTIC)[name], classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for buffer in model.buffers():  # batch norm's statistics, not as they begin
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    window = (16, 16) if name.startswith("vit") else (16, 20)
    preprocess, config = Preprocess(window, "window", short_side=24), create.config_dict(model)
    if answers_with_queries(name) and task == "panoptic":
        preprocess = Preprocess(window, "fit")
    things = (False, True, True) if task == "panoptic" else ()
    card = Card(task, name, config, CLASSES, preprocess, {}, {}, {}, {}, "CC0-1.0", things=things)
    save_artifact(path, model, card)
    return path


@pytest.mark.parametrize("name", PANOPTIC)
def test_every_panoptic_network_gives_the_same_segments(name, tmp_path):
    artifact, out = save(name, tmp_path / "model.safetensors", "panoptic"), tmp_path / "model.onnx"
    assert export_onnx(artifact, out).max_difference <= 1e-4
    random = np.random.default_rng(0)
    for size in ((40, 31, 3), (7, 50, 3), (1, 1, 3)):
        image = random.integers(0, 256, size).astype(np.uint8)
        one, other = load(artifact).predict(image).segments, load(out).predict(image).segments
        assert one.ids.shape == other.ids.shape == size[:2]
        assert (one.ids != other.ids).mean() < 0.01 and one.labels.tolist() == other.labels.tolist()
        assert np.abs(one.scores - other.scores).max(initial=0) <= 1e-3

    if name == "convnext+mask2former":
        the_file_is_asked_for_its_decisions(artifact, out)


def the_file_is_asked_for_its_decisions(artifact, out):
    assert [value.name for value in onnx.load(out).graph.output] == ["masks", "classes"]
    assert {file.name for file in out.parent.iterdir()} == {"model.safetensors", "model.onnx"}
    engine = TorchEngine(artifact, device="cpu")
    images = np.random.default_rng(0).normal(size=(2, 3, *engine.card.preprocess.image_size)).astype(np.float32)
    asked = Decisions(engine.model, out)
    with torch.inference_mode():
        masks, classes, *held = WithDecisions(engine.model)(torch.from_numpy(images))
    assert len(held) == 2
    for ours, theirs in zip(held, asked.of_export(images), strict=True):
        assert theirs.dtype == bool and (ours.numpy() == theirs).mean() > 0.99
    for ours, theirs in zip((masks, classes), asked.followed(images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_export_of_other_centres_is_not_kept(tmp_path):
    artifact = save("convnext+panoptic_deeplab", tmp_path / "model.safetensors", "panoptic")
    engine = TorchEngine(artifact, device="cpu")

    class Moved(TorchEngine):
        def outputs(self, batch):
            [given] = super().outputs(batch)
            given[:, -1] += 0.01  # a third of a pixel
            return (given,)

    with pytest.raises(WorkError, match="differ by up to 0.01"):
        verify(engine, Moved(artifact, device="cpu"), pictures((16, 20)))


def test_queries_give_the_same_masks_of_classes(tmp_path):
    artifact, out = save("vit+eomt", tmp_path / "model.safetensors"), tmp_path / "model.onnx"
    export_onnx(artifact, out)
    image = np.random.default_rng(0).integers(0, 256, (40, 31, 3)).astype(np.uint8)
    one, other = load(artifact).predict(image), load(out).predict(image)
    assert one.mask.shape == (40, 31) and (one.mask != other.mask).mean() < 0.01
    model = TorchEngine(artifact, device="cpu").model
    window = torch.from_numpy(load(artifact).card.preprocess(image[:16, :16]))[None]
    with torch.inference_mode():
        scores, masks, classes = model.semantic(window), *model(window)
    ours = queries.semantic(masks.numpy(), classes.numpy(), (16, 16))
    assert ours == pytest.approx(scores.numpy(), abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_head_gives_the_same_masks(name, tmp_path):
    artifact, out = save(name, tmp_path / "model.safetensors"), tmp_path / "model.onnx"
    report = export_onnx(artifact, out)
    assert (report.images, report.synthetic) == (8, True) and report.max_difference <= 1e-4
    ours, theirs = TorchEngine(artifact, device="cpu"), OnnxRuntimeEngine(out)
    assert theirs.card == ours.card
    random = np.random.default_rng(0)
    for batch in (1, 3):
        images = random.normal(size=(batch, 3, *ours.card.preprocess.image_size)).astype(np.float32)
        logits = theirs.run(images)
        assert logits.shape == (batch, 3, *ours.card.preprocess.image_size)
        np.testing.assert_allclose(logits, ours.run(images), atol=1e-4)
    for size in ((40, 31, 3), (7, 50, 3), (1, 1, 3)):
        image = random.integers(0, 256, size).astype(np.uint8)
        one, other = load(artifact).predict(image), load(out).predict(image)
        assert one.mask.shape == other.mask.shape == size[:2]
        assert (one.mask != other.mask).mean() < 0.01  # a tie may fall to either
        assert np.abs(one.confidence.astype(int) - other.confidence).max() <= 1


def test_predicting_masks_from_an_export_needs_no_torch(tmp_path):
    export_onnx(save("convnext+segformer", tmp_path / "model.safetensors"), tmp_path / "model.onnx")
    program = (
        "import sys, numpy, vitnext;"
        f"found = vitnext.load({str(tmp_path / 'model.onnx')!r}).predict(numpy.zeros((30, 20, 3), 'uint8'));"
        "print(found.mask.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(30, 20) False"


class Planes:
    """An engine whose logits are the three channels; ``change`` is done to them."""

    def __init__(self, change=lambda logits: logits):
        preprocess = Preprocess((4, 6), "window", mean=(0.0,) * 3, std=(1.0,) * 3)
        self.card = Card("semantic", "none", {}, CLASSES, preprocess, {}, {}, {}, {}, "CC0-1.0")
        self.change = change

    def run(self, batch):
        assert batch.shape[1:] == (3, 4, 6)
        return self.change(batch.copy())


def pictures(*sizes):
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def test_a_window_of_each_image_is_compared_pixel_by_pixel():
    sources = pictures((4, 6), (9, 20), (1, 1), (30, 2))
    assert verify(Planes(), Planes(), sources) == Agreement(4, 0, 0.0)

    def one_pixel(logits):
        logits[0, :, 2, 3] = logits[0, ::-1, 2, 3]
        return logits

    with pytest.raises(WorkError, match="and 2 of 216 labels changed"):  # 24 pixels of the first alone, 8 x 24
        verify(Planes(), Planes(one_pixel), sources)


def test_the_window_is_the_middle_one():
    [image] = pictures((9, 20))
    seen = network_input(image, Planes().card.preprocess)
    np.testing.assert_array_equal(np.rint(seen * 255), image[2:6, 7:13].transpose(2, 0, 1))
    [small] = pictures((1, 2))
    seen = network_input(small, Planes().card.preprocess)
    assert seen.shape == (3, 4, 6) and np.rint(seen * 255)[:, 0, :2].sum() == small.sum() == np.rint(seen * 255).sum()
