"""What a file of weights holds: which model of the catalog, in whose names. The keys and the shapes tell.

The names are read with every table of every family; where all have a place, the weights are compared with the models of
that family. What the image size, the channels, the classes or the windows change is taken from the shapes.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.weights.adapt import BIAS_TABLE, PATCHES, POSITIONS, State, head_of, misfits, stem_of
from vitnext.weights.rename import Table, leftovers, listed, rename, theirs
from vitnext.weights.tables import TABLES, Stored

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
    fits = list(_fits(meta, name, fixed, ours=bool(name))) or list(_fits(meta, name, fixed, ours=True))
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
    network = catalog.resolve(found, **asked)  # two names of one network (vit_small, deit_small) are no doubt
    rivals = [fit for fit in fits if fit[2].keys() == asked.keys() and catalog.resolve(fit[1], **fit[2]) != network]
    if others := list(dict.fromkeys(name for _, name, _ in rivals if name != found)):
        line += f" (the shapes are those of {', '.join(others)} too)"
    return Recognised(found, asked, naming.rename(state), naming, line)


def _fits(
    meta: Mapping[str, Tensor], name: str | None, fixed: Mapping[str, Any], ours: bool
) -> Iterator[tuple[Naming, str, dict[str, Any]]]:
    """Every naming and model, with its config, whose names and shapes are exactly these."""
    for naming in _namings(meta, name, ours):
        if any(naming.leftovers(meta)):
            continue
        try:
            renamed = naming.rename(meta)
        except InputError:
            continue
        told = {**naming.stored.config, **fixed} if naming.stored else fixed
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
        for source, ways in TABLES.get(family, {}).items():
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
        if widths and not family.has("stem_width") and len(ours[stem_of(ours)]) != widths[0]:  # spares building it
            return None
        expected = _weights(name, fixed)
    except (InputError, KeyError):  # no such model, or no convolution
        return None
    asked = dict(fixed)

    def ask(field: str, value: int | bool) -> None:
        if family.has(field) and value != getattr(config, field):
            asked[field] = value

    if (stem := stem_of(expected)) in ours and ours[stem].ndim == 4:
        ask("channels", ours[stem].shape[1])
    widths = [len(tensor) for tensor in head_of(ours).values() if tensor.ndim == 2]
    ask("classes", widths[-1] if widths else 0)
    if "head.2.weight" in ours:
        ask("representation", widths[0])
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
    if hasattr(config, "pretrained_windows") and "window" not in asked:
        details.append(f"windows of {config.window}, which these weights do not tell")
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
    told = {**naming.stored.config, **fixed} if naming.stored else fixed
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
