"""`vitnext models`"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
import re
from typing import Annotated

import typer

from vitnext.cli.terminal import print_table
from vitnext.errors import InputError

SEGFORMERS = [f"segformer_b{i}" for i in range(6)]


def models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name, or a glob like convnext_*.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models with their size and published accuracy.

    MACs are the multiply-adds for one image of the size shown, as vitnext computes it. The accuracy is what the papers
    report for their own weights; vitnext has not measured it. The last column is the licence of the published weights,
    which a run may start from; --json names them all, and adds the exact numbers and the papers. Segmenters are
    BACKBONE+HEAD, a model of the list and linear, upernet, segformer, panoptic_deeplab or mask2former, or a plain ViT
    and eomt; and segformer_b0 to segformer_b5. Such a name is counted for 150 classes, and the weights are those of its
    backbone.

    \b
    Examples:
      vitnext models
      vitnext models convnext
      vitnext models "vit_*" --json
      vitnext models convnext_tiny+upernet
    """
    from vitnext.models import listing
    from vitnext.models.names import HEADS
    from vitnext.weights.sources import of_model

    rows = [row for row in listing.rows() if fnmatch.fnmatchcase(row["name"], pattern) or pattern in row["name"]]
    of_heads = [head for head in HEADS if pattern and (pattern in head or head in pattern)]
    backbone = None
    if not rows and (re.fullmatch(r"\w+\+\w+", pattern) or pattern in SEGFORMERS):
        from vitnext.models import create  # torch

        rows, backbone = [dataclasses.asdict(create.describe(pattern))], create.backbone_of(pattern)
    for row in rows:
        published = of_model(backbone or row["name"])
        row["weights"] = [{"name": source.name, "licence": source.licence} for source in published]
    if not rows and of_heads:
        raise InputError(
            f"{pattern}: segmenters are not listed one by one; write a whole name, of a listed model and a head, "
            f"such as {'vit_small' if of_heads[0] == 'eomt' else 'convnext_tiny'}+{of_heads[0]}"
            f"{', or segformer_b0 to segformer_b5' * ('segformer' in of_heads)}"
        )
    if not rows:
        known = list(dict.fromkeys(row[key] for row in listing.rows() for key in ("family", "name")))
        close = difflib.get_close_matches(pattern.lower(), known, n=1, cutoff=0.7) if pattern.isidentifier() else []
        hint = f"did you mean {close[0]}?" if close else "`vitnext models` lists all of them"
        raise InputError(f"no model matches {pattern}: {hint}")
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(
            ["model", "parameters", "MACs", "image", "ImageNet top-1", "published weights"],
            [
                [
                    row["name"],
                    f"{row['parameters'] / 1e6:.1f} M",
                    f"{row['macs'] / 1e9:.2f} G",
                    f"{row['image_size']} px",
                    f"{row['top1']:.1f}%" if row["top1"] else "-",
                    row["weights"][0]["licence"] if row["weights"] else "-",
                ]
                for row in rows
            ],
        )
