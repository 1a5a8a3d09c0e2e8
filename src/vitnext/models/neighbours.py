"""A classifier that remembers: the weighted k-nearest-neighbour vote of Wu et al. 2018 ("Unsupervised Feature Learning
via Non-Parametric Instance Discrimination", arXiv:1805.01978, section 3.4), with the constants with which Caron et al.
2021 (DINO, arXiv:2104.14294, appendix) look at frozen features.

    s_i   = cos(v_i, f)                                        similarity of training image i
    w_c   = sum over i in N_k, c_i = c, of exp(s_i / tau)      the vote of the k most similar ones
    p_c   = w_c / sum_c' w_c'

Paper -> here: v_i -> features (of unit length), c_i -> labels, N_k -> near, tau -> temperature. The name is
``BACKBONE+knn``: the backbone of the catalog without a head, and this for its head; it gives log p_c.
Deviation: images as similar as the k-th vote too, so that it does not depend on the order of the training images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.models.layers import check_at_least

NAME = "knn"  # of the head, behind the backbone's


@dataclass(frozen=True)
class NeighboursConfig:
    """samples: training images that are remembered; width: of their features; neighbours: k; temperature: tau."""

    samples: int = 0
    width: int = 0
    neighbours: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        check_at_least(1, self, "samples", "width", "neighbours")
        if self.neighbours > self.samples:
            raise ValueError(f"neighbours is {self.neighbours}, more than the {self.samples} samples")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")


class NearestNeighbours(nn.Module):
    """Features (B, width) -> log p (B, classes), at least that of float32's smallest number: -87.3 for no vote at all.

    What it remembers are buffers: ``features`` (samples, width), rows of length 1, and ``labels`` (samples,), int64.
    """

    features: Tensor
    labels: Tensor

    def __init__(self, config: NeighboursConfig, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.register_buffer("features", torch.zeros(config.samples, config.width))
        self.register_buffer("labels", torch.zeros(config.samples, dtype=torch.int64))

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Take over what is known: features (samples, width) and labels (samples,)."""
        self.features.copy_(F.normalize(features, dim=1))
        self.labels.copy_(labels)

    def forward(self, feature: Tensor) -> Tensor:
        similarity = F.normalize(feature, dim=1) @ self.features.T  # (B, samples)
        nearest = similarity.topk(self.config.neighbours, dim=1).values  # (B, k), the most similar first
        near = (similarity >= nearest[:, -1:]).to(similarity.dtype)
        weights = near * ((similarity - nearest[:, :1]) / self.config.temperature).exp()  # the largest is 1
        of_class = self.labels[:, None] == torch.arange(self.classes, device=feature.device)  # (samples, classes)
        votes = weights @ of_class.to(weights.dtype)  # (B, classes)
        share = votes / votes.sum(dim=1, keepdim=True)
        return share.clamp_min(torch.finfo(torch.float32).tiny).log()


def attach(network: nn.Module, head: NearestNeighbours) -> None:
    """Give a network of the catalog this head, in the place of its own."""
    network.head = head
    network.config = dataclasses.replace(network.config, classes=0)  # type: ignore[type-var]


def build(name: str, /, **config: Any) -> nn.Module:
    """``BACKBONE+knn`` that remembers nothing yet. Raises InputError for an unknown name, field or value."""
    backbone = name.partition("+")[0]
    classes, given = config.pop("classes", 0), config.pop("head", None)
    if not isinstance(given, Mapping):
        raise InputError(f"{name} is what a probe makes of training images: vitnext train DATA --probe knn")
    known = [field.name for field in dataclasses.fields(NeighboursConfig)]
    if unknown := [key for key in given if key not in known]:
        raise InputError(f"{name} has no model.config.head.{unknown[0]}; there are {', '.join(known)}")
    try:
        head = NeighboursConfig(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error
    network = catalog.build(backbone, **config, classes=0)
    attach(network, NearestNeighbours(head, classes))
    return network


def config_of(network: nn.Module) -> dict[str, Any] | None:
    """What ``build`` takes to build a network with this head again; None of any other network."""
    head = network.head
    if not isinstance(head, NearestNeighbours):
        return None
    return {**catalog.config_dict(network), "classes": head.classes, "head": dataclasses.asdict(head.config)}
