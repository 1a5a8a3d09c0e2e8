"""How numbers are said."""

from __future__ import annotations

import pytest

from vitnext.wording import counted


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
