"""What a model's name alone says. No torch, so that prediction from an export can ask too."""

from __future__ import annotations

QUERY_HEADS = ("eomt", "mask2former")
HEADS = ("linear", "upernet", "segformer", "panoptic_deeplab", *QUERY_HEADS)  # of segmenters, BACKBONE+HEAD


def answers_with_queries(name: str) -> bool:
    """Whether a network of this name gives masks and classes of queries; it sees whole images to tell objects apart."""
    return name.partition("+")[2] in QUERY_HEADS
