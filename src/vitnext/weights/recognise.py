"""What a file of weights holds: which model of the catalog, in whose names. The keys and the shapes tell.

The names are read with every table of every family; where all have a place, the weights are compared with the models of
that family. What the image size, the channels, the classes or the windows change is taken from the shapes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.weights.adapt import BIAS_TABLE, PATCHES, POSITIONS, State, classes_of, head_of, misfits, stem_of
from vitnext.weights.rename import Dropped, Table, leftovers, listed, rename, theirs
from vitnext.weights.tables import NAMED_ONLY, TABLES, Stored

OURS = "vitnext"  # the source of what has our own names
WHOSE = {
    "timm": "timm's",
    "torchvision": "torchvision's",
    "transformers": "transformers'",
    "original": "the authors'",
    OURS: "vitnext's own",
}

# Fields of a config that the shapes tell, and that ``adapt`` can change.
ADAPTABLE = ("channels", "classes", "image_size", "patch_size", "window", "representation")

SHAPES_SHOWN = 3


@dataclass(frozen=True)
class Naming:
    """How a file may name a family: whose names, by which table, behind which prefix that the file leaves out."""

    family: str
    source: str
    stored: Stored | None = None  # None: our own names
    prefix: str = ""

    @property
    def table(self) -> Table | None:
        return self.stored.table if self.stored else None

    def rename(self, state: Mapping[str, Tensor]) -> State:
        if self.table is None:
            return dict(state)
        return rename({self.prefix + key: tensor for key, tensor in state.items()}, self.table)

    def told(self, ours: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the names say of the config."""
        if self.stored is None:
            return {}
        return {**self.stored.config, **(self.stored.classifier if head_of(ours) else {})}

    def dropped(self, state: Mapping[str, Tensor]) -> list[str]:
        """The keys of what is no part of the model and left behind."""
        table = [entry for entry in self.table or () if isinstance(entry[1], Dropped)]
        known = set(leftovers((self.prefix + key for key in state), table)) if table else state.keys()
        return [key for key in state if self.prefix + key not in known] if table else []

    def leftovers(self, state: Mapping[str, Tensor]) -> Iterator[str]:
        """The keys that these names do not know, one by one; our own names know all."""
        if self.table is None:
            return iter(())
        left = leftovers((self.prefix + key for key in state), self.table)
        return (key.removeprefix(self.prefix) for key in left)

    def theirs(self, keys: Iterable[str]) -> list[str]:
        """The names in the file of weights of ours."""
        return [key.removeprefix(self.prefix) for key in theirs(keys, self.table or ())]

    def __str__(self) -> str:
        return f"{WHOSE[self.source]} layout"


@dataclass(frozen=True)
class Recognised:
    """Weights in our names, the catalog's name of what they are of, and the fields that their shapes ask for."""

    name: str
    config: dict[str, Any]
    state: State
    naming: Naming
    line: str


def recognise(
    state: Mapping[str, Tensor], label: str, name: str | None = None, config: Mapping[str, Any] | None = None
) -> Recognised:
    """Find out what ``state`` is, or read it as the model ``name`` that is built with ``config``.

    ``label`` stands for it in messages. Raises InputError when it fits nothing, with the nearest model and all that is
    left over, missing or of another shape.
    """
    meta = {key: torch.empty_like(tensor, device="meta") for key, tensor in state.items()}
    fixed = {key: _hashable(value) for key, value in (config or {}).items() if key not in ADAPTABLE}
    windows = _windows(meta, label)
    if (asked_window := (config or {}).get("window")) is not None:
        windows = {"window": asked_window}
    fits = list(_fits(meta, name, fixed, windows, ours=bool(name)))
    fits = fits or list(_fits(meta, name, fixed, windows, ours=True))
    if not fits:
        raise InputError((name and _other(state, label, name)) or _nearest(meta, label, name, fixed))
    # Of several, the one that these are nearest to as it stands; then the one that has a head, or none, as they have
    # (ConvNeXt's and DINOv3's).
    fits.sort(
        key=lambda fit: (len(fit[2].keys() - {"classes", "channels"}), _headless(fit[1], fit[2]) != _headless(fit[1]))
    )
    naming, found, asked = fits[0]
    whose = dict.fromkeys(WHOSE[fit[0].source] for fit in fits if fit[1] == found)
    line = f"recognised: {' and '.join(whose)} layout of {found}, {_details(found, asked)}"
    if naming.family == "swinv2" and not windows and naming.source != OURS:
        line += f"; windows of {catalog.resolve(found, **asked)[1].window} are taken, which these weights do not tell"
    if left := naming.dropped(state):
        line += f"; left behind, as no part of it: {listed(left)}"
    network = catalog.resolve(found, **asked)  # two names of one network (vit_small, deit_small) are no doubt
    rivals = [fit for fit in fits if fit[2].keys() == asked.keys() and catalog.resolve(fit[1], **fit[2]) != network]
    if others := list(dict.fromkeys(name for _, name, _ in rivals if name != found)):
        line += f" (the shapes are those of {', '.join(others)} too)"
    return Recognised(found, asked, naming.rename(state), naming, line)


def _fits(
    meta: Mapping[str, Tensor], name: str | None, fixed: Mapping[str, Any], windows: Mapping[str, Any], ours: bool
) -> Iterator[tuple[Naming, str, dict[str, Any]]]:
    """Every naming and model, with its config, whose names and shapes are exactly these."""
    for naming in _namings(meta, name, ours):
        if any(naming.leftovers(meta)):
            continue
        try:
            renamed = naming.rename(meta)
        except InputError:
            continue
        told = {**naming.told(renamed), **fixed}
        if naming.family == "swinv2":
            told |= windows
        for size in [name] if name else catalog.FAMILIES[naming.family].sizes:
            asked = _config(size, renamed, told)
            with contextlib.suppress(InputError):  # shapes that ask for a config that cannot be
                if asked is None or misfits(renamed, _weights(size, asked), size):
                    continue
                if not name and "patch_size" in asked and "_patch" not in size:
                    size += f"_patch{asked.pop('patch_size')}"
                yield naming, size, asked


def _namings(meta: Mapping[str, Tensor], name: str | None, ours: bool) -> Iterator[Naming]:
    """Every way in which these may be named: other people's, and ours, that has no table to rule a family out."""
    for family in [catalog.family_of(name)] if name else catalog.FAMILIES:
        if ours and (name or any(_ours(meta, way.table) for ways in TABLES.get(family, {}).values() for way in ways)):
            yield Naming(family, OURS)
        for source, ways in (TABLES.get(family) or (NAMED_ONLY.get(family, {}) if name else {})).items():
            for stored in ways:
                yield Naming(family, source, stored)
                base = _base(stored.table)
                if source == "transformers" and not any(key.startswith(base) for key in meta):
                    yield Naming(family, source, stored, base)


def _ours(meta: Mapping[str, Tensor], table: Table) -> bool:
    """Whether these are our names: spares building every model of the catalog for other people's."""
    try:
        return bool(rename(meta, table, reverse=True))
    except InputError:
        return False


def _base(table: Table) -> str:
    """ "vit.": what transformers puts before the names of a network without its head, and leaves out where none is."""
    names = [entry[0] if isinstance(entry[0], str) else entry[0][0] for entry in table]
    [(first, _)] = Counter(name.partition(".")[0] for name in names).most_common(1)
    return first + "."


def _config(name: str, ours: Mapping[str, Tensor], fixed: Mapping[str, Any]) -> dict[str, Any] | None:
    """``fixed`` and the adaptable fields of the model ``name`` that these shapes ask for; None if it is not theirs."""
    try:
        family, config = catalog.resolve(name, **fixed)
        widths = [config.dim] if family.has("dim") else getattr(config, "widths", [])
        if widths and not family.has("stem_width") and len(ours[_stem(catalog.family_of(name))]) != widths[0]:
            return None  # spares building it
        expected = _weights(name, fixed)
    except (InputError, KeyError):  # no such model, or no convolution
        return None
    asked = dict(fixed)

    def ask(field: str, value: int | bool) -> None:
        if family.has(field) and value != getattr(config, field):
            asked[field] = value

    if (stem := stem_of(expected)) in ours and ours[stem].ndim == 4:
        ask("channels", ours[stem].shape[1])
    ask("classes", classes_of(ours))
    if "head.2.weight" in ours:
        ask("representation", ours["head.2.weight"].shape[1])
    if family.has("qkv_bias"):
        ask("qkv_bias", any(key.endswith(("qkv.bias", "qv_bias", "query_value_bias")) for key in ours))
    if PATCHES in ours and PATCHES in expected:
        ask("patch_size", ours[PATCHES].shape[-1])
    if POSITIONS in ours and POSITIONS in expected:
        prefix = expected[POSITIONS].shape[1] - config.grid**2
        grid = math.isqrt(max(ours[POSITIONS].shape[1] - prefix, 1))
        patch = asked.get("patch_size", config.patch_size)
        stride = patch if config.stride == config.patch_size else config.stride
        ask("image_size", (grid - 1) * stride + patch)
    if rows := next((len(tensor) for key, tensor in ours.items() if key.endswith(BIAS_TABLE)), 0):
        ask("window", (math.isqrt(rows) + 1) // 2)
    return asked


def _windows(meta: Mapping[str, Tensor], label: str) -> dict[str, Any]:
    """The windows of a Swin V2, which no weight tells: buffers of the authors' files do, and timm's and their names.

    "window12to24" was trained with windows of 12, and of 6 in the last stage, and then with 24.
    """
    if told := re.search(r"window(\d+)(?:to(\d+))?(?!\d)", label):
        first, last = int(told[1]), int(told[2] or told[1])
        return {"window": last} | ({"pretrained_windows": (first, first, first, first // 2)} if told[2] else {})
    for key, tensor in meta.items():
        if key.endswith("layers.0.blocks.0.attn.relative_coords_table"):  # (1, 2 M - 1, 2 M - 1, 2)
            return {"window": (tensor.shape[1] + 1) // 2}
    return {}


@functools.lru_cache
def _stem(family: str) -> str:
    """What we call a family's first convolution."""
    return stem_of(_weights(next(iter(catalog.FAMILIES[family].sizes)), {}))


def _weights(name: str, config: Mapping[str, Any]) -> State:
    """Names and shapes of a model's weights, without memory. Raises InputError for a config that cannot be."""
    return _build(name, tuple(sorted(config.items())))


@functools.lru_cache(maxsize=256)
def _build(name: str, config: tuple[tuple[str, Any], ...]) -> State:
    with torch.device("meta"):
        return catalog.build(name, **dict(config)).state_dict()


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _headless(name: str, config: Mapping[str, Any] | None = None) -> bool:
    return not catalog.resolve(name, **(config or {}))[1].classes


def _details(name: str, asked: Mapping[str, Any]) -> str:
    """ "1000 classes, 518 px": the classes, and what is not the model's default."""
    config = catalog.resolve(name, **asked)[1]
    details = [f"{config.classes} classes" if config.classes else "no head"]
    details += [f"{config.image_size} px"] if "image_size" in asked else []
    details += [f"{config.channels} channel{'s' if config.channels > 1 else ''}"] if "channels" in asked else []
    details += [f"windows of {config.window}"] if "window" in asked else []
    return ", ".join(details)


def _other(state: Mapping[str, Tensor], label: str, name: str) -> str:
    """That these are the weights of another model than ``name``, or "" if they are not."""
    try:
        other = recognise(state, label)
    except InputError:
        return ""
    return f"{label} is not {name}, it holds {other.line.removeprefix('recognised: ')}"


def _nearest(meta: Mapping[str, Tensor], label: str, name: str | None, fixed: Mapping[str, Any]) -> str:
    """Why ``meta`` fits nothing: the model that it is nearest to, and everything that stands in the way."""
    namings = list(_namings(meta, name, ours=False))
    if not namings:
        return f"{label} does not fit {name}, and other libraries' names of it are not known"
    naming = min(namings, key=lambda each: len(list(each.leftovers(meta))))
    left = list(naming.leftovers(meta))
    kept = {key: tensor for key, tensor in meta.items() if key not in left}
    if len(kept) < len(meta) / 2 and name:
        return f"{label} does not hold {name}; {_nearest(meta, 'it', None, {})}"
    if len(kept) < len(meta) / 2:
        return (
            f"{label} fits no model: of its {len(meta)} weights only {len(kept)} have a place in the nearest layout "
            f"({naming} of {naming.family}); the first without one: {', '.join(left[:5])}"
        )
    try:
        ours = naming.rename(kept)
    except InputError as error:
        return f"{label} fits no model; the nearest is {naming} of {naming.family}: {error}"

    def distance(size: str) -> int:
        return sum(key not in ours or ours[key].shape != t.shape for key, t in wanted[size].items()) + sum(
            key not in wanted[size] for key in ours
        )

    sizes = [name] if name else list(catalog.FAMILIES[naming.family].sizes)
    told = {**naming.told(ours), **fixed}
    wanted = {size: _weights(size, _config(size, ours, told) or told) for size in sizes}
    size = min(sizes, key=distance)
    over = left + naming.theirs(key for key in ours if key not in wanted[size])
    missing = naming.theirs(key for key in wanted[size] if key not in ours)
    problems = [f"left over: {listed(over)}"] if over else []
    problems += [f"missing: {listed(missing)}"] if missing else []
    shapes = [
        f"{naming.theirs([key])[0]} is {tuple(ours[key].shape)} as {key}, {size} has {tuple(tensor.shape)}"
        for key, tensor in wanted[size].items()
        if key in ours and ours[key].shape != tensor.shape
    ]
    problems += shapes[:SHAPES_SHOWN]
    problems += [f"{len(shapes) - SHAPES_SHOWN} more of other shapes"] if len(shapes) > SHAPES_SHOWN else []
    return f"{label} fits no model; the nearest is {naming} of {size}: {'; '.join(problems)}"
