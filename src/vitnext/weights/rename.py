"""The rename engine: a literal table of names, read in either direction; no weight is passed over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from vitnext.errors import InputError

Table = Sequence[tuple[str, str]]


def rename(state: Mapping[str, Tensor], table: Table, *, reverse: bool = False) -> dict[str, Tensor]:
    """Rename every key of ``state`` by ``table`` [(theirs, ours), ...]; ``reverse`` goes from ours to theirs.

    An entry names a parameter or a module, whose parameters keep their last part (weight, bias). ``{i}`` and ``{j}``
    match a number. Shapes are not looked at, and a weight that the model has and ``state`` lacks is for
    ``load_state_dict`` to find. Raises InputError with the keys that no entry names.
    """
    rules = []
    for theirs, ours in table:
        old, new = (ours, theirs) if reverse else (theirs, ours)
        pattern = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(old))
        rules.append((re.compile(rf"{pattern}(?P<rest>\.(?:weight|bias))?"), new))
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        for pattern_, new in rules:
            match = pattern_.fullmatch(key)
            if match:
                numbers = {name: value for name, value in match.groupdict().items() if name != "rest"}
                renamed[new.format(**numbers) + (match["rest"] or "")] = tensor
                break
        else:
            unknown.append(key)
    if unknown:
        raise InputError(f"{len(unknown)} weights have no place in this model: {', '.join(sorted(unknown)[:5])}")
    return renamed
