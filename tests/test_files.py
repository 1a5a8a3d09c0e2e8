"""Paths are checked before the work starts, and what is written is whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vitnext.errors import DiskError, InputError, WorkError
from vitnext.files import (
    atomic_write,
    existing_file,
    files_below,
    held,
    is_image,
    stamp,
    unwritten,
    writable_file,
    writable_folder,
)

# ---- what lies below a folder


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "b.c.Tiff", "ü.webp"])
def test_names_of_images(name):
    assert is_image(name) and is_image(os.fsencode(name))


@pytest.mark.parametrize("name", ["jpg", ".jpg", ".a.png", "a.jpg.txt", "a.heic", ""])
def test_names_of_other_files(name):
    assert not is_image(name) and not is_image(os.fsencode(name))


@pytest.mark.parametrize("second", [-1, 0, 1_800_000_000, 10_413_792_000])  # of 1969, 1970, 2027 and 2300
def test_a_stamp_fits_64_bits_whenever_a_file_was_written(tmp_path, second):
    (tmp_path / "a").write_bytes(b"four")
    try:
        os.utime(tmp_path / "a", ns=(0, second * 10**9))
    except OverflowError:
        pytest.skip("the system has no such time")
    size, modified, changed = stamp((tmp_path / "a").stat)
    assert size == 4 and min(modified, changed) >= 0 and max(modified, changed) < 2**63
    assert stamp((tmp_path / "b").stat) == (-1, 0, 0) == stamp(lambda: os.stat("a\0b"))


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2", "b/1", "a", "c/d/3", ".hidden", ".cache/4", "10/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def below(folder):
    return [os.fsdecode(os.path.relpath(file.path, folder)) for file in files_below(folder)]


def test_every_visible_file_in_order(folder):
    assert below(str(folder)) == below(os.fsencode(folder)) == ["a", "10/x", "b/1", "b/2", "c/d/3"]


def test_links_are_followed_and_each_folder_comes_once(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "5").touch()
    (folder / "c" / "outside").symlink_to(outside)
    (folder / "c" / "back").symlink_to(folder)
    (folder / "c" / "gone").symlink_to(folder / "nowhere")
    assert below(str(folder)) == ["a", "10/x", "b/1", "b/2", "c/gone", "c/d/3", "c/outside/5"]


def test_a_folder_that_cannot_be_listed(folder):
    with pytest.raises(InputError, match=r"nothing: cannot be listed \(No such file or directory\)$"):
        list(files_below(str(folder / "nothing")))


# ---- what may be written


def test_existing_file(tmp_path):
    file = tmp_path / "model.onnx"
    file.touch()
    assert existing_file(file) == file
    with pytest.raises(InputError, match=r"is a folder, .*model\.safetensors"):
        existing_file(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        existing_file(tmp_path / "nothing")


def test_a_folder_that_can_be_created_is_not_created(tmp_path):
    assert writable_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert writable_file(tmp_path / "a" / "x.csv") == tmp_path / "a" / "x.csv"
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert writable_folder(Path("runs/a")) == Path("runs/a")
    assert writable_file(Path("x.csv")) == Path("x.csv")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").touch()
    for path in (tmp_path / "runs", tmp_path / "runs" / "a"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            writable_folder(path)


def test_a_folder_where_a_file_is_needed(tmp_path):
    with pytest.raises(InputError, match="is a folder, but a file is needed"):
        writable_file(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}: Permission denied"):
        writable_folder(tmp_path / "runs")


# ---- whole or not at all


@pytest.fixture
def path(tmp_path):
    (tmp_path / "out.txt").write_text("before")
    return tmp_path / "out.txt"


def left(path):
    """What the folder holds, by name."""
    return {file.name: file.read_text() for file in path.parent.iterdir()}


@pytest.mark.parametrize("shared", [False, True])
def test_the_name_is_given_when_all_is_written(path, shared):
    with atomic_write(path, shared=shared) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before" and temporary.parent == path.parent
    assert left(path) == {"out.txt": "after"}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError])
def test_what_was_there_stays_when_the_block_fails(path, shared, reason):
    with pytest.raises(reason), atomic_write(path, shared=shared) as temporary:
        temporary.write_text("half")
        raise reason
    assert left(path) == {"out.txt": "before"}


def test_a_disk_that_does_not_take_it_is_one_line_with_the_path(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(WorkError) as caught:
        patched.setattr(os, "replace", full)
        with atomic_write(path) as temporary:
            temporary.write_text("after")
    assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert left(path) == {"out.txt": "before"}
    gone = path.parent / "gone" / "x"
    with pytest.raises(WorkError, match=r"x: cannot be written \(No such file"), atomic_write(gone) as temporary:
        temporary.write_text("after")


def test_what_a_kill_left_behind_is_replaced(path):
    path.with_name("out.txt.tmp").write_text("half")
    with atomic_write(path) as temporary:
        temporary.write_text("after")
    assert left(path) == {"out.txt": "after"}


def test_processes_that_share_a_file_have_names_of_their_own(path, monkeypatch):
    with atomic_write(path, shared=True) as one:
        one.write_text("one")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with atomic_write(path, shared=True) as other:
            other.write_text("other")
        assert left(path) == {"out.txt": "other", one.name: "one"}
    assert left(path) == {"out.txt": "one"}


# ---- locks

HOLD = """
import sys, pathlib
from vitnext.files import held
with held(pathlib.Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    pytest.importorskip("fcntl")
    arguments = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_one_process_holds_a_lock_until_it_is_done(holder, tmp_path):
    with pytest.raises(InputError, match="^taken$"), held(tmp_path / "lock", "taken"):
        raise AssertionError
    holder.communicate("\n")
    with held(tmp_path / "lock", "taken"):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_or_until_it_is_killed(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(tmp_path / "lock", "taken"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_is_not_held(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (tmp_path / "lock").unlink())
    with pytest.raises(InputError, match="^taken$"), held(tmp_path / "lock", "taken"):
        raise AssertionError


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with held(tmp_path / "lock", "taken"):
        assert (tmp_path / "lock").exists()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (OSError(28, "No space left on device"), DiskError, "No space left on device"),
        (RuntimeError("CUDA out of memory.\nTried to"), WorkError, "CUDA out of memory."),
        (RuntimeError(), WorkError, "RuntimeError"),
    ],
)
def test_what_a_library_could_not_write(error, kind, reason, tmp_path):
    raised = unwritten(tmp_path / "last.pt", error)
    assert type(raised) is kind and str(raised) == f"{tmp_path / 'last.pt'}: cannot be written ({reason})"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_that_torch_does_not_name(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    raised = unwritten(tmp_path / "last.pt", RuntimeError("[enforce fail at inline_container.cc:672]"))
    assert type(raised) is DiskError and str(raised).endswith("cannot be written (No space left on device)")
