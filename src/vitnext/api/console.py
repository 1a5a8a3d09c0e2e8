"""What is said while something is done."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from vitnext.progress import Progress, progress_bar

if TYPE_CHECKING:
    from rich.console import Console


class Say:
    """Prints lines on a console, and shows there how far something is; without one it does neither."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def __call__(self, line: str) -> None:
        if self.console is not None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, description: str) -> AbstractContextManager[Progress]:
        """A bar until the block ends, on a terminal; the function that it gives moves it."""
        return progress_bar(description, self.console)

    def waiting(self, description: str) -> AbstractContextManager[object]:
        """That something is done until the block ends, on a terminal, where nobody knows how far it is."""
        if self.console is None or not self.console.is_terminal:
            return nullcontext()
        return self.console.status(description)
