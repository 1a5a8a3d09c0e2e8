"""MobileNetV2: "Inverted Residuals and Linear Bottlenecks" (Sandler et al. 2018, arXiv:1801.04381, section 3, table 2).

    block:     F(x) = BN(W_2 ReLU6(BN(DWConv_3x3(ReLU6(BN(W_1 x))))))    W_1: C_in -> t C_in, W_2: t C_in -> C (table 1)
               y = x + F(x) where the stride is 1 and C = C_in, else y = F(x)                               (figure 4d)
    stem:      3x3 convolution to 32 channels, stride 2, BN, ReLU6
    features:  1x1 convolution to 1280 channels, BN, ReLU6
    head:      global average, Linear

No activation follows W_2: a ReLU of few channels would lose information (section 3.2).
Paper -> here: W_1 -> expand, DWConv -> depthwise, W_2 -> project, the lines of table 2 -> rows, the width multiplier of
section 4 -> width_multiplier: channels are rounded to multiples of 8, and the 1280 never become fewer.
Deviations: a block with t = 1 has no W_1, as in the authors' code. That code pads a strided convolution as TensorFlow
does ("SAME": an odd pixel goes to the bottom and the right), and its BN adds 1e-3 to the variance. The authors'
weights, which transformers has, need ``same_padding=True, norm_eps=1e-3``; torchvision's and timm's were trained with
one pixel on every side and 1e-5, our defaults. Our own: free strides for small images, dropout, stochastic depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models.backbone import Stage
from vitnext.models.layers import BatchNorm, check_at_least, check_rates, initialize
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates


@dataclass(frozen=True)
class MobileNetV2Config:
    """Every choice that changes the network. The defaults are table 2; a tuple has one number for each of its rows."""

    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    stem_stride: int = 2
    stem_width: int = 32
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)  # t: hidden channels of a block, in units of its input's
    widths: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)  # c
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)  # n: blocks
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)  # s: of the row's first block
    feature_width: int = 1280  # channels behind the last 1x1 convolution
    width_multiplier: float = 1.0
    same_padding: bool = False  # pad strided convolutions as TensorFlow does
    norm_eps: float = 1e-5
    dropout: float = 0.0  # before the head's Linear
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        rows = (self.expansions, self.widths, self.depths, self.strides)
        if len({len(column) for column in rows}) > 1 or not self.widths:
            raise ValueError("expansions, widths, depths and strides must have one number for each row of table 2")
        check_at_least(1, self, "channels", "stem_stride", "stem_width", "feature_width")
        check_at_least(1, self, "expansions", "widths", "depths", "strides")
        check_at_least(0, self, "classes")
        check_rates(self, "dropout", "stochastic_depth")
        for field in ("width_multiplier", "norm_eps"):
            if not 0.0 < getattr(self, field) < float("inf"):
                raise ValueError(f"{field} is {getattr(self, field)}; it must be above 0")

    def scaled(self, width: int) -> int:
        """The width times the multiplier, as the nearest multiple of 8 that is at least 8 and loses at most 10%."""
        exact = width * self.width_multiplier
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * exact else rounded


class SameConv2d(nn.Conv2d):
    """Padded as TensorFlow's "SAME": to H / stride positions, rounded up; an odd pixel goes to the bottom right."""

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        high, wide = (max(-(-size // s) * s - s + k - size, 0) for size in x.shape[-2:])  # pixels to add
        padded = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return F.conv2d(padded, self.weight, None, stride=s, groups=self.groups)


def convolution(
    width_in: int,
    width: int,
    kernel: int,
    config: MobileNetV2Config,
    *,
    stride: int = 1,
    groups: int = 1,
    linear: bool = False,
) -> nn.Sequential:
    """(B, C_in, H, W) -> (B, C, H / stride, W / stride), rounded up: convolution, BN and, unless linear, ReLU6."""
    conv = SameConv2d if config.same_padding and stride > 1 else nn.Conv2d
    return nn.Sequential(  # BN makes a bias needless
        conv(width_in, width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        BatchNorm(width, eps=config.norm_eps),
        *([] if linear else [nn.ReLU6(inplace=True)]),
    )


class InvertedResidual(nn.Module):
    """Table 1 and figure 4d: (B, C_in, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(
        self, width_in: int, width: int, expansion: int, stride: int, rate: float, config: MobileNetV2Config
    ) -> None:
        super().__init__()
        hidden = expansion * width_in
        self.expand = nn.Sequential() if expansion == 1 else convolution(width_in, hidden, 1, config)
        self.depthwise = convolution(hidden, hidden, 3, config, stride=stride, groups=hidden)
        self.project = convolution(hidden, width, 1, config, linear=True)
        self.residual = stride == 1 and width_in == width
        self.stochastic_depth = StochasticDepth(rate)

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for part in (self.expand, self.depthwise, self.project):
            for layer in part:  # one by one, so that no wide map is kept while the next part runs
                branch = layer(branch)
        return x + self.stochastic_depth(branch) if self.residual else branch


class MobileNetV2(nn.Module):
    """Images (B, channels, H, W), normalised floats -> logits (B, classes); with ``classes=0`` the feature (B, C).

    Images of any size are taken: every stride rounds up.
    """

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__()
        self.config = config
        rates = stochastic_depth_rates(config.stochastic_depth, sum(config.depths))
        width_in, stem_stride = config.scaled(config.stem_width), config.stem_stride
        self.stem = convolution(config.channels, width_in, 3, config, stride=stem_stride)
        self.rows = nn.ModuleList()
        table = zip(config.expansions, config.widths, config.depths, config.strides, strict=True)
        for expansion, width, depth, stride in table:
            row = nn.Sequential()
            for i in range(depth):
                block_stride = stride if i == 0 else 1
                row.append(
                    InvertedResidual(width_in, config.scaled(width), expansion, block_stride, rates.pop(0), config)
                )
                width_in = config.scaled(width)
            self.rows.append(row)
        wide = max(config.feature_width, config.scaled(config.feature_width))
        self.features = convolution(width_in, wide, 1, config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(wide, config.classes) if config.classes else nn.Identity()
        self.reset_parameters()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """stage1 to stage4 at strides 4 to 32, for table 2: the rows before a stride, and the last.

        The first row, which stays at the stem's resolution, is no stage of its own.
        """
        rows = self._rows_with_a_stage()
        strides = [self.config.stem_stride]
        for stride in self.config.strides:
            strides.append(strides[-1] * stride)
        return tuple(
            Stage(f"stage{i + 1}", self.config.scaled(self.config.widths[row]), strides[row + 1])
            for i, row in enumerate(rows)
        )

    def _rows_with_a_stage(self) -> list[int]:
        last = len(self.config.strides) - 1
        return [row for row in range(1, last) if self.config.strides[row + 1] > 1] + [last]

    def reset_parameters(self) -> None:
        """Set every parameter and running mean."""
        initialize(self, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or the pooled feature."""
        logits: Tensor = self.head(self.dropout(self.pooled(images)))
        return logits

    def pooled(self, images: Tensor) -> Tensor:
        """The average of the 1280 features over all positions: (B, C)."""
        x = self.stem(images)  # (B, 32, H / 2, W / 2)
        for row in self.rows:
            x = row(x)  # (B, 320, H / 32, W / 32) in the end
        mean: Tensor = self.features(x).mean(dim=(2, 3))
        return mean

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """What leaves each stage, by its name; the last before the 1x1 convolution to 1280."""
        features = {}
        names = dict(zip(self._rows_with_a_stage(), (stage.name for stage in self.stages), strict=True))
        x = self.stem(images)
        for i, row in enumerate(self.rows):
            x = row(x)
            if i in names:
                features[names[i]] = x
        return features


SIZES: dict[str, dict[str, Any]] = {"mobilenet_v2": {}}  # table 2
