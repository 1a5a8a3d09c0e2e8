"""Which layouts of which families are compared with a reference here: `python tests/parity/test_pairs.py` counts them.

A test that compares logits and stages carries the mark ``layout`` with the tables of names that it reads. A pair is a
family and a layout of one source: timm's Swin, timm's ConvNeXt with 1x1 convolutions, ...
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

from vitnext.weights.tables import NAMED_ONLY, SEGMENTERS, TABLES

# (family, source) -> the tables, each once though networks with several configs may share it.
LAYOUTS = {
    (family, source): list({id(stored.table): stored.table for stored in ways}.values())
    for named in (
        TABLES,
        NAMED_ONLY,
        {f"{family}+{head}": ways for head, families in SEGMENTERS.items() for family, ways in families.items()},
    )
    for family, sources in named.items()
    for source, ways in sources.items()
}


def marked():
    """The tables of every marked test of this folder, one list for each set of its parameters."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for test in vars(module).values():
            marks = getattr(test, "pytestmark", [])
            columns = [mark.args[1] for mark in marks if mark.name == "parametrize"]
            for row in itertools.product(*columns):
                of_row = [mark for value in row for mark in getattr(value, "marks", ())]
                if tables := [table for mark in (*marks, *of_row) if mark.name == "layout" for table in mark.args]:
                    yield tables


@pytest.fixture(scope="module")
def compared():
    return list(marked())


def test_every_layout_of_every_family_is_compared(compared):
    known = {id(table) for tables in compared for table in tables}
    missing = [pair for pair, tables in LAYOUTS.items() for table in tables if id(table) not in known]
    assert missing == []


def test_so_many_pairs(compared):
    assert sum(map(len, LAYOUTS.values())) >= 60
    assert len(compared) >= 200


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does
    for (family, source), tables in LAYOUTS.items():
        print(f"{family:20} {source:16} {len(tables)}")
    cases = list(marked())
    layouts = sum(map(len, LAYOUTS.values()))
    print(f"{len(LAYOUTS)} families and sources, {layouts} pairs of a family and a layout, {len(cases)} cases compared")
