"""Random changes to training images. Two paths, one recipe:

* ``BatchAugment`` shifts, flips and erases a whole uint8 batch of small equal-sized images at once (digits, garments):
  one gather instead of a Python call an image;
* ``ImageAugment`` changes photographs, one at a time, mostly by torchvision's transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from vitnext.recipe import Augment

WHOLE = (1.0, 1.0)  # of crop_scale: no crops


def works_on_batches(recipe: Augment) -> bool:
    """Whether ``BatchAugment`` does all that the recipe asks for."""
    alone = ("crop_scale", "color_jitter", "trivial_augment", "rand_augment")
    return all(getattr(recipe, name) == getattr(Augment(), name) for name in alone)


class BatchAugment:
    """Shift with edge padding, horizontal flip and random erasing, each drawn separately for every image.

    Maps uint8 (B, C, H, W) to the same shape. Raises ValueError for a recipe that asks for what only
    ``ImageAugment`` does.
    """

    def __init__(self, recipe: Augment) -> None:
        if not works_on_batches(recipe):
            raise ValueError("crop_scale, color_jitter, trivial_augment and rand_augment need ImageAugment")
        self.recipe = recipe

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        rows = torch.arange(height).expand(batch, height)
        columns = torch.arange(width).expand(batch, width)
        pad = self.recipe.crop_padding
        if pad:
            shift = torch.randint(-pad, pad + 1, (2, batch, 1), generator=generator)
            rows, columns = (rows + shift[0]).clamp(0, height - 1), (columns + shift[1]).clamp(0, width - 1)
        if self.recipe.horizontal_flip:
            flip = torch.rand(batch, 1, generator=generator) < self.recipe.horizontal_flip
            columns = torch.where(flip, columns.flip(1), columns)
        # out[b, c, y, x] = images[b, c, rows[b, y], columns[b, x]]
        index = torch.arange(batch)[:, None, None]
        images = images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return self._erase(images, generator) if self.recipe.erasing else images.contiguous()

    def _erase(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Blank one rectangle of 2-33% of the area, aspect 0.3-3.3 (Zhong et al. 2020, section 3), with noise."""
        batch, _, height, width = images.shape
        area, aspect, top, left, chance = torch.rand(5, batch, generator=generator)
        area = (0.02 + 0.31 * area) * height * width
        aspect = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect)
        h = (area * aspect).sqrt().round().clamp(1, height).long()
        w = (area / aspect).sqrt().round().clamp(1, width).long()
        y, x = (top * (height - h + 1)).long(), (left * (width - w + 1)).long()
        row, column = torch.arange(height), torch.arange(width)
        inside_rows = (row >= y[:, None]) & (row < (y + h)[:, None])  # (B, H)
        inside_columns = (column >= x[:, None]) & (column < (x + w)[:, None])  # (B, W)
        mask = inside_rows[:, :, None] & inside_columns[:, None, :] & (chance < self.recipe.erasing)[:, None, None]
        noise = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
        return torch.where(mask[:, None], noise, images)


class RandAugment(torch.nn.Module):
    """Two random operations, one after the other (Cubuk et al. 2020), each of a magnitude from a normal distribution.

    ``magnitude`` and ``deviation`` are on the scale of the authors' code, whose strongest is 10; torchvision's is 30.
    """

    def __init__(self, magnitude: float, deviation: float) -> None:
        super().__init__()
        self.magnitude, self.deviation = magnitude, deviation
        self.operations = [v2.RandAugment(num_ops=1, magnitude=level) for level in range(31)]

    def forward(self, image: Tensor) -> Tensor:
        for noise in torch.randn(2):
            level = round(3 * (self.magnitude + self.deviation * float(noise)))
            image = self.operations[min(max(level, 0), 30)](image)
        return image


Box = tuple[int, int, int, int]  # top, left, height, width


class ImageAugment:
    """uint8 (C, H, W) of any size -> uint8 (C, image_size, image_size), in two steps, so that no more need be decoded
    than is looked at: ``box`` draws the part of the image that is kept, ``finish`` resizes it and changes it.

    Without random crops (``crop_scale`` 1) all is kept, and whole images are stretched if ``stretch``, as
    ``Preprocess`` stretches them. Draws from torch's global generator; the caller seeds it for each image.
    """

    def __init__(self, recipe: Augment, image_size: int, *, stretch: bool = False) -> None:
        size = (image_size, image_size)
        self.crop_scale, self.horizontal_flip, self.side = recipe.crop_scale, recipe.horizontal_flip, image_size
        self.keeps_shape = recipe.crop_scale == WHOLE and not stretch
        steps: list[Callable[[Tensor], Tensor]] = []
        if self.keeps_shape:
            steps.append(v2.RandomCrop(size))
        if recipe.crop_padding:
            steps.append(v2.RandomCrop(size, padding=recipe.crop_padding, padding_mode="edge"))
        if recipe.trivial_augment:
            steps.append(v2.TrivialAugmentWide())
        if recipe.rand_augment[0]:
            steps.append(RandAugment(*recipe.rand_augment))
        if recipe.color_jitter:
            strength = recipe.color_jitter
            steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
        if recipe.erasing:
            steps.append(v2.RandomErasing(recipe.erasing, value=0))
        self.changes = steps

    def box(self, height: int, width: int) -> Box:
        """What is kept of an image of this size."""
        return (0, 0, height, width) if self.crop_scale == WHOLE else random_box(height, width, self.crop_scale)

    def finish(self, part: Tensor) -> Tensor:
        """The part that was kept, at any scale, resized and changed."""
        height, width = part.shape[-2:]
        short = min(height, width) if self.keeps_shape else 0
        size = [self.side * side // short for side in (height, width)] if short else [self.side, self.side]
        # Channels last, which are resized twice as fast, with the batch's stride that tells torch so.
        image = part.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
        flipped = self.horizontal_flip > 0 and torch.rand(1).item() < self.horizontal_flip
        enlarged = height * width < self.side**2
        if flipped and enlarged:  # before or after resizing is the same: there, where there are fewer pixels
            image = image.flip(-1)
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True)[0]
        if flipped and not enlarged:
            image = image.flip(-1)
        for change in self.changes:
            image = change(image)
        return image

    def __call__(self, image: Tensor) -> Tensor:
        top, left, height, width = self.box(*image.shape[-2:])
        return self.finish(image[..., top : top + height, left : left + width])


def random_box(height: int, width: int, scale: tuple[float, float]) -> Box:
    """A part with a share of the area from ``scale`` and an aspect from 3/4 to 4/3, drawn as "inception-style" crops
    are (Szegedy et al. 2015, section 6): its share evenly, its aspect evenly in the logarithm, its place evenly.

    After ten draws that do not fit inside it is the largest such part, in the middle. torchvision's RandomResizedCrop
    draws from the same distribution, in four times the time, by a tensor for each number.
    """
    for _ in range(10):
        share, log_aspect, y, x = torch.rand(4).tolist()
        area = (scale[0] + (scale[1] - scale[0]) * share) * height * width
        aspect = (4 / 3) ** (2 * log_aspect - 1)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w
