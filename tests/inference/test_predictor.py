import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitnext.errors import ImageError, InputError, WorkError
from vitnext.inference.activations import softmax
from vitnext.inference.predictor import load
from vitnext.inference.writers import write_predictions
from vitnext.types import Classification, Failure


@pytest.fixture
def files(tmp_path, grey):
    """40 image files of rising brightness, every third one broken."""
    paths = []
    for i in range(40):
        path = tmp_path / f"{i:02}.png"
        Image.fromarray(grey(i * 6)).save(path)
        if i % 3 == 1:
            path.write_bytes(path.read_bytes()[:40] if i % 2 else b"not an image")
        paths.append(path)
    return paths


def test_it_says_what_it_is(predictor, model_files):
    what = "none, classification, 2 classes (dark, bright), Brightness"
    assert repr(predictor) == f"<Predictor {predictor.path}: {what}>"
    for path, engine in zip(model_files, ("torch", "onnxruntime"), strict=True):
        loaded = load(path)
        text = f"<Predictor {path}: {loaded.card.architecture}, classification, 3 classes (one, två, 3), {engine}>"
        assert repr(loaded) == text


@pytest.mark.parametrize("batch", [1, 2, 7, 32, 100])
def test_order_is_kept_and_broken_images_stand_in_their_place(predictor, files, batch):
    predictions = list(predictor.predict_many(files, batch=batch))
    assert [prediction.source for prediction in predictions] == [str(path) for path in files]
    for i, prediction in enumerate(predictions):
        if i % 3 == 1:
            assert isinstance(prediction, Failure) and prediction.error.startswith(f"{files[i]}: ")
        else:
            expected = softmax(np.array([[1 - i * 6 / 255, i * 6 / 255]]))[0]
            np.testing.assert_allclose(prediction.scores, expected, atol=1e-6)
    assert max(predictor.engine.batches) <= batch


def test_batch_of_broken_images_only(predictor, files):
    assert [type(p) for p in predictor.predict_many([files[1], files[4]], batch=2)] == [Failure, Failure]
    assert predictor.engine.batches == []


def test_every_kind_of_source_is_named(predictor, files, grey):
    large = np.zeros((300, 300, 3), np.uint8)
    sources = [str(files[0]), files[2], grey(9), Image.fromarray(grey(9)), files[0].read_bytes(), large]
    names = [prediction.source for prediction in predictor.predict_many(sources)]
    assert names == [str(files[0]), str(files[2]), "array[2]", "image[3]", "bytes[4]", "array[5]"]


def test_one_image_gives_what_the_stream_gives(predictor, files, grey):
    for source, name in [(files[0], str(files[0])), (grey(200), "array"), (files[2].read_bytes(), "bytes")]:
        one, [many] = predictor.predict(source), predictor.predict_many([source])
        assert isinstance(one, Classification) and one.source == name
        assert np.array_equal(one.scores, many.scores)
    with pytest.raises(ImageError, match=r"01\.png"):
        predictor.predict(files[1])


def test_augmented_the_image_and_its_mirror_image_are_averaged(model_files):
    images = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    for path in model_files:
        plain, augmented = load(path), load(path, tta=True)
        ones, others, means = (
            np.stack([prediction.scores for prediction in predictor.predict_many(given, batch=2)])
            for predictor, given in ((plain, images), (plain, mirrored), (augmented, images))
        )
        np.testing.assert_allclose(means, (ones + others) / 2, atol=1e-6)
        assert np.abs(ones - others).max() > 1e-3
        np.testing.assert_allclose(augmented.predict(mirrored[0]).scores, means[0], atol=1e-6)


def test_at_most_two_batches_are_taken_ahead(predictor, files, grey):
    taken = given = most = 0

    def sources():
        nonlocal taken
        for i in range(200):
            taken += 1
            yield grey(i % 256) if i % 2 else files[i % 40]

    for _ in predictor.predict_many(sources(), batch=8):
        most = max(most, taken - given)
        given += 1
    assert given == 200
    assert most <= 16


def test_nothing_is_taken_before_it_is_asked_for(predictor):
    def sources():
        raise AssertionError
        yield

    predictor.predict_many(sources())


def test_stopping_early_ends_the_threads(predictor, files):
    before = threading.active_count()
    stream = predictor.predict_many(files, batch=4)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_interrupt_in_the_middle_leaves_no_file(predictor, files, tmp_path):
    def sources():
        yield from files
        raise KeyboardInterrupt

    before, out = threading.active_count(), tmp_path / "out" / "p.csv"
    out.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_predictions(out, predictor.predict_many(sources(), batch=4), predictor.card.classes)
    assert not list(out.parent.iterdir())
    assert threading.active_count() == before


@pytest.mark.parametrize("one", ["photos", Path("photos"), b"JPEG"])
def test_one_path_is_no_stream_of_characters(predictor, one):
    with pytest.raises(InputError, match="takes several images, not (photos|bytes): give a list"):
        predictor.predict_many(one)
    assert predictor.classes == predictor.card.classes


def test_wrong_batch_is_refused_at_the_call(predictor):
    with pytest.raises(InputError, match="batch is 0"):
        predictor.predict_many([], batch=0)


def test_engine_that_gives_no_number_names_the_image(predictor, grey, monkeypatch):
    monkeypatch.setattr(predictor.engine, "run", lambda batch: np.float32([[0, 1], [np.nan, 1]]))
    with pytest.raises(WorkError, match=r"not a finite number for array\[1\]"):
        list(predictor.predict_many([grey(1), grey(2)]))


def test_engine_that_gives_other_classes(predictor, grey, monkeypatch):
    monkeypatch.setattr(predictor.engine, "run", lambda batch: np.zeros((1, 3), np.float32))
    with pytest.raises(WorkError, match=r"logits \(1, 3\) for 1 image and 2 classes"):
        predictor.predict(grey(1))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("model.bin", {}, "ends in .safetensors or .onnx"),
        ("missing.onnx", {}, "no such file"),
        ("missing.safetensors", {}, "no such file"),
        (
            "model.onnx",
            {"engine": "torch"},
            'engine "torch" cannot run this file; choose from: auto, onnxruntime, openvino',
        ),
        ("model.onnx", {"engine": "tensorrt"}, 'engine "tensorrt"'),
        ("model.safetensors", {"engine": "onnxruntime"}, "choose from: auto, torch"),
        ("model.onnx", {"threads": 0}, "threads is 0"),
    ],
)
def test_load_says_what_is_possible(tmp_path, name, options, message):
    for existing in ("model.bin", "model.onnx", "model.safetensors"):
        (tmp_path / existing).touch()
    with pytest.raises(InputError) as error:
        load(tmp_path / name, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
