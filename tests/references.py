"""Weights of other libraries' models in ours, and whether both then give the same numbers."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from vitnext.weights.rename import rename

LARGEST = 1e-5  # the largest difference allowed, in fp32


def saved(model, folder):
    """What a transformers file holds; in memory some names are others."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def with_weights(build, state, table):
    """The model of ours that ``build`` gives, with their weights."""
    with torch.device("meta"):
        model = build()
    model.load_state_dict({key: t.clone() for key, t in rename(state, table).items()}, strict=True, assign=True)
    return model.eval()


def there_and_back(build, state, table, lost=()):
    """As ``with_weights``, after the way back has given all of ``state`` but ``lost`` again, bit for bit."""
    model = with_weights(build, state, table)
    back = rename(model.state_dict(), table, reverse=True)
    assert back.keys() == state.keys() - set(lost)
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())
    return model


def noise(ours, size, batch=None):
    """Images of a (height, width): two, or one if they are large."""
    batch = batch or (2 if max(size) < 224 else 1)
    return torch.randn(batch, ours.config.channels, *size, generator=torch.Generator().manual_seed(1))


def near(found, expected, what=""):
    assert found.shape == expected.shape and expected.std() > 0.1, what
    assert (found - expected).abs().max() <= LARGEST, what


def same_outputs(ours, theirs, says, size, batch=None):
    """``says(theirs, images)`` gives their logits, and the outputs of their last stages, (B, C, H, W) each."""
    images = noise(ours, size, batch)
    with torch.inference_mode():
        expected, maps = says(theirs, images)
        near(ours(images), expected, "logits")
        for (name, found), theirs_ in zip(ours.pyramid(images).items(), maps, strict=True):
            near(found, theirs_, name)
