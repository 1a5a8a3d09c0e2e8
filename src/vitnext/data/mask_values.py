"""What the pixels of a mask mean: ids, palette indices or colours -> class indices. No value is guessed. No torch."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitnext.decode import EXIF_ORIENTATION, MAX_PIXELS, open_encoded
from vitnext.errors import ImageError, InputError
from vitnext.wording import counted

VOID = 255  # of class indices: neither trained on nor measured
MOST_CLASSES = 255  # a class index takes a byte, and 255 is void
UNKNOWN = -1  # of a table's entries
LARGEST_ID = 65_535  # of 16 bits
FACTORS = {"L;2": 85, "L;4": 17}  # Pillow spreads a PNG's grey of 2 and 4 bits over 0..255
SHOWN = 5  # wrong values named in a message


@dataclass(frozen=True)
class MaskClass:
    """A line of classes.txt. color: RGB, of masks in colours; thing: whether its instances are counted, if said."""

    id: int
    name: str
    color: tuple[int, ...] | None = None
    thing: bool | None = None


@dataclass(frozen=True)
class MaskValues:
    """The values of masks, and the classes that are told apart.

    known:      what masks hold, in the order of classes.txt
    void:       what is ignored
    groups:     the classes of the network: (name, indices into ``known``); None: every one of ``known`` by itself
    unnumbered: whether the lines of classes.txt have no ids, which are then counted from 0
    """

    known: tuple[MaskClass, ...]
    void: tuple[MaskClass, ...] = ()
    groups: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    unnumbered: bool = False

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._groups)

    @functools.cached_property
    def ids(self) -> tuple[int, ...]:
        """Of each class its id in masks; of merged ones that of the first."""
        return tuple(self.known[members[0]].id for _, members in self._groups)

    @functools.cached_property
    def things(self) -> tuple[bool, ...]:
        """Of each class, whether classes.txt calls it a thing."""
        return tuple(all(self.known[i].thing for i in members) for _, members in self._groups)

    @functools.cached_property
    def palette(self) -> tuple[str, ...]:
        """Of each class its colour as "#804080": that of classes.txt, else one of its own."""
        given = [self.known[members[0]].color for _, members in self._groups]
        return tuple("#" + bytes(color or distinct(i)).hex() for i, color in enumerate(given))

    @functools.cached_property
    def table(self) -> np.ndarray:
        """int16 (65536,): id -> class index, 255 for void, -1 for an id that classes.txt lacks."""
        table = np.full(1 << 16, UNKNOWN, np.int16)
        table[[c.id for c in self.known]] = self._index
        table[[c.id for c in self.void]] = VOID
        return table

    @functools.cached_property
    def colors(self) -> tuple[np.ndarray, np.ndarray]:
        """Packed colours, sorted int32 (n,), and their class indices int16 (n,)."""
        pairs = [(c.color, i) for c, i in zip(self.known, self._index.tolist(), strict=True)]
        pairs += [(c.color, VOID) for c in self.void]
        packed = sorted((r << 16 | g << 8 | b, i) for color, i in pairs if color is not None for r, g, b in [color])
        return np.array([p for p, _ in packed], np.int32), np.array([i for _, i in packed], np.int16)

    @functools.cached_property
    def _index(self) -> np.ndarray:
        """int16 (known,): the class index of each."""
        index = np.full(len(self.known), VOID, np.int16)
        for i, (_, members) in enumerate(self._groups):
            index[list(members)] = i
        return index

    @property
    def _groups(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return self.groups or tuple((c.name, (i,)) for i, c in enumerate(self.known))

    def merged(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (H, W), indices into ``known`` or 255 -> class indices."""
        if self.groups is None:
            return indices
        table = np.full(256, VOID, np.uint8)
        table[: len(self.known)] = self._index
        merged: np.ndarray = table[indices]
        return merged

    def regrouped(self, merge: Mapping[str, Sequence[str]], ignore: Sequence[str]) -> MaskValues:
        """Classes merged under new names, which stand where the first of them stood, and others made void.

        Raises InputError for a name that is no class, or stands twice, and for a new name that stands for nothing or is
        that of another class.
        """
        names = [c.name for c in self.known]
        named = [*ignore, *(name for members in merge.values() for name in members)]
        for name in named:
            if name not in names:
                raise InputError(f'data.merge and data.ignore: there is no class "{name}"; there are {_some(names)}')
            if named.count(name) > 1:
                raise InputError(f'data.merge and data.ignore: "{name}" stands twice; a class goes to one place')
        if empty := next((group for group, members in merge.items() if not members), None):
            raise InputError(f'data.merge: "{empty}" merges no class; list those that become it, or leave it out')
        group_of = {member: group for group, members in merge.items() for member in members}
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            group = group_of.get(name, name)
            if name in merge and name not in group_of:
                raise InputError(f'data.merge: "{name}" is a class of its own; list it among those merged, or rename')
            if name in ignore:
                continue
            groups.setdefault(group, []).append(i)
        if len(groups) < 2:
            raise InputError(f"data.merge and data.ignore leave {counted(groups, 'class')}; a segmenter needs two")
        return replace(self, groups=tuple((name, tuple(i)) for name, i in groups.items()))


def distinct(i: int) -> tuple[int, int, int]:
    """The colour of class ``i`` in the PASCAL VOC colour map: its bits, dealt to red, green and blue from the top."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (i >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def open_mask(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A mask file's pixels as they are stored, and its palette.

    pixels:  ids of grey and palette files, uint8 or uint16 (H, W), those of 1, 2 or 4 bits from 0 on; or the colours of
             RGB files, uint8 (H, W, 3)
    palette: uint8 (up to 256, 3), or None

    Raises ImageError when it cannot be read, or its kind holds neither ids nor colours (JPEG changes values), or what
    it holds is not said by ids and colours alone (transparency, an EXIF orientation).
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError("not a file")
        with open(path, "rb") as file:
            image = open_encoded(file, status.st_size)
            if image.format in ("JPEG", "WEBP"):
                raise ImageError(f"{image.format} changes the values of pixels: save masks as PNG")
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            factor = FACTORS.get(str(image.tile[0][3]), 1) if image.format == "PNG" else 1  # type: ignore[attr-defined]
            image.load()  # first: the EXIF block of a PNG may stand behind the pixels
            if image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION, 1) != 1:  # Pillow turns TIFF itself
                raise ImageError("has an EXIF orientation: save masks upright, without it")
            return _stored(image, factor), _palette(image)
    except ImageError as error:
        reason = str(error)
    except FileNotFoundError:
        reason = "no such file"
    except PermissionError:
        reason = "no permission to read it"
    except Image.DecompressionBombError:
        reason = f"more than {MAX_PIXELS:,} pixels: make it smaller"
    except UnidentifiedImageError:
        reason = "not a PNG, TIFF, BMP or GIF image, or its header is damaged"
    except Exception as error:  # as in decode.py: a damaged file makes Pillow raise nearly anything
        reason = f"cannot be decoded, damaged or truncated ({str(error) or type(error).__name__})"
    raise ImageError(" ".join(f"{path}: {reason}".splitlines()))


def _stored(image: Image.Image, factor: int) -> np.ndarray:
    pixels = np.asarray(image)
    if image.mode in ("RGBA", "LA"):
        if pixels[..., -1].min() < 255:
            raise ImageError("has transparent pixels, which are neither a class nor void: save it without transparency")
        pixels = pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
    elif image.mode == "1":
        pixels = pixels.astype(np.uint8)
    elif image.mode.startswith("I"):
        if not 0 <= pixels.min() <= pixels.max() <= LARGEST_ID:
            raise ImageError(f"holds values beyond 0 to {LARGEST_ID}")
        pixels = pixels.astype(np.uint16)
    elif image.mode not in ("RGB", "L", "P"):
        raise ImageError(f"an image of mode {image.mode} holds neither ids nor colours: save it as 8-bit grey PNG")
    stored: np.ndarray = pixels // np.uint8(factor) if factor > 1 else pixels
    return stored


def _palette(image: Image.Image) -> np.ndarray | None:
    return np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3) if image.mode == "P" else None


def read_mask(path: str, values: MaskValues) -> np.ndarray:
    """uint8 (H, W): class indices, 255 where void.

    Raises ImageError as ``read_indices`` does, and for ids or colours that classes.txt does not name.
    """
    pixels, indices = read_indices(path, values)
    if indices.min() < 0:
        raise ImageError(f"{path}: holds {unknown_values(pixels, indices)}, which classes.txt does not name")
    classes: np.ndarray = indices.astype(np.uint8)
    return classes


def read_indices(path: str, values: MaskValues) -> tuple[np.ndarray, np.ndarray]:
    """A mask file's pixels as ``open_mask`` gives them, and int16 (H, W): class indices, 255 void, -1 unknown.

    Raises ImageError as ``open_mask`` does, and for a palette that says otherwise than classes.txt: programs that
    compress pictures number colours anew, and what were ids are then none.
    """
    pixels, palette = open_mask(path)
    return pixels, indices_of(path, pixels, palette, values)


def indices_of(path: str, pixels: np.ndarray, palette: np.ndarray | None, values: MaskValues) -> np.ndarray:
    """What ``read_indices`` makes of what ``open_mask`` found in ``path``."""
    if pixels.ndim == 3:
        return of_colors(pixels, values)
    indices = values.table[pixels]
    if palette is not None and len(values.colors[0]):
        used = _used(pixels, palette)
        by_color = of_colors(palette[used][None], values)[0]
        wrong = used[(by_color != UNKNOWN) & (by_color != values.table[used])]
        if len(wrong):
            color = tuple(palette[wrong[0]].tolist())
            of_class = next(c for c in (*values.known, *values.void) if c.color == color)
            raise ImageError(
                f"{path}: its palette gives index {wrong[0]} the colour of {of_class.name}, whose id is {of_class.id}: "
                "save it as RGB, or mend classes.txt"
            )
    classes: np.ndarray = indices
    return classes


def is_usual(pixels: np.ndarray, palette: np.ndarray) -> bool:
    """Whether each index that is used, void aside, has the colour of its number in the PASCAL VOC colour map, as in the
    masks that are written here, or is its own grey: then nothing has numbered the colours anew."""
    used = _used(pixels, palette)
    used = used[used != VOID]
    own = palette[used]
    usual = np.array([distinct(i) for i in used.tolist()]).reshape(-1, 3)
    return bool(((own == usual).all(1) | (own == used[:, None]).all(1)).all())


def _used(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """int64: the indices into the palette that the pixels hold."""
    return np.flatnonzero(np.bincount(pixels.reshape(-1), minlength=256)[: len(palette)])


def of_colors(pixels: np.ndarray, values: MaskValues) -> np.ndarray:
    """uint8 (H, W, 3) -> int16 (H, W): class indices, 255 void, -1 unknown."""
    known, index = values.colors
    if not len(known):
        return np.full(pixels.shape[:2], UNKNOWN, np.int16)
    packed = pack_colors(pixels)
    at = np.searchsorted(known, packed).clip(max=len(known) - 1)
    return np.where(known[at] == packed, index[at], np.int16(UNKNOWN))


def pack_colors(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> int32 (...): red in the high byte."""
    red, green, blue = (pixels[..., i].astype(np.int32) for i in range(3))
    packed: np.ndarray = red << 16 | green << 8 | blue
    return packed


def unknown_values(pixels: np.ndarray, indices: np.ndarray) -> str:
    """The values of pixels whose index is unknown, for a message: "the ids 7, 9" or "the colours #804080"."""
    wrong = pixels[indices == UNKNOWN]
    if pixels.ndim == 3:
        found = [f"#{value:06x}" for value in np.unique(pack_colors(wrong)).tolist()]
        kind = "colour"
    else:
        found = [str(value) for value in np.unique(wrong).tolist()]
        kind = "id"
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"the {kind}{'s' * (len(found) > 1)} {', '.join(found[:SHOWN])}{more}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
