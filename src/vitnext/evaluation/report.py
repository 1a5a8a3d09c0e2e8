"""The evaluation as one self-contained HTML page: figures inlined, no request to anywhere, all names escaped."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from vitnext.preprocess import Source, open_image
from vitnext.wording import counted

if TYPE_CHECKING:
    from vitnext.card import Card

THUMBNAIL = 128  # pixels, longest side
CELLS = 30  # classes up to which the confusion matrix is a table of counts; above it is a picture
HEAT_MAP = 250  # pixels a side at most before enlarging; more classes than that share a pixel

# matplotlib wants literal colours, the page its own, light or dark: these stand in until CSS variables replace them.
_INK, _MUTED, _GRID, _RIGHT, _WRONG = "#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005"
_CSS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _RIGHT: "var(--right)",
    _WRONG: "var(--wrong)",
}


def render(metrics: dict[str, Any], card: Card, thumbnails: Sequence[str] = ()) -> str:
    """The report page of the metrics that `evaluate.evaluate` returns.

    ``thumbnails`` are `thumbnail` data URIs, one for each of ``metrics["mistakes"]``. Equal arguments give equal pages.
    """
    truths = np.array([row["n"] for row in metrics["per_class"]])  # images of each class
    wrong = _confused(metrics)
    table = len(truths) <= CELLS
    return template("report.html.j2").render(
        m=metrics,
        card=card,
        classes=card.classes,
        digits=2 if metrics["n"] >= 1000 else 1,
        right=metrics["n"] - int(wrong[:, 2].sum()),
        most_frequent=float(truths.max() / metrics["n"]),
        without_images=int((truths == 0).sum()),
        per_class=sorted(metrics["per_class"], key=lambda row: (row["f1"] is None, row["f1"])),  # weakest first
        matrix=metrics["confusion"] if table else None,
        heat_map=None if table else _heat_map(wrong, truths),
        classes_per_pixel=-(-len(truths) // HEAT_MAP),
        confused=_most_confused(wrong, truths, card.classes, limit=10 if table else 20),
        mean_confidence=sum(b["count"] * b["confidence"] for b in metrics["reliability"] if b["count"]) / metrics["n"],
        reliability=Markup(reliability_diagram(metrics["reliability"])),
        mistakes=list(zip(metrics["mistakes"], thumbnails, strict=True)),
    )


def template(name: str) -> Template:
    """A template of this package; whatever is put into it is escaped."""
    page = Environment(
        loader=PackageLoader("vitnext", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters.update(percent=_percent, csp_hash=_csp_hash)
    page.globals.update(counted=counted)
    return page.get_template(name)


def thumbnail(source: Source, *, exif: bool = True) -> str:
    """A data URI of the image (whatever `open_image` takes), its longest side 128 pixels at most.

    Small images are enlarged by a whole factor, nearest neighbour, so that their pixels are seen as they are.
    Raises ImageError when it cannot be read.
    """
    image = Image.fromarray(open_image(source, color="RGB", exif=exif))
    factor = THUMBNAIL // max(image.size)
    if factor >= 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        return data_uri(image, "png", optimize=True)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return data_uri(image, "jpeg", quality=82, optimize=True)


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _percent(share: float | None, digits: int = 1) -> str:
    """0.9712 -> '97.1%'; what would round to 100% without being it says so; None (undefined) is a dash."""
    if share is None:
        return "–"
    text = f"{100 * share:.{digits}f}%"
    if share < 1 and text == f"{100:.{digits}f}%":
        return f">{100 - 10**-digits:.{digits}f}%"
    return text


def _csp_hash(script: str) -> str:
    """The Content-Security-Policy source that allows this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode("ascii")


def _confused(metrics: dict[str, Any]) -> np.ndarray:
    """int64 (K, 3): truth, prediction and number of images of the pairs of unlike classes that occur, by class."""
    if "confusion_cells" in metrics:
        return np.array(metrics["confusion_cells"], dtype=np.int64).reshape(-1, 3)
    confusion = np.array(metrics["confusion"], dtype=np.int64)  # (C, C)
    np.fill_diagonal(confusion, 0)
    truth, predicted = np.nonzero(confusion)
    return np.column_stack([truth, predicted, confusion[truth, predicted]])


def _most_confused(wrong: np.ndarray, truths: np.ndarray, classes: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Pairs (truth, predicted) by number of mistakes, then by share of the true class's images.

    wrong: (K, 3), as of `_confused`; truths: images of each class (C,).
    """
    share = wrong[:, 2] / truths[wrong[:, 0]]
    order = np.lexsort((-share, -wrong[:, 2]))[:limit]
    return [
        {"truth": classes[t], "predicted": classes[p], "count": int(count), "share": float(of_truth)}
        for (t, p, count), of_truth in zip(wrong[order], share[order], strict=True)
    ]


def _heat_map(wrong: np.ndarray, truths: np.ndarray) -> str:
    """A (C, C) matrix too large for numbers, as a picture: data URI of a PNG, transparent where nothing is.

    wrong: (K, 3), as of `_confused`; truths: images of each class (C,).

    Opacity is the square root of the share of the true class, relative to the largest share of the same colour: on a
    linear scale, or one that the diagonal sets, mistakes would be invisible. Above HEAT_MAP classes, neighbours share a
    pixel, the mean of their rows.
    """
    pixel_of = np.arange(len(truths)) // -(-len(truths) // HEAT_MAP)
    classes = np.bincount(pixel_of)  # of each pixel of a side
    side = len(classes)
    truth, predicted, count = wrong.T
    share = count / truths[truth]
    recall = (truths - np.bincount(truth, count, len(truths))) / np.maximum(truths, 1)
    hit = np.diag(np.bincount(pixel_of, recall) / classes)  # (side, side)
    sums = np.bincount(pixel_of[truth] * side + pixel_of[predicted], share, side**2).reshape(side, side)
    missed = sums / classes[:, None]
    pixels = np.empty((side, side, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((hit > 0)[..., None], (37, 99, 235), (234, 88, 12))  # the page's --heat colours
    opacity = np.where(hit > 0, hit / max(hit.max(), 1e-9), missed / max(missed.max(), 1e-9))
    pixels[..., 3] = np.rint(255 * np.sqrt(np.clip(opacity, 0, 1)))
    factor = max(1, 500 // len(pixels))
    return data_uri(Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1)), "png", optimize=True)


def reliability_diagram(bins: list[dict[str, Any]], unit: str = "images") -> str:
    """SVG: accuracy against confidence for each bin (Guo et al. 2017, figure 1), above the number of images in each."""
    import matplotlib  # here, because it takes as long to import as everything else together
    from matplotlib.figure import Figure

    filled = [b for b in bins if b["count"]]
    middle = np.array([(b["lower"] + b["upper"]) / 2 for b in filled])
    accuracy = np.array([b["accuracy"] for b in filled])
    confidence = np.array([b["confidence"] for b in filled])
    width = 0.92 / len(bins)
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": "vitnext",  # the same figure gets the same ids every time
        "font.size": 11,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _GRID,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "grid.color": _GRID,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.8, 5.3), facecolor="none")
        top, bottom = figure.subplots(
            2, 1, sharex=True, height_ratios=[3.2, 1],
            gridspec_kw={"hspace": 0.1, "left": 0.14, "right": 0.97, "top": 0.93, "bottom": 0.09},
        )  # fmt: skip
        top.grid(True, linewidth=0.8)
        top.set_axisbelow(True)
        bars = top.bar(middle, accuracy, width, color=_RIGHT, alpha=0.75, label="accuracy")
        top.vlines(middle, accuracy, confidence, color=_WRONG, linewidth=1.4)
        means = top.hlines(
            confidence, middle - width / 2, middle + width / 2, color=_WRONG, linewidth=2.6, label="mean confidence"
        )
        (perfect,) = top.plot([0, 1], [0, 1], color=_MUTED, linestyle="--", linewidth=1.2, label="perfect")
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        figure.legend(
            handles=[bars, means, perfect],
            loc="upper center",
            ncols=3,
            frameon=False,
            fontsize=10.5,
            labelcolor=_INK,
            borderaxespad=0.2,
        )
        bottom.bar(middle, [b["count"] for b in filled], width, color=_MUTED, alpha=0.7)
        bottom.set(xlabel="confidence", ylabel=unit)
        bottom.locator_params(axis="y", nbins=3, integer=True)
        figure.align_ylabels()
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prologue, which HTML does not take
    for stand_in, colour in _CSS.items():
        svg = svg.replace(stand_in, colour)
    return svg
