"""Mask classification: queries that each answer with a class and a mask learn from the segments of an image.

"Masked-attention Mask Transformer" (Cheng et al. 2022, arXiv:2112.01527, section 3); EoMT (Kerssies et al. 2025) trains
with it too. Every true segment is given to one query, the assignment with the lowest total cost (Carion et al. 2020,
eq. 1); the others shall say "no object". Masks are compared at random points instead of everywhere, and the loss
prefers points where the prediction is unsure (Kirillov et al. 2020, PointRend, section 3.1). What a model says
after each of its layers is trained alike.

Deviation: points in void count neither in the cost nor in the loss of masks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.data.mask_loaders import SegmentTargets
from vitnext.models.queries import QuerySegmenter
from vitnext.training import distributed
from vitnext.training.distributed import batch_mean

POINTS = 12_544  # 112 x 112, section 4.1 of Cheng et al. 2022; below, its other numbers
OVERSAMPLED, UNSURE = 3, 0.75  # times as many candidates; share of the points that are the most unsure of them
CLASS, MASK, DICE = 2.0, 5.0, 5.0
NO_OBJECT = 0.1  # weight of "no object" in the cross-entropy


class MaskClassificationLoss:
    """(model that answers with queries, images, targets, share of the run that is done) -> loss."""

    def __init__(self, classes: int) -> None:
        self.weights = torch.ones(classes + 1)
        self.weights[-1] = NO_OBJECT
        self._said = False  # that there are too few queries

    def __call__(self, model: nn.Module, images: Tensor, targets: SegmentTargets, done: float) -> Tensor:
        predictions = cast(QuerySegmenter, model).training_predictions(images, done)
        losses = [self.of(masks.float(), classes.float(), targets) for masks, classes in predictions]
        return torch.stack(losses).sum()

    def of(self, masks: Tensor, classes: Tensor, targets: SegmentTargets) -> Tensor:
        """Of one prediction: masks (B, K, H_m, W_m) and classes (B, K, C + 1), logits."""
        count = min(POINTS, targets.ids[0].numel())
        truth = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
        matched: list[Tensor] = []
        segments: list[tuple[int, Tensor]] = []
        for i in range(len(targets)):
            labels = targets.labels[i][targets.labels[i] >= 0]
            if len(labels) > classes.shape[1]:
                self._say_too_few(len(labels), classes.shape[1])
            places = torch.rand(count, 2, device=masks.device)
            with torch.no_grad():
                cost = matching_cost(
                    at_points(masks[i], places), classes[i], ids_at(targets.ids[i], places), labels
                ).cpu()
            # Of what has diverged the loss is said to be no number, below; SciPy would refuse the costs first.
            queries, found = linear_sum_assignment(cost.nan_to_num().numpy())
            truth[i, queries] = labels[torch.as_tensor(found, device=labels.device)]
            matched.append(masks[i, queries])
            segments += [(i, torch.as_tensor(k + 1, device=masks.device)) for k in found.tolist()]
        weights = self.weights.to(classes)
        of_classes = F.cross_entropy(classes.transpose(1, 2), truth, weights)
        of_masks = self._of_masks(torch.cat(matched), targets.ids, segments, count) if segments else masks.sum() * 0
        return CLASS * batch_mean(of_classes, weights[truth].sum()) + batch_mean(of_masks, len(segments))

    def _say_too_few(self, segments: int, queries: int) -> None:
        enough = math.ceil(segments / 50) * 50
        if not self._said and distributed.main():
            logging.getLogger("vitnext").warning(
                "warning: an image has %s segments, but the model %s queries: the others are not learnt, nor found; "
                "give more (--set model.config.queries=%s of EoMT, model.config.head.queries=%s of Mask2Former), or "
                "take a model with any number (+panoptic_deeplab)",
                *(segments, queries, enough, enough),
            )
        self._said = True

    def _of_masks(self, masks: Tensor, ids: Tensor, segments: Sequence[tuple[int, Tensor]], count: int) -> Tensor:
        """Of N matched masks (N, H_m, W_m), logits: binary cross-entropy and Dice at ``count`` points each."""
        with torch.no_grad():
            places = unsure_points(masks, count)  # (N, count, 2)
            held = torch.stack([ids_at(ids[i], at) for (i, _), at in zip(segments, places, strict=True)])  # (N, count)
            wanted = (held == torch.stack([k for _, k in segments])[:, None]).to(masks)
            counts = (held > 0).to(masks)
        logits = F.grid_sample(masks[:, None], 2 * places[:, :, None] - 1, align_corners=False)[:, 0, :, 0]
        amount = counts.sum(1).clamp(min=1)
        binary = F.binary_cross_entropy_with_logits(logits, wanted, counts, reduction="none").sum(1) / amount
        probabilities = logits.sigmoid() * counts
        shared, sizes = (probabilities * wanted).sum(1), (probabilities + wanted).sum(1)
        dice = 1 - (2 * shared + 1) / (sizes + 1)
        return (MASK * binary + DICE * dice).mean()


def matching_cost(logits: Tensor, classes: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    """(K, n): what it costs to give segment j to query i. logits: of K masks at P points (K, P); classes (K, C + 1);
    ids: of the true segments at the points (P,); labels: of the n segments (n,)."""
    wanted = (ids[:, None] == torch.arange(1, len(labels) + 1, device=ids.device)).to(logits)  # (P, n)
    counts = (ids > 0).to(logits)
    amount = counts.sum().clamp(min=1)
    binary = ((F.softplus(-logits) * counts) @ wanted + (F.softplus(logits) * counts) @ (1 - wanted)) / amount
    probabilities = logits.sigmoid() * counts
    dice = 1 - (2 * probabilities @ wanted + 1) / (probabilities.sum(1)[:, None] + wanted.sum(0) + 1)
    return MASK * binary + DICE * dice - CLASS * classes.softmax(-1)[:, labels]


def at_points(masks: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of (K, H, W) at (P, 2) places in 0..1, x before y: (K, P)."""
    return F.grid_sample(masks[None], 2 * places[None, :, None] - 1, align_corners=False)[0, :, :, 0]


def ids_at(ids: Tensor, places: Tensor) -> Tensor:
    """The ids (H, W) at (P, 2) places in 0..1, x before y: (P,)."""
    height, width = ids.shape
    x = (places[:, 0] * width).long().clamp(max=width - 1)
    y = (places[:, 1] * height).long().clamp(max=height - 1)
    return ids[y, x]


def unsure_points(masks: Tensor, count: int) -> Tensor:
    """(N, count, 2) places in 0..1 for masks (N, H, W), logits: most of them where a logit is near 0."""
    many, unsure = OVERSAMPLED * count, round(UNSURE * count)
    candidates = torch.rand(len(masks), many, 2, device=masks.device)
    logits = F.grid_sample(masks[:, None], 2 * candidates[:, :, None] - 1, align_corners=False)[:, 0, :, 0]
    nearest = (-logits.abs()).topk(unsure, dim=1).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(len(masks), count - unsure, 2, device=masks.device)], dim=1)
