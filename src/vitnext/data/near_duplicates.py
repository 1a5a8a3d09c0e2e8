"""Images that look alike: a small picture and a perceptual hash of each, and the pairs whose hashes are nearly equal,
found without comparing every pair. No torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 32  # pixels of the grey picture that is hashed
KEPT = 16  # pixels of the picture in colours that is kept to compare
FREQUENCIES = 8  # horizontal and vertical ones, 8 x 8 bits
BITS = 6  # hashes that differ in so many bits at most are compared; up to 7 can be found
ALIKE = 12.0  # of 255: largest mean difference of two small pictures that count as the same
FLAT = 4.0  # standard deviation of grey values; below it the hash is of noise
BLOCK = 2048  # pairs whose pictures are compared at once
REACH = 1024  # a hash is compared with so many on either side of it, of those with a byte in common
ROWS = 256  # hashes that are compared with others at once

_COSINES = np.cos(np.pi / SIDE * np.arange(1, FREQUENCIES + 1)[:, None] * (np.arange(SIDE) + 0.5))  # DCT-II, without 0
_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def small_pictures(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3) -> grey uint8 (32, 32) and colours uint8 (16, 16, 3), whatever the aspect."""
    pixels = Image.fromarray(image)
    grey = pixels.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    colours = grey.resize((KEPT, KEPT), Image.Resampling.BOX)
    return np.asarray(grey.convert("L")), np.asarray(colours)


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """uint8 (N, 32, 32) -> uint64 (N,): of 8 x 8 low frequencies of the cosine transform, which are above their median
    (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1).

    0 for pictures that are nearly flat, of which it would hash the noise.
    """
    waves = _COSINES @ grey.astype(np.float64) @ _COSINES.T  # (N, 8, 8)
    values = waves.reshape(len(grey), -1)
    bits = values > np.median(values, axis=1, keepdims=True)
    hashes: np.ndarray = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return np.where(grey.std(axis=(1, 2)) < FLAT, np.uint64(0), hashes)


def close_pairs(hashes: np.ndarray, bits: int = BITS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs i < j of different hashes, uint64 (N,), that differ in ``bits`` bits at most, each once; in pieces. All of
    them where no more than ``REACH`` hashes have a byte in common, else nearly all.

    Two hashes that differ in 7 bits at most agree in one of their 8 bytes, so that only those with a byte in common are
    compared (multi-index hashing, Norouzi et al. 2012): 1/32 of all pairs where the bytes are evenly spread. Of aligned
    images, such as faces and scans, many thousands have a byte in common: sorted by the bytes that follow it, each is
    compared with those that stand near it alone (the sorted neighbourhood, Hernandez and Stolfo 1995), so that the time
    grows with N, not with its square.
    """
    assert bits < 8
    parts = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)
    places = np.empty((len(hashes), 8), np.int64)  # of each hash, sorted by each byte and those that follow it
    for byte in range(8):
        order = np.argsort(np.roll(parts, -byte, axis=1).copy().view(">u8")[:, 0], kind="stable")
        places[order, byte] = np.arange(len(order))
        edges = np.flatnonzero(np.diff(parts[order, byte])) + 1
        for bucket in np.split(order, edges):
            for start in range(0, len(bucket), ROWS):
                rows, columns = bucket[start : start + ROWS], bucket[start + 1 : start + ROWS + REACH]
                a, b = np.nonzero(_ones(hashes[rows, None] ^ hashes[None, columns]) <= bits)
                near = (a <= b) & (b < a + REACH)
                i, j = rows[a[near]], columns[b[near]]
                agree = parts[i, :byte] == parts[j, :byte]
                found = agree & (np.abs(places[i, :byte] - places[j, :byte]) <= REACH)  # by a byte before this one
                i, j = np.minimum(i, j), np.maximum(i, j)
                new = ~found.any(1)
                yield i[new], j[new]


def alike(pictures: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Whether pictures i and j, of uint8 (N, 16, 16, 3), are of one image but for its brightness, bool (len(i),)."""
    count = KEPT * KEPT * 3
    difference = (pictures[i].astype(np.int16) - pictures[j]).reshape(-1, count).astype(np.float32)
    means = difference @ np.full(count, 1 / count, np.float32)  # of all channels together: of each it would be a colour
    difference -= means[:, None]
    close: np.ndarray = np.abs(difference, out=difference).mean(1) <= ALIKE
    return close


def similar(hashes: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """int64 (N,): of each image the first one that it is connected with by pairs of similar ones; itself if with none.

    hashes: uint64 (N,), 0 where an image is to be left alone; pictures: uint8 (N, 16, 16, 3).
    """
    parent = np.arange(len(hashes))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    def join(first: np.ndarray, second: np.ndarray) -> None:
        for start in range(0, len(first), BLOCK):  # so that the pictures of few pairs are in memory at once
            i, j = first[start : start + BLOCK], second[start : start + BLOCK]
            apart = parent[i] != parent[j]
            i, j = i[apart], j[apart]
            same = alike(pictures, i, j)
            for a, b in zip(i[same].tolist(), j[same].tolist(), strict=True):
                low, high = sorted((root(a), root(b)))
                parent[high] = low

    able = np.flatnonzero(hashes)
    order = able[np.argsort(hashes[able], kind="stable")]
    if not len(order):
        return parent
    starts = np.append(0, np.flatnonzero(hashes[order[1:]] != hashes[order[:-1]]) + 1)
    lengths = np.diff(starts, append=len(order))
    firsts = order[starts]  # of each hash
    join(np.repeat(firsts, lengths), order)  # a thousand images of one hash would have half a million pairs
    for i, j in close_pairs(hashes[firsts]):
        join(firsts[i], firsts[j])
    return np.array([root(i) for i in range(len(hashes))], np.int64)


def _ones(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are 1."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        counts: np.ndarray = np.bitwise_count(values)
        return counts
    return _ONES[values.view(np.uint16).reshape(*values.shape, 4)].sum(-1, dtype=np.uint8)
