"""What COCO's JSON formats have in common: the document, its images and its categories.

https://cocodataset.org/#format-data. Whatever does not fit is an InputError that names the file and the entry.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from vitnext.decode import MAX_PIXELS
from vitnext.errors import InputError

NAMED = 3  # of many mistakes, how many an error line tells


@dataclass(frozen=True, slots=True)
class Category:
    """A class as COCO describes it; ``id`` is what annotations name, and need not be its index."""

    id: int
    name: str
    isthing: bool = True
    color: tuple[int, int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON document."""
        entry: dict[str, Any] = {"id": self.id, "name": self.name, "isthing": int(self.isthing)}
        return entry if self.color is None else entry | {"color": list(self.color)}


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of the document; ``id`` is what annotations name."""

    id: int | str
    file_name: str
    height: int
    width: int

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON document."""
        return {"id": self.id, "file_name": self.file_name, "height": self.height, "width": self.width}


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises InputError when it cannot be read or is none."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: a COCO file is a JSON object with images, annotations and categories")
    return document


def entries(document: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under ``key``; InputError if there is none."""
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{path}: has no list of objects called '{key}', which a COCO file needs")
    return found


def whole(entry: dict[str, Any], key: str, where: str) -> int:
    """The whole number under ``key``; InputError if there is none."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: {key} must be a whole number, not {value!r:.40}")
    return value


def flag(entry: dict[str, Any], key: str, where: str) -> bool:
    """The 0 or 1 under ``key``, 0 if it is missing; InputError for anything else."""
    value = entry.get(key, 0)
    if value not in (0, 1):
        raise InputError(f"{where}: {key} must be 0 or 1, not {value!r:.40}")
    return bool(value)


def text(entry: dict[str, Any], key: str, where: str) -> str:
    """The text under ``key``; InputError if there is none, or one of several lines."""
    value = entry.get(key)
    if not is_text(value):
        raise InputError(f"{where}: {key} must be a text, not {value!r:.40}")
    assert isinstance(value, str)
    return value


def is_text(value: Any) -> bool:
    """Whether it is a text of one line that files and pages can hold: without control or half characters."""
    return isinstance(value, str) and value != "" and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)


def file_name(entry: dict[str, Any], where: str) -> str:
    """The path under ``file_name``; InputError if it could lie outside the folder that it is looked for in."""
    name = text(entry, "file_name", where)
    if any(path.is_absolute() or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))):
        raise InputError(f"{where}: file_name must be a path inside the folder of images, not {name!r}")
    return name


def image_id(entry: dict[str, Any], key: str, where: str) -> int | str:
    """The image's id under ``key``, a whole number or (Cityscapes) a text; InputError for anything else."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where}: {key} must be a whole number or a text, not {value!r:.40}")
    return value


def categories(document: dict[str, Any], path: Path, *, panoptic: bool) -> tuple[Category, ...]:
    """The document's categories in its order, which is that of class indices; a panoptic one must have ``isthing``.

    Raises InputError for none, or for two of one id or name.
    """
    found: list[Category] = []
    for position, entry in enumerate(entries(document, "categories", path)):
        where = f"{path}: categories[{position}]"
        if panoptic and "isthing" not in entry:
            raise InputError(f"{where}: has no isthing (1 for things, 0 for stuff), which the panoptic format needs")
        color = entry.get("color")
        if color is not None and not (
            isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)
        ):
            raise InputError(f"{where}: color must be three whole numbers from 0 to 255, not {color!r:.40}")
        isthing = flag(entry, "isthing", where) if panoptic else True
        name = text(entry, "name", where)
        found.append(Category(whole(entry, "id", where), name, isthing, None if color is None else tuple(color)))
    if not found:
        raise InputError(f"{path}: has no categories")
    for key in ("id", "name"):
        _refuse_repeated([getattr(category, key) for category in found], f"{path}: two categories have the {key}")
    return tuple(found)


def images(document: dict[str, Any], path: Path) -> tuple[CocoImage, ...]:
    """The document's images in its order. Raises InputError for two of one id, and for sizes that no image has."""
    found: list[CocoImage] = []
    for position, entry in enumerate(entries(document, "images", path)):
        where = f"{path}: images[{position}]"
        height, width = whole(entry, "height", where), whole(entry, "width", where)
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise InputError(f"{where}: {height} x {width} is not the size of an image")
        found.append(CocoImage(image_id(entry, "id", where), file_name(entry, where), height, width))
    _refuse_repeated([image.id for image in found], f"{path}: two images have the id")
    return tuple(found)


def refuse(path: Path, problems: Sequence[str]) -> None:
    """Raise InputError with the first of the problems and how many there are, if there are any."""
    if problems:
        more = f"; and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
        raise InputError(f"{path}: {'; '.join(problems[:NAMED])}{more}")


def _refuse_repeated(values: Sequence[int | str], what: str) -> None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{what} {value!r}")
        seen.add(value)
