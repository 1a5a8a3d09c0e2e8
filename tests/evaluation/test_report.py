from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vitnext.card import Card
from vitnext.evaluation import report
from vitnext.evaluation.classification import classification_metrics
from vitnext.preprocess import Preprocess

EVIL = "<script>alert('1')</script>\" onload=\"alert(2)"


class Page(HTMLParser):
    """The page as a browser reads it: elements, attributes, text; every element closed in order."""

    VOID = {"meta", "img", "input", "br", "link"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def card(classes: list[str], **changes: object) -> Card:
    fields = {
        "task": "classification",
        "architecture": "convnext_atto",
        "config": {},
        "classes": tuple(classes),
        "preprocess": Preprocess((160, 128), "crop", 0.875, "bicubic"),
        "metrics": {},
        "data": {"name": "clothing", "fingerprint": "0123456789abcdef", "counts": {"train": 3068}},
        "recipe": {},
        "versions": {"torch": "2.6.0"},
        "licence": "Apache-2.0",
    }
    return Card(**(fields | changes))


def measure(count: int, n: int, *, classes: list[str] | None = None, noise: float = 1.0, mistakes: int = 3) -> dict:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, count, n)
    logits = noise * rng.normal(size=(n, count))
    logits[np.arange(n), labels] += 3
    powers = np.exp(logits)
    classes = classes or [f"class {index}" for index in range(count)]
    metrics = classification_metrics(powers / powers.sum(axis=1, keepdims=True), labels, classes)
    wrong = min(mistakes, n - round(n * metrics["top1"]))
    return metrics | {
        "data": "clothing",
        "split": "test",
        "model": "model.safetensors",
        "architecture": "convnext_atto",
        "date": "2026-01-31T12:00:00+01:00",
        "seconds": 2.5,
        "images_per_second": 123.4,
        "mistakes": [
            {"file": f"{i}.jpg", "truth": classes[0], "predicted": classes[-1], "confidence": 0.9} for i in range(wrong)
        ],
        "skipped": [],
    }


def render(metrics: dict, **changes: object) -> str:
    classes = [row["class"] for row in metrics["per_class"]]
    image = report.thumbnail(np.zeros((8, 8), dtype=np.uint8))
    return report.render(metrics, card(classes, **changes), [image] * len(metrics["mistakes"]))


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_says_what_was_measured_on_what() -> None:
    metrics = measure(10, 400)
    text = " ".join(Page(render(metrics)).texts)
    for part in (
        "convnext_atto on clothing",
        "test split · model.safetensors · 2026-01-31",
        f"{100 * metrics['top1']:.1f}%",
        f"{100 * metrics['top5']:.1f}%",
        f"{100 * metrics['macro_f1']:.1f}%",
        f"{100 * metrics['ece']:.1f}%",
        f"95% interval {100 * metrics['top1_interval'][0]:.1f}% to {100 * metrics['top1_interval'][1]:.1f}%",
        "128 × 160 pixels (width × height), RGB",
        "the centre cropped (0.875 of the side), bicubic, EXIF orientation applied",
        "minus mean (0.485, 0.456, 0.406)",
        "clothing, 3,068 images, fingerprint 0123456789ab",
        "123.4 images per second",
        "torch 2.6.0",
    ):
        assert part in text, part


def test_names_are_text_wherever_they_come_from() -> None:
    metrics = measure(3, 60, classes=[EVIL, "b", "c & d"])
    metrics |= {
        "data": EVIL,
        "split": EVIL,
        "model": EVIL,
        "architecture": EVIL,
        "skipped": [{"file": EVIL, "error": EVIL}],
    }
    metrics["mistakes"][0]["file"] = EVIL
    page = Page(render(metrics, data={"name": EVIL}, versions={EVIL: EVIL}, licence=EVIL))
    assert page.tags.count("script") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert sum(EVIL in text for text in page.texts) >= 10
    assert ("th", "title", EVIL) in page.attributes


@pytest.mark.parametrize("count", [10, 40])
def test_asks_nothing_of_the_network(count: int) -> None:
    html = render(measure(count, 400))
    page = Page(html)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value and value.startswith(("data:image/", "#")), (tag, name, value)
    assert "link" not in page.tags and "iframe" not in page.tags
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_its_own_script_is_the_only_one_that_may_run() -> None:
    html = render(measure(10, 400))
    (policy,) = [
        v for tag, name, v in Page(html).attributes if tag == "meta" and name == "content" and "default-src" in v
    ]
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_same_metrics_give_the_same_page() -> None:
    metrics = measure(10, 400)
    assert render(metrics) == render(metrics)


def test_images_have_alternative_texts_and_tables_headings() -> None:
    page = Page(render(measure(40, 400)))
    assert page.tags.count("img") == len(
        [name for tag, name, value in page.attributes if tag == "img" and name == "alt" and value]
    )
    assert page.tags.count("th") == len([name for tag, name, _ in page.attributes if tag == "th" and name == "scope"])


def test_up_to_thirty_classes_the_matrix_is_a_table_of_counts() -> None:
    metrics = measure(30, 3000)
    html = render(metrics)
    assert '<table class="matrix">' in html and "heat map" not in html
    cells = re.findall(r"<td(?: class=\"hit\")? style=\"--p:[\d.]+\" title=\"[^\"]*\">(\d+)</td>", html)
    assert [int(cell) for cell in cells] == [count for row in metrics["confusion"] for count in row if count]


def test_above_thirty_classes_it_is_a_picture_and_the_classes_can_be_filtered() -> None:
    html = render(measure(31, 600))
    assert '<table class="matrix">' not in html and "heat map" in html
    assert '<input type="search" id="filter"' in html


def test_a_long_name_without_spaces_breaks_and_pushes_no_column_away() -> None:
    html = render(measure(31, 600, classes=[f"{'a_long_name' * 20}_{i}" for i in range(31)]))
    for place in (r"\.list th:first-child, \.list \.text", r"\.map figcaption"):
        assert re.search(place + r" \{[^}]*overflow-wrap: anywhere", html)


def test_weakest_classes_come_first_and_undefined_ones_last() -> None:
    metrics = measure(4, 100)
    for row, f1 in zip(metrics["per_class"], (0.5, None, 0.25, 0.75), strict=True):
        row["f1"] = f1
    table = render(metrics).partition('id="per-class"')[2].partition("</table>")[0]
    assert re.findall(r"class \d", table) == ["class 2", "class 0", "class 3", "class 1"]
    assert "–" in table


def test_pairs_are_ordered_by_count_then_share() -> None:
    cells = np.array([[0, 1, 2], [1, 2, 2], [2, 0, 3]])
    pairs = report._most_confused(cells, np.array([7, 52, 4]), ["a", "b", "c"], limit=10)
    assert [(p["truth"], p["predicted"], p["count"]) for p in pairs] == [("c", "a", 3), ("a", "b", 2), ("b", "c", 2)]
    assert pairs[0]["share"] == 0.75
    assert len(report._most_confused(cells, np.array([7, 52, 4]), ["a", "b", "c"], limit=1)) == 1


def test_heat_map_shows_right_and_wrong() -> None:
    cells = np.array([[3, 30, 5], [7, 20, 1]])
    image = np.asarray(decode(report._heat_map(cells, np.full(40, 10))))[::12, ::12]  # 500 // 40 pixels a class
    assert image.shape == (40, 40, 4)
    assert (image[0, 0] == (37, 99, 235, 255)).all()
    assert (image[3, 30] == (234, 88, 12, 255)).all()
    assert 0 < image[7, 20, 3] < 255 and image[7, 20, 0] == 234
    assert image[5, 6, 3] == 0


def test_heat_map_of_many_classes_shares_pixels() -> None:
    truths = np.full(501, 10)
    truths[499] = 0
    picture = report._heat_map(np.array([[500, 1, 5]]), truths)
    image = np.asarray(decode(picture))  # 3 classes a pixel: 167 pixels, enlarged twice
    assert image.shape == (334, 334, 4)
    assert image[333, 0, 3] > 0 and image[333, 333, 3] > 0 and image[0, 333, 3] == 0


def test_the_cells_of_many_classes_show_what_the_matrix_does() -> None:
    matrix = measure(40, 400)
    confusion = np.array(matrix.pop("confusion"))
    cells = [[t, p, int(confusion[t, p])] for t, p in np.argwhere(confusion).tolist() if t != p]
    assert render(matrix | {"confusion_cells": cells}) == render(matrix | {"confusion": confusion.tolist()})
    assert "every image is right" in render(matrix | {"confusion_cells": [], "mistakes": []})


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_classes(count: int) -> None:
    text = " ".join(Page(render(measure(count, 50, noise=0.01))).texts)
    assert "Top-5" not in text  # it would always be 100%
    assert "None: every image is right." in text
    assert "95% interval 92.9% to 100.0%" in text


def test_a_thousand_classes_and_noisy_photographs_stay_below_three_megabytes() -> None:
    classes = [f"a class with a rather long name, number {index}" for index in range(1000)]
    metrics = measure(1000, 1500, classes=classes, mistakes=24)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    html = report.render(metrics, card(classes), [report.thumbnail(noise)] * 24)
    assert len(html) < 3_000_000
    assert "each point is 4 × 4 classes" in html


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 20), dtype=np.uint8)
    image = decode(report.thumbnail(pixels))
    assert (image.format, image.size) == ("PNG", (80, 112))
    assert (np.asarray(image)[2::4, 2::4, 0] == pixels).all()
    assert decode(report.thumbnail(np.zeros((8, 8, 3), dtype=np.uint8))).size == (128, 128)


@pytest.mark.parametrize(("size", "expected"), [((300, 400), (128, 96)), ((129, 1), (1, 128)), ((2, 2000), (128, 1))])
def test_large_images_shrink_to_128_pixels(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = decode(report.thumbnail(np.full((*size, 3), 200, dtype=np.uint8)))
    assert (image.format, image.size) == ("JPEG", expected)


def test_thumbnails_are_upright_as_the_model_sees_them(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(report.thumbnail(str(tmp_path / "a.jpg"))).size == (60, 120)
    assert decode(report.thumbnail(str(tmp_path / "a.jpg"), exif=False)).size == (120, 60)


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.9712, 1, "97.1%"),
        (1, 1, "100.0%"),
        (0.99999, 1, ">99.9%"),
        (0.99999, 2, ">99.99%"),
        (0, 1, "0.0%"),
        (None, 1, "–"),
    ],
)
def test_percentages(share: float | None, digits: int, text: str) -> None:
    assert report._percent(share, digits) == text
