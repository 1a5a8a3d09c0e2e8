"""How numbers are said."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """ "1 image", "1,200 images", "2 classes"; of "training image" the last word is counted."""
    plural = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural}"
