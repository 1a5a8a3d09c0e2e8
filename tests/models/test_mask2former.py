"""Mask2Former: deformable attention beside a loop, what a masked query sees, what learns, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.models import create
from vitnext.models.heads.mask2former import POINTS, DeformableAttention

HEAD = {"width": 8, "queries": 5, "layers": 3, "hidden": 12, "pixel_layers": 2, "pixel_hidden": 10, "heads": 2}
SMALL = {"stem_stride": 2, "depths": (1, 1, 1), "widths": (8, 12, 16), "classes": 4, "head": HEAD}


@pytest.fixture
def model(randomise):
    return randomise(create.build("convnext+mask2former", **SMALL), std=0.4).eval()


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def at(plane, x, y):
    """The bilinear value of (d, H, W) at x, y in cells, whose centres are whole numbers; zero outside."""
    total = torch.zeros(len(plane))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[:, row, column]
    return total


def test_deformable_attention_is_the_formula(randomise):
    sides = ((2, 3), (4, 5))
    attention = randomise(DeformableAttention(8, 2, 2), std=0.6)
    z, queries = torch.randn(1, 26, 8), torch.randn(1, 26, 8)
    with torch.no_grad():
        found = attention(z, queries, sides)
        values = attention.value(z)[0].unflatten(1, (2, 4))  # (N, heads, d)
        offsets = attention.offsets(queries)[0].reshape(26, 2, 2, POINTS, 2)
        weights = attention.weights(queries)[0].reshape(26, 2, 2 * POINTS).softmax(-1).reshape(26, 2, 2, POINTS)
        planes = [
            part.permute(1, 2, 0).unflatten(2, side) for part, side in zip(values.split([6, 20]), sides, strict=True)
        ]
        own = [((c + 0.5) / w, (r + 0.5) / h) for h, w in sides for r in range(h) for c in range(w)]
        seen = torch.zeros(26, 2, 4)
        for q, (x, y) in enumerate(own):
            for head in range(2):
                for level, (height, width) in enumerate(sides):
                    for point in range(POINTS):
                        across, down = offsets[q, head, level, point].tolist()
                        value = at(planes[level][head], x * width - 0.5 + across, y * height - 0.5 + down)
                        seen[q, head] += weights[q, head, level, point] * value
        torch.testing.assert_close(found[0], attention.output(seen.flatten(1)), atol=1e-5, rtol=1e-4)


def test_every_parameter_learns_from_every_layer(model):
    found = model.train().training_predictions(images(32, 48), 0.5)
    assert [(m.shape, c.shape) for m, c in found] == [((2, 5, 16, 24), (2, 5, 5))] * 4
    sum(m.square().mean() + c.square().mean() for m, c in found).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_a_query_sees_what_its_mask_holds_or_everything(model):
    with torch.no_grad():
        queries, pixels = model.head(model.maps(images(32, 48)))
        masks, _ = model.head.masks_and_classes(queries[1], pixels)
        small = F.interpolate(pixels, size=(4, 6), mode="bilinear")
        held = (F.interpolate(masks, size=(4, 6), mode="bilinear") >= 0).flatten(2)
        inside = model.head.inside(queries[1], small)
        model.head.mask[-1].weight.zero_(), model.head.mask[-1].bias.zero_()
        small[:], model.head.mask[-1].bias[:] = -1.0, 1.0  # every mask is empty
        assert model.head.inside(queries[1], small).all()
    assert 0 < held.float().mean() < 1
    assert torch.equal(inside, held | ~held.any(-1, keepdim=True))


def test_the_last_prediction_is_the_answer_for_any_size_and_memory_format(model):
    with torch.no_grad():
        for size in ((32, 32), (40, 24), (33, 50)):
            x = images(*size)
            (masks, classes), last = model(x), model.predictions(x)[-1]
            assert torch.equal(masks, last[0]) and torch.equal(classes, last[1])
            scores = model.semantic(x)
            assert scores.shape == (2, 4, *size)
            other = model(x.to(memory_format=torch.channels_last))
            torch.testing.assert_close(masks, other[0], atol=1e-4, rtol=1e-4)


def test_bfloat16(model):
    with torch.autocast("cpu", torch.bfloat16):
        found = model.train().training_predictions(images(32, 32), 0.0)
        sum(m.float().square().mean() + c.float().square().mean() for m, c in found).backward()
    assert all(m.isfinite().all() and c.isfinite().all() for m, c in found)


def test_on_a_plain_vit_it_gets_a_pyramid():
    small = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "classes": 4, "head": HEAD}
    masks, classes = create.build("vit+mask2former", **small)(images(32, 32))
    assert masks.shape == (2, 5, 16, 16) and classes.shape == (2, 5, 5)


def test_reset_parameters_sets_everything(model):
    states = []
    for before in (torch.nan, 7.0):
        for tensor in model.state_dict().values():
            tensor.fill_(before)
        torch.manual_seed(0)
        model.reset_parameters()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in states[0].items():
        assert tensor.isfinite().all() and torch.equal(tensor, states[1][name]), name
    points = model.head.pixel_decoder.layers[0].attention.offsets.bias.reshape(2, 2, POINTS, 2)
    assert points[0, 0, :, 0].tolist() == [1, 2, 3, 4] and points[1, 1, :, 0].tolist() == [-1, -2, -3, -4]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"head": {"width": 6}}, "convnext+mask2former: width is 6; it must be a multiple of 4 and of heads, 8"),
        ({"head": {"queries": 0}}, "convnext+mask2former: queries is 0; it must be at least 1"),
    ],
)
def test_impossible_ones_are_one_line(config, says):
    with pytest.raises(InputError) as caught:
        create.build("convnext+mask2former", **{**SMALL, **config})
    assert str(caught.value) == says
