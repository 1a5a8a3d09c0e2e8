"""In whose names a file may hold a model: every table of every family, and our own names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitnext.errors import InputError
from vitnext.models import catalog, create
from vitnext.weights.adapt import State, head_of
from vitnext.weights.rename import Dropped, Table, leftovers, rename, theirs
from vitnext.weights.segmenters import holds_segmenter
from vitnext.weights.tables import NAMED_ONLY, SEGMENTERS, TABLES, Stored

OURS = "vitnext"  # the source of what has our own names
WHOSE = {
    "timm": "timm's",
    "torchvision": "torchvision's",
    "transformers": "transformers'",
    "mmsegmentation": "mmsegmentation's",
    "original": "the authors'",
    OURS: "vitnext's own",
}


@dataclass(frozen=True)
class Naming:
    """How a file may name a family: whose names, by which table, behind which prefix that the file leaves out.

    head: of a segmenter on that family, as in its name; "" of a classifier.
    """

    family: str
    source: str
    stored: Stored | None = None  # None: our own names
    prefix: str = ""
    head: str = ""

    @property
    def model(self) -> str:
        """What is so named: "convnext", "convnext+upernet"."""
        return create.composed(self.family, self.head)

    @property
    def sizes(self) -> list[str]:
        """The models that it may be."""
        return [create.composed(size, self.head) for size in catalog.FAMILIES[self.family].sizes]

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


def namings(meta: Mapping[str, Tensor], name: str | None, ours: bool) -> Iterator[Naming]:
    """Every way in which these may be named: other people's, and ours, that has no table to rule a family out."""
    if name:
        models = [(create.family_of(name), create.head_of(name))]
    elif holds_segmenter(meta):
        models = [(family, head) for head, families in SEGMENTERS.items() for family in families]
    else:
        models = [(family, "") for family in catalog.FAMILIES]
    for family, head in models:
        sources = (SEGMENTERS.get(head, {}) if head else TABLES).get(family, {})
        if ours and (name or any(_ours(meta, way.table) for ways in sources.values() for way in ways)):
            yield Naming(family, OURS, head=head)
        for source, ways in (sources or (NAMED_ONLY.get(family, {}) if name and not head else {})).items():
            for stored in ways:
                yield Naming(family, source, stored, head=head)
                base = _base(stored.table)
                if source == "transformers" and not head and not any(key.startswith(base) for key in meta):
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
