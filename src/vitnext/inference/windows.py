"""Segment an image of any size window by window: overlapping windows are blended, memory is bounded.

Each window's probabilities are weighted with a hill that falls towards its edges, where a network sees the least around
a pixel, and averaged with its neighbours'. Windows are worked through row by row of windows; what no later row touches
is handed on, so that no more than one row of probabilities is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitnext.decode import STRIP
from vitnext.inference.activations import softmax

AT_ONCE = 1 << 19  # pixels of the windows that the network sees at a time
OVERLAP = 0.25  # of neighbouring windows, at least
SCALES = (0.75, 1.0, 1.25)  # of the image, in test-time augmentation


@dataclass(frozen=True)
class Tiling:
    """How a network sees an image of any size.

    run:       normalised windows, float32 (B, C, h, w) -> what it answers, float32 (B, classes, h, w)
    normalize: uint8 (B, h, w, C) -> float32 (B, C, h, w)
    window:    its (height, width)
    batch:     windows that it sees at once, at most
    activate:  makes of its answers what is averaged where windows overlap
    """

    run: Callable[[np.ndarray], np.ndarray]
    normalize: Callable[[np.ndarray], np.ndarray]
    window: tuple[int, int]
    batch: int = 8
    activate: Callable[[np.ndarray], np.ndarray] = softmax

    def answers(self, tiles: list[np.ndarray]) -> Iterator[np.ndarray]:
        """What is averaged, float32 (classes, h, w) of each tile uint8 (h, w, C), in order."""
        batch = max(1, min(self.batch, AT_ONCE // (self.window[0] * self.window[1])))
        for first in range(0, len(tiles), batch):
            yield from self.activate(self.run(self.normalize(np.stack(tiles[first : first + batch]))))


def starts(length: int, window: int) -> list[int]:
    """Where windows begin so that they cover ``length`` evenly, overlapping by OVERLAP at least."""
    if length <= window:
        return [0]
    step = max(1, int(window * (1 - OVERLAP)))
    count = -(-(length - window) // step) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def bands(pixels: np.ndarray, tiling: Tiling) -> Iterator[tuple[int, np.ndarray]]:
    """Probabilities of the image uint8 (H, W, C), from top to bottom: (first row, float32 (classes, rows, W)).

    An image smaller than the window is filled up with black, as training fills its crops.
    """
    height, width = pixels.shape[:2]
    h, w = tiling.window
    rows, columns = starts(height, h), starts(width, w)
    if len(rows) == len(columns) == 1:  # nothing to blend
        [only] = tiling.answers([cut(pixels, 0, 0, tiling.window)])
        yield 0, only[:, :height, :width]
        return
    hill = np.minimum.outer(_ramp(h), _ramp(w))
    total = weight = None
    for number, top in enumerate(rows):
        answers = tiling.answers([cut(pixels, top, left, tiling.window) for left in columns])
        for left, answer in zip(columns, answers, strict=True):
            if total is None or weight is None:
                total = np.zeros((len(answer), h, width), np.float32)
                weight = np.zeros((h, width), np.float32)
            seen = min(w, width - left)
            total[:, :, left : left + seen] += (answer * hill)[:, :, :seen]
            weight[:, left : left + seen] += hill[:, :seen]
        assert total is not None and weight is not None
        last = number == len(rows) - 1
        done = min(h, height - top) if last else rows[number + 1] - top
        strip = max(1, STRIP // (len(total) * width))  # rows, so that what is handed on is small beside what is held
        for first in range(0, done, strip):
            part = slice(first, min(first + strip, done))
            yield top + first, total[:, part] / weight[part]
        for rows_left in (total, weight[None]):  # moved up in place: a second row of windows could be too much
            rows_left[:, : h - done] = rows_left[:, done:]
            rows_left[:, h - done :] = 0


def augmented(pixels: np.ndarray, tiling: Tiling) -> Iterator[tuple[int, np.ndarray]]:
    """As `bands`, the mean over SCALES of the image, and over the image and its mirror image at each.

    Answers at other scales are interpolated as far as they have come, so that of each scale about one row of windows is
    held, and the image's pixels. The answer to an image's mirror image is the mirror image of its answer, bit for bit.
    """

    def mean(image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        height, width = image.shape[:2]
        others = []
        for scale in SCALES:
            if scale != 1:
                small = scaled(image, (max(1, round(height * scale)), max(1, round(width * scale))))
                others.append(_resampled(bands(small, tiling), small.shape[:2], (height, width)))
        for top, band in bands(image, tiling):
            total = band.copy()
            for rows in others:
                total += rows(top, top + band.shape[1])
            yield top, total / len(SCALES)

    for (top, one), (_, other) in zip(mean(pixels), mean(pixels[:, ::-1]), strict=True):
        yield top, (one + other[..., ::-1]) / 2


def scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, C) -> uint8 (height, width, C), bilinear with antialiasing."""
    planes = [
        np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))
        for plane in np.moveaxis(pixels, -1, 0)
    ]
    return np.stack(planes, axis=-1)


def _resampled(
    answers: Iterator[tuple[int, np.ndarray]], small: tuple[int, int], size: tuple[int, int]
) -> Callable[[int, int], np.ndarray]:
    """Of bands of an image of the size ``small`` what gives rows first to last (excluded) at another ``size``,
    bilinear, float32 (classes, rows, W); asked for from top to bottom. Rows no longer needed are let go."""
    left, right, column_share = _between(np.arange(size[1]), small[1], size[1])
    held, start = next(answers)[1], 0

    def rows(first: int, last: int) -> np.ndarray:
        nonlocal held, start
        above, below, share = _between(np.arange(first, last), small[0], size[0])
        while start + held.shape[1] <= below[-1]:
            held = np.concatenate([held, next(answers)[1]], axis=1)
        held, start = held[:, above[0] - start :], int(above[0])
        row_share = share[:, None]
        part = held[:, above - start] * (1 - row_share) + held[:, below - start] * row_share
        found: np.ndarray = part[..., left] * (1 - column_share) + part[..., right] * column_share
        return found

    return rows


def _between(places: np.ndarray, small: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pixels in a row of ``length`` the two pixels in one of ``small`` that they lie between, and the second's
    share, float32."""
    position = ((places + 0.5) * small / length - 0.5).clip(0, small - 1)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, small - 1), (position - low).astype(np.float32)


def segment(
    pixels: np.ndarray, size: tuple[int, int], tiling: Tiling, *, tta: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Most probable class uint8 (H, W) and its probability, as a share of 255, uint8 (H, W), at the original ``size``.

    ``pixels`` are the image at the scale at which the network sees it; if that is another than ``size``, probabilities
    are interpolated, not classes. tta: `augmented` instead of `bands`.
    """
    answers = (augmented if tta else bands)(pixels, tiling)
    classes, sure = np.empty(size, np.uint8), np.empty(size, np.uint8)
    if pixels.shape[:2] == size:
        for top, band in answers:
            place = slice(top, top + band.shape[1])
            classes[place] = band.argmax(0)
            sure[place] = np.rint(band.max(0) * 255)
        return classes, sure
    small = np.concatenate([band.astype(np.float16) for _, band in answers], axis=1)
    height, width = size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):  # a float32 for each pixel of a large image, several times, would be too much
        place = slice(top, min(top + rows, height))
        box = (0, top * small.shape[1] / height, small.shape[2], place.stop * small.shape[1] / height)
        best = np.full((place.stop - top, width), -1.0, np.float32)
        for index, plane in enumerate(small):
            image = Image.fromarray(plane.astype(np.float32))
            scores = np.asarray(image.resize(best.shape[::-1], Image.Resampling.BILINEAR, box))
            better = scores > best
            classes[place][better] = index
            np.maximum(best, scores, out=best)
        sure[place] = np.rint(best.clip(0, 1) * 255)
    return classes, sure


def cut(pixels: np.ndarray, top: int, left: int, window: tuple[int, int]) -> np.ndarray:
    """The window uint8 (h, w, C) of (H, W, C), filled up with black at the right and the bottom."""
    part = pixels[top : top + window[0], left : left + window[1]]
    missing = [(0, full - there) for full, there in zip(window, part.shape[:2], strict=True)]
    return np.pad(part, [*missing, (0, 0)]) if any(m for _, m in missing) else part


def _ramp(length: int) -> np.ndarray:
    """float32 (length,): rises from the edges to 1 over the overlap, above 0 everywhere."""
    from_edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1.0
    return np.minimum(1.0, from_edge / max(1.0, length * OVERLAP)).astype(np.float32)
