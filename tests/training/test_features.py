"""Features are those of the network, whatever of them was kept, and never those of another image or network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from vitnext.data.dataset import Split
from vitnext.errors import ImageError
from vitnext.models import catalog
from vitnext.preprocess import Preprocess
from vitnext.training import features as module
from vitnext.training.features import FrozenFeatures
from vitnext.training.hardware import Precision

FP32 = Precision(torch.float32)


@pytest.fixture
def split(tmp_path):
    random, names = np.random.default_rng(0), []
    for i in range(7):
        Image.fromarray(random.integers(0, 256, (10 + i, 12, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        names.append(f"{i}.png".encode())
    return Split(("a", "b"), np.arange(7) % 2, np.array(names), np.ones(7, np.int64), root=str(tmp_path))


@pytest.fixture
def preprocess():
    return Preprocess((8, 8), resize="crop", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def build(seed=0, **more):
    torch.manual_seed(seed)
    return catalog.build("vit", image_size=8, patch_size=4, dim=16, depth=1, heads=2, **{"classes": 3, **more}).eval()


def naive(network, split, preprocess):
    with torch.no_grad():
        rows = [network.pooled(torch.from_numpy(preprocess(split.image(i)))[None])[0] for i in range(len(split))]
    return np.stack([row.numpy() for row in rows])


def frozen(network, preprocess, folder, said=None, precision=FP32):
    said = [] if said is None else said
    return FrozenFeatures(network, "vit", preprocess, precision, folder=folder, say=said.append)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_they_are_the_networks_and_are_computed_once(split, preprocess, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(module, "BATCH", batch)
    monkeypatch.setattr(module, "SHARD", 4)
    network, seen = build(), []
    first = frozen(network, preprocess, tmp_path / "cache")
    rows = first.of(split, lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(rows, naive(network, split, preprocess), atol=1e-5)
    assert first.computed == 7 and seen == [(i + 1, 7) for i in range(7)] and rows.dtype == np.float32
    again = frozen(network, preprocess, tmp_path / "cache")
    assert np.array_equal(again.of(split), rows) and again.computed == 0
    assert np.array_equal(again.of(split.subset([5, 2])), rows[[5, 2]]) and again.computed == 0
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_an_image_that_changes_is_another_image(split, preprocess, tmp_path):
    network = build()
    before = frozen(network, preprocess, tmp_path / "cache").of(split)
    image = np.asarray(Image.open(split.image(3))).copy()
    image[:] = 255 - image
    Image.fromarray(image).save(split.image(3))
    after = frozen(network, preprocess, tmp_path / "cache")
    rows = after.of(split)
    assert after.computed == 1 and [i for i in range(7) if not np.array_equal(rows[i], before[i])] == [3]
    np.testing.assert_allclose(rows, naive(network, split, preprocess), atol=1e-5)


def test_what_decides_the_features_decides_the_folder(preprocess, tmp_path):
    def folder(network, name="vit", preprocess=preprocess, precision=FP32):
        return FrozenFeatures(network, name, preprocess, precision, folder=tmp_path, say=print).folder

    usual = folder(build())
    for head in ({"classes": 5}, {"classes": 3, "representation": 4}, {"classes": 0}):  # which decides nothing
        other = build(**head)
        other.load_state_dict({k: v for k, v in build().state_dict().items() if k[:5] != "head."}, strict=False)
        assert folder(other) == usual
    others = {
        folder(build(1)),
        folder(build(pool="mean")),
        folder(build(), preprocess=dataclasses.replace(preprocess, mean=(0.4, 0.5, 0.5))),
        folder(build(), precision=Precision(torch.bfloat16)),
    }
    changed = build()
    with torch.no_grad():
        changed.encoder[0].mlp[0].bias[3] += 1e-6
    assert usual not in others | {folder(changed)} and len(others | {folder(changed)}) == 5


def test_bf16_is_used_when_chosen(split, preprocess, tmp_path):
    network = build()
    rows = frozen(network, preprocess, tmp_path, precision=Precision(torch.bfloat16)).of(split)
    exact = naive(network, split, preprocess)
    assert rows.dtype == np.float32 and 1e-4 < np.abs(rows - exact).max() < 0.1


def test_damaged_files_are_computed_again(split, preprocess, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "SHARD", 2)
    network = build()
    first = frozen(network, preprocess, tmp_path)
    rows = first.of(split)
    files = sorted(first.folder.glob("*.npz"))
    assert len(files) == 4
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_bytes(b"")
    again = frozen(network, preprocess, tmp_path)
    np.testing.assert_allclose(again.of(split), rows, atol=1e-6)
    assert 2 < again.computed <= 4


def test_a_disk_that_takes_nothing_is_said_and_stops_nothing(split, preprocess, tmp_path):
    (tmp_path / "file").write_text("no folder")
    said = []
    rows = frozen(build(), preprocess, tmp_path / "file", said).of(split)
    assert len(rows) == 7 and len(said) == 1 and said[0].startswith("warning: the features are not kept")


def test_an_image_that_cannot_be_read_is_named(split, preprocess, tmp_path):
    (tmp_path / "4.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"4\.png"):
        frozen(build(), preprocess, tmp_path / "cache").of(split)


def test_without_a_folder_they_are_in_the_users_cache(monkeypatch, tmp_path, preprocess):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert frozen(build(), preprocess, None).folder.parent == tmp_path / "vitnext" / "features"
