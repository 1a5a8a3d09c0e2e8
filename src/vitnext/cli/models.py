"""`vitnext models`"""

from __future__ import annotations

import fnmatch
import json
from typing import Annotated

import typer

from vitnext.cli.terminal import print_table
from vitnext.errors import InputError


def models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name, or a glob like convnext_*.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models with their size and published accuracy.

    MACs are the multiply-adds for one image of the size shown. The accuracy is what the papers report for their own
    weights; vitnext has not measured it. The last column is the licence of the published weights, which a run may start
    from; --json names them all, and adds the exact numbers and the papers.

    \b
    Examples:
      vitnext models
      vitnext models convnext
      vitnext models "vit_*" --json
    """
    from vitnext.models import listing
    from vitnext.weights.sources import of_model

    rows = [row for row in listing.rows() if fnmatch.fnmatchcase(row["name"], pattern) or pattern in row["name"]]
    for row in rows:
        row["weights"] = [{"name": source.name, "licence": source.licence} for source in of_model(row["name"])]
    if not rows:
        raise InputError(f"no model matches {pattern}: `vitnext models` lists all of them")
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
