"""ResNet: "Deep Residual Learning for Image Recognition" (He et al. 2016, arXiv:1512.03385, section 3 and table 1).

    block:       y = ReLU(F(x) + x); where the shape changes: y = ReLU(F(x) + BN(W_s x))        (equations 1 and 2)
    two layers:  F(x) = BN(W_2 ReLU(BN(W_1 x)))                    3x3 and 3x3, C channels       (figure 5, left)
    bottleneck:  F(x) = BN(W_3 ReLU(BN(W_2 ReLU(BN(W_1 x)))))      1x1 to C, 3x3, 1x1 to 4C      (figure 5, right)
    stem:        7x7 convolution, stride 2, BN, ReLU, then 3x3 max pooling, stride 2
    head:        global average, Linear

Paper -> here: conv2_x ... conv5_x -> stage1 ... stage4, W_1 ... W_3 -> conv1 ... conv3, W_s -> shortcut (option B: a
1x1 convolution where the shape changes, the identity elsewhere).
Deviations, as in torchvision, timm and transformers: a bottleneck's stride is on the 3x3 convolution, not on the 1x1
before it (4.1 G multiply-adds for ResNet-50, table 1 has 3.8). The last scale of BN in a block starts at 0, as in timm
(Goyal et al. 2017, section 5.1). Our own: a 3x3 stem without pooling for small images, dropout before the head,
stochastic depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.layers import BatchNorm, check_at_least, check_rates, initialize
from vitnext.models.patches import PointwiseConv2d
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates


@dataclass(frozen=True)
class ResNetConfig:
    """Every choice that changes the network. The defaults are ResNet-50 (table 1)."""

    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    stem_stride: int = 4  # 4: 7x7 and max pooling; 2 or 1: 3x3 of that stride, for small images
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks in each stage
    widths: tuple[int, ...] = (64, 128, 256, 512)  # C of each stage
    bottleneck: bool = True  # False: blocks of two 3x3 convolutions
    dropout: float = 0.0  # before the head's Linear
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ValueError(f"depths {self.depths} and widths {self.widths} must have one number for each stage")
        check_at_least(1, self, "channels", "depths", "widths")
        check_at_least(0, self, "classes")
        check_rates(self, "dropout", "stochastic_depth")
        if self.stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride is {self.stem_stride}; it must be 1, 2 or 4")


def convolution(width_in: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """(B, C_in, H, W) -> (B, C, H / stride, W / stride), rounded up. No bias: the BN behind it would remove it."""
    if kernel == 1 and stride > 1:
        return PointwiseConv2d(width_in, width, stride, bias=False)
    return nn.Conv2d(width_in, width, kernel, stride=stride, padding=kernel // 2, bias=False)


def stem(channels: int, width: int, stride: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, C, H / stride, W / stride): as in table 1, or a 3x3 for small images."""
    published = stride == 4
    layers = nn.Sequential(
        convolution(channels, width, 7, stride=2) if published else convolution(channels, width, 3, stride=stride),
        BatchNorm(width),
        nn.ReLU(inplace=True),
    )
    if published:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return layers


def shortcut(width_in: int, width: int, stride: int) -> nn.Sequential:
    """W_s and BN where the shape changes, else the identity (an empty Sequential)."""
    if width_in == width and stride == 1:
        return nn.Sequential()
    return nn.Sequential(convolution(width_in, width, 1, stride=stride), BatchNorm(width))


class TwoLayerBlock(nn.Module):
    """Figure 5, left: (B, C_in, H, W) -> (B, C, H / stride, W / stride)."""

    expansion = 1  # the block's output has this many times C channels

    def __init__(self, width_in: int, width: int, stride: int, stochastic_depth: float) -> None:
        super().__init__()
        self.conv1 = convolution(width_in, width, 3, stride=stride)
        self.norm1 = BatchNorm(width)
        self.conv2 = convolution(width, width, 3)
        self.norm2 = BatchNorm(width)
        self.shortcut = shortcut(width_in, width, stride)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)), inplace=True)
        branch = self.stochastic_depth(self.norm2(self.conv2(branch)))
        branch += self.shortcut(x)
        return F.relu(branch, inplace=True)

    def start_as_identity(self) -> None:
        nn.init.zeros_(self.norm2.weight)


class BottleneckBlock(nn.Module):
    """Figure 5, right: (B, C_in, H, W) -> (B, 4C, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int, stochastic_depth: float) -> None:
        super().__init__()
        self.conv1 = convolution(width_in, width, 1)
        self.norm1 = BatchNorm(width)
        self.conv2 = convolution(width, width, 3, stride=stride)
        self.norm2 = BatchNorm(width)
        self.conv3 = convolution(width, 4 * width, 1)
        self.norm3 = BatchNorm(4 * width)
        self.shortcut = shortcut(width_in, 4 * width, stride)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)), inplace=True)
        branch = F.relu(self.norm2(self.conv2(branch)), inplace=True)
        branch = self.stochastic_depth(self.norm3(self.conv3(branch)))
        branch += self.shortcut(x)
        return F.relu(branch, inplace=True)

    def start_as_identity(self) -> None:
        nn.init.zeros_(self.norm3.weight)


class ResNet(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes); with ``classes=0`` the feature (B, C).

    Images of any size are taken: every stride rounds up.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        block = BottleneckBlock if config.bottleneck else TwoLayerBlock
        rates = stochastic_depth_rates(config.stochastic_depth, sum(config.depths))
        width_in = config.widths[0]
        self.stem = stem(config.channels, width_in, config.stem_stride)
        self.body = nn.ModuleDict()
        for stage, depth, width in zip(self.stages, config.depths, config.widths, strict=True):
            blocks = nn.Sequential()
            for i in range(depth):
                stride = 2 if i == 0 and len(self.body) else 1  # the first block of every stage but stage1
                blocks.append(block(width_in, width, stride, rates.pop(0)))
                width_in = stage.channels
            self.body[stage.name] = blocks
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width_in, config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """stage1 to stage4 at strides 4 to 32, for the published sizes."""
        expansion = (BottleneckBlock if self.config.bottleneck else TwoLayerBlock).expansion
        return tuple(
            Stage(f"stage{i + 1}", expansion * width, self.config.stem_stride * 2**i)
            for i, width in enumerate(self.config.widths)
        )

    def reset_parameters(self) -> None:
        """Set every parameter and running mean; the last scale of each block to 0."""
        initialize(self, self.head)
        for module in self.modules():
            if isinstance(module, TwoLayerBlock | BottleneckBlock):
                module.start_as_identity()

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or the pooled feature."""
        logits: Tensor = self.head(self.dropout(self.pooled(images)))
        return logits

    def pooled(self, images: Tensor) -> Tensor:
        """The average of the last stage over all positions: (B, C)."""
        x = self.stem(images)  # (B, C_1, H / stem, W / stem)
        for stage in self.body.values():
            x = stage(x)  # (B, C_i, H / (stem 2^i), W / (stem 2^i))
        mean: Tensor = x.mean(dim=(2, 3))
        return mean

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """What leaves each stage, by its name."""
        features = {}
        x = self.stem(images)
        for name, stage in self.body.items():
            features[name] = x = stage(x)
        return features


# Table 1; resnet200: table 6 of He et al. 2016, arXiv:1603.05027, with the blocks above, as in Liu et al. 2022.
SIZES: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"depths": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"depths": (3, 4, 6, 3)},
    "resnet101": {"depths": (3, 4, 23, 3)},
    "resnet152": {"depths": (3, 8, 36, 3)},
    "resnet200": {"depths": (3, 24, 36, 3)},
}
