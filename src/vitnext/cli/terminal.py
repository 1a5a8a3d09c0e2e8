"""What the verbs print: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def progress_console() -> Console:
    """Where progress and remarks go: stderr, so that results on stdout can be piped."""
    from rich.console import Console

    return Console(stderr=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> None:
    """Print aligned columns to stdout: the first ``texts`` hold words, the others numbers, which stand right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header[:texts]:
        table.add_column(name, overflow="fold")
    for name in header[texts:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a class may be called [red]
    # A pipe has no width: never cut there.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
