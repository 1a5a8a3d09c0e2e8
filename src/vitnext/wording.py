"""How numbers and lists are said."""

from __future__ import annotations

from collections.abc import Sequence, Sized


def counted(items: int | Sized, noun: str) -> str:
    """How many ``items`` there are: "1 image", "1,200 training images", "2 classes"."""
    count = items if isinstance(items, int) else len(items)
    plural = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural}"


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` of the names: "a, b, ..."."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
