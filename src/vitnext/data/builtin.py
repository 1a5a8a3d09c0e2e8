"""The built-in data sets: real images that need no folder.

digits         1,797 scanned digits, 8x8, 10 classes; comes with scikit-learn (UCI optdigits, Alpaydin and Kaynak 1998)
fashion-mnist  70,000 garments, 28x28, 10 classes, train 60,000 and test 10,000 (Xiao, Rasul and Vollgraf 2017,
               arXiv:1708.07747)
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from vitnext.errors import InputError, require
from vitnext.files import atomic_write
from vitnext.wording import counted

NAMES = ("digits", "fashion-mnist")
DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
MOST_BYTES = 1 << 26  # the largest file has 47,040,016 bytes unpacked
# sha256 of the unpacked contents: the same for every copy, however it was packed
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (1797, 8, 8) and int64 (1797,). The scan's 0..16 becomes round(value * 255 / 16).

    Raises InputError when scikit-learn is not installed.
    """
    data = require("sklearn.datasets", "train").load_digits()
    return np.rint(data.images * 255 / 16).astype(np.uint8), data.target.astype(np.int64)


def fashion_mnist(folder: Path | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train": (uint8 (60000, 28, 28), int64 (60000,)), "test": (uint8 (10000, 28, 28), int64 (10000,))}.

    Reads the four IDX files, packed (.gz) or not, from ``folder`` or, if that is None, from the first of: the folder
    that the environment variable VITNEXT_FASHION_MNIST names, Debian's /usr/share/datasets/fashion-mnist, the cache;
    else downloads them into the cache.

    Raises InputError when a folder that was named lacks a file, a file is damaged, or no copy can be had; WorkError
    when the cache cannot be written.
    """
    named = folder or os.environ.get("VITNEXT_FASHION_MNIST")
    if named:
        found = Path(named)
    else:
        found = next((f for f in (SYSTEM_FOLDER, _cache()) if all(_find(f, name) for name in FILES)), _cache())
        if not all(_find(found, name) for name in FILES):
            _download(found)
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(found, f"{prefix}-images-idx3-ubyte", dimensions=3)
        labels = _read_idx(found, f"{prefix}-labels-idx1-ubyte", dimensions=1)
        if len(images) != len(labels) or labels.max(initial=0) >= len(GARMENTS):
            raise InputError(f"{found}: the {prefix} images and labels do not belong together; fetch the files again")
        splits[split] = (images, labels.astype(np.int64))
    return splits


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitnext" / "fashion-mnist"


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if os.path.isfile(path)), None)


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """IDX: two zero bytes, the type (8: uint8), the number of dimensions, each as a big-endian int32, the values."""
    path = _find(folder, name)
    if path is None:
        raise InputError(
            f"{folder}: no {name}.gz in it; give a folder with the four Fashion-MNIST files: {', '.join(FILES)}"
        )
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch it again") from error
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">i4") if len(content) >= start else np.zeros(0, ">i4")
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) - start != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path}: not an IDX file of {counted(dimensions, 'dimension')}, or truncated; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # writable


def _download(folder: Path) -> None:
    """The four files into ``folder``, each checked first. Raises InputError if no mirror has one, WorkError if the disk
    does not take it."""
    for name in FILES:
        if _find(folder, name):
            continue
        failures = []
        for mirror in MIRRORS:
            try:
                with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=30) as answer:
                    packed = answer.read(MOST_BYTES)
                unpacked = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MOST_BYTES)
                if hashlib.sha256(unpacked).hexdigest() != FILES[name]:
                    raise ValueError("its sha256 is not the published one")
                break
            except (OSError, EOFError, ValueError, zlib.error) as error:  # URLError is an OSError
                failures.append(f"{mirror}: {getattr(error, 'reason', None) or error}")
        else:
            raise InputError(
                f"fashion-mnist: no copy here, and {name}.gz could not be downloaded ({'; '.join(failures)}); "
                f"'apt install dataset-fashion-mnist' or put the four .gz files into {folder}"
            )
        with atomic_write(folder / f"{name}.gz", shared=True) as temporary:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(packed)
