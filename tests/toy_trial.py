"""A model, light and dark images, and all that a step on a copy of it needs."""

from __future__ import annotations

import numpy as np
import torch

from vitnext.data.dataset import Dataset, Split
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.models import catalog
from vitnext.preprocess import Preprocess
from vitnext.recipe import from_dict, override
from vitnext.training.defaults import model_config
from vitnext.training.hardware import Precision
from vitnext.training.task import task_of

TREE = {
    "model": {"name": "vit", "config": {"patch_size": 4, "dim": 16, "depth": 1, "heads": 2, "dropout": 0.1}},
    "data": {"image_size": 8, "resize": "stretch", "color": "L"},
    "augment": {"horizontal_flip": 0.5, "mixup": 0.2},
    "batch_size": 8,
    "accumulate": 2,
}
FP32 = Precision(torch.float32)


def toy(*sets):
    """The model and what it trains with: light or dark images."""
    recipe, random = override(from_dict(TREE), sets), np.random.default_rng(0)
    labels = np.arange(24) % 2
    pixels = random.integers(0, 60, (24, 8, 8, 1)) + 150 * labels[:, None, None, None]
    names = np.array([f"{i}" for i in range(24)], dtype=np.bytes_)
    split = Split(("dark", "light"), labels, names, np.full(24, 64), arrays=pixels.astype(np.uint8))
    preprocess = Preprocess((8, 8), color="L", mean=(0.4,), std=(0.3,))
    dataset = Dataset(
        "toy", "builtin", split.classes, {"train": split, "val": split}, {}, fingerprint="toy", line="toy"
    )
    torch.manual_seed(0)
    model = catalog.build("vit", **model_config(recipe, 2))
    return model, task_of(dataset, "val", preprocess, recipe, PanopticQuality), recipe, preprocess, FP32
