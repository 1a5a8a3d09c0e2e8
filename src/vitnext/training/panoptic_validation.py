"""Panoptic quality on held-out images after each epoch, of the segments that prediction would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from vitnext.data.mask_folder import MaskSplit
from vitnext.decode import open_image
from vitnext.inference.panoptic import segment_objects
from vitnext.preprocess import Preprocess
from vitnext.training import distributed
from vitnext.training.hardware import Precision
from vitnext.training.loop import Metrics
from vitnext.types import Segments


class Quality(Protocol):
    """Counts images one at a time, and adds what another has counted: `vitnext.evaluation.panoptic.PanopticQuality`."""

    def update(self, truth: Segments, prediction: Segments) -> Any: ...

    def add(self, other: Any) -> None: ...

    def result(self) -> dict[str, Any]: ...


class PanopticValidator:
    """Called with a model in evaluation mode and the run's precision; images are measured at their original size.

    There is no loss of whole images, which windows and matching would make another one than the training's. "objects"
    is how many things were found, right or wrong.
    """

    score = "pq"

    def __init__(
        self,
        split: MaskSplit,
        preprocess: Preprocess,
        architecture: str,
        things: Sequence[bool],
        quality: Callable[[Sequence[str], Sequence[bool]], Quality],
    ) -> None:
        self.split, self.preprocess, self.architecture, self.things = split, preprocess, architecture, tuple(things)
        self.quality = quality

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics:
        device = next(model.parameters()).device

        def run(batch: np.ndarray) -> tuple[np.ndarray, ...]:
            with torch.inference_mode(), precision.autocast(device):
                given = model(torch.from_numpy(batch).to(device))
            parts = given if isinstance(given, tuple) else (given,)
            return tuple(part.float().cpu().numpy() for part in parts)

        quality = self.quality(self.split.classes, self.things)
        for i in distributed.share(len(self.split)).tolist():
            image = open_image(self.split.image(i), color=self.preprocess.color, exif=self.preprocess.exif)
            pixels = self.preprocess.pixels(image)
            found, _ = segment_objects(pixels, image.shape[:2], run, self.architecture, self.preprocess, self.things)
            quality.update(self.split.segments(i), found)
        quality, *others = distributed.gathered(quality)
        for other in others:
            quality.add(other)
        measured = quality.result()
        pq = measured["pq"] or 0.0
        objects = sum(row["tp"] + row["fp"] for row in measured["per_class"] if row["thing"])
        # Epochs are compared on the same images, as with mean IoU: the best one is kept.
        return {"pq": pq, "score_error": 0.0, "objects": objects}
