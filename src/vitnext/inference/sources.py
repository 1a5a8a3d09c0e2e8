"""Which images the user means: files, folders and globs become one list of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator

from vitnext.errors import InputError
from vitnext.files import IMAGE_EXTENSIONS, files_below, is_image


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the image files that ``paths`` name, in the order given and each file once.

    A file is kept whatever its extension, because the user named it. A folder stands for the images anywhere below it,
    sorted, without hidden files and folders; links to folders are followed, each folder once. A glob stands for the
    files and folders that a shell would have made of it, sorted (``**`` reaches any depth).

    Raises:
        InputError: a path does not exist, cannot be read, or holds no image.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: dict[str, str] = {}  # absolute path -> the path as the user wrote it
    for path in paths:
        path = os.fspath(path)
        files = list(_expand(path))
        if not files:
            raise InputError(f"{path}: no images found (a folder is searched for {' '.join(IMAGE_EXTENSIONS)})")
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    if not found:
        raise InputError("no images were named: give files, folders or globs")
    return list(found.values())


def _expand(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield from _images_below(path)
    elif os.path.exists(path):
        yield path
    elif glob.has_magic(path):
        for match in sorted(glob.glob(path, recursive=True)):
            yield from _images_below(match) if os.path.isdir(match) else [match]
    else:
        raise InputError(f"{path}: no such file or folder")


def _images_below(folder: str) -> Iterator[str]:
    return (file.path for file in files_below(folder) if is_image(file.name))
