"""The outlines of masks as polygons that run exactly along the edges of pixels: filling them gives the mask back.

Corners are found from the four pixels around every point of the grid. On each line of the grid they come in pairs, the
ends of an edge, so that rings follow without a search. Where two pixels touch only at a corner, they stay apart.
"""

from __future__ import annotations

import numpy as np


def polygons(mask: np.ndarray) -> list[list[np.ndarray]]:
    """Of a bool mask (H, W) a polygon for each region of pixels that share sides, topmost first.

    A polygon is a list of rings, the outline and then its holes; a ring int64 (k, 2): x and y of its corners, in pixels
    from the top left corner of the image, the first repeated at the end. With x to the right and y down, outlines run
    clockwise on the screen and holes the other way: by the formula of the area, as GeoJSON (RFC 7946, section 3.1.6)
    wants it.
    """
    mask = np.asarray(mask, bool)
    y, x, partner_in_row, partner_in_column = _corners(mask)
    rings, ring_of = _rings(partner_in_row, partner_in_column)
    starts = np.array([ring[0] for ring in rings], np.int64)
    is_outline = mask[y[starts], x[starts]]  # the pixel right below a ring's first corner lies in it
    parents = _left_of(starts[~is_outline], y, x, partner_in_column, ring_of, mask.shape[1] + 1)
    found: list[list[np.ndarray]] = []
    place: list[int] = []  # of each ring its polygon
    holes = iter(parents.tolist())
    for ring, outline in zip(rings, is_outline.tolist(), strict=True):
        points = np.stack([x[ring], y[ring]], axis=1)
        closed = np.concatenate([points, points[:1]])
        if outline:
            place.append(len(found))
            found.append([closed])
        else:
            place.append(place[next(holes)])
            found[place[-1]].append(closed[::-1])
    return found


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """y, x, and the other end of the horizontal and of the vertical edge of every corner, all int64 (n,).

    Corners are in the order of rows. Where pixels touch at a corner alone there are two: the first ends the edge on the
    left, the second begins that on the right.
    """
    around = np.pad(mask, 1)
    above_left, above_right, below_left, below_right = (
        around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:],
    )  # fmt: skip
    single = above_left ^ above_right ^ below_left ^ below_right
    double = (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    y, x = np.nonzero(single | double)
    twice = double[y, x]
    repeats = 1 + twice
    second = np.zeros(repeats.sum(), np.int64)
    second[np.cumsum(repeats)[twice] - 1] = 1
    falling = np.repeat(above_left[y, x], repeats)  # inside are the pixels above left and below right
    y, x = np.repeat(y, repeats), np.repeat(x, repeats)
    in_row = np.arange(len(y)) ^ 1
    upper_first = np.where(falling, second, 1 - second)  # of two, the first has the edge upwards if it falls
    order = np.lexsort((upper_first, y, x))
    in_column = np.empty_like(order)
    in_column[order[0::2]], in_column[order[1::2]] = order[1::2], order[0::2]
    return y, x, in_row, in_column


def _rings(in_row: np.ndarray, in_column: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """Corners of each ring, from its topmost, leftmost one to the right; and of each corner its ring."""
    row, column = in_row.tolist(), in_column.tolist()
    ring_of = [-1] * len(row)
    rings: list[list[int]] = []
    for first in range(len(row)):
        if ring_of[first] >= 0:
            continue
        ring: list[int] = []
        corner = first
        while ring_of[corner] < 0:
            other = row[corner]
            ring += (corner, other)
            ring_of[corner] = ring_of[other] = len(rings)
            corner = column[other]
        rings.append(ring)
    return rings, np.array(ring_of, np.int64)


def _left_of(
    holes: np.ndarray, y: np.ndarray, x: np.ndarray, in_column: np.ndarray, ring_of: np.ndarray, width: int
) -> np.ndarray:
    """Of the first corner of each hole the ring that bounds the row of pixels above it on the left."""
    tops = np.flatnonzero(y < y[in_column])  # upper ends of vertical edges
    lengths = y[in_column[tops]] - y[tops]
    before = np.cumsum(lengths) - lengths
    rows = np.arange(lengths.sum()) - np.repeat(before, lengths) + np.repeat(y[tops], lengths)
    keys = rows * width + np.repeat(x[tops], lengths)
    order = np.argsort(keys, kind="stable")
    nearest = np.searchsorted(keys[order], (y[holes] - 1) * width + x[holes], side="right") - 1
    rings: np.ndarray = ring_of[np.repeat(tops, lengths)[order[nearest]]]
    return rings
