"""What happened in a run, one JSON object a line, and the same numbers for a tracker if asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitnext.files import unwritten
from vitnext.training.trackers import Tracking, require_tracker


class Journal:
    """Appends to ``folder/journal.jsonl``; a checkpoint's ``offset`` cuts off what a resumed run writes again.

    track, config: the recipe's tracker, and the recipe; step: the one that a resumed run goes on from.
    Without a folder nothing is kept.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        track: str = "none",
        offset: int | None = None,
        config: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> None:
        require_tracker(track)
        self.path = folder / "journal.jsonl" if folder is not None else Path(os.devnull)
        offset = offset if folder is not None else None
        told = None if offset is None else _last_event(self.path)
        self._tracking = Tracking(track, folder, config or {}, told, step) if folder and track != "none" else None
        if offset is not None and self.path.exists():
            os.truncate(self.path, min(offset, self.path.stat().st_size))
        self._file = open(self.path, "a" if offset is not None else "w", encoding="utf-8")  # noqa: SIM115 open as long as the run

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append a line. Raises DiskError if the disk does not take it."""
        try:
            self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise unwritten(self.path, error) from error
        if self._tracking is not None:
            self._tracking.write(event, step, values)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which write has told of
            self._file.close()
        if self._tracking is not None:
            self._tracking.close()


def _last_event(path: Path) -> tuple[int, bool]:
    """Of a journal, which may end in half a line: the step, and whether it ends an epoch."""
    last = (0, False)
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    event = json.loads(line)
                    last = (event["step"], event["event"] == "epoch")
    return last
