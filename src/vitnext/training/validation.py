"""Top-1 (or mAP, of several labels an image) and the loss on held-out images after each epoch, on the pixels of
``Preprocess``."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.data.dataset import Split
from vitnext.data.loaders import cache_limit
from vitnext.inference.activations import sigmoid
from vitnext.inference.multilabel import average_precision
from vitnext.preprocess import Preprocess
from vitnext.training.hardware import Precision
from vitnext.training.loop import Metrics, Normalize

BATCH = 256


class Validator:
    """Called with a model in evaluation mode and the run's precision; the pixels are decoded once if they fit."""

    score = "top1"

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.split, self.preprocess = split, preprocess
        height, width = preprocess.image_size
        self._keep = len(split) * height * width * len(preprocess.mean) <= cache_limit()
        self._pixels: list[np.ndarray] = []  # uint8 (B, H, W, C), one array a batch

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics:
        correct, loss, start = 0, 0.0, 0
        for logits in self._logits(model, precision):
            labels = torch.from_numpy(self.split.labels[start : start + len(logits)]).to(logits.device)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            start += len(logits)
        likely = (correct + 1) / (start + 2)  # Laplace's rule: all right among few is not certain to stay so
        error = (likely * (1 - likely) / (start + 2)) ** 0.5
        return {"top1": correct / start, "score_error": error, "loss": loss / start}

    def _logits(self, model: nn.Module, precision: Precision) -> Iterator[Tensor]:
        """float32 (B, classes) of one batch after the other."""
        device = next(model.parameters()).device
        normalize = Normalize(self.preprocess, device)
        for batch in self._batches():
            images: Tensor = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)
            with torch.inference_mode(), precision.autocast(device):
                logits = model(normalize(images))
            yield logits.float()

    def _batches(self) -> Iterator[np.ndarray]:
        if self._pixels:
            yield from self._pixels
            return
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.split), BATCH):
                indices = range(start, min(start + BATCH, len(self.split)))
                batch = np.stack(list(pool.map(lambda i: self.preprocess.pixels(self.split.image(i)), indices)))
                if self._keep:
                    self._pixels.append(batch)
                yield batch


class MultiLabelValidator(Validator):
    """Mean average precision over the classes that the held-out images show, and binary cross-entropy."""

    score = "map"

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics:
        logits = torch.cat([batch.cpu() for batch in self._logits(model, precision)])
        loss = float(F.binary_cross_entropy_with_logits(logits, torch.from_numpy(self.split.labels).float()))
        precisions = average_precision(sigmoid(logits.numpy()), self.split.labels)
        shown = precisions[~np.isnan(precisions)]
        # Epochs are compared on the same images, which rank alike: the best one is kept.
        return {"map": float(shown.mean()) if len(shown) else 0.0, "score_error": 0.0, "loss": loss}
