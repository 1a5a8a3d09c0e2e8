"""How many processor cores and how much memory there are to use."""

from __future__ import annotations

import os

import pytest

from vitnext import cores
from vitnext.cores import usable_cores, usable_memory

GIB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """8 cores, 64 GiB, and the control groups that a test writes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 << 20}.__getitem__, raising=False)
    monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "groups")

    def write(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(f"{text}\n")

    return write


def test_cores_that_the_process_may_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5} if process == 0 else set(), raising=False)
    assert usable_cores() == 2


def test_without_affinity_all_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for found, used in ((8, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda found=found: found)
        assert usable_cores() == used


@pytest.mark.parametrize(
    ("membership", "files", "used"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),  # in a container
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 8),
        ("0::/\n", {}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),  # a slice around it
        ("5:cpu,cpuacct:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("5:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("5:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_the_cores_of_a_container_are_its_quota_rounded_up(membership, files, used, machine):
    machine(membership, files)
    assert usable_cores() == used


@pytest.mark.parametrize(
    ("membership", "files", "gib"),
    [
        ("0::/\n", {"memory.max": 2 * GIB}, 2),
        ("0::/\n", {"memory.max": "max"}, 64),
        ("0::/\n", {"memory.max": 100 * GIB}, 64),
        ("0::/a/b\n", {"a/b/memory.max": 8 * GIB, "a/memory.max": 4 * GIB, "memory.max": "max"}, 4),
        ("7:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": 3 * GIB}, 3),
        ("7:memory:/docker/1\n", {"memory/memory.limit_in_bytes": 3 * GIB}, 3),
        ("7:memory:/\n", {"memory/memory.limit_in_bytes": 9223372036854771712}, 64),
    ],
)
def test_the_memory_of_a_container_is_its_limit(membership, files, gib, machine):
    machine(membership, files)
    assert usable_memory() == gib * GIB


def test_without_control_groups_memory_is_the_machine_s_or_8_gib(monkeypatch):
    assert usable_memory() == 64 * GIB
    monkeypatch.delattr(os, "sysconf")
    assert usable_memory() == 8 * GIB
