"""The journal: one JSON object a line, cut back on resume, mirrored to TensorBoard if asked for."""

from __future__ import annotations

import json
import os
import sys

import pytest

from vitnext.errors import InputError, WorkError
from vitnext.training.journal import Journal


def lines(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_line_is_one_json_object_and_is_there_at_once(tmp_path):
    journal = Journal(tmp_path)
    journal.write("step", 1, loss=2.5, learning_rate=1e-3)
    assert lines(tmp_path) == [{"event": "step", "step": 1, "loss": 2.5, "learning_rate": 1e-3}]
    journal.write("epoch", 3, epoch=1, best=True, name="größer\nals")
    journal.close()
    assert lines(tmp_path)[1] == {"event": "epoch", "step": 3, "epoch": 1, "best": True, "name": "größer\nals"}
    assert [file.name for file in tmp_path.iterdir()] == ["journal.jsonl"]


def test_the_offset_is_the_size_of_what_was_written(tmp_path):
    journal = Journal(tmp_path)
    assert journal.offset == 0
    for step in range(3):
        journal.write("step", step, note="é")
        assert journal.offset == (tmp_path / "journal.jsonl").stat().st_size > 0
    journal.close()


def write(folder, steps, **given):
    journal = Journal(folder, **given)
    for step in steps:
        journal.write("step", step)
    offset = journal.offset
    journal.close()
    return offset


def test_a_resumed_run_cuts_off_what_it_will_write_again(tmp_path):
    offset = write(tmp_path, [1, 2])
    write(tmp_path, [3, 4], offset=offset)  # a kill: the checkpoint is that of step 2
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    end = write(tmp_path, [3, 4, 5], offset=offset)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert end == (tmp_path / "journal.jsonl").stat().st_size


def test_a_half_written_line_is_cut_off(tmp_path):
    offset = write(tmp_path, [1])
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    write(tmp_path, [2], offset=offset)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_journal_that_is_shorter_than_the_checkpoint_says_is_kept(tmp_path):
    offset = write(tmp_path, [1])
    write(tmp_path, [2], offset=offset + 1000)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]  # and no hole of zeros between them


def test_a_journal_that_was_lost_is_begun_again(tmp_path):
    write(tmp_path, [7], offset=100)
    assert [line["step"] for line in lines(tmp_path)] == [7]


def test_a_new_run_begins_a_new_journal(tmp_path):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [1])
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="needs vitnext[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(tmp_path, track="tensorboard")
    for step, loss in ((20, 2.5), (40, 1.25)):
        journal.write("step", step, loss=loss, note="no number")
    journal.write("epoch", 40, top1=0.5, best=True)
    journal.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(board.Tags()["scalars"]) == ["epoch/best", "epoch/top1", "step/loss"]
    assert [(event.step, event.value) for event in board.Scalars("step/loss")] == [(20, 2.5), (40, 1.25)]
    assert [event.value for event in board.Scalars("epoch/best")] == [1.0]
    assert len(lines(tmp_path)) == 3


def test_without_tensorboard_the_extra_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r"vitnext\[track\]"):
        Journal(tmp_path, track="tensorboard")
    assert list(tmp_path.iterdir()) == []


def test_closing_closes_the_file(tmp_path):
    journal = Journal(tmp_path)
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.write("step", 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    journal = Journal(tmp_path)
    with pytest.raises(WorkError, match=r"journal\.jsonl: cannot be written \(No space left on device\)"):
        journal.write("step", 1, loss=0.5)
    journal.close()  # what could not be written is not tried again
