"""What `import vitnext` offers and costs."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import subprocess
import sys

import pytest

import vitnext

HEAVY = ("torch", "torchvision", "numpy", "PIL", "onnxruntime", "sklearn", "matplotlib", "pydantic", "rich")

RUN_SIDE = (
    "vitnext.errors",
    "vitnext.files",
    "vitnext.types",
    "vitnext.card",
    "vitnext.preprocess",
    "vitnext.decode",
    "vitnext.recipe",
    "vitnext.data.dataset",
    "vitnext.data.image_folder",
    "vitnext.data.builtin",
    "vitnext.data.doctor",
    "vitnext.data.facts",
    "vitnext.inference.predictor",
    "vitnext.inference.engines",
    "vitnext.inference.sources",
    "vitnext.inference.writers",
    "vitnext.evaluation.classification",
    "vitnext.evaluation.report",
    "vitnext.evaluation.panoptic",
    "vitnext.evaluation.instances",
    "vitnext.data.coco_panoptic",
    "vitnext.data.coco_instances",
    "vitnext.data.label_maps",
    "vitnext.api",
    "vitnext.cli.main",
)


def python(script: str) -> str:
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize("name", vitnext.__all__)
def test_every_public_name_resolves(name):
    assert getattr(vitnext, name) is not None
    assert name in dir(vitnext)


def test_the_version_is_that_of_the_package():
    assert vitnext.__version__ == importlib.metadata.version("vitnext")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        vitnext.no_such_name  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    loaded = python(f"import sys, vitnext; print(*(name for name in {HEAVY} if name in sys.modules))")
    assert loaded.split() == []


def test_the_run_side_does_not_import_torch():
    imports = "; ".join(f"import {module}" for module in RUN_SIDE)
    loaded = python(
        f"import sys; {imports}; print(*(name for name in ('torch', 'torchvision') if name in sys.modules))"
    )
    assert loaded.split() == []


def test_importing_any_module_prints_and_writes_nothing(tmp_path, monkeypatch):
    modules = [module.name for module in pkgutil.walk_packages(vitnext.__path__, "vitnext.")]
    assert "vitnext.models.vit" in modules
    monkeypatch.chdir(tmp_path)
    # Warnings of other packages are theirs; what ours print is seen here.
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "; ".join(f"import {module}" for module in modules)],
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_no_module_has_the_name_of_a_function():
    """Importing vitnext.NAME would put the module where the function was."""
    modules = {module.name for module in pkgutil.iter_modules(vitnext.__path__)}
    assert not modules & set(vitnext.__all__)
