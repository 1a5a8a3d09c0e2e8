"""What training minimises: cross-entropy of a classifier, of each label by itself if an image has several, and a sum
of losses of a segmenter.

Of a segmenter logits are (B, C, H, W) and truth is int64 (B, H, W), 255 where void: such pixels count in no loss, and a
batch of nothing else has a loss of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.data.mask_values import VOID
from vitnext.models.segmenter import Segmenter
from vitnext.recipe import Recipe
from vitnext.training.distributed import batch_mean, batch_sum

FOCUS = 2.0  # gamma of the focal loss, the best of Lin et al. 2017, table 1b


class LabelLoss:
    """Of a classifier: (model, images, labels (B,) or targets (B, C) of mixed images, share of the run) -> mean loss of
    the images.

    Cross-entropy or, if ``binary``, the mean of the classes' binary cross-entropies (Touvron et al. 2022, DeiT III,
    section 3.1). With ``weights`` of the classes (C,) each image's loss counts as much as its class.
    """

    def __init__(self, smoothing: float, *, binary: bool = False, weights: Tensor | None = None) -> None:
        self.smoothing, self.binary, self.weights = smoothing, binary, weights

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        logits = model(images).float()
        if not self.binary and self.weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        classes = logits.shape[1]
        targets = labels if labels.is_floating_point() else F.one_hot(labels, classes).float()
        if self.binary:
            smoothed = targets * (1 - self.smoothing) + self.smoothing / classes
            losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").mean(1)
        else:
            losses = F.cross_entropy(logits, targets, label_smoothing=self.smoothing, reduction="none")
        if self.weights is not None:
            self.weights = self.weights.to(targets)  # and there they stay
            losses = losses * (targets @ self.weights)
        return losses.mean()


class MultiLabelLoss:
    """Binary cross-entropy, mean over images and classes: (model, images, truth (B, C)) -> loss. The truth is uint8, or
    float in 0..1 of mixed images.

    ``smoothing`` is the share of a target that is given to all classes alike, as in ``LabelLoss``; of a single class to
    yes and no.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, model: nn.Module, images: Tensor, truth: Tensor, done: float) -> Tensor:
        target = truth.float() * (1 - self.smoothing) + self.smoothing / max(2, truth.shape[1])
        return F.binary_cross_entropy_with_logits(model(images).float(), target)


class MaskLoss:
    """The recipe's sum of losses of a segmenter, its auxiliary head's included: (model, images, truth, share of the
    run) -> loss.

    weights: of the classes in the cross-entropy (C,), or None.
    """

    def __init__(self, recipe: Recipe, weights: Tensor | None = None) -> None:
        self.loss, self.smoothing, self.weights = recipe.loss, recipe.label_smoothing, weights

    def __call__(self, model: nn.Module, images: Tensor, truth: Tensor, done: float) -> Tensor:
        assert isinstance(model, Segmenter)
        logits, auxiliary = model.forward_with_auxiliary(images)
        loss = self.of(logits.float(), truth)
        if auxiliary is not None and self.loss.auxiliary:
            loss = loss + self.loss.auxiliary * self.of(auxiliary.float(), truth)
        return loss

    def of(self, logits: Tensor, truth: Tensor) -> Tensor:
        parts, given = [], self.loss
        if given.cross_entropy:
            if self.weights is not None:
                self.weights = self.weights.to(logits)  # and there they stay
            pixels = F.cross_entropy(
                logits, truth, self.weights, ignore_index=VOID, reduction="none", label_smoothing=self.smoothing
            )
            parts.append(given.cross_entropy * hardest_mean(pixels, truth, given.hardest, self.weights))
        if given.focal:
            parts.append(given.focal * focal(logits, truth))
        if given.dice:
            parts.append(given.dice * dice(logits, truth))
        if given.lovasz:
            parts.append(given.lovasz * lovasz(logits, truth))
        return torch.stack(parts).sum()


def hardest_mean(pixels: Tensor, truth: Tensor, share: float, weights: Tensor | None = None) -> Tensor:
    """Mean loss of the labelled pixels, or of the ``share`` with the highest one (OHEM, Shrivastava et al. 2016).

    With class weights the mean is theirs: divided by the sum of the pixels' weights.
    """
    labelled = truth != VOID
    counts = labelled.to(pixels) if weights is None else weights[torch.where(labelled, truth, 0)] * labelled
    losses = torch.where(labelled, pixels, 0)
    if share < 1:
        losses, at = highest(torch.where(labelled, pixels, -1).flatten(), share, labelled.sum())
        counts = counts.flatten()[at] * (losses >= 0)  # void is at -1
        losses = torch.where(losses >= 0, losses, 0)
    amount = counts.sum()
    return batch_mean(losses.sum() / amount.clamp(min=torch.finfo(amount.dtype).tiny), amount)


def highest(values: Tensor, share: float, number: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of ``values`` (N,), that share of ``number``, rounded, at least one, and where they are.

    The step would wait for CUDA to tell the number: there all N stand in a row, -1 after the highest.
    """
    if values.device.type != "cuda":
        return values.topk(max(1, round(share * int(number))), sorted=False)
    values, at = values.sort(descending=True)
    wanted = (share * number.double()).round().clamp(min=1)
    return torch.where(torch.arange(len(values), device=values.device) < wanted, values, -1), at


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean of (1 - p)^gamma (-log p), p the probability of the true class (Lin et al. 2017, eq. 4, without alpha)."""
    nll = F.cross_entropy(logits, truth, ignore_index=VOID, reduction="none")
    pixels = (1 - torch.exp(-nll)) ** FOCUS * nll
    return hardest_mean(pixels, truth, 1.0)


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - mean over the classes in the truth of 2 |P T| / (|P| + |T|), over the whole batch (Milletari et al. 2016,
    section 3, with probabilities unsquared as in most later work)."""
    labelled = truth != VOID
    classes = torch.where(labelled, truth, 0)
    probabilities = torch.where(labelled[:, None], logits.softmax(1), 0)
    of_truth = probabilities.gather(1, classes[:, None])[:, 0]
    # Summed row by row of pixels first: millions of numbers one after the other would not add up in fp32.
    rows = logits.new_zeros(truth.shape[0] * truth.shape[1], logits.shape[1])
    at = classes.flatten(0, 1)
    shared = rows.scatter_add(1, at, of_truth.flatten(0, 1)).sum(0)
    counts = rows.scatter_add(1, at, labelled.flatten(0, 1).to(rows)).sum(0)
    shared, likely, true = batch_sum(torch.stack([shared, probabilities.sum((0, 2, 3)), counts]))
    present = true > 0
    scores = 2 * shared / (likely + true).clamp(min=1)
    return 1 - _mean(scores, present, otherwise=1.0)


def lovasz(logits: Tensor, truth: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, mean over the classes in the truth (Berman et al. 2018, eq. 9 and 12)."""
    probabilities, target = _rows(logits, truth)
    present = target.sum(0) > 0
    errors, order = (target - probabilities).abs().sort(dim=0, descending=True)  # (N, C)
    sorted_target = target.gather(0, order)
    positives = sorted_target.sum(0)
    intersection = positives - sorted_target.cumsum(0)
    union = positives + (1 - sorted_target).cumsum(0)
    jaccard = 1 - intersection / union.clamp(min=1)
    steps = torch.diff(jaccard, dim=0, prepend=torch.zeros_like(jaccard[:1]))
    return _mean((errors * steps).sum(0), present, otherwise=0.0)


def balance(counts: Tensor) -> Tensor:
    """Pixels of each class (C,) -> weights: the median frequency over each one's own (Eigen and Fergus 2015, section
    6.3.2); 1 for a class without pixels."""
    counts = counts.double()
    present = counts > 0
    weights = torch.where(present, counts[present].median() / counts.clamp(min=1), 1.0)
    return weights.float()


def _rows(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot truth of the labelled pixels, both (N, C)."""
    labelled = truth != VOID
    probabilities = logits.softmax(1).permute(0, 2, 3, 1)[labelled]
    return probabilities, F.one_hot(truth[labelled], logits.shape[1]).to(logits.dtype)


def _mean(values: Tensor, present: Tensor, otherwise: float) -> Tensor:
    """Over the classes that are present; ``otherwise``, still part of the graph, if none is. Without a question to the
    device, for whose answer the step would wait."""
    number = present.sum()
    mean = torch.where(present, values, 0).sum() / number.clamp(min=1)
    return torch.where(number > 0, mean, otherwise)
