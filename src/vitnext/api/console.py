"""What is said while something is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from vitnext.progress import progress_bar, spinner

if TYPE_CHECKING:
    from rich.console import Console


class Say:
    """Prints lines on a console, and shows there how far something is; without one it does neither."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def __call__(self, line: str) -> None:
        if self.console is not None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, description: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A bar until the block ends, on a terminal; the function that it gives moves it."""
        return progress_bar(description, self.console)

    def waiting(self, description: str) -> AbstractContextManager[None]:
        """A spinner until the block ends, on a terminal, where nobody knows how far something is."""
        return spinner(description, self.console)
