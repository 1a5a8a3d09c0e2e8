"""What networks have in common that answer with a mask and a class of each query."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class QuerySegmenter(Protocol):
    """EoMT and Mask2Former: images (B, channels, H, W) -> masks (B, K, H_m, W_m) and classes (B, K, classes + 1)."""

    def training_predictions(self, images: Tensor, done: float) -> list[tuple[Tensor, Tensor]]:
        """The (masks, classes) that are all trained, at the share ``done`` of a run."""
        ...

    def semantic(self, images: Tensor) -> Tensor:
        """Scores of each class at each pixel (B, classes, H, W)."""
        ...


def semantic(answers: tuple[Tensor, Tensor], images: Tensor) -> Tensor:
    """Scores of each class at each pixel of the images (B, classes, H, W): the sum over queries of class times mask
    (Cheng et al. 2021, arXiv:2107.06278, section 3.4)."""
    masks, classes = answers
    masks = F.interpolate(masks, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return torch.einsum("bqc,bqhw->bchw", classes.softmax(dim=-1)[..., :-1], masks.sigmoid())
