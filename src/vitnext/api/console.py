"""What is said while something is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Say = Callable[[str], None]


def speaker(console: Console | None) -> Say:
    """What prints a line on ``console``, or nothing without one."""
    if console is None:
        return lambda line: None
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)
