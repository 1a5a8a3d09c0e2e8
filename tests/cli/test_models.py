"""`vitnext models`"""

from __future__ import annotations

import json

import pytest

from vitnext.cli.main import main
from vitnext.models import catalog


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


def test_no_match(capsys):
    assert main(["models", "alexnet"]) == 2
    assert capsys.readouterr().err == "vitnext: no model matches alexnet: `vitnext models` lists all of them\n"
