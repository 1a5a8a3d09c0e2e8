"""EoMT on every plain ViT: what masks do, what learns, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.models import eomt

SMALL = {"patch_size": 16, "dim": 16, "depth": 3, "heads": 2, "classes": 4, "queries": 6, "blocks": 2}
PLAIN = pytest.mark.parametrize("family", eomt.PLAIN)


@pytest.fixture
def build(randomise):
    def build(family, **more):
        size = {} if family == "dinov3" else {"image_size": 32}
        return randomise(eomt.build(f"{family}+eomt", **SMALL | size | more), std=0.4).eval()

    return build


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@PLAIN
def test_every_parameter_learns(build, family):
    model = build(family).train()
    found = model.predictions(images(), masked=[0.5, 0.5])
    assert [(m.shape, c.shape) for m, c in found] == [((2, 6, 8, 8), (2, 6, 5))] * 3
    sum(m.square().mean() + c.square().mean() for m, c in found).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@PLAIN
def test_no_probability_is_no_mask(build, family):
    model, differ = build(family), []
    with torch.no_grad():
        for _ in range(2):  # the second time what was inside of a mask is outside: one of them hides something
            plain, free, masked = (model.predictions(images(), masked=p)[-1][0] for p in ((), (0.0, 0.0), (1.0, 1.0)))
            torch.testing.assert_close(plain, free)
            differ.append(not torch.allclose(plain, masked))
            model.mask[-1].weight.neg_(), model.mask[-1].bias.neg_()
    assert any(differ)


def test_a_masked_query_sees_the_patches_of_its_mask_alone(build):
    model = build("vit")
    masks = torch.randn(2, 6, 8, 8)
    may = model._may_attend(masks, 6 + 1 + 4, 2, 2, 1.0)
    inside = F.interpolate(masks, size=(2, 2), mode="bilinear", align_corners=False).flatten(2) > 0
    assert torch.equal(may[:, :6, -4:], inside)
    assert may[:, :, :7].all() and may[:, 6:].all()
    torch.manual_seed(0)
    half = model._may_attend(torch.full((64, 6, 8, 8), -1.0), 11, 2, 2, 0.5)[:, :6, -4:]
    assert torch.equal(half.any(dim=-1), half.all(dim=-1)) and 0.4 < half.float().mean() < 0.6


def test_images_of_any_shape_on_dinov3(build):
    masks, classes = build("dinov3")(torch.randn(1, 3, 32, 64))
    assert masks.shape == (1, 6, 8, 16) and classes.shape == (1, 6, 5)


@pytest.mark.parametrize("family", ["vit", "deit3", "dinov2"])
def test_images_that_are_no_squares_on_learned_positions(build, family):
    model = build(family, image_size=(32, 64))
    masks, classes = model(torch.randn(1, 3, 32, 64))
    assert masks.shape == (1, 6, 8, 16) and classes.shape == (1, 6, 5)
    with pytest.raises(ValueError, match="the model was built for 32 x 64 px"):
        model(torch.randn(1, 3, 64, 32))


def test_semantic_scores_are_sums_over_queries(build):
    model = build("dinov2")
    with torch.no_grad():
        masks, classes = model(images())
        found = model.semantic(images())
    masks = F.interpolate(masks, size=(32, 32), mode="bilinear", align_corners=False).sigmoid()
    expected = torch.zeros(2, 4, 32, 32)
    for query in range(6):
        expected += classes[:, query].softmax(-1)[:, :4, None, None] * masks[:, query, None]
    torch.testing.assert_close(found, expected)


@PLAIN
def test_reset_parameters_sets_everything(build, family):
    model, states = build(family), []
    for before in (torch.nan, 7.0):
        for tensor in model.state_dict().values():
            tensor.fill_(before)
        torch.manual_seed(0)
        model.reset_parameters()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in states[0].items():
        assert tensor.isfinite().all() and torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("swin_tiny+eomt", {}, "swin_tiny+eomt: EoMT is for plain ViTs (vit, deit3, dinov2, dinov3), swin is none"),
        ("vit_small+eomt", {"blocks": 13}, "vit_small+eomt: blocks is 13; the backbone has 12"),
        ("vit_small+eomt", {"queries": 0}, "vit_small+eomt: queries is 0; it must be at least 1"),
        ("vit_smal+eomt", {}, 'there is no model "vit_smal": did you mean vit_small?'),
    ],
)
def test_impossible_ones_are_one_line(name, config, message):
    with pytest.raises(InputError) as caught:
        eomt.build(name, **config)
    assert str(caught.value) == message
