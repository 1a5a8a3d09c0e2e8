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


def percent(part: int, whole: int) -> str:
    """The share of a whole to two digits, "0.93%" or "57%"; only all of it is 100%, and only nothing 0%."""
    share = 100 * part / max(1, whole)
    if 0 < share < 0.01:
        return "less than 0.01%"
    if 99.5 <= share < 100:
        return f"{min(share, 99.9):.1f}%"
    return f"{share:.2g}%" if share < 9.95 else f"{share:.0f}%"
