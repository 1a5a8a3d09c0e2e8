import subprocess
import sys

import numpy as np
import pytest

from vitnext.errors import InputError
from vitnext.exporting.verify import synthetic_images
from vitnext.inference.predictor import load
from vitnext.preprocess import Preprocess


@pytest.fixture(scope="module")
def images():
    return synthetic_images(Preprocess((20, 30)), count=11)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_give_the_answers_of_torch(model_files, images, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    artifact, export = model_files
    reference, other = load(artifact), load(export, engine=engine)
    assert other.card == reference.card
    expected = np.stack([p.scores for p in reference.predict_many(images)])
    assert np.ptp(expected, axis=0).max() > 0.01  # the images do not all look the same to the model
    for batch in (1, 4, 32):
        scores = np.stack([p.scores for p in other.predict_many(images, batch=batch)])
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert scores.dtype == np.float32


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_threads_are_passed_on(model_files, images, engine):
    pytest.importorskip(engine)
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        predictor = load(model_files[engine != "torch"], engine=engine, threads=1)
        assert predictor.threads == 1
        if engine == "torch":
            assert torch.get_num_threads() == 1
        elif engine == "onnxruntime":
            assert predictor.engine._session.get_session_options().intra_op_num_threads == 1
        else:
            assert predictor.engine._model.get_property("INFERENCE_NUM_THREADS") == 1
            assert predictor.engine._model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert predictor.predict(images[0]).label in predictor.card.classes
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_predictor_is_safe_to_share_between_threads(model_files, images, engine):
    from concurrent.futures import ThreadPoolExecutor

    pytest.importorskip(engine)
    predictor = load(model_files[engine != "torch"], engine=engine)
    expected = [predictor.predict(image).scores for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predictor.predict, images * 5))
    for i, result in enumerate(results):
        np.testing.assert_allclose(result.scores, expected[i % len(images)], atol=1e-6)


def test_predicting_from_an_export_does_not_import_torch(model_files, tmp_path):
    program = f"""
import sys, numpy as np, vitnext.inference.predictor, vitnext.inference.sources, vitnext.inference.writers as writers
predictor = vitnext.inference.predictor.load({str(model_files[1])!r})
images = [np.full((16, 16, 3), value, np.uint8) for value in range(5)]
print(writers.write_predictions({str(tmp_path / "p.csv")!r}, predictor.predict_many(images), predictor.card.classes))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(5, 0)\n", "")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "damage", ["empty", "text", "truncated", "no card", "broken card", "newer card", "another task"]
)
def test_bad_export_is_one_line(model_files, tmp_path, capfd, engine, damage):
    pytest.importorskip(engine)
    onnx = pytest.importorskip("onnx")
    content, path = model_files[1].read_bytes(), tmp_path / "model.onnx"
    model = onnx.load_from_string(content)
    card = model.metadata_props[0].value
    model.metadata_props[0].value = {
        "broken card": card[:-1],
        "newer card": card.replace('"format": 1', '"format": 99'),
        "another task": card.replace('"classification"', '"segmentation"'),
    }.get(damage, card)
    if damage == "no card":
        del model.metadata_props[:]
    broken = {"empty": b"", "text": b"not a network", "truncated": content[: len(content) // 2]}
    path.write_bytes(broken.get(damage, model.SerializeToString()))
    message = {
        "no card": "without a vitnext card",
        "broken card": "not valid JSON",
        "newer card": "format 99",
        "another task": 'a model for the task "segmentation"',
    }.get(damage, "it may be damaged: export it again")
    with pytest.raises(InputError) as error:
        load(path, engine=engine)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 350
    if engine == "onnxruntime":  # OpenVINO tries its other formats on a text and logs about each
        assert capfd.readouterr().err == ""


def test_missing_openvino_names_the_extra(model_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"vitnext\[openvino\]"):
        load(model_files[1], engine="openvino")


@pytest.mark.parametrize("damage", ["empty", "truncated", "another task"])
def test_bad_artifact_is_one_line(model_files, tmp_path, damage):
    content, path = model_files[0].read_bytes(), tmp_path / "model.safetensors"
    task = content.replace(rb"\"classification\"", rb"\"segmentation\"  ")  # of the same length
    path.write_bytes({"empty": b"", "truncated": content[:-100], "another task": task}[damage])
    with pytest.raises(InputError) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    if damage == "another task":
        assert 'the task "segmentation"' in str(error.value)
