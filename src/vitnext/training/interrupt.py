"""Ctrl-C and SIGTERM that wait for the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch._dynamo.exc import TorchDynamoException

from vitnext.errors import Terminated
from vitnext.training import distributed

SAYS = {  # what comes, and what it is answered with
    signal.SIGINT: b"\nstopping: the step ends and the run is saved; Ctrl-C once more ends it at once, unsaved\n",
    signal.SIGTERM: b"\nterminating: the step ends and the run is saved\n",
}


class Interrupt:
    """True once Ctrl-C was pressed or SIGTERM came, as before a pre-emption; the loop looks at it between two steps,
    when the state is whole. ``signal`` is the first that came, 0 before."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def press(self, signum: int, frame: FrameType | None) -> None:
        if self.signal and signum == signal.SIGINT:  # Ctrl-C after that means now
            raise KeyboardInterrupt
        if not self.signal:  # schedulers may send SIGTERM twice
            self.signal = signum
            if distributed.main():
                os.write(2, SAYS[signal.Signals(signum)])  # what a signal interrupts may be a print


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Collect Ctrl-C and SIGTERM instead of letting them end the program. Outside of the main thread signals are left
    alone.

    A signal for the whole group of processes also ends a compiler that one of them has started. That looks as
    if the network could not be compiled, before the first step, and is what the signal means by itself.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {number: signal.signal(number, interrupt.press) for number in SAYS}
    try:
        yield interrupt
    except TorchDynamoException:
        if interrupt.signal == signal.SIGTERM:
            raise Terminated("terminated") from None
        if interrupt:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
