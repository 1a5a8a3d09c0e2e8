"""The wheel holds what the package needs when it is installed from there."""

from __future__ import annotations

import email
import email.message
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "vitnext"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    [path] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel) -> email.message.Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_string(wheel.read(name).decode())


def test_every_source_file_and_all_data_files_are_in_the_wheel(wheel):
    files = {path.relative_to(ROOT / "src").as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert {name for name in wheel.namelist() if name.startswith("vitnext/")} == expected
    assert {Path(name).suffix for name in expected} >= {".py", ".yaml", ".j2"}


def test_nothing_but_the_package_is_in_the_wheel(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vitnext"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_metadata(metadata):
    assert metadata["Name"] == "vitnext"
    assert "classifier or segmenter" in metadata["Summary"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    trackers = {"track", "wandb", "mlflow"}
    assert set(metadata.get_all("Provides-Extra")) == trackers | {
        "train",
        "parquet",
        "openvino",
        "serve",
        "coco",
        "dev",
    }


def test_the_base_install_has_no_torch(metadata):
    base = {re.match(r"[\w.-]+", line)[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert "onnxruntime" in base
    assert not base & {"torch", "torchvision", "scikit-learn", "onnx", "timm"}


def test_torch_and_torchvision_come_from_one_index():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    train = " ".join(pyproject["project"]["optional-dependencies"]["train"])
    assert "torch>=" in train and "torchvision>=" in train
    assert "http" not in train  # an index of its own for one of the two gives builds that do not fit together
