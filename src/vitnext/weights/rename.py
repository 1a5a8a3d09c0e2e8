"""The rename engine: a literal table of names, read in either direction; no weight is passed over.

An entry of a table is one of

    (theirs, ours)                    the same tensor under two names
    (theirs, ours, LAYOUT)            stored differently: CONV1X1, TRANSPOSED, HWIO or another Layout
    ((theirs_q, theirs_k), ours)      ours is several of theirs, one below the other (concatenated along dimension 0)
    (theirs, DERIVED(f))              a buffer that ours computes: f(numbers, our state) makes it again
    (theirs, DROPPED)                 theirs, and all below it, is no part of the model: left behind, cannot be restored

A name is a parameter or a module; a module's parameters keep their last part (weight, bias, running_mean ...), and a
layout is that of its weight. ``{i}`` and ``{j}`` match a number.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitnext.errors import InputError

OF_A_MODULE = r"\.(?:weight|bias|running_mean|running_var|num_batches_tracked)"


@dataclass(frozen=True)
class Layout:
    """One tensor in two memory layouts. The functions raise ValueError for a shape that cannot be theirs, or ours."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DERIVED:
    """A buffer of theirs that ours computes. ``make(numbers, ours)`` gives it, or None where there is none.

    What is read must equal what is made, to the precision of bfloat16, unless ``make`` gives None (it cannot tell from
    the weights). With ``of_images`` its shape depends on the size of the training images: another shape is passed over.
    """

    make: Callable[[dict[str, int], Mapping[str, Tensor]], Tensor | None]
    of_images: bool = False


@dataclass(frozen=True)
class Dropped:
    """The mark of what is known and no part of the model."""


DROPPED = Dropped()

Names = str | tuple[str, ...]
Entry = tuple[Names, str] | tuple[Names, str, Layout] | tuple[str, DERIVED | Dropped]
Table = Sequence[Entry]


def _checked(tensor: Tensor, dimensions: int, what: str) -> Tensor:
    if tensor.ndim != dimensions:
        raise ValueError(f"has the shape {tuple(tensor.shape)}; {what} has {dimensions} dimensions")
    return tensor


def _squeeze(tensor: Tensor) -> Tensor:
    if tensor.shape[2:] != (1, 1):
        raise ValueError(f"has the shape {tuple(tensor.shape)}; a 1x1 convolution has (out, in, 1, 1)")
    return tensor.flatten(1)


def _transpose(tensor: Tensor) -> Tensor:
    return _checked(tensor, 2, "a matrix").T


CONV1X1 = Layout(_squeeze, lambda t: _checked(t, 2, "a matrix")[:, :, None, None])  # (C, C', 1, 1) | (C, C')
TRANSPOSED = Layout(_transpose, _transpose)  # (in, out) | (out, in)
HWIO = Layout(  # (H, W, I, O) | (O, I, H, W)
    lambda t: _checked(t, 4, "a convolution").permute(3, 2, 0, 1),
    lambda t: _checked(t, 4, "a convolution").permute(2, 3, 1, 0),
)


def rename(state: Mapping[str, Tensor], table: Table, *, reverse: bool = False) -> dict[str, Tensor]:
    """Rename every key of ``state`` by ``table``; ``reverse`` goes from ours to theirs.

    Raises InputError with all keys that no entry names, with the parts that a joined weight lacks, for two keys that
    become one, for a tensor that its layout does not fit, and for a derived buffer that is not what ours computes. That
    the model has a weight which ``state`` lacks is for the loader to find.
    """
    return _to_theirs(state, table) if reverse else _to_ours(state, table)


def leftovers(keys: Iterable[str], table: Table) -> Iterator[str]:
    """The keys of theirs that no entry of ``table`` names, one by one."""
    patterns = [_pattern(name, entry) for entry in table for name in _names(entry)]
    return (key for key in keys if not any(pattern.fullmatch(key) for pattern in patterns))


def theirs(keys: Iterable[str], table: Table) -> list[str]:
    """What ``table`` calls weights of ours; those that it does not name keep our names."""
    rules = [(_pattern(entry[1], entry), entry) for entry in table if isinstance(entry[1], str)]
    names: list[str] = []
    for key in keys:
        hits = ((match, entry) for pattern, entry in rules if (match := pattern.fullmatch(key)))
        match, entry = next(hits, (None, None))
        if match is None or entry is None:
            names.append(key)
        else:
            hit = _Hit(entry, 0, _numbers(match), match["rest"] or "")
            names += [hit.theirs(place) for place in range(len(_names(entry)))]
    return names


def listed(keys: Iterable[str]) -> str:
    """Every key, on one line: those that differ in a number alone are one item, "blocks.{0-11}.norm1.weight"."""
    groups: dict[tuple[str, ...], list[tuple[int, ...]]] = defaultdict(list)
    for key in keys:
        parts = re.split(r"(?<![^\W_])(\d+)(?![^\W_])", key)  # the numbers that stand alone: not that of norm1
        groups[tuple(parts[::2])].append(tuple(map(int, parts[1::2])))
    return ", ".join(item for texts, numbers in sorted(groups.items()) for item in _ranges(texts, sorted(numbers)))


def _ranges(texts: Sequence[str], keys: Sequence[tuple[int, ...]]) -> list[str]:
    """The keys with the numbers of ``keys`` between ``texts``: one item, or one for each first number, and so on."""
    columns = [sorted(set(column)) for column in zip(*keys, strict=True)]
    if list(itertools.product(*columns)) == keys:
        shown = [*map(_range, columns), ""]
        return ["".join(text + number for text, number in zip(texts, shown, strict=True))]
    groups = itertools.groupby(keys, key=lambda key: key[0])
    return [
        f"{texts[0]}{first}{rest}" for first, group in groups for rest in _ranges(texts[1:], [key[1:] for key in group])
    ]


@dataclass(frozen=True)
class _Hit:
    """How a table's entry matched a key: which of its names, the numbers, and what followed (".weight")."""

    entry: Entry
    part: int
    numbers: dict[str, int]
    rest: str

    def theirs(self, part: int) -> str:
        return _names(self.entry)[part].format(**self.numbers) + self.rest

    def converted(self, tensor: Tensor, key: str, *, reverse: bool = False) -> Tensor:
        """The tensor in the other layout, which is the weight's alone where the entry names a module."""
        if len(self.entry) < 3 or self.rest not in ("", ".weight"):
            return tensor
        layout = self.entry[2]
        try:
            return (layout.to_theirs if reverse else layout.to_ours)(tensor).contiguous()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{key} {error}") from error


def _to_ours(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    rules = [(_pattern(name, entry), entry, part) for entry in table for part, name in enumerate(_names(entry))]
    hits = _look_up(state, rules, "this model")
    parts: dict[str, dict[int, str]] = {}  # a weight of ours -> place in the entry's tuple -> theirs
    for key, hit in hits.items():
        if isinstance(hit.entry[1], str):
            name = hit.entry[1].format(**hit.numbers) + hit.rest
            if (other := parts.setdefault(name, {}).get(hit.part)) is not None:
                raise InputError(f"{other} and {key} are the same weight of this model, {name}: remove one of them")
            parts[name][hit.part] = key
    absent: list[str] = []
    renamed: dict[str, Tensor] = {}
    for name, found in parts.items():
        hit = hits[next(iter(found.values()))]
        places = range(len(_names(hit.entry)))
        absent += [hit.theirs(part) for part in places if part not in found]
        tensors = [hit.converted(state[found[part]], found[part]) for part in places if part in found]
        renamed[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    if absent:
        raise InputError(
            f"{len(absent)} {'weight is' if len(absent) == 1 else 'weights are'} missing: {listed(absent)}"
        )
    for key, hit in hits.items():
        if isinstance(hit.entry[1], DERIVED):
            made = _made(hit.entry[1], key, hit.numbers, renamed)
            if made is None or made.is_meta or state[key].is_meta:
                continue
            if made.shape != state[key].shape:
                if hit.entry[1].of_images:
                    continue
                same = False
            else:
                same = torch.allclose(state[key].float(), made.float(), rtol=2**-8, atol=0.0)
            if not same:
                raise InputError(f"{key} is not what this model computes in its place")
    return renamed


def _to_theirs(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    rules = [(_pattern(entry[1], entry), entry, 0) for entry in table if isinstance(entry[1], str)]
    renamed: dict[str, Tensor] = {}
    for key, hit in _look_up(state, rules, "this layout").items():
        count = len(_names(hit.entry))
        if count > 1 and state[key].shape[0] % count:
            raise InputError(f"{key} has the shape {tuple(state[key].shape)}, which {count} weights cannot share")
        parts = state[key].chunk(count) if count > 1 else (state[key],)
        for place, part in enumerate(parts):
            theirs = hit.theirs(place)
            if theirs in renamed:
                raise InputError(f"{key} and another weight would both be {theirs}")
            renamed[theirs] = hit.converted(part, key, reverse=True)
    for entry in table:
        if isinstance(entry[1], DERIVED):
            [name] = _names(entry)
            for numbers in _places(name, renamed):
                if (made := _made(entry[1], name.format(**numbers), numbers, state)) is not None:
                    renamed[name.format(**numbers)] = made
    return renamed


def _made(derived: DERIVED, key: str, numbers: dict[str, int], ours: Mapping[str, Tensor]) -> Tensor | None:
    try:
        return derived.make(numbers, ours)
    except KeyError as error:
        raise InputError(f"{key} cannot be made: {error.args[0]} is missing") from error


def _look_up(keys: Iterable[str], rules: Sequence[tuple[re.Pattern[str], Entry, int]], where: str) -> dict[str, _Hit]:
    """The first rule that matches each key."""
    hits: dict[str, _Hit] = {}
    unknown: list[str] = []
    for key in keys:
        for pattern, entry, part in rules:
            if match := pattern.fullmatch(key):
                hits[key] = _Hit(entry, part, _numbers(match), match["rest"] or "")
                break
        else:
            unknown.append(key)
    if unknown:
        have = "weight has" if len(unknown) == 1 else "weights have"
        raise InputError(f"{len(unknown)} {have} no place in {where}: {listed(unknown)}")
    return hits


def _names(entry: Entry) -> tuple[str, ...]:
    return (entry[0],) if isinstance(entry[0], str) else entry[0]


def _pattern(name: str, entry: Entry) -> re.Pattern[str]:
    return _compiled(name, r"[./].+" if isinstance(entry[1], Dropped) else OF_A_MODULE)


@functools.cache
def _compiled(name: str, rest: str) -> re.Pattern[str]:
    return re.compile(_regex(name) + rf"(?P<rest>{rest})?")


def _regex(name: str) -> str:
    return re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(name))


def _numbers(match: re.Match[str]) -> dict[str, int]:
    return {name: int(value) for name, value in match.groupdict().items() if name != "rest"}


def _places(name: str, keys: Iterable[str]) -> list[dict[str, int]]:
    """The numbers for which ``keys`` has the module that holds ``name``."""
    module = name.rpartition(".")[0]
    if "{" not in module:
        return [{}]
    pattern = re.compile(_regex(module) + r"(?P<rest>\..+)")
    found = {tuple(_numbers(match).items()) for key in keys if (match := pattern.fullmatch(key))}
    return [dict(numbers) for numbers in sorted(found)]


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"
