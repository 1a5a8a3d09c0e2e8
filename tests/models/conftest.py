from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture
def tiny():
    """A configuration of each family that is built and run in milliseconds."""
    return {
        "vit": {
            "image_size": 12,
            "patch_size": 4,
            "channels": 2,
            "classes": 5,
            "dim": 24,
            "depth": 3,
            "heads": 2,
        },
        "convnext": {"channels": 2, "classes": 5, "stem_stride": 2, "depths": (1, 2), "widths": (8, 16)},
    }


@pytest.fixture
def randomise():
    """Fill every parameter with normal values, so that nothing hides behind zeros, ones or small weights."""

    def fill(model: nn.Module, std: float = 0.3) -> nn.Module:
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=std)
        return model

    return fill
