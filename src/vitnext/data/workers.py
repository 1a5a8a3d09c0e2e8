"""Worker processes that read images: they outlast signals, and their death is found out between two batches."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from vitnext.errors import ImageError, WorkerError


def outlast_signals(worker: int) -> None:
    """In a worker process: let Ctrl-C and SIGTERM, which reach the whole group of processes, stop the training process
    alone. It still needs the workers to end its step and save; they end when it does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _no_handler_of_deaths() -> Iterator[None]:
    """Take back the handler that torch sets with its first worker processes. It raises wherever the process is when one
    of them dies: in the middle of a save, for which the disk would be blamed. Without it the next batch that is waited
    for says so, within five seconds.
    """
    settable = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if settable else None
    try:
        yield
    finally:
        if before is not None:  # Python's own, which alone can be set again
            signal.signal(signal.SIGCHLD, before)


def by_workers(
    images: Any, places: Iterable[Any], workers: int, *, pinned: bool, collate: Callable[..., Any] | None = None
) -> Generator[Any]:
    """What ``images`` has at each of ``places``, of which there is no end, a batch after the other, read by worker
    processes; 0: by this one.

    However this ends, also if it is closed, they have ended too: they ignore SIGTERM, so that Python at its own end
    would wait for them forever. Raises the ImageError of a worker without the traceback that torch adds to its message,
    and WorkerError if one is killed.
    """
    places = iter(places)
    first = next(places)  # what is wrong with it is told before a process has started
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=itertools.chain([first], places),
        num_workers=workers,
        pin_memory=pinned,
        collate_fn=collate,
        worker_init_fn=outlast_signals,
    )
    with _no_handler_of_deaths():
        batches = iter(loader)
    try:
        yield from batches
    except ImageError as error:
        raise ImageError(str(error).rpartition(f"{ImageError.__name__}: ")[2].strip()) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        broke_off = not isinstance(error, RuntimeError)  # it was handing a batch over; else torch's words are several
        processes = batches._workers if workers else []  # type: ignore[attr-defined]
        if not processes or not (broke_off or any(not process.is_alive() for process in processes)):
            raise
        mend = "perhaps because memory ran out: if so, set workers lower (--set workers=N)"
        raise WorkerError(f"a worker process died, {mend}") from error
    finally:
        if workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]
