"""Mean IoU and cross-entropy of a segmenter on held-out images after each epoch, window by window as in prediction."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_loaders import pair
from vitnext.data.mask_values import VOID
from vitnext.inference.activations import softmax
from vitnext.inference.queries import probabilities
from vitnext.inference.windows import Tiling, bands
from vitnext.models.queries import QuerySegmenter
from vitnext.preprocess import Preprocess
from vitnext.training.hardware import Precision
from vitnext.training.loop import Metrics


class MaskValidator:
    """Called with a model in evaluation mode and the run's precision.

    Images are measured at the scale at which the network sees them, against masks of that scale; the evaluation after
    the run measures at the original size.
    """

    score = "miou"

    def __init__(self, split: MaskSplit, preprocess: Preprocess, *, by_queries: bool = False) -> None:
        """``by_queries``: the model answers with masks and classes of queries."""
        self.split, self.preprocess = split, preprocess
        self.by_queries, self.activate = by_queries, probabilities if by_queries else softmax

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics:
        device, count = next(model.parameters()).device, len(self.split.classes)

        def run(batch: np.ndarray) -> np.ndarray:
            network = cast(QuerySegmenter, model).semantic if self.by_queries else model
            with torch.inference_mode(), precision.autocast(device):
                answers: np.ndarray = network(torch.from_numpy(batch).to(device)).float().cpu().numpy()
            return answers

        tiling = Tiling(run, self.preprocess.normalize, self.preprocess.image_size, activate=self.activate)
        confusion, loss, pixels = np.zeros((count, count), np.int64), 0.0, 0
        for i in range(len(self.split)):
            image, mask = pair(self.split, self.preprocess, i)
            for top, band in bands(image, tiling):
                truth = mask[top : top + band.shape[1]]
                seen = truth != VOID
                labels, predicted = truth[seen].astype(np.int64), band.argmax(0)[seen]
                confusion += np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
                likely = np.take_along_axis(band, np.where(seen, truth, 0)[None].astype(np.int64), 0)[0][seen]
                loss -= float(np.log(likely.clip(min=np.finfo(np.float32).tiny), dtype=np.float64).sum())
                pixels += len(labels)
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        miou = float((hits / union.clip(min=1))[union > 0].mean()) if pixels else 0.0
        # Epochs are compared on the same images, so the standard error over images says little: the best one is kept.
        return {"miou": miou, "score_error": 0.0, "loss": loss / max(1, pixels)}
