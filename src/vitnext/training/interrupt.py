"""Ctrl-C that waits for the end of the step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """True once Ctrl-C was pressed; the loop looks at it between two steps, when the state is whole."""

    def __init__(self) -> None:
        self._pressed = False

    def __bool__(self) -> bool:
        return self._pressed

    def press(self, signum: int, frame: FrameType | None) -> None:
        if self._pressed:  # the second time means now
            raise KeyboardInterrupt
        self._pressed = True


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Collect Ctrl-C instead of raising it. Outside of the main thread signals are left alone."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = signal.signal(signal.SIGINT, interrupt.press)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
