"""vitnext: from a folder of images to a trained, measured and deployed classifier or segmenter.

    model  = vitnext.create_model("convnext_tiny", classes=10)
    result = vitnext.train("photos/", out="runs/photos")
    p      = vitnext.load("runs/photos/model.safetensors")
    p.predict("cat.jpg")
    vitnext.evaluate(p, "photos/")
    vitnext.export("runs/photos/model.safetensors", "onnx")

Names are imported when they are first used, so that ``import vitnext`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitnext.api import convert, create_model, evaluate, export, train
    from vitnext.errors import ImageError, InputError, WorkError
    from vitnext.inference.predictor import Predictor, load

_HOME = {
    "convert": "vitnext.api",
    "create_model": "vitnext.api",
    "train": "vitnext.api",
    "evaluate": "vitnext.api",
    "export": "vitnext.api",
    "load": "vitnext.inference.predictor",
    "Predictor": "vitnext.inference.predictor",
    "InputError": "vitnext.errors",
    "ImageError": "vitnext.errors",
    "WorkError": "vitnext.errors",
}

__all__ = [
    "ImageError",
    "InputError",
    "Predictor",
    "WorkError",
    "convert",
    "create_model",
    "evaluate",
    "export",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("vitnext")
    if name not in _HOME:
        raise AttributeError(f"module 'vitnext' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
