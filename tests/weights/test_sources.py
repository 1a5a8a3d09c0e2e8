from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision

from vitnext.models import catalog
from vitnext.preprocess import INTERPOLATIONS
from vitnext.weights import sources
from vitnext.weights.sources import SOURCES, default_for, find

TIMM_LICENCES = {
    "apache-2.0": sources.APACHE,
    "mit": sources.MIT,
    "bsd-3-clause": sources.BSD,
    "cc-by-nc-4.0": sources.CC_BY_NC,
    "dinov3-license": sources.DINOV3,
}
OF_TIMM = [source for source in SOURCES if source.name.startswith("timm/")]
PLATFORM = torchvision.models.ResNet34_Weights.IMAGENET1K_V1


def test_enough_of_them_each_once():
    assert len(SOURCES) >= 60
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert all(re.fullmatch(r"(timm|facebook|google|microsoft|nvidia)/[\w.-]+", source.name) for source in SOURCES)


@pytest.mark.parametrize("source", OF_TIMM, ids=lambda source: source.name)
def test_facts_of_timm(source):
    facts = timm.get_pretrained_cfg(source.name.removeprefix("timm/"), allow_unregistered=False)
    assert facts.hf_hub_id == source.name
    assert source.licence == TIMM_LICENCES[facts.license]
    assert source.classes == facts.num_classes
    prepared = source.preprocess
    assert (prepared.mean, prepared.std) == (facts.mean, facts.std)
    assert prepared.interpolation == facts.interpolation
    assert facts.crop_mode == "center" and prepared.resize == "crop"
    settings = {(facts.input_size[-1], facts.crop_pct)}  # as trained, and as timm measured
    if facts.test_input_size:
        settings.add((facts.test_input_size[-1], facts.test_crop_pct))
    size = prepared.image_size[0]
    assert (size, round(size / prepared.crop_fraction)) in {(size, int(size / crop)) for size, crop in settings}


def network(source):
    """The catalog's name and the config that the published weights have."""
    family, _ = catalog.resolve(source.model)
    config = {"classes": source.classes}
    if family.has("image_size"):  # published positions are those of the images, but DINOv2's of 518 px
        config["image_size"] = 518 if "dinov2" in source.name else source.preprocess.image_size[0]
    if "window12_384" in source.name:  # Swin's; Swin V2's windows change no weight
        config["window"] = 12
    if source.name.startswith("timm/") and "dinov3" in source.model and family.has("qkv_bias"):
        config["qkv_bias"] = False  # timm's files without "_qkvb"
    return source.model, tuple(config.items())


def networks():
    """Each network of the sources once, and the parameters that its publishers give."""
    parameters = {}
    for source in SOURCES:
        if source.parameters < 4e8:  # test_catalog counts them all
            parameters.setdefault(network(source), set()).add(source.parameters)
    return parameters.items()


@pytest.mark.parametrize(
    ("of", "published"), networks(), ids=lambda value: value[0] if isinstance(value, tuple) else ""
)
def test_the_catalog_has_the_models_with_so_many_parameters(of, published):
    name, config = of
    with torch.device("meta"):
        model = catalog.build(name, **dict(config))
    assert {sum(parameter.numel() for parameter in model.parameters())} == published


def test_scores_and_preparation_make_sense():
    for source in SOURCES:
        assert source.top1 is None or 69 < source.top1 < 90
        assert source.top1 is None or source.classes == 1000
        assert source.preprocess.interpolation in INTERPOLATIONS
        published = source.published
        assert published == {} if source.top1 is None else published["imagenet-1k"]["top1"] == source.top1 / 100
    assert find("timm/resnet34.tv_in1k").top1 == PLATFORM.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_restrictions_are_said():
    for name, terms in (
        ("timm/convnext_tiny.in12k_ft_in1k", "Apache-2.0"),
        ("timm/vit_base_patch16_224.mae", "CC-BY-NC-4.0 (no commercial use)"),
        ("timm/convnextv2_atto.fcmae_ft_in1k", "CC-BY-NC-4.0 (no commercial use)"),
        ("facebook/vit-mae-base", "CC-BY-NC-4.0 (no commercial use)"),
        (
            "nvidia/mit-b0",
            "NVIDIA Source Code License for SegFormer (research and evaluation only, no commercial use)",
        ),
        (
            "timm/vit_small_patch16_dinov3.lvd1689m",
            "DINOv3 License (terms of its own: https://ai.meta.com/resources/models-and-libraries/dinov3-license/)",
        ),
    ):
        assert find(name).terms == terms
        assert find(name).permissive == (terms == "Apache-2.0")
    assert {source.licence for source in SOURCES} == {*sources.PERMISSIVE, *sources.RESTRICTIONS}


def test_defaults_allow_any_use():
    assert default_for("convnext_tiny").name == "timm/convnext_tiny.in12k_ft_in1k"
    assert default_for("vit_small").name == "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    assert default_for("swinv2_large").name == "timm/swinv2_large_window12to16_192to256.ms_in22k_ft_in1k"
    assert default_for("convnextv2_tiny") is None and default_for("mit_b0") is None and default_for("nothing") is None
    assert all(default_for(source.model).permissive for source in SOURCES if source.permissive)
    assert find("nobody/nothing") is None
