"""Mask2Former on Swin beside transformers' with the same random weights, layer by layer."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from references import LARGEST
from vitnext.models import create
from vitnext.weights.rename import rename
from vitnext.weights.tables.segmenter import MASK2FORMER_SWIN

SWIN = {"dim": 8, "depths": (1, 2, 1, 2), "heads": (1, 2, 2, 4), "window": 3}
HEAD = {"width": 32, "queries": 5, "layers": 4, "hidden": 40, "pixel_layers": 2, "pixel_hidden": 24, "heads": 4}


@pytest.mark.layout(MASK2FORMER_SWIN)
def test_masks_and_classes_of_every_layer(tmp_path):
    swin = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 2, 1, 2],
        num_heads=[1, 2, 2, 4],
        window_size=3,
        out_features=[f"stage{i}" for i in range(1, 5)],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_queries=5,
        decoder_layers=5,  # predictions
        dim_feedforward=40,
        encoder_layers=2,
        encoder_feedforward_dim=24,
        num_attention_heads=4,
        num_labels=7,
    )
    theirs = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=(parameter[0].numel() if parameter.ndim in (2, 4) else 4) ** -0.5)
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    converted = rename(state, MASK2FORMER_SWIN)
    ours = create.build("swin+mask2former", **SWIN, head=HEAD, classes=7).eval()
    ours.load_state_dict(converted, strict=True)
    back = rename(converted, MASK2FORMER_SWIN, reverse=True)
    unused = {f"model.pixel_level_module.encoder.swin.layernorm.{part}" for part in ("weight", "bias")}
    assert state.keys() - back.keys() == {"criterion.empty_weight", *unused}
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items() if key in back)
    images = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = theirs(images, output_auxiliary_logits=True)
        found = ours.predictions(images)
    expected = [*out.auxiliary_logits, out]
    assert len(found) == len(expected) == 5
    for (masks, classes), theirs_of_layer in zip(found, expected, strict=True):
        other = theirs_of_layer["masks_queries_logits"]
        assert other.std() > 0.1 and (masks - other).abs().max() <= LARGEST
        assert (classes - theirs_of_layer["class_queries_logits"]).abs().max() <= LARGEST
