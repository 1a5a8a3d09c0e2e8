"""Which images the user means: files, folders and globs become one list of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence

from vitnext.errors import InputError
from vitnext.files import IMAGE_EXTENSIONS, files_below, is_heic, is_image, passed_over
from vitnext.inference.mask_files import CLASSES, CONFIDENCE


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the image files that ``paths`` name, in the order given and each file once.

    A file is kept whatever its extension, because the user named it. A folder stands for the images anywhere below it,
    sorted, without hidden files and folders; links to folders are followed, each folder once. A glob stands for the
    files and folders that a shell would have made of it, sorted (``**`` reaches any depth).

    Raises:
        InputError: a path does not exist, cannot be read, or holds no image.
    """
    return images_and_results(paths, None)[0]


def images_and_results(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], results: str | os.PathLike[str] | None
) -> tuple[list[str], list[str]]:
    """As ``find_images``; and apart from these the images that lie below the folder ``results``, which what is written
    goes to, or in another that masks were written into: those of an earlier run would be predicted by the next. A
    folder, glob or file of which the path itself leads to ``results`` is meant so.

    Raises InputError as ``find_images``, and for a path that leads to results alone.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    below = None if results is None else os.path.realpath(results)
    found: dict[str, str] = {}  # absolute path -> the path as the user wrote it
    passed: dict[str, str] = {}
    for path in paths:
        path = os.fspath(path)
        files = list(_expand(path))
        if not files:
            others = other_files([path], None)
            more = f"; {passed_over(len(others), others)}" if others else ""
            raise InputError(f"{path}: no images found (a folder is searched for {' '.join(IMAGE_EXTENSIONS)}){more}")
        written: set[str] = set()  # folders
        if below is not None and not _inside(_searched(path), below):
            written = {folder for folder in {*map(os.path.dirname, files)} if _inside(folder, below)}
        if below is not None:
            written |= _of_other_runs(files)
        if written.issuperset(map(os.path.dirname, files)):
            raise InputError(f"{path}: no images but those that masks were written as: name another folder")
        for file in files:
            (passed if os.path.dirname(file) in written else found).setdefault(os.path.abspath(file), file)
    if not found:
        raise InputError("no images were named: give files, folders or globs")
    return list(found.values()), [file for place, file in passed.items() if place not in found]


def other_files(paths: Iterable[str | os.PathLike[str]], results: str | os.PathLike[str] | None) -> list[str]:
    """The files in the folders that ``paths`` stand for which are not images, HEIC first; without those below
    ``results``, as of ``images_and_results``."""
    below = None if results is None else os.path.realpath(results)
    found = {
        file.path
        for path in [os.fspath(path) for path in paths]
        for place in ([path] if os.path.exists(path) else glob.glob(path, recursive=True))
        if os.path.isdir(place)
        for file in files_below(place)
        if not is_image(file.name) and (below is None or not _inside(os.path.dirname(file.path), below))
    }
    return sorted(found, key=lambda name: (not is_heic(name), name))


def _searched(path: str) -> str:
    """The folder that a path is searched from: of a glob, what stands before its first part with a wildcard."""
    while glob.has_magic(path) and not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _of_other_runs(files: Sequence[str]) -> set[str]:
    """Folders among those of the files that `vitnext predict --masks` wrote: what names the classes lies beside shares
    of confidence."""
    folders = {os.path.dirname(file) for file in files if file.endswith(f"{CONFIDENCE}.png")}
    folders = {folder for folder in folders if os.path.isfile(os.path.join(folder, CLASSES))}
    return {
        folder for file in files if (folder := os.path.dirname(file)) in folders or os.path.dirname(folder) in folders
    }


def _inside(path: str, folder: str) -> bool:
    """Whether a path leads to a folder, of which there are no links in the name, or below it."""
    real = os.path.realpath(path)
    return real == folder or real.startswith(os.path.join(folder, ""))


def _expand(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield from _images_below(path)
    elif os.path.exists(path):
        yield path
    elif path == "-":
        raise InputError("-: standard input is not read: give files, folders or globs")
    elif "://" in path:
        raise InputError(f"{path}: URLs are not read: download it and give the file")
    elif glob.has_magic(path):
        for match in sorted(glob.glob(path, recursive=True)):
            yield from _images_below(match) if os.path.isdir(match) else [match]
    else:
        raise InputError(f"{path}: no such file or folder")


def _images_below(folder: str) -> Iterator[str]:
    return (file.path for file in files_below(folder) if is_image(file.name))
