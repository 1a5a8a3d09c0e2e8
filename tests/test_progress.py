"""What a terminal shows while something takes long, and nothing else does."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from vitnext.cli.terminal import progress_console
from vitnext.progress import progress_bar, spinner


@pytest.mark.parametrize("shows", [progress_bar, spinner])
def test_it_is_shown_on_a_terminal_alone(shows, capsys):
    assert progress_console().stderr
    for console in (progress_console(), None):
        with shows("checking", console):
            print("row")
    assert capsys.readouterr() == ("row\nrow\n", "")


def test_a_bar_moves():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress_bar("checking", terminal) as progress:
        progress(1, 2)
    assert "checking" in terminal.file.getvalue() and "1/2" in terminal.file.getvalue()


def test_a_spinner_s_text_is_no_markup_and_stdout_stays(capsys):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    before = sys.stdout, sys.stderr
    with spinner("opening a[/b]/[raw]", terminal):
        assert (sys.stdout, sys.stderr) == before
        print("row")
    assert "opening a[/b]/[raw]" in terminal.file.getvalue() and capsys.readouterr().out == "row\n"
