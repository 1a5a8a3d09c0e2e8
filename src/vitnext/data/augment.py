"""Random changes to training images. Two paths, one recipe:

* ``BatchAugment`` shifts, flips and erases a whole uint8 batch of small equal-sized images at once (digits, garments):
  one gather instead of a Python call an image;
* ``image_augment`` is a torchvision.transforms.v2 pipeline for photographs, one image at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms import v2

from vitnext.recipe import Augment


def works_on_batches(recipe: Augment) -> bool:
    """Whether ``BatchAugment`` does all that the recipe asks for."""
    alone = ("crop_scale", "color_jitter", "trivial_augment", "rand_augment")
    return all(getattr(recipe, name) == getattr(Augment(), name) for name in alone)


class BatchAugment:
    """Shift with edge padding, horizontal flip and random erasing, each drawn separately for every image.

    Maps uint8 (B, C, H, W) to the same shape. Raises ValueError for a recipe that asks for what only
    ``image_augment`` does.
    """

    def __init__(self, recipe: Augment) -> None:
        if not works_on_batches(recipe):
            raise ValueError("crop_scale, color_jitter, trivial_augment and rand_augment need image_augment")
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


def image_augment(recipe: Augment, image_size: int, *, stretch: bool = False) -> v2.Compose:
    """uint8 (C, H, W) of any size -> uint8 (C, image_size, image_size), by torchvision's transforms.

    Without random crops (``crop_scale`` 1) whole images are stretched if ``stretch``, as ``Preprocess`` stretches them.
    Draws from torch's global generator; the caller seeds it for each image.
    """
    size = (image_size, image_size)
    steps: list[torch.nn.Module] = []
    if recipe.crop_scale == (1.0, 1.0) and stretch:
        steps.append(v2.Resize(size, antialias=True))
    elif recipe.crop_scale == (1.0, 1.0):
        steps += [v2.Resize(image_size, antialias=True), v2.RandomCrop(size)]
    else:
        steps.append(v2.RandomResizedCrop(size, scale=recipe.crop_scale, antialias=True))
    if recipe.crop_padding:
        steps.append(v2.RandomCrop(size, padding=recipe.crop_padding, padding_mode="edge"))
    if recipe.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(recipe.horizontal_flip))
    if recipe.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    if recipe.rand_augment[0]:
        steps.append(RandAugment(*recipe.rand_augment))
    if recipe.color_jitter:
        strength = recipe.color_jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    if recipe.erasing:
        steps.append(v2.RandomErasing(recipe.erasing, value=0))
    return v2.Compose(steps)
