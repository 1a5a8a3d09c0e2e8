"""Pairs of training images mixed into one, their labels with them: mixup and CutMix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vitnext.recipe import Augment


class Mixing:
    """float (B, C, H, W) and labels int64 (B,) -> the same shape, and targets float (B, classes) whose rows have the
    sum 1; of several labels an image, uint8 (B, classes), the share of 1 of each of them.

    Each image is mixed with the one before it, all of a batch with one lambda ~ Beta(alpha, alpha), alpha being
    ``recipe.mixup`` or ``recipe.cutmix``; with both, half of the batches get each. Draws from torch's generator of the
    CPU, which the caller seeds for each step, so that the draws are the same on every device.
    """

    def __init__(self, recipe: Augment, classes: int) -> None:
        self.mixup, self.cutmix, self.classes = recipe.mixup, recipe.cutmix, classes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        targets = (labels if labels.ndim == 2 else F.one_hot(labels, self.classes)).float()
        cut = bool(self.cutmix) and (not self.mixup or bool(torch.rand(()) < 0.5))
        alpha = self.cutmix if cut else self.mixup
        share = float(torch.distributions.Beta(alpha, alpha).sample())  # lambda: what is left of the image itself
        others = images.roll(1, 0)
        if cut:
            top, bottom, left, right = box(images.shape[2], images.shape[3], share)
            images = images.clone()
            images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
        else:
            images = images.lerp(others, 1 - share)  # Zhang et al. 2018, section 2
        return images, targets.lerp(targets.roll(1, 0), 1 - share)


def box(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle of 1 - ``share`` of the area, its centre anywhere in the image, cut
    off where it leaves the image (Yun et al. 2019, eq. 2)."""
    y, x = (float(place) for place in torch.rand(2))

    def sides(length: int, place: float) -> tuple[int, int]:
        centre, half = int(place * length), length * (1 - share) ** 0.5 / 2
        return max(0, round(centre - half)), min(length, round(centre + half))

    return *sides(height, y), *sides(width, x)
