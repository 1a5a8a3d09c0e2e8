"""From an image to the model's input. Training, evaluation, export checks and the server all come through here,
so what was measured is what is served. How each kind of image becomes pixels is stated in ``decode.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from PIL import Image

from vitnext.decode import MAX_PIXELS as MAX_PIXELS
from vitnext.decode import Source as Source
from vitnext.decode import decode, name_of, to_array
from vitnext.decode import open_image as open_image
from vitnext.errors import ImageError, InputError
from vitnext.wording import counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
CHANNELS = {"RGB": 3, "L": 1}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input; stored whole in the artifact's card.

    image_size:    (height, width) of the input
    resize:        "stretch" resizes to ``image_size``; "crop" keeps the aspect: resizes until the image just covers
                   ``round(image_size / crop_fraction)`` (a square: its short side), then cuts the centre;
                   "window" keeps the whole image with its aspect, of which a segmenter sees ``image_size`` at a time;
                   "fit" resizes until the whole image just fits into ``image_size``, at the top left, black elsewhere
    short_side:    of "window": a longer short side is made smaller to it; 0: every image keeps its size
    interpolation: of the resize, antialiased (Pillow); "nearest" is not antialiased
    color:         "RGB" (3 channels) or "L" (1)
    scale, mean, std: (pixel * scale - mean) / std, mean and std per channel
    exif:          apply the EXIF orientation

    Raises InputError for values that make no sense.
    """

    image_size: tuple[int, int]
    resize: Literal["stretch", "crop", "window", "fit"] = "stretch"
    crop_fraction: float = 1.0
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear"
    color: Literal["RGB", "L"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    exif: bool = True
    short_side: int = 0

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "image_size", tuple(int(side) for side in self.image_size))
            object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
            object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preprocess: image_size, mean and std must be lists of numbers ({error})") from error
        size: tuple[int, ...] = self.image_size
        channels = CHANNELS.get(self.color, 0)
        rules = {  # checked, because a card may come from anywhere
            "image_size": (
                len(size) == 2 and min(size) >= 1 and size[0] * size[1] <= MAX_PIXELS,
                "(height, width), each at least 1",
            ),
            "resize": (self.resize in ("stretch", "crop", "window", "fit"), "'stretch', 'crop', 'window' or 'fit'"),
            "short_side": (
                0 <= self.short_side <= MAX_PIXELS * (self.resize == "window"),
                "0, or above 0 with resize 'window'",
            ),
            "crop_fraction": (
                0 < self.crop_fraction <= 1 and (self.resize == "crop" or self.crop_fraction == 1),
                "above 0, at most 1, and exactly 1 unless resize is 'crop'",
            ),
            "interpolation": (self.interpolation in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}"),
            "color": (channels > 0, "'RGB' or 'L'"),
            "scale": (0 < self.scale < np.inf, "above 0"),
            "mean": (len(self.mean) == channels and np.all(np.isfinite(self.mean)), counted(channels, "number")),
            "std": (len(self.std) == channels and all(0 < s < np.inf for s in self.std), f"{channels} above 0"),
        }
        for field, (holds, must) in rules.items():
            if not holds:
                raise InputError(f"preprocess.{field} must be {must}, not {getattr(self, field)!r}")

    @property
    def channels(self) -> int:
        return CHANNELS[self.color]

    def pixels(self, source: Source) -> np.ndarray:
        """Decode and bring to size: uint8 (H, W, C), values 0..255. Raises ImageError as ``open_image`` does.

        H and W are ``image_size``, or with "window" what ``scaled`` gives. An image of the right size passes unchanged.
        """
        image = decode(source, self.color, self.exif)
        height, width = self.image_size
        resample = INTERPOLATIONS[self.interpolation]
        try:
            if self.resize == "window":
                height, width = self.scaled(image.height, image.width)
                whole = (width, height) == image.size
                return to_array(image if whole else image.resize((width, height), resample))
            if self.resize == "stretch":
                return to_array(image.resize((width, height), resample))
            if self.resize == "fit":
                inner = self.fitted(image.height, image.width)[::-1]
                canvas = Image.new(image.mode, (width, height))
                canvas.paste(image.resize(inner, resample))
                return to_array(canvas)
            cover = _cover(image.size, (round(width / self.crop_fraction), round(height / self.crop_fraction)))
            if cover[0] * cover[1] > MAX_PIXELS:
                raise ImageError(f"{name_of(source)}: {image.width}x{image.height} pixels is too elongated to crop")
            image = image.resize(cover, resample)
        except MemoryError as error:
            raise ImageError(f"{name_of(source)}: not enough memory to resize it") from error
        left, top = round((cover[0] - width) / 2), round((cover[1] - height) / 2)
        return to_array(image.crop((left, top, left + width, top + height)))

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which a segmenter sees an image of this size; of "window" with ``short_side`` 0 its own,
        of "fit" as ``fitted``."""
        if self.resize == "fit":
            return self.fitted(height, width)
        scale = min(1.0, self.short_side / min(height, width)) if self.short_side else 1.0
        return max(1, round(height * scale)), max(1, round(width * scale))

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of this size has inside of ``image_size`` with "fit"."""
        scale = min(self.image_size[0] / height, self.image_size[1] / width)
        return (
            min(self.image_size[0], max(1, round(height * scale))),
            min(self.image_size[1], max(1, round(width * scale))),
        )

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (..., H, W, C) -> float32 (..., C, H, W): (pixel * scale - mean) / std.

        Three float32 operations in this order, each rounded once, so that the same three in torch give the same bits.
        """
        values = np.array(np.moveaxis(pixels, -1, -3), dtype=np.float32, order="C")
        values *= np.float32(self.scale)
        values -= np.asarray(self.mean, np.float32)[:, None, None]
        values /= np.asarray(self.std, np.float32)[:, None, None]
        return values

    def __call__(self, source: Source) -> np.ndarray:
        """One image to the model's input, float32 (C, H, W). Raises ImageError as ``open_image`` does."""
        return self.normalize(self.pixels(source))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` gives the same Preprocess back, to the last bit."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Raises InputError for unknown or missing keys and for values that make no sense."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"preprocess: unknown keys: {', '.join(sorted(unknown))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"preprocess: {error}") from error


def _cover(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """(width, height) scaled with its aspect kept so that it just covers ``target``; the long side is cut to an integer
    as torchvision's Resize does, so that published weights see the pixels they were measured with."""
    (width, height), (target_width, target_height) = size, target
    if width * target_height <= height * target_width:
        return target_width, max(target_height, int(target_width * height / width))
    return max(target_width, int(target_height * width / height)), target_height
