"""What a terminal shows while something takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(description: str, console: Console | None) -> Iterator[Callable[[int, int], None]]:
    """Give a function ``progress(done, total)`` that moves a bar on ``console``, if that is a terminal."""
    if console is None or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich import progress as bars

    # Without redirect_stdout=False rich sends to stderr what is printed to stdout while the bar is shown.
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
    ) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def spinner(description: str, console: Console | None) -> Iterator[None]:
    """Show on ``console``, if that is a terminal, that something is done of which nobody knows how far it is."""
    if console is None or not console.is_terminal:
        yield
        return
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    turning = Spinner("dots", Text(description))  # Text: a folder may be called [red]
    # What is imported meanwhile may keep the stdout and stderr that it finds.
    with Live(turning, console=console, transient=True, redirect_stdout=False, redirect_stderr=False):
        yield
