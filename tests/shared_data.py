"""Real data with known answers, which lies in a `shared` folder beside the project where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("VITNEXT_SHARED") or Path(__file__).parents[2] / "shared")


def shared_data(name: str) -> Path:
    """The folder of one data set; the test is skipped where it is missing."""
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (VITNEXT_SHARED names the folder that holds data/{name})")
    return folder
