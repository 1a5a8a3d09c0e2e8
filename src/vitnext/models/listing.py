"""The rows of `vitnext models`, counted beforehand: building a hundred networks takes a minute. No torch."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def rows() -> list[dict[str, Any]]:
    """Every published size as ``catalog.Row`` has it, in the catalog's order (`make catalog` counts them anew)."""
    text = resources.files("vitnext.models").joinpath("catalog.json").read_text(encoding="utf-8")
    listed: list[dict[str, Any]] = json.loads(text)
    return listed
