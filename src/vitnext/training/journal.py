"""What happened in a run, one JSON object a line, and the same numbers for TensorBoard if asked for."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitnext.errors import WorkError, require


class Journal:
    """Appends to ``folder/journal.jsonl``; a checkpoint's ``offset`` cuts off what a resumed run writes again. Without
    a folder nothing is kept."""

    def __init__(self, folder: Path | None, *, track: str = "none", offset: int | None = None) -> None:
        if track == "tensorboard":
            require("tensorboard", "track")
            from torch.utils.tensorboard import SummaryWriter
        self.path = folder / "journal.jsonl" if folder is not None else Path(os.devnull)
        offset = offset if folder is not None else None
        if offset is not None and self.path.exists():
            os.truncate(self.path, min(offset, self.path.stat().st_size))
        self._file = open(self.path, "a" if offset is not None else "w", encoding="utf-8")  # noqa: SIM115 open as long as the run
        self._board = SummaryWriter(str(folder / "tensorboard")) if folder and track == "tensorboard" else None

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append a line. Raises WorkError if the disk does not take it."""
        try:
            self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise WorkError(
                f"{self.path}: cannot be written ({error.strerror}); the last checkpoint is kept"
            ) from error
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{event}/{name}", value, step)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which write has told of
            self._file.close()
        if self._board is not None:
            self._board.close()
