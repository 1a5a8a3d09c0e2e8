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
from vitnext.recipe import Recipe
from vitnext.training import distributed
from vitnext.training.hardware import Precision
from vitnext.training.loop import Metrics, Normalize

AT_ONCE = (32, 256)  # images that pass the network at a time, at least and at most


def images_at_once(recipe: Recipe) -> int:
    """How many images a process validates at a time: twice as many as it trains on, since nothing is kept for
    gradients, so that what fits into memory in training does in validation; of few, ``AT_ONCE[0]``."""
    trained = recipe.batch_size // recipe.accumulate // distributed.world()
    return max(AT_ONCE[0], min(AT_ONCE[1], 2 * trained))


class Validator:
    """Called with a model in evaluation mode and the run's precision; the pixels are decoded once if they fit.

    at_once: images that pass the network at a time.
    """

    score = "top1"

    def __init__(self, split: Split, preprocess: Preprocess, at_once: int) -> None:
        self.split, self.preprocess, self.at_once = split, preprocess, at_once
        self.places = distributed.share(len(split))  # of the images that this process measures
        height, width = preprocess.image_size
        self._keep = len(self.places) * height * width * len(preprocess.mean) <= cache_limit()
        self._pixels: list[np.ndarray] = []  # uint8 (B, H, W, C), one array a batch

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics:
        correct, loss, start = 0, 0.0, 0
        for logits in self._logits(model, precision):
            places = self.places[start : start + len(logits)]
            labels = torch.from_numpy(self.split.labels[places]).to(logits.device)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            start += len(logits)
        correct, loss, count = distributed.total(np.array([correct, loss, start], np.float64)).tolist()
        likely = (correct + 1) / (count + 2)  # Laplace's rule: all right among few is not certain to stay so
        error = (likely * (1 - likely) / (count + 2)) ** 0.5
        return {"top1": correct / count, "score_error": error, "loss": loss / count}

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
            for start in range(0, len(self.places), self.at_once):
                indices = self.places[start : start + self.at_once].tolist()
                batch = np.stack(list(pool.map(lambda i: self.preprocess.pixels(self.split.image(i)), indices)))
                if self._keep:
                    self._pixels.append(batch)
                yield batch


class MultiLabelValidator(Validator):
    """Mean average precision over the classes that the held-out images show, and binary cross-entropy."""

    score = "map"

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics:
        own = [batch.cpu().numpy() for batch in self._logits(model, precision)]
        logits = torch.empty(len(self.split), self.split.labels.shape[1])
        for places, of_process in distributed.gathered((self.places, own)):
            if of_process:
                logits[places] = torch.from_numpy(np.concatenate(of_process))
        loss = float(F.binary_cross_entropy_with_logits(logits, torch.from_numpy(self.split.labels).float()))
        precisions = average_precision(sigmoid(logits.numpy()), self.split.labels)
        shown = precisions[~np.isnan(precisions)]
        # Epochs are compared on the same images, which rank alike: the best one is kept.
        return {"map": float(shown.mean()) if len(shown) else 0.0, "score_error": 0.0, "loss": loss}
