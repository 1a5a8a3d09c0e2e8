"""`vitnext models`"""

from __future__ import annotations

import json

import pytest

from vitnext.cli.main import main
from vitnext.cli.models import SEGFORMERS
from vitnext.models import catalog, names, segmenter


def run(capsys, *arguments: str) -> str:
    assert main(["models", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_all_models_are_listed(capsys):
    header, *rows = run(capsys).splitlines()
    assert header.split()[0] == "model"
    assert [row.split()[0] for row in rows] == catalog.NAMES


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("convnext_t", ["convnext_tiny", "convnext_tiny_dinov3"]),
        ("vit_*e", ["vit_base", "vit_large", "vit_huge"]),
        ("mobile", ["mobilenet_v2"]),
    ],
)
def test_a_pattern_is_a_part_of_the_name_or_a_glob(capsys, pattern, names):
    assert [row["name"] for row in json.loads(run(capsys, pattern, "--json"))] == names


def test_json_has_exact_numbers(capsys):
    row, _ = json.loads(run(capsys, "convnext_tiny", "--json"))
    assert row["parameters"] == 28_589_128  # the official checkpoint's
    assert "28.6 M" in run(capsys, "convnext_tiny")


def test_the_licence_of_the_weights_that_a_run_starts_from(capsys):
    licences = {"convnext_tiny": "Apache-2.0", "convnextv2_tiny": "CC-BY-NC-4.0", "roadmap_r50_03": "-"}
    for name, licence in licences.items():
        rows = {row.split()[0]: row for row in run(capsys, name).splitlines()}
        assert rows[name].endswith(f" {licence}")
    [row] = json.loads(run(capsys, "convnextv2_nano", "--json"))
    assert row["weights"][0] == {"name": "timm/convnextv2_nano.fcmae_ft_in1k", "licence": "CC-BY-NC-4.0"}


@pytest.mark.parametrize(
    ("name", "millions", "size"),
    [  # ConvNeXt's table 7, SegFormer's 1a, EoMT's 1
        ("convnext_tiny+upernet", 60, 512),
        ("segformer_b0", 3.8, 512),
        ("vit_large_patch14_reg4_dinov2+eomt", 316, 518),
    ],
)
def test_a_whole_name_of_a_segmenter_is_counted(capsys, name, millions, size):
    [row] = json.loads(run(capsys, name, "--json"))
    assert (row["name"], row["image_size"], row["top1"]) == (name, size, None)
    assert row["parameters"] / 1e6 == pytest.approx(millions, rel=0.02)
    assert row["macs"] > 1e9


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("upernet", "such as convnext_tiny+upernet"),
        ("eomt", "such as vit_small+eomt"),
        ("+upernet", "such as convnext_tiny+upernet"),
        ("*+upernet", "such as convnext_tiny+upernet"),
        ("segformer", "such as convnext_tiny+segformer, or segformer_b0 to segformer_b5"),
    ],
)
def test_a_head_alone_says_how_segmenters_are_called(capsys, pattern, hint):
    assert main(["models", pattern]) == 2
    assert capsys.readouterr().err == (
        f"vitnext: {pattern}: segmenters are not listed one by one; write a whole name, of a listed model and a head, "
        f"{hint}\n"
    )


def test_half_a_name(capsys):
    assert main(["models", "resnet50+"]) == 2
    assert capsys.readouterr().err == "vitnext: no model matches resnet50+: `vitnext models` lists all of them\n"


def test_the_heads_are_those_that_there_are():
    assert set(names.HEADS) == {*segmenter.HEADS, "eomt"}
    assert {*segmenter.SIZES} == {*SEGFORMERS}


@pytest.mark.parametrize(("typed", "meant"), [("convnxt", "convnext"), ("convnext_tinny", "convnext_tiny")])
def test_a_slip_is_answered_with_what_was_meant(capsys, typed, meant):
    assert main(["models", typed]) == 2
    assert capsys.readouterr().err == f"vitnext: no model matches {typed}: did you mean {meant}?\n"


def test_no_match(capsys):
    assert main(["models", "alexnet"]) == 2
    assert capsys.readouterr().err == "vitnext: no model matches alexnet: `vitnext models` lists all of them\n"
