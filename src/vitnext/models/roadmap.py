"""From ResNet to ConvNeXt in steps: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv:2201.03545, section 2, figure 2).

A network is a ``Design``. The first is a ResNet, every further one is an earlier one with the paper's next change, and
the last is ConvNeXt; ``Roadmap`` builds them all. What the paper measured of each (tables 10 and 11) stands here too.

    bottleneck:  y = a(s(x) + N(P_2 a(N(K a(N(P_1 x))))))      1x1, k x k and 1x1 convolution          (figure 3a, b)
    moved up:    y = a(s(x) + N(P_2 a(N(P_1 a(N(K x))))))      K on the block's input                  (figure 3c)
    ConvNeXt:    y = x + gamma P_2 a(P_1 N(K x))               one activation a, one norm N            (figure 4)

K carries a stage's stride. s is the identity or, where the shape changes, N and a 1x1 convolution; in the last step a
separate downsampling stands before the stage instead.
Paper -> here: P_1 -> pointwise1, K -> spatial, P_2 -> pointwise2, s -> shortcut, res2 ... res5 -> stage1 ... stage4.
Deviations: none known. What the paper leaves open, and how it is here:
  - The 4x4 stem is a bare convolution. Its norm comes with the separate downsampling, where section 2.6 adds one "after
    the stem".
  - "Fewer norms" is said of the three in a block: the shortcuts keep theirs until they go.
  - A convolution has a bias unless BN follows, which would remove it.
  - Layer scale is among the training settings (appendix A.1), not among the steps. It enters with the last, which is
    ConvNeXt. Until "fewer norms" the norm that ends a branch starts at 0, as in our ResNet.
  - Table 11 starts with 64 channels; only 84 from the stage ratio on give its 14.52 G there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitnext.models.backbone import Stage
from vitnext.models.convnext import check_covers_stride
from vitnext.models.depthwise import DepthwiseConv2d
from vitnext.models.layers import GELU, ChannelLayerNorm, add_scaled, check_at_least, check_rates, initialize
from vitnext.models.patches import PointwiseConv2d
from vitnext.models.stochastic_depth import StochasticDepth, stochastic_depth_rates


@dataclass(frozen=True)
class Design:
    """Every choice that the paper changes on its way, and what a user's images need. The defaults are ResNet-50."""

    channels: int = 3
    classes: int = 1000  # 0: no head, the pooled feature comes out
    stem_stride: int = 4  # of the ResNet stem: 4, or 2 and 1 without pooling; of the patchify stem: any
    depths: tuple[int, ...] = (3, 4, 6, 3)  # 2.2: blocks in each stage
    patchify: bool = False  # 2.2: the stem is a convolution whose kernel is its stride
    depthwise: bool = False  # 2.3: K has one filter a channel
    widths: tuple[int, ...] = (64, 128, 256, 512)  # 2.3: w of each stage
    inverted: bool = False  # 2.4: a block goes w -> 4w -> w, not 4w -> w -> 4w
    depthwise_first: bool = False  # 2.5: K before P_1, not behind it
    kernel_size: int = 3  # 2.5: of K
    activation: str = "relu"  # 2.6: relu or gelu
    activations: int = 3  # 2.6: in a block; 1: the one behind P_1
    norms: int = 3  # 2.6: in a block; 1: the one behind K
    norm: str = "batch"  # 2.6: batch or layer
    separate_downsampling: bool = False  # 2.6: between stages; with it N behind the stem and the pooling
    layer_scale: float = 0.0  # A.1: gamma's start; 0: no layer scale
    dropout: float = 0.0  # before the head's Linear
    stochastic_depth: float = 0.0  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ValueError(f"depths {self.depths} and widths {self.widths} must have one number for each stage")
        check_at_least(1, self, "channels", "stem_stride", "depths", "widths", "kernel_size")
        check_at_least(0, self, "classes", "layer_scale")
        check_rates(self, "dropout", "stochastic_depth")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even; the padding needs an odd one")
        if not self.patchify and self.stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride is {self.stem_stride}; it must be 1, 2 or 4, or the stem patchify")
        for field, known in (
            ("activation", ("relu", "gelu")),
            ("activations", (3, 1)),
            ("norms", (3, 1)),
            ("norm", ("batch", "layer")),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be {known[0]!r} or {known[1]!r}")

    @property
    def stride(self) -> int:
        """Pixels to one position of the last stage: 32 for the published sizes."""
        return self.stem_stride * 2 ** (len(self.depths) - 1)

    def output(self, width: int) -> int:
        """Channels that a stage of this width hands on."""
        return width if self.inverted else 4 * width


def scaled(design: Design, *, width: float = 1.0, depth: float = 1.0, stages: int = 4, stem_stride: int = 4) -> Design:
    """The same step at a fraction of the widths and depths, with ``stages`` alone: for small images."""
    first = max(0, 3 - stages)  # the blocks are those up to the third stage, the one that "stage ratio" makes deeper
    return replace(
        design,
        widths=tuple(max(1, round(width * w)) for w in design.widths[:stages]),
        depths=tuple(max(1, round(depth * d)) for d in design.depths[first : first + stages]),
        stem_stride=stem_stride,
    )


def norm(design: Design, width: int) -> nn.Module:
    """N, over the channels of (B, C, H, W)."""
    return nn.BatchNorm2d(width) if design.norm == "batch" else ChannelLayerNorm(width, eps=1e-6)


def activation(design: Design) -> nn.Module:
    return nn.ReLU(inplace=True) if design.activation == "relu" else GELU()


def layer(
    design: Design,
    width_in: int,
    width: int,
    kernel: int = 1,
    stride: int = 1,
    depthwise: bool = False,
    *,
    normed: bool = False,
    activated: bool = False,
) -> nn.Sequential:
    """A convolution, then N and a if asked for: (B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
    padding = 0 if kernel == stride else kernel // 2  # patches do not overlap
    bias = not (normed and design.norm == "batch")
    parts = nn.Sequential()
    convolution: nn.Conv2d
    if depthwise and stride == 1:
        convolution = DepthwiseConv2d(width, kernel)
        if not bias:
            convolution.register_parameter("bias", None)
    elif kernel == 1 and stride > 1:
        convolution = PointwiseConv2d(width_in, width, stride, bias=bias)
    else:
        groups = width if depthwise else 1
        convolution = nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=bias)
    parts.add_module("convolution", convolution)
    if normed:
        parts.add_module("norm", norm(design, width))
    if activated:
        parts.add_module("activation", activation(design))
    return parts


def stem(design: Design) -> nn.Sequential:
    """(B, channels, H, W) -> (B, C, H / stem, W / stem): that of a ResNet, or patchify (section 2.2)."""
    width, stride = design.widths[0], design.stem_stride
    if design.patchify:
        return layer(design, design.channels, width, stride, stride, normed=design.separate_downsampling)
    if stride < 4:
        return layer(design, design.channels, width, 3, stride, normed=True, activated=True)
    published = layer(design, design.channels, width, 7, 2, normed=True, activated=True)
    published.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
    return published


class RoadmapBlock(nn.Module):
    """Figures 3 and 4: (B, C_in, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(self, design: Design, width_in: int, width: int, stride: int, stochastic_depth: float) -> None:
        super().__init__()
        out = design.output(width)
        hidden = 4 * width if design.inverted else width
        seen = width_in if design.depthwise_first else hidden  # what K is given
        normed, activated = design.norms == 3, design.activations == 3
        kernel, depthwise = design.kernel_size, design.depthwise
        self.depthwise_first = design.depthwise_first
        self.pointwise1 = layer(design, width_in, hidden, normed=normed, activated=True)
        self.spatial = layer(design, seen, seen, kernel, stride, depthwise, normed=True, activated=activated)
        self.pointwise2 = layer(design, hidden, out, normed=normed)
        self.layer_scale = nn.Parameter(torch.empty(out)) if design.layer_scale else None
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        changes = width_in != out or stride > 1
        self.shortcut = layer(design, width_in, out, 1, stride, normed=True) if changes else nn.Sequential()
        self.activation = activation(design) if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise_first:
            branch = self.pointwise2(self.pointwise1(self.spatial(x)))
        else:
            branch = self.pointwise2(self.spatial(self.pointwise1(x)))
        x, branch = self.shortcut(x), self.stochastic_depth(branch)
        x = x + branch if self.layer_scale is None else add_scaled(x, self.layer_scale.view(-1, 1, 1), branch)
        y: Tensor = self.activation(x)
        return y


class RoadmapStage(nn.Module):
    """Blocks of one width; they change resolution themselves, or a separate layer before them does (section 2.6)."""

    def __init__(self, design: Design, width_in: int, width: int, stride: int, rates: Sequence[float]) -> None:
        super().__init__()
        self.downsample = nn.Sequential()
        if design.separate_downsampling and stride > 1:
            self.downsample.append(norm(design, width_in))
            self.downsample.append(nn.Conv2d(width_in, width, 2, stride=stride))
            width_in, stride = width, 1
        self.blocks = nn.Sequential()
        for rate in rates:
            self.blocks.append(RoadmapBlock(design, width_in, width, stride, rate))
            width_in, stride = design.output(width), 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class Roadmap(nn.Module):
    """The network of one design: images (B, channels, H, W), normalised floats -> logits (B, classes).

    With ``classes=0`` the feature (B, C). Any size from ``design.stride`` up is taken; a smaller one raises ValueError.
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.config = design
        rates = stochastic_depth_rates(design.stochastic_depth, sum(design.depths))
        width_in = design.widths[0]
        self.stem = stem(design)
        self.body = nn.ModuleDict()
        for i, (stage, depth, width) in enumerate(zip(self.stages, design.depths, design.widths, strict=True)):
            first = sum(design.depths[:i])
            stage_rates = rates[first : first + depth]
            self.body[stage.name] = RoadmapStage(design, width_in, width, 2 if i else 1, stage_rates)
            width_in = stage.channels
        self.norm = norm(design, width_in) if design.separate_downsampling else nn.Identity()
        self.dropout = nn.Dropout(design.dropout)
        self.head = nn.Linear(width_in, design.classes) if design.classes else nn.Identity()
        self.reset_parameters()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """stage1 to stage4 at strides 4 to 32, for the published sizes."""
        design = self.config
        return tuple(
            Stage(f"stage{i + 1}", design.output(width), design.stem_stride * 2**i)
            for i, width in enumerate(design.widths)
        )

    def reset_parameters(self) -> None:
        """Set every parameter and running mean: gamma to layer_scale, the norm that ends a branch to 0."""
        initialize(self, self.head)
        for module in self.modules():
            if isinstance(module, RoadmapBlock):
                if self.config.norms == 3:
                    nn.init.zeros_(module.pointwise2.get_parameter("norm.weight"))
                if module.layer_scale is not None:
                    nn.init.constant_(module.layer_scale, self.config.layer_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or the pooled feature."""
        logits: Tensor = self.head(self.dropout(self.pooled(images)))
        return logits

    def pooled(self, images: Tensor) -> Tensor:
        """The average of the last stage over all positions, after the last step its norm: (B, C)."""
        *_, x = self.pyramid(images).values()
        feature: Tensor = self.norm(x.mean(dim=(2, 3), keepdim=True))  # (B, C, 1, 1)
        return feature.flatten(1)

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """What leaves each stage, by its name: (B, C_i, H / (stem 2^i), W / (stem 2^i)), i counted from 0."""
        check_covers_stride(images, self.config.stride)
        x, features = self.stem(images), {}
        for name, stage in self.body.items():
            features[name] = x = stage(x)
        return features


@dataclass(frozen=True)
class Step:
    """A line of table 10 or 11: what changes, the network, and what the paper measured of it.

    top1 is ImageNet-1k accuracy in percent, gmacs what the paper prints for 224 x 224 pixels. count_macs agrees to the
    second digit but for two steps: 4.146 and 4.456 at the end of ResNet-50's column, where the paper has 4.46 and 4.49.
    "LayerNorm" leaves every product as it was, and table 11 does not change there either.
    """

    name: str
    change: str
    design: Design
    top1: float
    gmacs: float
    kept: bool  # False: the paper tries it, and goes on from the step before


# name, what changes, (top1, gmacs) of ResNet-50's column (table 10) and of ResNet-200's (table 11)
PUBLISHED = [
    ("ResNet", "90 epochs", ((76.13, 4.09), (78.20, 15.01))),
    ("modern recipe", "300 epochs, AdamW, augmentation, regularisation", ((78.82, 4.09), (81.14, 15.01))),
    ("stage ratio", "blocks are shared out between the stages as in Swin", ((79.36, 4.53), (81.33, 14.52))),
    ("patchify stem", "4x4 convolution with stride 4", ((79.51, 4.42), (81.59, 14.38))),
    ("depthwise convolution", "one 3x3 filter a channel", ((78.28, 2.35), (80.54, 7.23))),
    ("wider", "as many channels as Swin", ((80.50, 5.27), (81.85, 16.76))),
    ("inverted bottleneck", "blocks go from w to 4w to w channels", ((80.64, 4.64), (82.64, 15.68))),
    ("depthwise first", "the depthwise convolution moves up", ((79.92, 4.07), (82.04, 14.63))),
    ("kernel 5", "5x5 depthwise convolution", ((80.35, 4.10), (82.32, 14.70))),
    ("kernel 7", "7x7 depthwise convolution", ((80.57, 4.15), (82.30, 14.81))),
    ("kernel 9", "9x9 depthwise convolution", ((80.57, 4.21), (82.27, 14.95))),
    ("kernel 11", "11x11 depthwise convolution", ((80.47, 4.29), (82.18, 15.13))),
    ("GELU", "instead of ReLU", ((80.62, 4.15), (82.19, 14.81))),
    ("fewer activations", "one in a block, between the 1x1 convolutions", ((81.27, 4.15), (82.71, 14.81))),
    ("fewer norms", "one in a block, before the 1x1 convolutions", ((81.41, 4.15), (83.17, 14.81))),
    ("LayerNorm", "instead of BatchNorm", ((81.47, 4.46), (83.35, 14.81))),
    ("separate downsampling", "norm and 2x2 convolution between stages: ConvNeXt", ((81.97, 4.49), (83.60, 15.35))),
]


def column(resnet: Design, ratio: Design, widths: tuple[int, ...], place: int) -> tuple[Step, ...]:
    """Section 2 in the order of the tables: each design is an earlier one with one change. place: in PUBLISHED."""
    patchify = replace(ratio, patchify=True)
    depthwise = replace(patchify, depthwise=True)
    wider = replace(depthwise, widths=widths)
    inverted = replace(wider, inverted=True)
    moved_up = replace(inverted, depthwise_first=True)
    kernel5 = replace(moved_up, kernel_size=5)
    kernel7 = replace(kernel5, kernel_size=7)
    kernel9 = replace(kernel7, kernel_size=9)
    kernel11 = replace(kernel9, kernel_size=11)
    gelu = replace(kernel7, activation="gelu")
    one_activation = replace(gelu, activations=1)
    one_norm = replace(one_activation, norms=1)
    layer_norm = replace(one_norm, norm="layer")
    convnext = replace(layer_norm, separate_downsampling=True, layer_scale=1e-6)
    steps = []
    macro = [resnet, resnet, ratio, patchify, depthwise, wider, inverted]
    kernels = [moved_up, kernel5, kernel7, kernel9, kernel11]
    micro = [gelu, one_activation, one_norm, layer_norm, convnext]
    for (name, change, measured), design in zip(PUBLISHED, macro + kernels + micro, strict=True):
        top1, gmacs = measured[place]
        steps.append(Step(name, change, design, top1, gmacs, kept=design not in (kernel9, kernel11)))
    return tuple(steps)


RESNET50, RESNET200 = Design(), Design(depths=(3, 24, 36, 3))
RATIO50 = replace(RESNET50, depths=(3, 3, 9, 3))
RATIO200 = replace(RESNET200, depths=(3, 3, 27, 3), widths=(84, 168, 336, 672))

STEPS: dict[str, tuple[Step, ...]] = {  # by column
    "r50": column(RESNET50, RATIO50, (96, 192, 384, 768), place=0),
    "r200": column(RESNET200, RATIO200, (128, 256, 512, 1024), place=1),
}

SIZES: dict[str, dict[str, Any]] = {  # roadmap_r50_00 to roadmap_r200_16
    f"roadmap_{name}_{i:02d}": {
        field: value for field, value in asdict(step.design).items() if value != getattr(Design(), field)
    }
    for name, steps in STEPS.items()
    for i, step in enumerate(steps)
}
