"""`torchrun -m vitnext train`, as users start it: several Python processes, so it is run by `pytest -m torchrun`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.torchrun

ARGUMENTS = (
    *("train", "digits", "--model", "vit", "--epochs", "3", "--set", "precision=fp32", "--set", "batch_size=96"),
    *("--set", "model.config.dim=16", "--set", "model.config.depth=1", "--set", "model.config.heads=2"),
)
# The process that has this number kills itself after step 20, the first time.
KILLS = """
import os, signal, sys
from vitnext.training import distributed, loop
agree, calls = distributed.agree, []
def counted(*values):
    calls.append(1)
    if len(calls) == 20 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return agree(*values)
distributed.agree = counted
from vitnext.cli.main import main
sys.exit(main())
"""


def start(tmp_path, *options, script=None, out="run"):
    program = ["-m", "vitnext"] if script is None else [str(script)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    return subprocess.Popen(
        [*command, *program, *ARGUMENTS, "--out", str(tmp_path / out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def said(text):
    return [line for line in text.splitlines() if line.startswith("vitnext: ")]


def lines(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_process_that_is_killed_ends_the_run_and_a_restart_goes_on(restarts, tmp_path):
    script = tmp_path / "kills.py"
    script.write_text(KILLS)
    process = start(tmp_path, "--max-restarts", str(restarts), script=script)
    output, errors = process.communicate(timeout=300)
    [cause] = said(errors)
    assert "process 1 of 2 (pid " in cause and cause.endswith("--resume goes on from the last checkpoint")
    assert (process.returncode == 0) == bool(restarts)
    assert output == (f"model  {tmp_path / 'run' / 'model.safetensors'}\n" if restarts else "")
    if restarts:
        assert "going on after step 13" in errors and lines(tmp_path / "run")[-1]["epoch"] == 3
        assert len([line for line in errors.splitlines() if line.startswith("epoch ")]) == 3  # one process speaks


def test_sigterm_saves_in_all(tmp_path):
    process = start(tmp_path)
    while not (tmp_path / "run" / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    [stopped] = said(errors)
    assert stopped.startswith("vitnext: terminated and saved; go on with: torchrun --nproc-per-node 2 -m vitnext train")
    assert lines(tmp_path / "run")[-1]["step"] > 13


def test_a_mistake_is_told_once(tmp_path):
    process = start(tmp_path, out="run", script=None)
    process.communicate(timeout=300)
    process = start(tmp_path, out="run")
    _, errors = process.communicate(timeout=300)
    [mistake] = said(errors)
    assert mistake.endswith("holds a run already: add --resume to go on with it, or choose another --out")
