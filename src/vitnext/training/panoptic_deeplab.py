"""What Panoptic-DeepLab's heads learn: classes, centres and offsets (Cheng et al. 2020, arXiv:1911.10194, section 3.2).

    L = recipe's loss of the classes + 200 MSE(heat) + 0.1 L1(offsets in pixels)

The heat of an image is 1 at the centre of mass of every thing and falls as a Gaussian around it. Offsets count at the
pixels of things, the heat wherever something is labelled.

Deviations: the centre of a thing that the crop cuts is that of what is left, which is what a window sees in prediction;
the Gaussian's standard deviation is two steps of the finest feature map, the paper's 8 px at its stride of 4; offsets
weigh ten times as much as in the paper, whose objects are ten times as large as those of small images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.data.mask_loaders import SegmentTargets
from vitnext.inference.centers import UNIT
from vitnext.models.segmenter import Segmenter
from vitnext.recipe import Recipe
from vitnext.training.distributed import batch_mean
from vitnext.training.losses import MaskLoss

HEAT, OFFSET = 200.0, 0.1  # weights of the losses; the latter for a pixel
SPREAD = 2.0  # standard deviation of the heat, in steps of the finest feature map


class PanopticDeepLabLoss:
    """(model, images, targets, share of the run) -> loss. things: of each class; weights: as of `MaskLoss`."""

    def __init__(self, recipe: Recipe, things: Sequence[bool], weights: Tensor | None = None) -> None:
        self.of_classes = MaskLoss(recipe, weights)
        self.things = torch.tensor(things)

    def __call__(self, model: nn.Module, images: Tensor, targets: SegmentTargets, done: float) -> Tensor:
        assert isinstance(model, Segmenter)
        out = model(images).float()
        stages: Any = model.neck.stages if model.neck is not None else model.backbone.stages
        return self.of(out, targets, SPREAD * stages[0].stride)

    def of(self, out: Tensor, targets: SegmentTargets, spread: float) -> Tensor:
        """Of the heads' answers (B, classes + 3, H, W); ``spread`` in pixels."""
        classes = targets.classes()
        self.things = self.things.to(classes.device)  # and there they stay
        labelled = targets.ids > 0
        heat, offsets, inside = center_targets(targets, self.things, spread)
        loss = self.of_classes.of(out[:, :-3], classes)
        for weight, off, where in (
            (HEAT, (out[:, -3] - heat) ** 2, labelled),
            (OFFSET, (UNIT * out[:, -2:] - offsets).abs().sum(1), inside),
        ):
            amount = where.sum()
            loss = loss + batch_mean(weight * torch.where(where, off, 0).sum() / amount.clamp(min=1), amount)
        return loss


def center_targets(targets: SegmentTargets, things: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Heat float (B, H, W), offsets to the own centre in pixels (B, 2, H, W), y and x, and where they count, bool
    (B, H, W): at the pixels of things. things: bool for each class."""
    ids, labels = targets.ids, targets.labels
    batch, height, width = ids.shape
    n = labels.shape[1]
    is_thing = F.pad((labels >= 0) & things[labels.clamp(min=0)], (1, 0))  # (B, n + 1), id 0 is void
    slot = ids.flatten(1) + (n + 1) * torch.arange(batch, device=ids.device)[:, None]  # (B, H W)
    y = torch.arange(height, device=ids.device, dtype=torch.float32)
    x = torch.arange(width, device=ids.device, dtype=torch.float32)
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")).flatten(1)  # (2, H W)
    counts = torch.zeros(batch * (n + 1), device=ids.device)
    counts.index_add_(0, slot.flatten(), torch.ones(slot.numel(), device=ids.device))
    sums = torch.zeros(batch * (n + 1), 2, device=ids.device)
    sums.index_add_(0, slot.flatten(), places.t().repeat(batch, 1))
    centers = (sums / counts.clamp(min=1)[:, None]).view(batch, n + 1, 2)
    there = is_thing & (counts.view(batch, n + 1) > 0)
    falls = [torch.exp(-((line - centers[..., i, None]) ** 2) / (2 * spread**2)) for i, line in enumerate((y, x))]
    heat = ids.new_zeros(ids.shape, dtype=torch.float32)
    for i in range(batch):
        # A GPU would have to be waited for to choose those that are there: it computes the others, too.
        chosen = there[i] if ids.device.type == "cpu" else slice(None)
        down, across = (fall[i, chosen] * there[i, chosen][:, None] for fall in falls)  # (things, H), (things, W)
        if len(down):
            heat[i] = (down[:, :, None] * across[:, None]).amax(0)
    own = centers.view(-1, 2)[slot.flatten()].view(batch, height * width, 2)
    offsets = (own.transpose(1, 2) - places).view(batch, 2, height, width)
    return heat, offsets, is_thing.gather(1, ids.flatten(1)).view_as(ids)
