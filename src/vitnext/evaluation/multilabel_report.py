"""The evaluation of a model that gives several labels an image, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vitnext.evaluation.report import reliability_diagram, template

if TYPE_CHECKING:
    from vitnext.card import Card


def render(metrics: dict[str, Any], card: Card, thumbnails: Sequence[str] = ()) -> str:
    """The report page of the metrics that `evaluate.evaluate` returns.

    ``thumbnails`` are `report.thumbnail` data URIs, one for each of ``metrics["mistakes"]``. Equal arguments give equal
    pages.
    """
    return template("multilabel_report.html.j2").render(
        m=metrics,
        card=card,
        classes=card.classes,
        digits=2 if metrics["n"] >= 1000 else 1,
        per_class=sorted(metrics["per_class"], key=lambda row: (row["ap"] is None, row["ap"])),  # weakest first
        without_images=[row["class"] for row in metrics["per_class"] if not row["n"]],
        reliability=Markup(reliability_diagram(metrics["reliability"], unit="decisions")),
        mistakes=list(zip(metrics["mistakes"], thumbnails, strict=True)),
    )
