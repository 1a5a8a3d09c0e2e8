"""`vitnext models`"""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Annotated

import typer

from vitnext.cli.terminal import print_table
from vitnext.errors import InputError


def models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name, or a glob like convnext_*.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models with their size and published accuracy.

    MACs are the multiply-adds for one image of the size shown. --json adds the exact numbers and the papers.

    \b
    Examples:
      vitnext models
      vitnext models convnext
      vitnext models "vit_*" --json
    """
    from vitnext.models import catalog

    names = [name for name in catalog.NAMES if fnmatch.fnmatchcase(name, pattern) or pattern in name]
    if not names:
        raise InputError(f"no model matches {pattern}: `vitnext models` lists all of them")
    rows = [catalog.describe(name) for name in names]
    if as_json:
        import json

        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        print_table(
            ["model", "parameters", "MACs", "image", "ImageNet top-1"],
            [
                [
                    row.name,
                    f"{row.parameters / 1e6:.1f} M",
                    f"{row.macs / 1e9:.2f} G",
                    f"{row.image_size} px",
                    f"{row.top1:.1f}%" if row.top1 else "-",
                ]
                for row in rows
            ],
        )
