"""Runs whose images worker processes read, of which some are killed."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import time

import pytest
import torch

from colours import TINY, mistake, on_step, same_weights, train
from vitnext import api
from vitnext.cli.main import main

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def by_workers(tree, out, *sets):
    """Arguments of a run whose photographs two processes augment."""
    sets = [f"--set={change}" for change in (*TINY, "augment.crop_scale=[0.5, 1]", "workers=2", *sets)]
    return ["train", str(tree), "--model=vit", f"--out={out}", "--epochs=2", *sets]


def to_workers(number):
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to processes are POSIX's")
def test_sigterm_for_all_processes_saves_and_has_its_own_exit_code(tree, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"

    def terminate(step):
        if step == 4:
            to_workers(signal.SIGTERM)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        on_step(patched, terminate)
        assert main(by_workers(tree, out)) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("vitnext: terminated and saved; go on with: vitnext train")
    assert torch.load(out / "last.pt", weights_only=True)["progress"]["step"] == 5
    assert main(shlex.split(line.split("go on with: ")[1])[1:]) == 0
    assert main(by_workers(tree, tmp_path / "whole")) == 0
    assert same_weights(out / "model.safetensors", tmp_path / "whole" / "model.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="signals to processes are POSIX's")
def test_a_worker_that_is_killed_ends_the_run_with_a_line(tree, tmp_path, monkeypatch, capsys):
    on_step(monkeypatch, lambda step: to_workers(signal.SIGKILL) if step >= 4 else None)
    assert main(by_workers(tree, tmp_path / "run", "batch_size=2", "save_steps=2")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "a worker process died" in line and line.endswith("--resume")


@pytest.mark.skipif(sys.platform == "win32", reason="signals to processes are POSIX's")
def test_where_nothing_was_saved_a_dead_worker_s_line_says_so(tree, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        on_step(patched, lambda step: to_workers(signal.SIGKILL))
        assert main(by_workers(tree, tmp_path / "run", "batch_size=2")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("set workers lower (--set workers=N); nothing was saved yet: start again")
    assert "does not exist; start without --resume" in mistake(api.train, tree, out=tmp_path / "run", resume=True)
    assert train(tree, tmp_path / "run").artifact.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals to processes are POSIX's")
def test_a_worker_that_dies_during_a_save_is_found_out_after_it(tree, tmp_path, monkeypatch, capsys):
    """A save that it broke off would have been told as a disk's mistake."""

    def save(state, file, save=torch.save):
        if state["progress"]["step"] == 2:
            to_workers(signal.SIGKILL)
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:  # for what a signal's handler would do
                time.sleep(0.01)
        save(state, file)

    monkeypatch.setattr(torch, "save", save)
    assert main(by_workers(tree, tmp_path / "run", "batch_size=2", "save_steps=2", "workers=1")) == 1
    assert "a worker process died" in capsys.readouterr().err.splitlines()[-1]
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]["step"] == 2
