"""Published weights: where they are, whose licence they have, how their images are prepared, what they score.

Facts alone: an unknown number is not there. Each is one file in its repository, the first of ``hub.FILES`` that is
there; no hash stands here, because a repository's file may be replaced: ``hub.fetch`` compares what comes with the
SHA-256 that the hub gives for it, and the card that `vitnext convert` writes keeps it. ``top1`` is the ImageNet-1k
accuracy in percent of images prepared as stated. A model starts by default from the first of its rows whose licence
allows any use.

timm's rows: hub names, licences and preparation are those of timm 1.0.31's configurations; scores by TIMM are of its
results/results-imagenet.csv, which measures some networks at more pixels than they were trained at. Scores by AUTHORS:
the tables of facebookresearch/ConvNeXt, ConvNeXt-V2 and deit and of microsoft/Swin-Transformer; by TORCHVISION: its
weights' metadata. transformers' rows: the licence is the model card's, or the authors' where it allows less (MAE,
ConvNeXt V2, SegFormer); images are prepared as the authors evaluate. ``parameters``: of the network as built here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vitnext.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

APACHE = "Apache-2.0"
MIT = "MIT"
BSD = "BSD-3-Clause"
CC_BY_NC = "CC-BY-NC-4.0"
DINOV3 = "DINOv3 License"
NVIDIA = "NVIDIA Source Code License for SegFormer"

PERMISSIVE = (APACHE, MIT, BSD)

# What is said whenever such weights are used.
RESTRICTIONS = {
    CC_BY_NC: "no commercial use",
    NVIDIA: "research and evaluation only, no commercial use",
    DINOV3: "terms of its own: https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}

TIMM, AUTHORS, TORCHVISION = "timm", "the authors", "torchvision"


@dataclass(frozen=True)
class Source:
    """One published checkpoint.

    name: its repository on the hub; model: the catalog's name; classes: 0 for a network without a head; by: who
    measured ``top1``.
    """

    name: str
    model: str
    licence: str
    preprocess: Preprocess
    classes: int
    parameters: int
    top1: float | None = None
    by: str = TIMM

    @property
    def permissive(self) -> bool:
        """Whether its licence allows any use."""
        return self.licence in PERMISSIVE

    @property
    def terms(self) -> str:
        """The licence and what it restricts: "CC-BY-NC-4.0 (no commercial use)"."""
        return self.licence if self.permissive else f"{self.licence} ({RESTRICTIONS[self.licence]})"

    @property
    def published(self) -> dict[str, Any]:
        """The published score, as a card's metrics have it; empty if none is known."""
        return {"imagenet-1k": {"top1": self.top1 / 100, "measured_by": self.by}} if self.top1 is not None else {}


def find(name: str) -> Source | None:
    """The source of this name."""
    return next((source for source in SOURCES if source.name == name), None)


def of_model(model: str) -> list[Source]:
    """The weights of the catalog's ``model``, those whose licence allows any use first."""
    return sorted((source for source in SOURCES if source.model == model), key=lambda source: not source.permissive)


def default_for(model: str) -> Source | None:
    """What the catalog's ``model`` starts from by default."""
    return next((source for source in of_model(model) if source.permissive), None)


def _half(size: int, resize: int | None, interpolation: Literal["bicubic", "bilinear"] = "bicubic") -> Preprocess:
    """Pixels to -1 ... 1, as Google's ViTs were trained."""
    return _crop(size, resize, interpolation, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _crop(
    size: int,
    resize: int | None,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Preprocess:
    """The short side to ``resize`` pixels, then the centre ``size`` x ``size``; None: stretched to that."""
    if resize is None:
        return Preprocess((size, size), interpolation=interpolation, mean=mean, std=std)
    return Preprocess((size, size), "crop", size / resize, interpolation, mean=mean, std=std)


P224, P224_248, P224_256 = _crop(224, 224), _crop(224, 248), _crop(224, 256)
P192_213, P192_219 = _crop(192, 213), _crop(192, 219)
P256, P256_284, P288, P288_303 = _crop(256, 256), _crop(256, 284), _crop(288, 288), _crop(288, 303)
P384, P518 = _crop(384, 384), _crop(518, 518)
AUGREG_224, AUGREG_384, GOOGLE_224 = _half(224, 248), _half(384, 384), _half(224, None, "bilinear")
TORCHVISION_1, TORCHVISION_2 = _crop(224, 256, "bilinear"), _crop(224, 232, "bilinear")
P256_STRETCH = _crop(256, None, "bilinear")
P256_292, P384_STRETCH = _crop(256, 292), _crop(384, None)
SATELLITE = _crop(256, 256, mean=(0.43, 0.411, 0.296), std=(0.213, 0.156, 0.143))

SOURCES = (
    # name, model, licence, preprocess, classes, parameters, top1, by. In timm's names
    Source("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_tiny", APACHE, AUGREG_224, 1000, 5_717_416, 75.454),
    Source(
        "timm/vit_small_patch16_224.augreg_in21k_ft_in1k", "vit_small", APACHE, AUGREG_224, 1000, 22_050_664, 81.384
    ),
    Source("timm/vit_small_patch16_224.augreg_in1k", "vit_small", APACHE, AUGREG_224, 1000, 22_050_664, 78.846),
    Source("timm/vit_small_patch16_224.dino", "vit_small", APACHE, P224_248, 0, 21_665_664),
    Source(
        "timm/vit_small_patch32_224.augreg_in21k_ft_in1k",
        "vit_small_patch32",
        APACHE,
        AUGREG_224,
        1000,
        22_878_952,
        75.994,
    ),
    Source("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", "vit_base", APACHE, AUGREG_224, 1000, 86_567_656, 85.096),
    Source("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_base", APACHE, AUGREG_224, 1000, 86_567_656, 84.532),
    Source("timm/vit_base_patch16_224.orig_in21k_ft_in1k", "vit_base", APACHE, AUGREG_224, 1000, 86_567_656, 81.786),
    Source("timm/vit_base_patch16_384.augreg_in21k_ft_in1k", "vit_base", APACHE, AUGREG_384, 1000, 86_859_496, 85.996),
    Source("timm/vit_base_patch16_224.augreg_in1k", "vit_base", APACHE, AUGREG_224, 1000, 86_567_656, 79.154),
    Source("timm/vit_base_patch16_224.augreg_in21k", "vit_base", APACHE, AUGREG_224, 21843, 102_595_923),
    Source("timm/vit_base_patch16_224.mae", "vit_base", CC_BY_NC, P224_248, 0, 85_798_656),
    Source("timm/vit_base_patch16_224.dino", "vit_base", APACHE, P224_248, 0, 85_798_656),
    Source(
        "timm/vit_base_patch32_224.augreg_in21k_ft_in1k",
        "vit_base_patch32",
        APACHE,
        AUGREG_224,
        1000,
        88_224_232,
        80.716,
    ),
    Source(
        "timm/vit_base_patch8_224.augreg_in21k_ft_in1k", "vit_base_patch8", APACHE, AUGREG_224, 1000, 86_576_872, 85.798
    ),
    Source("timm/vit_base_patch8_224.dino", "vit_base_patch8", APACHE, P224_248, 0, 85_807_872),
    Source(
        "timm/vit_large_patch16_224.augreg_in21k_ft_in1k", "vit_large", APACHE, AUGREG_224, 1000, 304_326_632, 85.834
    ),
    Source("timm/vit_large_patch16_224.mae", "vit_large", CC_BY_NC, P224_248, 0, 303_301_632),
    Source("timm/vit_huge_patch14_224.orig_in21k", "vit_huge", APACHE, AUGREG_224, 0, 630_764_800),
    Source("timm/vit_huge_patch14_224.mae", "vit_huge", CC_BY_NC, P224_248, 0, 630_764_800),
    Source("timm/vit_small_patch8_224.dino", "vit_small_patch8", APACHE, P224_248, 0, 21_670_272),
    Source("timm/vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2", APACHE, P518, 0, 22_056_192),
    Source("timm/vit_base_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2", APACHE, P518, 0, 86_579_712),
    Source("timm/vit_large_patch14_dinov2.lvd142m", "vit_large_patch14_dinov2", APACHE, P518, 0, 304_367_616),
    Source("timm/vit_giant_patch14_dinov2.lvd142m", "vit_giant_patch14_dinov2", APACHE, P518, 0, 1_136_479_232),
    Source("timm/vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2", APACHE, P518, 0, 22_057_728),
    Source("timm/vit_base_patch14_reg4_dinov2.lvd142m", "vit_base_patch14_reg4_dinov2", APACHE, P518, 0, 86_582_784),
    Source("timm/vit_large_patch14_reg4_dinov2.lvd142m", "vit_large_patch14_reg4_dinov2", APACHE, P518, 0, 304_371_712),
    Source(
        "timm/vit_giant_patch14_reg4_dinov2.lvd142m", "vit_giant_patch14_reg4_dinov2", APACHE, P518, 0, 1_136_485_376
    ),
    Source("timm/vit_small_patch16_dinov3.lvd1689m", "vit_small_patch16_dinov3", DINOV3, P256, 0, 21_586_944),
    Source("timm/vit_small_plus_patch16_dinov3.lvd1689m", "vit_small_plus_patch16_dinov3", DINOV3, P256, 0, 28_683_264),
    Source("timm/vit_base_patch16_dinov3.lvd1689m", "vit_base_patch16_dinov3", DINOV3, P256, 0, 85_641_216),
    Source("timm/vit_large_patch16_dinov3.lvd1689m", "vit_large_patch16_dinov3", DINOV3, P256, 0, 303_079_424),
    Source("timm/vit_large_patch16_dinov3.sat493m", "vit_large_patch16_dinov3", DINOV3, SATELLITE, 0, 303_079_424),
    Source("timm/vit_huge_plus_patch16_dinov3.lvd1689m", "vit_huge_plus_patch16_dinov3", DINOV3, P256, 0, 840_509_440),
    Source("timm/vit_7b_patch16_dinov3.lvd1689m", "vit_7b_patch16_dinov3", DINOV3, P256, 0, 6_716_030_976),
    Source("timm/deit_tiny_patch16_224.fb_in1k", "deit_tiny", APACHE, P224_248, 1000, 5_717_416, 72.172),
    Source("timm/deit_small_patch16_224.fb_in1k", "deit_small", APACHE, P224_248, 1000, 22_050_664, 79.844),
    Source("timm/deit_base_patch16_224.fb_in1k", "deit_base", APACHE, P224_248, 1000, 86_567_656, 81.992),
    Source("timm/deit_base_patch16_384.fb_in1k", "deit_base", APACHE, P384, 1000, 86_859_496, 83.106),
    Source(
        "timm/deit_tiny_distilled_patch16_224.fb_in1k", "deit_tiny_distilled", APACHE, P224_248, 1000, 5_910_800, 74.5
    ),
    Source(
        "timm/deit_small_distilled_patch16_224.fb_in1k",
        "deit_small_distilled",
        APACHE,
        P224_248,
        1000,
        22_436_432,
        81.218,
    ),
    Source(
        "timm/deit_base_distilled_patch16_224.fb_in1k",
        "deit_base_distilled",
        APACHE,
        P224_248,
        1000,
        87_338_192,
        83.386,
    ),
    Source("timm/deit3_small_patch16_224.fb_in22k_ft_in1k", "deit3_small", APACHE, P224, 1000, 22_059_496, 83.074),
    Source("timm/deit3_small_patch16_224.fb_in1k", "deit3_small", APACHE, P224_248, 1000, 22_059_496, 81.37),
    Source("timm/deit3_medium_patch16_224.fb_in22k_ft_in1k", "deit3_medium", APACHE, P224, 1000, 38_849_512, 84.552),
    Source("timm/deit3_medium_patch16_224.fb_in1k", "deit3_medium", APACHE, P224_248, 1000, 38_849_512, 83.086),
    Source("timm/deit3_base_patch16_224.fb_in22k_ft_in1k", "deit3_base", APACHE, P224, 1000, 86_585_320, 85.7),
    Source("timm/deit3_base_patch16_224.fb_in1k", "deit3_base", APACHE, P224_248, 1000, 86_585_320, 83.786),
    Source("timm/deit3_large_patch16_224.fb_in22k_ft_in1k", "deit3_large", APACHE, P224, 1000, 304_374_760, 86.982),
    Source("timm/deit3_large_patch16_224.fb_in1k", "deit3_large", APACHE, P224_248, 1000, 304_374_760, 84.776),
    Source("timm/deit3_huge_patch14_224.fb_in22k_ft_in1k", "deit3_huge", APACHE, P224, 1000, 632_126_440, 87.186),
    Source("timm/deit3_huge_patch14_224.fb_in1k", "deit3_huge", APACHE, P224_248, 1000, 632_126_440, 85.224),
    Source("timm/swin_tiny_patch4_window7_224.ms_in1k", "swin_tiny", MIT, P224_248, 1000, 28_288_354, 81.376),
    Source("timm/swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", "swin_tiny", MIT, P224_248, 1000, 28_288_354, 80.968),
    Source(
        "timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k", "swin_small", MIT, P224_248, 1000, 49_606_258, 83.298
    ),
    Source("timm/swin_small_patch4_window7_224.ms_in1k", "swin_small", MIT, P224_248, 1000, 49_606_258, 83.208),
    Source("timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k", "swin_base", MIT, P224_248, 1000, 87_768_224, 85.272),
    Source("timm/swin_base_patch4_window7_224.ms_in1k", "swin_base", MIT, P224_248, 1000, 87_768_224, 83.606),
    Source("timm/swin_base_patch4_window12_384.ms_in1k", "swin_base", MIT, P384, 1000, 87_903_584, 84.476),
    Source(
        "timm/swin_large_patch4_window7_224.ms_in22k_ft_in1k", "swin_large", MIT, P224_248, 1000, 196_532_476, 86.312
    ),
    Source("timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k", "swin_large", MIT, P384, 1000, 196_735_516, 87.132),
    Source("timm/swinv2_tiny_window8_256.ms_in1k", "swinv2_tiny", MIT, P256_284, 1000, 28_347_154, 81.82),
    Source("timm/swinv2_small_window8_256.ms_in1k", "swinv2_small", MIT, P256_284, 1000, 49_728_418, 83.854),
    Source("timm/swinv2_base_window8_256.ms_in1k", "swinv2_base", MIT, P256_284, 1000, 87_918_816, 84.25),
    Source(
        "timm/swinv2_base_window12to16_192to256.ms_in22k_ft_in1k",
        "swinv2_base",
        MIT,
        P256_284,
        1000,
        87_918_816,
        86.268,
    ),
    Source(
        "timm/swinv2_base_window12to24_192to384.ms_in22k_ft_in1k", "swinv2_base", MIT, P384, 1000, 87_918_816, 87.096
    ),
    Source("timm/swinv2_base_window12_192.ms_in22k", "swinv2_base", MIT, P192_213, 21841, 109_280_841),
    Source(
        "timm/swinv2_large_window12to16_192to256.ms_in22k_ft_in1k",
        "swinv2_large",
        MIT,
        P256_284,
        1000,
        196_739_932,
        86.952,
    ),
    Source(
        "timm/swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", "swinv2_large", MIT, P384, 1000, 196_739_932, 87.464
    ),
    Source("timm/swinv2_large_window12_192.ms_in22k", "swinv2_large", MIT, P192_213, 21841, 228_772_549),
    Source("timm/convnext_atto.d2_in1k", "convnext_atto", APACHE, P288_303, 1000, 3_695_520, 77.008),
    Source("timm/convnext_femto.d1_in1k", "convnext_femto", APACHE, P288_303, 1000, 5_217_784, 78.716),
    Source("timm/convnext_pico.d1_in1k", "convnext_pico", APACHE, P288_303, 1000, 9_045_672, 80.414),
    Source("timm/convnext_nano.in12k_ft_in1k", "convnext_nano", APACHE, P288, 1000, 15_593_560, 82.862),
    Source("timm/convnext_nano.d1h_in1k", "convnext_nano", APACHE, P288, 1000, 15_593_560, 81.482),
    Source("timm/convnext_tiny.in12k_ft_in1k", "convnext_tiny", APACHE, P288, 1000, 28_589_128, 84.45),
    Source("timm/convnext_tiny.fb_in1k", "convnext_tiny", APACHE, P224_256, 1000, 28_589_128, 82.1, AUTHORS),
    Source("timm/convnext_tiny.fb_in22k", "convnext_tiny", APACHE, P224_256, 21841, 44_615_857),
    Source("timm/convnext_small.in12k_ft_in1k", "convnext_small", APACHE, P288, 1000, 50_223_688, 85.33),
    Source("timm/convnext_small.fb_in1k", "convnext_small", APACHE, P224_256, 1000, 50_223_688, 83.1, AUTHORS),
    Source("timm/convnext_small.fb_in22k_ft_in1k", "convnext_small", APACHE, P224_256, 1000, 50_223_688, 84.6, AUTHORS),
    Source("timm/convnext_base.fb_in22k_ft_in1k", "convnext_base", APACHE, P224_256, 1000, 88_591_464, 85.8, AUTHORS),
    Source("timm/convnext_base.fb_in1k", "convnext_base", APACHE, P224_256, 1000, 88_591_464, 83.8, AUTHORS),
    Source(
        "timm/convnext_large.fb_in22k_ft_in1k", "convnext_large", APACHE, P224_256, 1000, 197_767_336, 86.6, AUTHORS
    ),
    Source("timm/convnext_large.fb_in1k", "convnext_large", APACHE, P224_256, 1000, 197_767_336, 84.3, AUTHORS),
    Source(
        "timm/convnext_xlarge.fb_in22k_ft_in1k", "convnext_xlarge", APACHE, P224_256, 1000, 350_196_968, 87.0, AUTHORS
    ),
    Source("timm/convnext_tiny.dinov3_lvd1689m", "convnext_tiny_dinov3", DINOV3, P224, 0, 27_820_128),
    Source("timm/convnext_small.dinov3_lvd1689m", "convnext_small_dinov3", DINOV3, P224, 0, 49_454_688),
    Source("timm/convnext_base.dinov3_lvd1689m", "convnext_base_dinov3", DINOV3, P224, 0, 87_566_464),
    Source("timm/convnext_large.dinov3_lvd1689m", "convnext_large_dinov3", DINOV3, P224, 0, 196_230_336),
    Source("timm/convnextv2_atto.fcmae_ft_in1k", "convnextv2_atto", CC_BY_NC, P224_256, 1000, 3_708_400, 76.7, AUTHORS),
    Source(
        "timm/convnextv2_femto.fcmae_ft_in1k", "convnextv2_femto", CC_BY_NC, P224_256, 1000, 5_233_240, 78.5, AUTHORS
    ),
    Source("timm/convnextv2_pico.fcmae_ft_in1k", "convnextv2_pico", CC_BY_NC, P224_256, 1000, 9_066_280, 80.3, AUTHORS),
    Source(
        "timm/convnextv2_nano.fcmae_ft_in1k", "convnextv2_nano", CC_BY_NC, P224_256, 1000, 15_623_800, 81.9, AUTHORS
    ),
    Source(
        "timm/convnextv2_tiny.fcmae_ft_in22k_in1k",
        "convnextv2_tiny",
        CC_BY_NC,
        P224_256,
        1000,
        28_635_496,
        83.9,
        AUTHORS,
    ),
    Source(
        "timm/convnextv2_tiny.fcmae_ft_in1k", "convnextv2_tiny", CC_BY_NC, P224_256, 1000, 28_635_496, 83.0, AUTHORS
    ),
    Source("timm/convnextv2_tiny.fcmae", "convnextv2_tiny", CC_BY_NC, P224_256, 0, 27_866_496),
    Source(
        "timm/convnextv2_base.fcmae_ft_in22k_in1k",
        "convnextv2_base",
        CC_BY_NC,
        P224_256,
        1000,
        88_717_800,
        86.8,
        AUTHORS,
    ),
    Source(
        "timm/convnextv2_base.fcmae_ft_in1k", "convnextv2_base", CC_BY_NC, P224_256, 1000, 88_717_800, 84.9, AUTHORS
    ),
    Source(
        "timm/convnextv2_large.fcmae_ft_in1k", "convnextv2_large", CC_BY_NC, P224_256, 1000, 197_956_840, 85.8, AUTHORS
    ),
    Source(
        "timm/convnextv2_huge.fcmae_ft_in1k", "convnextv2_huge", CC_BY_NC, P224_256, 1000, 660_289_640, 86.3, AUTHORS
    ),
    Source("timm/resnet18.a1_in1k", "resnet18", APACHE, P288, 1000, 11_689_512, 73.158),
    Source("timm/resnet18.tv_in1k", "resnet18", BSD, TORCHVISION_1, 1000, 11_689_512, 69.76),
    Source("timm/resnet34.a1_in1k", "resnet34", APACHE, P288, 1000, 21_797_672, 77.918),
    Source("timm/resnet34.tv_in1k", "resnet34", BSD, TORCHVISION_1, 1000, 21_797_672, 73.314, TORCHVISION),
    Source("timm/resnet50.a1_in1k", "resnet50", APACHE, P288, 1000, 25_557_032, 81.214),
    Source("timm/resnet50.tv_in1k", "resnet50", BSD, TORCHVISION_1, 1000, 25_557_032, 76.13),
    Source("timm/resnet50.tv2_in1k", "resnet50", BSD, TORCHVISION_2, 1000, 25_557_032, 80.85),
    Source("timm/resnet101.a1_in1k", "resnet101", APACHE, P288, 1000, 44_549_160, 82.322),
    Source("timm/resnet101.tv_in1k", "resnet101", BSD, TORCHVISION_1, 1000, 44_549_160, 77.376),
    Source("timm/resnet101.tv2_in1k", "resnet101", BSD, TORCHVISION_2, 1000, 44_549_160, 81.89),
    Source("timm/resnet152.a1_in1k", "resnet152", APACHE, P288, 1000, 60_192_808, 82.732),
    Source("timm/resnet152.tv_in1k", "resnet152", BSD, TORCHVISION_1, 1000, 60_192_808, 78.322),
    Source("timm/resnet152.tv2_in1k", "resnet152", BSD, TORCHVISION_2, 1000, 60_192_808, 82.288),
    Source("timm/mobilenetv2_100.ra_in1k", "mobilenet_v2", APACHE, P224_256, 1000, 3_504_872, 72.976),
    # In transformers' names
    Source("google/vit-base-patch16-224", "vit_base", APACHE, GOOGLE_224, 1000, 86_567_656),
    Source("google/vit-base-patch16-224-in21k", "vit_base", APACHE, GOOGLE_224, 0, 85_798_656),
    Source("google/vit-large-patch16-224", "vit_large", APACHE, GOOGLE_224, 1000, 304_326_632),
    Source("facebook/deit-tiny-patch16-224", "deit_tiny", APACHE, P224_256, 1000, 5_717_416, 72.2, AUTHORS),
    Source("facebook/deit-small-patch16-224", "deit_small", APACHE, P224_256, 1000, 22_050_664, 79.9, AUTHORS),
    Source("facebook/deit-base-patch16-224", "deit_base", APACHE, P224_256, 1000, 86_567_656, 81.8, AUTHORS),
    Source(
        "facebook/deit-tiny-distilled-patch16-224",
        "deit_tiny_distilled",
        APACHE,
        P224_256,
        1000,
        5_910_800,
        74.5,
        AUTHORS,
    ),
    Source(
        "facebook/deit-small-distilled-patch16-224",
        "deit_small_distilled",
        APACHE,
        P224_256,
        1000,
        22_436_432,
        81.2,
        AUTHORS,
    ),
    Source(
        "facebook/deit-base-distilled-patch16-224",
        "deit_base_distilled",
        APACHE,
        P224_256,
        1000,
        87_338_192,
        83.4,
        AUTHORS,
    ),
    Source("facebook/dino-vits16", "vit_small", APACHE, P224_256, 0, 21_665_664),
    Source("facebook/dino-vits8", "vit_small_patch8", APACHE, P224_256, 0, 21_670_272),
    Source("facebook/dino-vitb16", "vit_base", APACHE, P224_256, 0, 85_798_656),
    Source("facebook/dino-vitb8", "vit_base_patch8", APACHE, P224_256, 0, 85_807_872),
    Source("facebook/vit-mae-base", "vit_base", CC_BY_NC, P224_256, 0, 85_798_656),
    Source("facebook/vit-mae-large", "vit_large", CC_BY_NC, P224_256, 0, 303_301_632),
    Source("facebook/vit-mae-huge", "vit_huge", CC_BY_NC, P224_256, 0, 630_764_800),
    Source("facebook/dinov2-small", "vit_small_patch14_dinov2", APACHE, P224_256, 0, 22_056_192),
    Source("facebook/dinov2-base", "vit_base_patch14_dinov2", APACHE, P224_256, 0, 86_579_712),
    Source("facebook/dinov2-large", "vit_large_patch14_dinov2", APACHE, P224_256, 0, 304_367_616),
    Source("facebook/dinov2-giant", "vit_giant_patch14_dinov2", APACHE, P224_256, 0, 1_136_479_232),
    Source("facebook/dinov2-with-registers-small", "vit_small_patch14_reg4_dinov2", APACHE, P224_256, 0, 22_057_728),
    Source("facebook/dinov2-with-registers-base", "vit_base_patch14_reg4_dinov2", APACHE, P224_256, 0, 86_582_784),
    Source("facebook/dinov2-with-registers-large", "vit_large_patch14_reg4_dinov2", APACHE, P224_256, 0, 304_371_712),
    Source("facebook/dinov2-with-registers-giant", "vit_giant_patch14_reg4_dinov2", APACHE, P224_256, 0, 1_136_485_376),
    Source("facebook/dinov3-vits16-pretrain-lvd1689m", "vit_small_patch16_dinov3", DINOV3, P256_STRETCH, 0, 21_596_160),
    Source(
        "facebook/dinov3-vits16plus-pretrain-lvd1689m",
        "vit_small_plus_patch16_dinov3",
        DINOV3,
        P256_STRETCH,
        0,
        28_692_480,
    ),
    Source("facebook/dinov3-vitb16-pretrain-lvd1689m", "vit_base_patch16_dinov3", DINOV3, P256_STRETCH, 0, 85_659_648),
    Source(
        "facebook/dinov3-vitl16-pretrain-lvd1689m", "vit_large_patch16_dinov3", DINOV3, P256_STRETCH, 0, 303_128_576
    ),
    Source(
        "facebook/dinov3-vith16plus-pretrain-lvd1689m",
        "vit_huge_plus_patch16_dinov3",
        DINOV3,
        P256_STRETCH,
        0,
        840_591_360,
    ),
    Source(
        "facebook/dinov3-vit7b16-pretrain-lvd1689m", "vit_7b_patch16_dinov3", DINOV3, P256_STRETCH, 0, 6_716_030_976
    ),
    Source(
        "facebook/dinov3-convnext-tiny-pretrain-lvd1689m", "convnext_tiny_dinov3", DINOV3, P256_STRETCH, 0, 27_820_128
    ),
    Source(
        "facebook/dinov3-convnext-small-pretrain-lvd1689m", "convnext_small_dinov3", DINOV3, P256_STRETCH, 0, 49_454_688
    ),
    Source(
        "facebook/dinov3-convnext-base-pretrain-lvd1689m", "convnext_base_dinov3", DINOV3, P256_STRETCH, 0, 87_566_464
    ),
    Source(
        "facebook/dinov3-convnext-large-pretrain-lvd1689m",
        "convnext_large_dinov3",
        DINOV3,
        P256_STRETCH,
        0,
        196_230_336,
    ),
    Source("facebook/convnext-tiny-224", "convnext_tiny", APACHE, P224_256, 1000, 28_589_128, 82.1, AUTHORS),
    Source("facebook/convnext-small-224", "convnext_small", APACHE, P224_256, 1000, 50_223_688, 83.1, AUTHORS),
    Source("facebook/convnext-base-224", "convnext_base", APACHE, P224_256, 1000, 88_591_464, 83.8, AUTHORS),
    Source("facebook/convnext-large-224", "convnext_large", APACHE, P224_256, 1000, 197_767_336, 84.3, AUTHORS),
    Source("facebook/convnextv2-atto-1k-224", "convnextv2_atto", CC_BY_NC, P224_256, 1000, 3_708_400, 76.7, AUTHORS),
    Source("facebook/convnextv2-femto-1k-224", "convnextv2_femto", CC_BY_NC, P224_256, 1000, 5_233_240, 78.5, AUTHORS),
    Source("facebook/convnextv2-pico-1k-224", "convnextv2_pico", CC_BY_NC, P224_256, 1000, 9_066_280, 80.3, AUTHORS),
    Source("facebook/convnextv2-nano-1k-224", "convnextv2_nano", CC_BY_NC, P224_256, 1000, 15_623_800, 81.9, AUTHORS),
    Source("facebook/convnextv2-tiny-1k-224", "convnextv2_tiny", CC_BY_NC, P224_256, 1000, 28_635_496, 83.0, AUTHORS),
    Source("facebook/convnextv2-base-1k-224", "convnextv2_base", CC_BY_NC, P224_256, 1000, 88_717_800, 84.9, AUTHORS),
    Source(
        "facebook/convnextv2-large-1k-224", "convnextv2_large", CC_BY_NC, P224_256, 1000, 197_956_840, 85.8, AUTHORS
    ),
    Source("facebook/convnextv2-huge-1k-224", "convnextv2_huge", CC_BY_NC, P224_256, 1000, 660_289_640, 86.3, AUTHORS),
    Source("microsoft/swin-tiny-patch4-window7-224", "swin_tiny", APACHE, P224_256, 1000, 28_288_354, 81.2, AUTHORS),
    Source("microsoft/swin-small-patch4-window7-224", "swin_small", APACHE, P224_256, 1000, 49_606_258, 83.2, AUTHORS),
    Source("microsoft/swin-base-patch4-window7-224", "swin_base", APACHE, P224_256, 1000, 87_768_224, 83.5, AUTHORS),
    Source(
        "microsoft/swinv2-tiny-patch4-window8-256", "swinv2_tiny", APACHE, P256_284, 1000, 28_347_154, 81.8, AUTHORS
    ),
    Source(
        "microsoft/swinv2-small-patch4-window8-256", "swinv2_small", APACHE, P256_284, 1000, 49_728_418, 83.7, AUTHORS
    ),
    Source(
        "microsoft/swinv2-base-patch4-window8-256", "swinv2_base", APACHE, P256_284, 1000, 87_918_816, 84.2, AUTHORS
    ),
    Source(
        "microsoft/swinv2-base-patch4-window12to16-192to256-22kto1k-ft",
        "swinv2_base",
        APACHE,
        P256_292,
        1000,
        87_918_816,
        86.2,
        AUTHORS,
    ),
    Source(
        "microsoft/swinv2-base-patch4-window12to24-192to384-22kto1k-ft",
        "swinv2_base",
        APACHE,
        P384_STRETCH,
        1000,
        87_918_816,
        87.1,
        AUTHORS,
    ),
    Source("microsoft/swinv2-base-patch4-window12-192-22k", "swinv2_base", APACHE, P192_219, 21841, 109_280_841),
    Source(
        "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft",
        "swinv2_large",
        APACHE,
        P256_292,
        1000,
        196_739_932,
        86.9,
        AUTHORS,
    ),
    Source(
        "microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft",
        "swinv2_large",
        APACHE,
        P384_STRETCH,
        1000,
        196_739_932,
        87.6,
        AUTHORS,
    ),
    Source("microsoft/swinv2-large-patch4-window12-192-22k", "swinv2_large", APACHE, P192_219, 21841, 228_772_549),
    Source("microsoft/resnet-18", "resnet18", APACHE, P224_256, 1000, 11_689_512),
    Source("microsoft/resnet-34", "resnet34", APACHE, P224_256, 1000, 21_797_672),
    Source("microsoft/resnet-50", "resnet50", APACHE, P224_256, 1000, 25_557_032),
    Source("microsoft/resnet-101", "resnet101", APACHE, P224_256, 1000, 44_549_160),
    Source("microsoft/resnet-152", "resnet152", APACHE, P224_256, 1000, 60_192_808),
    Source("nvidia/mit-b0", "mit_b0", NVIDIA, P224_256, 1000, 3_576_392),
    Source("nvidia/mit-b1", "mit_b1", NVIDIA, P224_256, 1000, 13_664_424),
    Source("nvidia/mit-b2", "mit_b2", NVIDIA, P224_256, 1000, 24_709_288),
    Source("nvidia/mit-b3", "mit_b3", NVIDIA, P224_256, 1000, 44_585_128),
    Source("nvidia/mit-b4", "mit_b4", NVIDIA, P224_256, 1000, 61_355_688),
    Source("nvidia/mit-b5", "mit_b5", NVIDIA, P224_256, 1000, 81_956_008),
)
