"""Files: which are images, what lies below a folder, what may be written, and writing it whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import AnyStr

from vitnext.errors import DiskError, InputError, WorkError
from vitnext.wording import counted

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".avif", ".jp2"),
)
_EXTENSIONS_IN_BYTES = tuple(map(str.encode, IMAGE_EXTENSIONS))  # to decode every name takes longer than to look at it
DOT = (".", ord("."))  # how a hidden file's name starts, in str and in bytes
HEIC = (".heic", ".heif")  # what phones write, and Pillow does not read
CONVERT_HEIC = "HEIC is not read: convert it to JPEG, as with heif-convert or `magick mogrify -format jpg *.HEIC`"


def is_image(name: str | bytes) -> bool:
    """Whether a file of this name is taken for an image; hidden files are not."""
    if isinstance(name, bytes):
        return name.lower().endswith(_EXTENSIONS_IN_BYTES) and not name.startswith(b".")
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def is_heic(name: str | bytes) -> bool:
    return os.fsdecode(name).lower().endswith(HEIC)


def passed_over(count: int, examples: Sequence[str]) -> str:
    """That so many files are not images, and how to convert HEIC if any of ``examples`` is."""
    heic = f"; {CONVERT_HEIC}" if any(map(is_heic, examples)) else ""
    return f"{counted(count, 'file')} passed over: not an image file{heic}"


def files_below(folder: AnyStr) -> Iterator[os.DirEntry[AnyStr]]:
    """Every visible file in ``folder`` at any depth, in the order of names, a folder's own files first.

    Hidden files and folders are passed over; links are followed, each folder once. Raises InputError for a folder that
    cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as listed:
                entries = sorted((e for e in listed if e.name[0] not in DOT), key=attrgetter("name"))
            files: list[os.DirEntry[AnyStr]] = []
            folders: list[os.DirEntry[AnyStr]] = []
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry)
        except OSError as error:
            raise InputError(f"{os.fsdecode(here)}: cannot be listed ({error.strerror})") from error
        yield from files
        waiting += [entry.path for entry in reversed(folders)]


BITS_63 = 2**63 - 1


def stamp(status: Callable[[], os.stat_result]) -> tuple[int, int, int]:
    """What tells of a file that it is as it was: its size in bytes, and the times of its modification and of the change
    of its inode in ns, of which 63 bits are left for those after 2262; -1, 0, 0 for one that is not there."""
    try:
        found = status()
    except (OSError, ValueError):  # a link that leads nowhere; a NUL in the name
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns & BITS_63, found.st_ctime_ns & BITS_63


def cache_folder() -> Path:
    """Where what can be had again is kept: vitnext/ in the user's cache, which XDG_CACHE_HOME names, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitnext"


def existing_file(path: Path) -> Path:
    """``path``, or InputError if there is no such file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a model file is needed, for example {path / 'model.safetensors'}")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    return path


def writable_folder(path: Path) -> Path:
    """``path``, or InputError if it can be neither written to nor created. Leaves nothing behind."""
    folder = path
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"cannot write to {path}: {folder} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


def writable_file(path: Path) -> Path:
    """``path``, or InputError if no such file can be written. Leaves nothing behind."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file is needed, for example {path / 'model.onnx'}")
    writable_folder(path.parent)
    return path


@contextmanager
def atomic_write(path: Path, *, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what the block writes there is called ``path`` once it is complete.

    When the block fails, Ctrl-C included, what it wrote is removed, and a file that had the name already stays as it
    was. A kill leaves NAME.tmp behind, which the next write replaces; with ``shared`` the temporary name is the
    process's own, for a file that several processes may write at once. ``durable``: it is on the disk before it has the
    name, so that a power cut leaves one of the two whole.

    Raises DiskError with the path when the disk does not take it (any OSError of the block).
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp" if shared else f"{path.name}.tmp")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):  # it is there only if something went wrong
            temporary.unlink()


def unwritten(path: Path, error: BaseException) -> WorkError:
    """What to raise where ``path`` could not be written: a DiskError for what the system says, else a WorkError. The
    errors of libraries do not say clearly, or at all, that a disk is full: it is asked."""
    if not isinstance(error, OSError):
        try:
            with tempfile.TemporaryFile(dir=path.parent) as probe:
                probe.write(bytes(1 << 20))
        except OSError as refused:
            error = refused
    if isinstance(error, OSError):
        return DiskError(f"{path}: cannot be written ({error.strerror or error})")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return WorkError(f"{path}: cannot be written ({reason})")


@contextmanager
def held(path: Path, otherwise: str) -> Iterator[None]:
    """Hold the lock file ``path``. Raises InputError with ``otherwise`` if another process holds it.

    The system releases the lock when the process ends, however it ends. Where files cannot be locked, all hold it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise InputError(otherwise) from error
        except OSError:  # a file system without locks
            pass
        if not os.fstat(file.fileno()).st_nlink:  # who held it has just removed it, and another may hold a new one
            raise InputError(otherwise)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
