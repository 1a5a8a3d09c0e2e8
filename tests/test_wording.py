"""How numbers are said."""

from __future__ import annotations

import pytest

from vitnext.wording import counted, percent, shortened


@pytest.mark.parametrize(
    "count, noun, said",
    [
        (0, "epoch", "0 epochs"),
        (1, "epoch", "1 epoch"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (1200, "training image", "1,200 training images"),
    ],
)
def test_one_is_said_as_one(count, noun, said):
    assert counted(count, noun) == counted(range(count), noun) == said


def test_a_long_list_ends_in_dots():
    assert shortened(["a", "b"], 2) == "a, b" and shortened(["a", "b", "c"], 2) == "a, b, ..." and shortened([]) == ""
    assert shortened("abcdef") == "a, b, c, d, e, ..."


def test_percent():
    said = {(600, 600): "100%", (0, 0): "0%", (1, 107): "0.93%", (1, 99_999): "less than 0.01%", (57, 100): "57%"}
    said |= {(2, 100): "2%", (97, 1000): "9.7%", (9_999, 10_000): "99.9%", (997, 1000): "99.7%", (96, 1000): "9.6%"}
    assert {parts: percent(*parts) for parts in said} == said
