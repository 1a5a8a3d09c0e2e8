from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn


@pytest.fixture
def tiny():
    """A configuration of each family that is built and run in milliseconds."""
    common = {"channels": 2, "classes": 5}
    tokens = common | {"patch_size": 4, "dim": 24, "depth": 3, "heads": 2}
    windows = common | {"patch_size": 2, "dim": 8, "depths": (2, 3), "heads": (1, 2), "window": 3}
    stages = common | {"stem_stride": 2, "depths": (1, 2), "widths": (8, 16)}
    return {
        "vit": tokens | {"image_size": 12},
        "deit": tokens | {"image_size": 12},
        "deit3": tokens | {"image_size": 12, "layer_scale": 0.1},
        "dinov2": tokens | {"image_size": 12, "layer_scale": 0.1},
        "dinov3": tokens | {"registers": 2, "layer_scale": 0.1},
        "swin": windows,
        "swinv2": windows,
        "mit": stages | {"widths": (8, 12), "heads": (2, 3), "reductions": (2, 1), "mlp_ratios": (2.0, 3.0)},
        "convnext": stages,
        "convnextv2": stages,
        "resnet": stages | {"stem_stride": 1, "depths": (2, 1), "widths": (4, 6)},
        "mobilenet": stages
        | {
            "stem_stride": 1,
            "stem_width": 8,
            "expansions": (1, 2, 3),
            "widths": (8, 16, 16),
            "depths": (1, 2, 2),
            "strides": (1, 2, 1),
            "feature_width": 24,
        },
        "roadmap": stages | {"stem_stride": 1, "depths": (2, 1), "widths": (4, 6)},
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


@pytest.fixture
def onnx_agrees(tmp_path):
    """A function that exports a model and compares its answers, also of one image of the batch and of twice as many."""

    def onnx_agrees(model: nn.Module, batch: torch.Tensor) -> None:
        dynamic = ({0: torch.export.Dim("batch", min=2)},)
        program = torch.onnx.export(
            model, (batch,), dynamo=True, dynamic_shapes=dynamic, opset_version=18, verbose=False
        )
        program.save(tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        for images in (batch, batch[:1], torch.cat([batch, batch + 1])):
            (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
            with torch.inference_mode():
                np.testing.assert_allclose(logits, model(images).numpy(), rtol=0, atol=1e-4)

    return onnx_agrees
