"""The segments of an image from whatever a panoptic network answers: queries, or classes, centres and offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from vitnext.inference import centers, queries
from vitnext.inference.windows import Tiling, bands
from vitnext.models.names import answers_with_queries
from vitnext.preprocess import Preprocess
from vitnext.types import Detections, Segments

Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]  # normalised float32 (B, C, h, w) -> what the network gives


def segment_objects(
    pixels: np.ndarray,
    size: tuple[int, int],
    run: Run,
    architecture: str,
    preprocess: Preprocess,
    things: Sequence[bool],
    *,
    batch: int = 8,
) -> tuple[Segments, Callable[[], Detections] | None]:
    """Segments with scores at the original ``size`` (height, width) of an image; and of queries what gives the things
    for average precision, which are others: `PanopticSegmentation.detections`.

    pixels: as ``preprocess.pixels`` gives them; of queries the whole image in one input, else at the scale at which
    windows are cut from it, ``batch`` at a time; things: of each class.
    """
    if answers_with_queries(architecture):
        masks, classes = run(preprocess.normalize(pixels[None]))
        inner = preprocess.fitted(*size) if preprocess.resize == "fit" else preprocess.image_size
        part = (inner[0] / preprocess.image_size[0], inner[1] / preprocess.image_size[1])
        found = queries.segments(masks[0], classes[0], things, size, part=part)
        return found, partial(queries.detections, masks[0], classes[0], things, size, part=part)
    tiling = Tiling(lambda images: run(images)[0], preprocess.normalize, preprocess.image_size, batch, centers.activate)
    found = centers.segments(bands(pixels, tiling), pixels.shape[:2], things)
    return found if found.ids.shape == size else _resized(found, size), None


def _resized(found: Segments, size: tuple[int, int]) -> Segments:
    """At another size; what has no pixel left is left out."""
    assert found.scores is not None
    ids = np.asarray(Image.fromarray(found.ids).resize(size[::-1], Image.Resampling.NEAREST))
    left = np.zeros(len(found.labels) + 1, bool)
    left[ids.ravel()] = True
    left = left[1:]
    numbers = np.concatenate([[0], np.where(left, left.cumsum(), 0)]).astype(np.int32)
    return Segments(numbers[ids], found.labels[left], found.crowd[left], found.scores[left])
