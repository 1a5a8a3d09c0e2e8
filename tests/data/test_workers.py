"""Worker processes that are killed, and what goes wrong in them."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from multiprocessing import active_children

import pytest
import torch
from torch import Tensor

from vitnext.data.workers import by_workers
from vitnext.errors import WorkerError

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Zeros:
    """What worker processes read."""

    def __getitem__(self, place):
        if place == 200:
            raise RuntimeError("of its own")
        return torch.zeros(3, 64, 64)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to processes are POSIX's")
@pytest.mark.parametrize("pinned", [False, True])
def test_a_worker_that_is_killed_is_found_out_while_nobody_waits_for_it(pinned, monkeypatch):
    """With pinned batches torch speaks of its thread for them."""
    if pinned:  # as with a GPU
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cpu"))
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
        monkeypatch.setattr(torch.accelerator, "set_device_index", lambda _: None)
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
    batches = by_workers(Zeros(), itertools.repeat([0, 1]), 2, pinned=pinned)
    for _ in range(20):  # they are in the middle of others
        next(batches)
    handler = signal.getsignal(signal.SIGCHLD)
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    with pytest.raises(WorkerError, match="a worker process died, perhaps because memory ran out"):
        for _ in range(100):
            next(batches)
            time.sleep(0.01)
    assert handler == signal.SIG_DFL and not active_children()


def test_a_worker_s_own_mistake_is_not_its_death():
    with pytest.raises(RuntimeError, match="of its own") as caught:
        list(by_workers(Zeros(), iter([[0], [200], [0]]), 1, pinned=False))
    assert not isinstance(caught.value, WorkerError)
