"""Every table: one to one, and read back from the names it gives to every size of its family."""

from __future__ import annotations

import functools

import pytest
import torch

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.weights.recognise import recognise
from vitnext.weights.rename import rename
from vitnext.weights.tables import SEGMENTERS, TABLES

STORED = [
    pytest.param(family, stored, id=f"{family}-{source}-{number}")
    for family, sources in TABLES.items()
    for source, ways in sources.items()
    for number, stored in enumerate(ways)
]
OF_SEGMENTERS = [
    pytest.param(family, stored, id=f"{family}-{head}-{source}-{number}")
    for head, families in SEGMENTERS.items()
    for family, sources in families.items()
    for source, ways in sources.items()
    for number, stored in enumerate(ways)
]


@functools.cache
def weights(name, config=()):
    with torch.device("meta"):
        return catalog.build(name, **dict(config)).state_dict()


def test_every_family_has_tables():
    assert set(TABLES) <= set(catalog.FAMILIES)
    assert set(catalog.FAMILIES) - set(TABLES) <= {"roadmap"}  # whose ends are ResNet and ConvNeXt


@pytest.mark.parametrize(("family", "stored"), STORED + OF_SEGMENTERS)
def test_one_to_one(family, stored):
    names = [entry[0] if isinstance(entry[0], tuple) else (entry[0],) for entry in stored.table]
    flat = [name for group in names for name in group]
    assert len(set(flat)) == len(flat)
    assert all(catalog.FAMILIES[family].has(field) for field in stored.config)


@pytest.mark.parametrize(("family", "stored"), STORED)
def test_a_layout_is_recognised(family, stored):
    """The first size that the layout can hold, with a head of 7 classes, none, or one with a tanh layer."""
    for name in catalog.FAMILIES[family].sizes:
        for config in ({"classes": 7}, {"classes": 0}, {"classes": 7, "representation": 24}):
            if any(not catalog.FAMILIES[family].has(field) for field in config):
                continue
            asked = {**stored.config, **(stored.classifier if config["classes"] else {}), **config}
            ours = weights(name, tuple(asked.items()))
            try:
                state = rename(ours, stored.table, reverse=True)
            except InputError:  # a layout of other sizes, or of networks without a head
                continue
            found = recognise(state, "FILE")
            assert catalog.resolve(found.name, **found.config) == catalog.resolve(name, **asked), found.line
            assert {key: t.shape for key, t in found.state.items()} == {key: t.shape for key, t in ours.items()}
            return
    pytest.fail("no size of the family fits this layout")
