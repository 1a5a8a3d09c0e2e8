"""The card: everything about a model but its weights, as JSON in the artifact's metadata. No torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vitnext.errors import InputError
from vitnext.preprocess import Preprocess
from vitnext.wording import counted

FORMAT = 1
COLOR = re.compile("#[0-9a-fA-F]{6}")
METADATA_KEY = "vitnext"  # where the card stands in the metadata of .safetensors and .onnx files


@dataclass(frozen=True)
class Card:
    """What a model file says about itself.

    task:         "classification", "multilabel", "semantic" or "panoptic" segmentation, or "features" of a network
                  without a head
    architecture: the name in the catalogue, such as "convnext_tiny"
    config:       the architecture's complete configuration
    classes:      class names in the order of the model's outputs
    preprocess:   how an image becomes the model's input
    metrics:      measured values, such as {"top1": 0.93}
    data:         {"name", "kind", "fingerprint", "split": {"rule", "seed", "fractions"}, "counts": {"train": n, ...}};
                  of masks also "category_ids", their ids of the classes, and "void_id", of what they ignore
    recipe:       how it was trained
    versions:     of the libraries it was trained with
    licence:      of the weights it started from, or of the result
    colors:       of a segmenter's classes, "#804080" each, as masks are drawn; else empty
    things:       of a panoptic model's classes, whether their objects are kept apart; empty: all are
    thresholds:   of a multi-label model's classes, the probability from which an image has the label; else empty
    format:       version of this layout
    """

    task: str
    architecture: str
    config: dict[str, Any]
    classes: tuple[str, ...]
    preprocess: Preprocess
    metrics: dict[str, Any]
    data: dict[str, Any]
    recipe: dict[str, Any]
    versions: dict[str, str]
    licence: str
    colors: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    thresholds: tuple[float, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["preprocess"] = self.preprocess.to_dict()
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Raises InputError when the text is no card, lacks a key, or was written by a newer version."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError(f"the card is not valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise InputError("the card is not a JSON object")
        version = values.get("format")
        if not isinstance(version, int) or version < 1:
            raise InputError("the card has no format version")
        if version > FORMAT:
            raise InputError(
                f"the card has format {version}, this vitnext reads up to {FORMAT}: pip install --upgrade vitnext"
            )
        values.setdefault("colors", [])
        values.setdefault("things", [])
        values.setdefault("thresholds", [])
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            wrong = ", ".join(sorted(names ^ set(values)))
            raise InputError(f"the card has missing or unknown keys: {wrong}")
        for name in ("config", "preprocess", "metrics", "data", "recipe", "versions"):
            if not isinstance(values[name], dict):
                raise InputError(f"the card's '{name}' is not an object")
        for name in ("task", "architecture", "licence"):
            if not isinstance(values[name], str):
                raise InputError(f"the card's '{name}' is not a text")
        classes = values["classes"]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise InputError("the card's 'classes' is not a list of names")
        colors = values["colors"]
        if not isinstance(colors, list) or not all(isinstance(c, str) and COLOR.fullmatch(c) for c in colors):
            raise InputError("the card's 'colors' is not a list of colours such as #804080")
        if len(colors) not in (0, len(classes)):
            raise InputError(f"the card has {counted(colors, 'colour')} for {counted(classes, 'class')}")
        things = values["things"]
        if not isinstance(things, list) or not all(isinstance(thing, bool) for thing in things):
            raise InputError("the card's 'things' is not a list of true and false")
        if len(things) not in (0, len(classes)):
            raise InputError(f"the card says of {len(things)} of {counted(classes, 'class')} whether they are things")
        thresholds = values["thresholds"]
        if not isinstance(thresholds, list) or not all(isinstance(t, int | float) and 0 <= t <= 1 for t in thresholds):
            raise InputError("the card's 'thresholds' is not a list of numbers from 0 to 1")
        if len(thresholds) != (len(classes) if values["task"] == "multilabel" else 0):
            raise InputError(f"the card has {counted(thresholds, 'threshold')} for {counted(classes, 'class')}")
        values["preprocess"] = Preprocess.from_dict(values["preprocess"])
        lists = {"classes": classes, "colors": colors, "things": things, "thresholds": map(float, thresholds)}
        return cls(**values | {name: tuple(items) for name, items in lists.items()})


def read_card(path: str | Path) -> Card:
    """The card of a ``.safetensors`` artifact, from its header: no weights are read.

    Raises InputError when the file is missing, truncated, no safetensors file, without a card, or from a newer version.
    """
    from safetensors import SafetensorError, safe_open  # here, so that importing a Card stays cheap

    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the model file in it, such as {path / 'model.safetensors'}")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        reason = "is truncated" if "incomplete" in str(error).lower() else "is not a safetensors file, or is damaged"
        raise InputError(f"{path}: {reason}; train or copy it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if METADATA_KEY not in metadata:
        raise InputError(f"{path}: a safetensors file without a vitnext card; vitnext reads models that it wrote")
    try:
        return Card.from_json(metadata[METADATA_KEY])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def versions() -> dict[str, str]:
    """Of the libraries that a model is trained with, as far as they are installed."""
    names = ("vitnext", "torch", "torchvision", "numpy", "pillow")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
