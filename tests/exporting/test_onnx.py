import numpy as np
import pytest
from PIL import Image

from vitnext.card import METADATA_KEY, Card
from vitnext.errors import InputError, WorkError
from vitnext.inference.engines import OnnxRuntimeEngine
from vitnext.preprocess import Preprocess

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import vitnext.exporting.onnx as export  # noqa: E402
from vitnext.models import catalog  # noqa: E402
from vitnext.weights.artifact import load_artifact, save_artifact  # noqa: E402

CONFIGS = {
    "vit": {"image_size": 8, "patch_size": 2, "channels": 1, "dim": 16, "depth": 1, "heads": 2, "classes": 4},
    "convnext": {
        "channels": 1,
        "stem_stride": 1,
        "depths": [1, 1],
        "widths": [8, 16],
        "layer_scale": 1.0,
        "classes": 4,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def artifact(folder):
    return save("vit", folder)


def save(family, folder):
    torch.manual_seed(0)
    model = catalog.build(family, **CONFIGS[family])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    preprocess, config = Preprocess((8, 8), color="L", mean=(0.3,), std=(0.3,)), catalog.config_dict(model)
    card = Card("classification", family, config, ("a", "b", "c", "ü"), preprocess, {}, {}, {}, {}, "Apache-2.0")
    path = folder / f"{family}.safetensors"
    save_artifact(path, model, card)
    return path


@pytest.mark.parametrize("family", CONFIGS)
def test_export_is_one_file_that_agrees_at_any_batch(family, folder, capfd, recwarn):
    path, out = save(family, folder), folder / family / "model.onnx"
    out.parent.mkdir(exist_ok=True)
    report = export.export_onnx(path, out)
    assert (report.path, report.images, report.synthetic) == (out, 8, True)
    assert 0 <= report.max_difference <= 1e-4
    assert [file.name for file in out.parent.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list

    file = onnx.load(out)
    onnx.checker.check_model(file, full_check=True)
    [images], [logits] = file.graph.input, file.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param == logits.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [opset.version for opset in file.opset_import if opset.domain == ""] == [18]
    assert not any(node.metadata_props for node in file.graph.node)
    assert __file__.encode() not in out.read_bytes() and b"site-packages" not in out.read_bytes()

    model, card = load_artifact(path)
    assert {entry.key: entry.value for entry in file.metadata_props} == {METADATA_KEY: card.to_json()}
    engine = OnnxRuntimeEngine(out)
    for batch in (1, 3, 17):
        images = np.random.default_rng(batch).normal(size=(batch, 1, 8, 8)).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(engine.run(images), expected, atol=1e-5)


@pytest.fixture
def written(monkeypatch, artifact, folder):
    """Replace the slow export by a copy of one made earlier, given back here; what is around it stays real."""
    ready = folder / "vit" / "model.onnx"
    if not ready.exists():
        ready.parent.mkdir()
        export.export_onnx(artifact, ready)
    monkeypatch.setattr(export, "_write", lambda model, card, path: path.write_bytes(ready.read_bytes()))
    return ready


def test_images_of_the_user_are_used(written, artifact, tmp_path):
    paths = []
    for value in range(0, 250, 25):
        paths.append(tmp_path / f"{value}.png")
        Image.new("L", (9, 9), value).save(paths[-1])
    report = export.export_onnx(artifact, tmp_path / "m.onnx", iter(paths))
    assert (report.images, report.synthetic) == (10, False)


@pytest.mark.parametrize("images", [[], ["nowhere.png"]])
def test_images_that_cannot_be_used_leave_no_file(written, artifact, tmp_path, images):
    with pytest.raises(InputError):
        export.export_onnx(artifact, tmp_path / "m.onnx", images)
    assert not list(tmp_path.iterdir())


def test_export_that_disagrees_is_not_kept(written, artifact, tmp_path, monkeypatch):
    file = onnx.load(written)
    bias = next(tensor for tensor in file.graph.initializer if tensor.name == "head.bias")
    bias.raw_data = np.float32([0.5, 0, 0, 0]).tobytes()
    monkeypatch.setattr(export, "_write", lambda model, card, path: onnx.save(file, path))
    out = tmp_path / "m.onnx"
    out.write_text("the last good one")
    with pytest.raises(WorkError, match=r"m.onnx: not written: the export does not agree .* differ by up to 0\.\d+"):
        export.export_onnx(artifact, out)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert out.read_text() == "the last good one"


def test_interrupt_leaves_nothing(artifact, tmp_path, monkeypatch):
    def interrupted(model, card, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.export_onnx(artifact, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_too_large_for_one_file_go_beside_it(artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ONE_FILE_BYTES", 0)
    report = export.export_onnx(artifact, tmp_path / "m.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    assert OnnxRuntimeEngine(report.path).card.architecture == "vit"


@pytest.mark.parametrize("name", ["m.pt", "m", "missing/m.onnx", "folder.onnx"])
def test_bad_path_is_one_line_before_the_work(artifact, tmp_path, name, monkeypatch):
    monkeypatch.setattr(export, "_write", None)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError) as error:
        export.export_onnx(artifact, tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_model_that_torch_cannot_export_is_one_line(artifact, tmp_path, capfd, monkeypatch):
    model, card = load_artifact(artifact)
    model.forward = lambda images: images if images.sum() > 0 else -images
    with pytest.raises(WorkError, match="torch cannot export this model to ONNX: ") as error:
        export._write(model, card, tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_missing_artifact(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        export.export_onnx(tmp_path / "m.safetensors", tmp_path / "m.onnx")
