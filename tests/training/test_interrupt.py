"""Ctrl-C waits for the end of the step; the second one does not."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from vitnext.training.interrupt import deferred_interrupt


@pytest.fixture(autouse=True)
def python_s_own_handler():
    """Where the tests run in the background, a shell has made them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_one_is_remembered():
    with deferred_interrupt() as interrupt:
        assert not interrupt
        press()
        assert interrupt


def test_the_second_one_interrupts():
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupt:
        press()
        assert interrupt
        press()


@pytest.mark.parametrize("error", [None, ValueError])
def test_afterwards_everything_is_as_before(error):
    before = signal.getsignal(signal.SIGINT)
    try:
        with deferred_interrupt():
            assert signal.getsignal(signal.SIGINT) is not before
            if error:
                raise error
    except ValueError:
        pass
    assert signal.getsignal(signal.SIGINT) is before
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
