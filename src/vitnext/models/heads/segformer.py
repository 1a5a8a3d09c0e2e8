"""SegFormer's all-MLP decoder (Xie et al. 2021, arXiv:2105.15203, section 3.2, eq. 4).

    F^_i = Upsample(Linear(C_i, C)(F_i))        every stage to one width and to the finest resolution
    F    = Linear(4 C, C)(Concat(F^_i))         fused, then batch norm and ReLU as in the authors' code
    M    = Linear(C, classes)(F)

Paper -> here: C -> width. The fusing Linear has no bias and commutes with the upsampling, which is linear too: each
stage is fused at its own resolution, and the sum of the upsampled results is the same for a fraction of the work. So is
one Linear with the product of its two matrices, instead of both after each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.layers import BatchNorm, check_at_least, check_rates


@dataclass(frozen=True)
class SegFormerConfig:
    """Every choice that changes the head. The default is B0's and B1's; B2 to B5 have a width of 768."""

    width: int = 256
    dropout: float = 0.1  # before the classifier

    def __post_init__(self) -> None:
        check_at_least(1, self, "width")
        check_rates(self, "dropout")


class SegFormerHead(nn.Module):
    """Maps (B, C_i, H_i, W_i), finest first -> logits (B, classes, H_1, W_1)."""

    def __init__(self, stages: Sequence[Stage], classes: int, config: SegFormerConfig) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(stage.channels, config.width) for stage in stages)
        self.fuse = nn.Linear(len(stages) * config.width, config.width, bias=False)  # of the coarsest stage first
        self.norm = BatchNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(config.width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.classifier(self.dropout(F.relu(self.norm(self.fused(maps)))))
        return out

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """All maps in one (B, width, H_1, W_1), before the norm."""
        matrices = self.fuse.weight.chunk(len(maps), dim=1)
        fused = None
        for x, project, matrix in zip(reversed(maps), reversed(self.projections), matrices, strict=True):
            assert isinstance(project, nn.Linear)
            x = F.linear(x.permute(0, 2, 3, 1), matrix @ project.weight, matrix @ project.bias)  # (B, H_i, W_i, C)
            x = upsample(x.permute(0, 3, 1, 2), maps[0])
            fused = x if fused is None else fused.add_(x)
        assert fused is not None
        return fused

    def own_macs(self, inputs: tuple[Sequence[Tensor], ...]) -> int:
        """Multiply-adds of the Linears and of their products, none of which is called as a module."""
        width = self.fuse.out_features
        return sum((x[:, 0].numel() + width) * x.shape[1] * width for x in inputs[0])


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """x at the resolution of ``like``, bilinear, with the corners of the pixels aligned (not their centres)."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
