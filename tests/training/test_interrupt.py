"""Ctrl-C and SIGTERM wait for the end of the step; a second Ctrl-C does not."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from torch._dynamo.exc import TorchDynamoException

from vitnext.errors import Terminated, WorkError
from vitnext.training.compilation import failures_named
from vitnext.training.interrupt import deferred_interrupt


@pytest.fixture(autouse=True)
def python_s_own_handler():
    """Where the tests run in the background, a shell has made them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_one_is_remembered_and_answered(capfd):
    with deferred_interrupt() as interrupt:
        assert not interrupt
        press()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal == signal.SIGINT
    line = "stopping: the step ends and the run is saved; Ctrl-C once more ends it at once, unsaved"
    assert capfd.readouterr().err.splitlines() == ["", line]


def test_the_second_one_interrupts():
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupt:
        press()
        assert interrupt
        press()


def test_sigterm_may_come_twice_and_ctrl_c_after_it_means_now(capfd):
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
        press()
    assert capfd.readouterr().err.splitlines() == ["", "terminating: the step ends and the run is saved"]


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (None, WorkError)]
)
def test_a_signal_that_ends_a_compiler_too_ends_the_program(number, ends):
    with pytest.raises(ends), failures_named(), deferred_interrupt():
        if number is not None:
            os.kill(os.getpid(), number)
        raise TorchDynamoException("cc1plus was killed")


@pytest.mark.parametrize("error", [None, ValueError])
def test_afterwards_everything_is_as_before(error):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with deferred_interrupt():
            assert all(signal.getsignal(number) != was for number, was in zip(numbers, before, strict=True))
            if error:
                raise error
    except ValueError:
        pass
    assert [signal.getsignal(number) for number in numbers] == before
    with pytest.raises(KeyboardInterrupt):
        press()


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with deferred_interrupt() as interrupt:
            seen.append((bool(interrupt), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
