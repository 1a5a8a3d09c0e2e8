"""Masks predicted from files and arrays, as pictures and as rows of a table."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from vitnext.card import METADATA_KEY, Card
from vitnext.errors import ImageError, InputError, WorkError
from vitnext.inference.drawing import overlay, rgb
from vitnext.inference.mask_files import mask_names, with_masks
from vitnext.inference.predictor import Predictor, load
from vitnext.inference.writers import write_predictions
from vitnext.preprocess import Preprocess
from vitnext.types import Classification, Failure, Segmentation

CLASSES = ("red", "green", "blue")


class Channels:
    """An engine of three classes: the channel with the most light."""

    def __init__(self, **preprocess):
        given = {"image_size": (6, 8), "resize": "window", "mean": (0.0,) * 3, "std": (1.0,) * 3} | preprocess
        colors = ("#ff0000", "#00ff00", "#0000ff")
        self.card = Card("semantic", "x+y", {}, CLASSES, Preprocess(**given), {}, {}, {}, {}, "CC0-1.0", colors)
        self.batches, self.change = [], lambda logits: logits

    def run(self, batch):
        self.batches.append(len(batch))
        return self.change(8 * batch)


@pytest.fixture
def predictor(tmp_path):
    return Predictor(tmp_path / "model.onnx", Channels(), 2)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(path, height=9, width=7, seed=0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(height, width, seed)).save(path, **more)
    return str(path)


@pytest.mark.parametrize("size", [(1, 1), (6, 8), (20, 3), (30, 41)])
def test_a_mask_has_the_size_of_its_image(predictor, size):
    image = picture(*size)
    found = predictor.predict(image)
    assert found.mask.shape == found.confidence.shape == size
    assert (found.mask == image.argmax(-1))[np.sort(image, -1)[..., -1] > np.sort(image, -1)[..., -2]].all()
    assert sum(found.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("short_side", [0, 5])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_once(tmp_path, orientation, short_side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    left, right = np.zeros((12, 20, 3), np.uint8), np.zeros((12, 20, 3), np.uint8)
    left[:, :10, 0] = right[:, 10:, 2] = 200
    path = tmp_path / "a.png"
    Image.fromarray(left + right).save(path, exif=exif)
    predictor = Predictor(tmp_path / "model.onnx", Channels(short_side=short_side), 1)
    found = predictor.predict(path)
    upright = predictor.card.preprocess.__class__((1, 1), "window", mean=(0.0,) * 3, std=(1.0,) * 3).pixels(path)
    assert found.mask.shape == upright.shape[:2]
    assert (found.mask == upright.argmax(-1)).mean() > 0.9


def test_failures_keep_their_place(predictor, tmp_path):
    good = save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    sources = [good, str(tmp_path / "bad.png"), picture(4, 5), str(tmp_path / "none.png"), good]
    found = list(predictor.predict_many(sources))
    assert [type(one) for one in found] == [Segmentation, Failure, Segmentation, Failure, Segmentation]
    assert [one.source for one in found] == [good, sources[1], "array[2]", sources[3], good]
    assert np.array_equal(found[0].mask, found[4].mask)
    with pytest.raises(ImageError):
        predictor.predict(sources[1])


def test_two_images_at_most_are_taken_ahead(predictor):
    taken = []

    def sources():
        for i in range(6):
            taken.append(i)
            yield picture(4, 4, i)

    for number, _ in enumerate(predictor.predict_many(sources())):
        assert len(taken) <= number + 2
    assert threading.active_count() < 20


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda logits: logits * np.nan, "not a finite number for array"),
        (lambda logits: logits[:, :2], "gave logits"),
        (lambda logits: logits[..., :3], "gave logits"),
    ],
)
def test_logits_that_make_no_sense_are_one_line(predictor, change, message):
    predictor.engine.change = change
    with pytest.raises(WorkError, match=message):
        predictor.predict(picture(4, 4))


def test_augmented_a_predictor_averages_sizes_and_mirror_images(predictor):
    image = picture(30, 41)
    plain, found = predictor.predict(image), replace(predictor, tta=True).predict(image)
    mirrored = replace(predictor, tta=True).predict(np.ascontiguousarray(image[:, ::-1]))
    assert np.array_equal(found.mask, mirrored.mask[:, ::-1])
    assert 0.4 < (found.mask == plain.mask).mean() < 1
    [streamed] = replace(predictor, tta=True).predict_many([image])
    assert np.array_equal(streamed.mask, found.mask) and np.array_equal(streamed.confidence, found.confidence)


def test_panoptic_models_are_not_augmented(tmp_path):
    card = replace(Channels().card, task="panoptic")
    save_file({}, tmp_path / "m.safetensors", metadata={METADATA_KEY: card.to_json()})
    with pytest.raises(InputError, match="a panoptic model, but test-time augmentation averages classes, not objects"):
        load(tmp_path / "m.safetensors", tta=True)


# ---- pictures


def test_mask_files_give_the_mask_back(predictor, tmp_path):
    sources = [save(tmp_path / "a" / "1.png", seed=1), save(tmp_path / "b" / "1.png", seed=2), str(tmp_path / "none")]
    names = mask_names(sources)
    assert list(names.values()) == ["a_1", "b_1", "none"]
    found = list(with_masks(predictor.predict_many(sources), tmp_path / "out", names, predictor.card))
    assert isinstance(found[2], Failure)
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["a_1.png", "a_1_confidence.png", "b_1.png", "b_1_confidence.png", "classes.txt"]
    for one, name in zip(found[:2], ("a_1", "b_1"), strict=True):
        with Image.open(tmp_path / "out" / f"{name}.png") as mask:
            assert mask.mode == "P" and np.array_equal(np.asarray(mask), one.mask)
            colors = np.array(((255, 0, 0), (0, 255, 0), (0, 0, 255)))
            assert np.array_equal(np.asarray(mask.convert("RGB")), colors[one.mask])
        with Image.open(tmp_path / "out" / f"{name}_confidence.png") as sure:
            assert np.array_equal(np.asarray(sure), one.confidence)


@pytest.mark.parametrize(
    "sources, names",
    [
        (["x.png"], ["x"]),
        (["/p/a/x.png", "/p/b/x.jpg", "/p/b/y.png"], ["a_x", "b_x", "y"]),
        (["a/x.jpg", "a/x.png"], ["a_x", "a_x_1"]),
        (["a.png", "a_confidence.png"], ["a", "a_confidence_1"]),
        (["../a/x.png", "a/x.png", "b/a/x.png"], ["a_x", "a_x_1", "b_a_x"]),
    ],
)
def test_every_image_has_a_name_of_its_own(sources, names):
    assert list(mask_names(sources).values()) == names


def test_a_mask_never_replaces_an_image(predictor, tmp_path):
    source = save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(InputError, match="name another folder"):
        with_masks(predictor.predict_many([source]), tmp_path, mask_names([source]), predictor.card)
    assert (tmp_path / "a.png").read_bytes() == before


def test_overlay_blends_and_leaves_void():
    pixels = np.full((1, 2, 3), 100, np.uint8)
    found = overlay(pixels, np.array([[1, 255]], np.uint8), rgb(("#000000", "#ff0000")))
    assert found[0, 1].tolist() == [100, 100, 100] and found[0, 0].tolist() == [185, 45, 45]


# ---- tables

MASK = np.array([[0, 0, 2, 2], [2, 2, 2, 2]], np.uint8)
ROWS = [Segmentation("a.png", CLASSES, MASK, np.full((2, 4), 51, np.uint8)), Failure("b.png", "b.png: no such file")]


def test_csv_rows(tmp_path):
    assert write_predictions(tmp_path / "p.csv", ROWS, CLASSES, "semantic") == (1, 1)
    good, bad = csv.DictReader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines())
    shares = {"share_red": "0.25", "share_green": "0", "share_blue": "0.75"}
    assert good == {"source": "a.png", "width": "4", "height": "2", "confidence": "0.2", "error": ""} | shares
    assert bad == dict.fromkeys(good, "") | {"source": "b.png", "error": "b.png: no such file"}


def test_jsonl_rows_have_the_same_keys(tmp_path):
    write_predictions(tmp_path / "p.jsonl", ROWS, CLASSES, "semantic")
    good, bad = (json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines())
    assert good["shares"] == {"red": 0.25, "green": 0.0, "blue": 0.75} and good["confidence"] == pytest.approx(0.2)
    assert list(bad) == list(good) == ["source", "width", "height", "confidence", "error", "shares"]
    assert bad == dict.fromkeys(good) | {"source": "b.png", "error": "b.png: no such file"}
    labels = [Classification("c.png", CLASSES, np.float32([0, 1, 0])), ROWS[1]]
    write_predictions(tmp_path / "c.jsonl", labels, CLASSES)
    one, other = (json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines())
    assert list(one) == list(other) and other == labels[1].to_dict()


def test_parquet_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_predictions(tmp_path / "p.parquet", ROWS, CLASSES, "semantic")
    good, bad = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert (good["width"], good["height"], good["share_blue"], good["error"]) == (4, 2, 0.75, None)
    assert bad == dict.fromkeys(good) | {"source": "b.png", "error": "b.png: no such file"}
