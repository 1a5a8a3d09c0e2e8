"""What the verbs print: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def progress_console() -> Console:
    """Where progress and remarks go: stderr, so that results on stdout can be piped."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def progress_bar(description: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Give a function ``progress(done, total)`` that moves a bar on ``console``, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Without redirect_stdout=False rich sends to stderr what is printed to stdout while the bar is shown.
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
