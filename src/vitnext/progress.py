"""What a terminal shows while something takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]  # of how many things how many are done


@contextmanager
def progress_bar(description: str, console: Console | None) -> Iterator[Progress]:
    """Give a function ``progress(done, total)`` that moves a bar on ``console``, if that is a terminal."""
    from rich import progress as bars

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    left = bars.TimeRemainingColumn()
    shown = console is not None and console.is_terminal
    # Without redirect_stdout=False rich sends to stderr what is printed to stdout while the bar is shown.
    with bars.Progress(
        *columns, left, console=console, transient=True, redirect_stdout=False, disable=not shown
    ) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
