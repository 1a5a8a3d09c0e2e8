"""How many processor cores and how much memory there are to use: the machine's, or less in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")  # the control groups that this process is in, by which containers limit it
GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine has under taskset, and in many containers.

    A share of a core, as in the quota of a control group, counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups("cpu"):  # "200000 100000": microseconds of all cores together, in a period of so many
        both = _read(folder / "cpu.max") or _read(folder / "cpu.cfs_quota_us") + _read(folder / "cpu.cfs_period_us")
        quota, period = both.split() or ("max", "")
        if quota.isdigit():  # neither "max" nor "-1", which are no limit
            cores = min(cores, -(-int(quota) // int(period)))
    return cores


def usable_memory() -> int:
    """Bytes of memory that this process may use; 8 GiB where the machine does not say how much it has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2 and 1
            limit = _read(folder / name).strip()
            if limit.isdigit():  # not "max"
                memory = min(memory, int(limit))
    return memory


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups, of versions 2 and 1, that limit this process: its own and those around it. In a
    container the own one may be called otherwise than outside; then the outermost there is its own."""
    for line in _read(MEMBERSHIP).splitlines():  # "0::/a/b", or of version 1 "4:memory:/a/b"
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = GROUPS / controller if controllers else GROUPS
            own = root / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _read(file: Path) -> str:
    """What it holds; nothing where there is no such limit, as elsewhere than on Linux."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
