"""The linear head: one classifier at every position of the coarsest map (Oquab et al. 2023, section 7.4).

As there, the features are normalised over the batch first; of a plain ViT they are the patches after the last norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vitnext.models.backbone import Stage
from vitnext.models.layers import check_rates


@dataclass(frozen=True)
class LinearConfig:
    """Every choice that changes the head."""

    dropout: float = 0.0  # of whole features, before the classifier

    def __post_init__(self) -> None:
        check_rates(self, "dropout")


class LinearHead(nn.Module):
    """Maps, finest first -> logits (B, classes, H, W) at the coarsest one's resolution."""

    def __init__(self, stages: Sequence[Stage], classes: int, config: LinearConfig) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(stages[-1].channels)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(stages[-1].channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.classifier(self.dropout(self.norm(maps[-1])))
        return out
