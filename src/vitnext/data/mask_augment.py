"""Random changes to a training image and its mask together: scale, crop, turn, mirror; colours of the image alone.

The crop is cut out of the image at its own size and resized once, the image with antialiasing, the mask to the nearest
pixel, so that no mask ever holds a value that was not there; turning comes after it, in the same way. What lies beyond
the image is void. From an image that has labels no crop of nothing but void is cut.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from vitnext.data.mask_values import VOID
from vitnext.recipe import Augment

TRIES = 10
EVERY = 7  # one pixel in so many is looked at
LARGEST_SHARE = 0.75  # of the labelled pixels that one class may take, as in mmsegmentation's recipes: else try again


class MaskAugment:
    """uint8 (C, H, W) and a mask of classes, uint8 (H, W), of any size -> uint8 (C, S, S) and int64 (S, S); with ids of
    segments, int32 (H, W), these too, as int64 (S, S), 0 beyond the image. Draws from torch's generator.

    recipe.scale is the range of enlargement, relative to the image's own size, drawn evenly in its logarithm;
    recipe.aspect that of height to width, and recipe.rotation the largest angle, in degrees.
    """

    def __init__(self, recipe: Augment, size: int) -> None:
        self.recipe, self.size = recipe, size
        strength = recipe.color_jitter
        self.colors = v2.ColorJitter(strength, strength, strength) if strength else None

    def __call__(self, image: Tensor, mask: Tensor, ids: Tensor | None = None) -> tuple[Tensor, ...]:
        top, left, side = self._choose(mask)
        turn = self._turn()
        # More is cut out where the crop is turned, so that what comes into its corners is there.
        more = 0 if turn is None else math.ceil(side * (float(turn.abs().sum(1).max()) - 1) / 2)
        top, left, side, size = top - more, left - more, side + 2 * more, round(self.size * (1 + 2 * more / side))
        image = self._cut(image, top, left, side, 0)
        planes = [(mask, VOID)] if ids is None else [(mask, VOID), (ids, 0)]
        cut = [self._cut(plane[None], top, left, side, fill) for plane, fill in planes]
        if side != size:
            nearest = T.InterpolationMode.NEAREST_EXACT
            image = T.resize(image, [size, size], antialias=True)
            cut = [T.resize(plane, [size, size], interpolation=nearest) for plane in cut]
        if turn is not None:
            if (self._turned(cut[0], turn, "nearest") == VOID).all():
                turn = torch.eye(2)  # the only labels were in a corner
            image = self._turned(image, turn, "bilinear")
            cut = [self._turned(plane, turn, "nearest") for plane in cut]
        if self.recipe.horizontal_flip and torch.rand(()) < self.recipe.horizontal_flip:
            image, cut = image.flip(-1), [plane.flip(-1) for plane in cut]
        if self.colors is not None:
            image = self.colors(image)
        return image.contiguous(), *(plane[0].long() for plane in cut)

    def _turn(self) -> Tensor | None:
        """Where in the image, from the crop's centre, a place (x, y) of the crop lies: (2, 2); None: where it was."""
        angle = (
            math.radians(self.recipe.rotation) * float(torch.empty(()).uniform_(-1, 1)) if self.recipe.rotation else 0.0
        )
        low, high = (math.log(bound) for bound in self.recipe.aspect)
        aspect = math.exp(float(torch.empty(()).uniform_(low, high))) if low < high else self.recipe.aspect[0]
        if angle == 0 and aspect == 1:
            return None
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return turn @ torch.tensor([[aspect**0.5, 0.0], [0.0, aspect**-0.5]])

    def _turned(self, planes: Tensor, turn: Tensor, mode: str) -> Tensor:
        """The centre of (C, L, L), size x size pixels of it, turned; float32 holds all ids below 2^24."""
        theta = torch.cat([turn * (self.size / planes.shape[-1]), torch.zeros(2, 1)], dim=1)[None]
        places = F.affine_grid(theta, [1, 1, self.size, self.size], align_corners=False)
        turned = F.grid_sample(planes[None].float(), places, mode=mode, padding_mode="border", align_corners=False)[0]
        return turned.round_().to(planes.dtype)

    def _choose(self, mask: Tensor) -> tuple[int, int, int]:
        """The first of ten places that no class fills, else the first with a label, else one on a labelled pixel."""
        labelled = None
        for _ in range(TRIES):
            top, left, side = place = self._place(*mask.shape)
            window = mask[max(top, 0) : top + side, max(left, 0) : left + side]
            counts = torch.bincount(window.reshape(-1)[::EVERY].long(), minlength=VOID + 1)[:VOID]
            if counts.sum() > 0 and counts.max() <= LARGEST_SHARE * counts.sum():
                return place
            labelled = place if labelled is None and counts.sum() > 0 else labelled
        pixels = (mask != VOID).nonzero() if labelled is None else mask.new_zeros(0)
        if not len(pixels):
            return labelled or place
        y, x = (int(i) for i in pixels[torch.randint(len(pixels), ())])

        def around(start: int, pixel: int, length: int) -> int:
            """The nearest start at which a crop holds the pixel; one that holds the whole length holds it already."""
            return start if side >= length else min(max(start, pixel - side + 1), pixel)

        return around(top, y, mask.shape[0]), around(left, x, mask.shape[1]), side

    def _place(self, height: int, width: int) -> tuple[int, int, int]:
        """Top, left and side of a square of the image that becomes the crop; beyond the image only where it must be."""
        low, high = (float(np.log(bound)) for bound in self.recipe.scale)
        side = max(1, round(self.size / float(torch.empty(()).uniform_(low, high).exp())))

        def start(length: int) -> int:
            free = length - side
            low, high = min(0, free), max(0, free)
            return int(torch.randint(low, high + 1, ()))

        return start(height), start(width), side

    @staticmethod
    def _cut(planes: Tensor, top: int, left: int, side: int, fill: int) -> Tensor:
        """The square of (C, H, W), filled up where it leaves the image."""
        inner = planes[:, max(top, 0) : top + side, max(left, 0) : left + side]
        if inner.shape[1:] == (side, side):
            return inner
        y, x = max(-top, 0), max(-left, 0)
        padding = [x, y, side - x - inner.shape[2], side - y - inner.shape[1]]  # left, top, right, bottom
        return T.pad(inner, padding, fill=fill)
