"""Tables on stdout."""

from __future__ import annotations

from vitnext.cli.terminal import print_table


def test_names_stand_left_and_numbers_right(capsys):
    print_table(["class", "images"], [["cat", "7"], ["elephant", "1,234"]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["class     images", "cat            7", "elephant   1,234"]


def test_a_pipe_gets_the_whole_name_and_markup_is_text(capsys):
    name = "[red]" + "x" * 300
    print_table(["class", "images"], [[name, "1"]])
    assert name in capsys.readouterr().out


def test_in_a_narrow_terminal_names_break_and_numbers_stay_whole(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(["class", "images"], [["x" * 30, "1,234,567"]])
    _, first, *more = capsys.readouterr().out.splitlines()
    assert first.split() == ["x" * 9, "1,234,567"]
    assert first[:9] + "".join(line.strip() for line in more) == "x" * 30
