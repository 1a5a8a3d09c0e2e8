"""Folders of images with masks, drawn for tests."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from vitnext.data.mask_folder import MaskSplit
from vitnext.data.mask_values import MaskClass, MaskValues

CLASSES = "0 background\n1 road\n2 car\n255 ignore\n"


def ids(size: tuple[int, int] = (8, 10), count: int = 3) -> np.ndarray:
    """uint8 (H, W) that holds 0, 1 and 2, or as many as ``count`` says."""
    return (np.arange(size[0] * size[1]) % count).astype(np.uint8).reshape(size)


def findings_of(out: str) -> list[str]:
    """The lines that `vitnext check` prints below what was recognised and the table of counts."""
    lines = out.splitlines()
    assert lines[1].split()[:4:2] == ["class", "pixels"]
    return [line for line in lines[2:] if re.match(r"(error|warning): |no mistakes", line)]


def add(root: Path, name: str, mask: np.ndarray | None = None, *, below: str = "") -> None:
    """One image of noise, all different, and its mask (None: ids 0, 1 and 2)."""
    mask = ids() if mask is None else mask
    random = np.random.default_rng(list(f"{below}{name}".encode()))
    pixels = random.integers(0, 256, (*mask.shape[:2], 3), dtype=np.uint8)
    for folder, array in (("images", pixels), ("masks", mask)):
        path = root / below / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def mask_set(root: Path, *, count: int = 4, classes: str = CLASSES) -> Path:
    """train/, val/ and test/ with ``count`` sound pairs each."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes)
    for split in ("train", "val", "test"):
        for i in range(count):
            add(root, f"{i}", below=split)
    return root


def flat_set(root: Path, *, count: int = 6, classes: str = CLASSES) -> Path:
    """images/ and masks/ with ``count`` sound pairs: i0, i1, ..."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes)
    for i in range(count):
        add(root, f"i{i}")
    return root


def split_of_objects(count: int = 6, size: tuple[int, int] = (24, 32), seed: int = 0) -> MaskSplit:
    """Images in memory: ground, and red and blue squares that are told apart, some of one class side by side."""
    random = np.random.default_rng(seed)
    values = MaskValues(tuple(MaskClass(i, name, None, i > 0) for i, name in enumerate(("ground", "red", "blue"))))
    colors = np.array([(90, 90, 90), (220, 50, 50), (50, 50, 220)])
    masks, numbers = np.zeros((count, *size), np.uint8), np.zeros((count, *size), np.uint16)
    for i in range(count):
        cells = random.choice((size[0] // 8) * (size[1] // 8), 3, replace=False)
        for number, cell in enumerate(cells, start=1):
            y, x = 8 * (cell // (size[1] // 8)), 8 * (cell % (size[1] // 8))
            masks[i, y : y + 8, x : x + 8] = random.integers(1, 3)
            numbers[i, y : y + 8, x : x + 8] = number
    images = np.clip(colors[masks] + random.normal(0, 15, (count, *size, 3)), 0, 255).astype(np.uint8)
    names = np.array([f"objects[{i}]" for i in range(count)], np.bytes_)
    sizes = np.full(count, images[0].nbytes, np.int64)
    return MaskSplit(values, names, sizes, names, sizes, arrays=images, masks=masks, instances=numbers)


def add_instances(root: Path, name: str, numbers: np.ndarray, *, below: str = "") -> None:
    """The instance map of an image."""
    path = root / below / "instances" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(path)
