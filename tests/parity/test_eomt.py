"""EoMT beside transformers' with the same random weights, with masked attention and without."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from references import LARGEST
from vitnext.models import eomt
from vitnext.weights.rename import rename
from vitnext.weights.tables import segmenter as tables

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_blocks": 2,
    "num_queries": 5,
    "image_size": 64,
    "patch_size": 16,
    "num_register_tokens": 2,
    "num_labels": 7,
}
OURS = {"dim": 16, "depth": 4, "heads": 2, "registers": 2, "patch_size": 16, "classes": 7, "queries": 5, "blocks": 2}


def filled(model):
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
        nn.init.normal_(parameter, std=1.0 if "lambda" in name else fan_in**-0.5)
    return model.eval()


@pytest.fixture(params=["dinov2", "dinov3"])
def pair(request, tmp_path):
    """(ours, theirs)"""
    if request.param == "dinov2":
        theirs = transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**SMALL, mlp_ratio=4))
        table, ours = tables.EOMT_DINOV2, eomt.build("dinov2+eomt", **OURS, image_size=64)
    else:
        config = transformers.EomtDinov3Config(**SMALL, intermediate_size=64, layer_norm_eps=1e-5)
        theirs = transformers.EomtDinov3ForUniversalSegmentation(config)
        table, ours = tables.EOMT_DINOV3, eomt.build("dinov3+eomt", **OURS)
    filled(theirs).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    converted = rename(state, table)
    ours.load_state_dict(converted, strict=True)
    back = rename(converted, table, reverse=True)
    assert state.keys() - back.keys() == {"attn_mask_probs", "criterion.empty_weight"}
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())
    return ours.eval(), theirs


@pytest.mark.layout(tables.EOMT_DINOV2, tables.EOMT_DINOV3)
@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_masks_and_classes(pair, masked):
    ours, theirs = pair
    theirs.attn_mask_probs.fill_(masked)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = theirs(images)
        masks, classes = ours.predictions(images, [masked] * 2 if masked else ())[-1]
        plain = ours(images)
    assert masks.shape == (2, 5, 16, 16) and classes.shape == (2, 5, 8)
    assert out.masks_queries_logits.std() > 0.1 and out.class_queries_logits.std() > 0.1
    assert (masks - out.masks_queries_logits).abs().max() <= LARGEST
    assert (classes - out.class_queries_logits).abs().max() <= LARGEST
    assert torch.equal(plain[0], masks) or masked
