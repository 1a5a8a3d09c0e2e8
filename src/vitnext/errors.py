"""The errors that users meet. Each is one line: what is wrong, where, and how to mend it."""

from __future__ import annotations

import importlib
from types import ModuleType


class InputError(ValueError):
    """What the user gave is wrong. The command line prints it as one line and exits with code 2."""


class ImageError(InputError):
    """One image cannot be read. Prediction turns it into a row; training and evaluation list them all."""


class WorkError(RuntimeError):
    """The input was right but the work failed (a non-finite loss, a worker that died). Exit code 1."""


class WorkerError(WorkError):
    """A process that decodes images was killed."""


class DiskError(WorkError):
    """A file could not be written, as on a full disk."""


class Terminated(SystemExit):
    """SIGTERM came, and the run was saved. As SystemExit it ends a program with the exit code 143, 128 + SIGTERM."""

    def __init__(self, message: str) -> None:
        super().__init__(143)
        self.message = message

    def __str__(self) -> str:
        return self.message


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say in one line which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise InputError(
            f"this needs the Python package '{missing}', which is not installed: pip install \"vitnext[{extra}]\""
        ) from error
