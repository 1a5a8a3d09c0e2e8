"""Large images are copied and enlarged in strips; they hold what they would hold at once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitnext import decode
from vitnext.inference import windows


def randint(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(37, 10, 3), (37, 10)])
def test_pixels_in_strips(monkeypatch, shape):
    pixels = randint(*shape)
    monkeypatch.setattr(decode, "STRIP", 50)
    found = decode.to_array(Image.fromarray(pixels))
    assert np.array_equal(found, pixels.reshape(37, 10, -1)) and found.flags.writeable


def test_enlarging_in_strips(monkeypatch):
    def run(batch):
        return np.stack([batch[:, 0], 1 - batch[:, 1]], axis=1)

    def segment():
        tiling = windows.Tiling(run, lambda p: np.moveaxis(p / np.float32(64), -1, 1), (8, 8))
        return windows.segment(randint(20, 24, 3), (70, 90), tiling)

    whole = segment()
    monkeypatch.setattr(windows, "STRIP", 500)
    strips = segment()
    assert (whole[0] == strips[0]).mean() > 0.999 and np.abs(whole[1].astype(int) - strips[1]).max() <= 1
