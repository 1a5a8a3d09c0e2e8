"""How numbers are said."""

from __future__ import annotations

import pytest

from vitnext.wording import counted, shortened


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
