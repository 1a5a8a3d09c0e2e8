from __future__ import annotations

import io
import shutil

import pytest
from rich.console import Console

from colours import COLORS, plant, train


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """One tree: 3 classes of 13 images, to be divided 11/1/1."""
    return plant(tmp_path_factory.mktemp("data") / "my colours", dict.fromkeys(COLORS, 13))


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """train/, val/ and test/."""
    root = tmp_path_factory.mktemp("data") / "given"
    for seed, (split, count) in enumerate({"train": 10, "val": 3, "test": 4}.items(), start=5):
        plant(root / split, dict.fromkeys(COLORS, count), seed)
    return root


@pytest.fixture(scope="session")
def trained(tree, tmp_path_factory):
    """A run that was long enough to learn the colours."""
    return train(tree, tmp_path_factory.mktemp("runs") / "run", epochs=15)


@pytest.fixture
def heard():
    """A console that remembers."""
    return Console(file=io.StringIO(), width=1000)


@pytest.fixture
def damaged(tree, tmp_path):
    copy = shutil.copytree(tree, tmp_path / "damaged")
    (copy / "red" / "03.png").write_bytes(b"no image")
    (copy / "blue" / "07.png").write_bytes((tree / "blue" / "07.png").read_bytes()[:60])
    return copy
