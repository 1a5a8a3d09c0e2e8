"""A large folder is listed by another process, and what comes of it is what this one would have found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import vitnext
from colours import COLORS, plant
from vitnext.data import listed
from vitnext.data.dataset import open_dataset
from vitnext.data.listed import ARRAYS, opener
from vitnext.errors import InputError

WORTH = "import vitnext.data.listed as listed; listed.WORTH = 24"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """For each test a cache of its own, and few images that are many, in the other process too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listed, "WORTH", 24)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nshift 3\nexec "{sys.executable}" -P -c "import sys; {WORTH}; '
        'sys.exit(0 if listed._main(*sys.argv[1:]) else 1)" "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", str(Path(vitnext.__file__).parents[1]))
    return tmp_path / "cache" / "vitnext" / "listings"


@pytest.fixture
def data(tmp_path):
    root = plant(tmp_path / "photos", dict.fromkeys(COLORS, 10))
    (root / "red" / "more" / "deep").mkdir(parents=True)
    shutil.copy(root / "red" / "00.png", root / "red" / "more" / "deep" / "00.png")
    (root / "blue" / "notes.txt").write_text("no image")
    shutil.copy(root / "red" / "00.png", root / "loose.png")
    return root


@pytest.fixture
def here(monkeypatch):
    """What this process listed."""
    calls = []
    monkeypatch.setattr(listed, "open_dataset", lambda data, **how: calls.append(how) or open_dataset(data, **how))
    return calls


def same(one, other):
    said = [f.name for f in fields(one) if f.name != "splits"]
    return (
        [getattr(one, name) for name in said] == [getattr(other, name) for name in said]
        and list(one.splits) == list(other.splits)
        and all(
            (split.classes, split.root) == (other.splits[name].classes, other.splits[name].root)
            and split.arrays is None
            and all(np.array_equal(getattr(split, key), getattr(other.splits[name], key)) for key in ARRAYS)
            for name, split in one.splits.items()
        )
    )


@pytest.mark.parametrize("given", [False, True])
def test_the_second_start_leaves_it_to_another_process(data, tmp_path, given, here, monkeypatch):
    if given:
        data = tmp_path / "given"
        for split, count in (("train", 10), ("valid", 3), ("test", 4)):
            plant(data / split, dict.fromkeys(COLORS, count))
    assert same(opener(data)(), open_dataset(data)) and len(here) == 1
    monkeypatch.chdir(data.parent)
    for name in (str(data), data):
        assert same(opener(name)(), open_dataset(name)) and len(here) == 1
    for _ in range(2):
        assert same(opener(data.name)(), open_dataset(data.name))  # another name for it
    assert len(here) == 2


def test_what_has_changed_since_is_seen(data, tmp_path, here):
    opener(data)()

    def seen(dataset):
        return same(dataset, open_dataset(data)) and len(here) == 1

    file = data / "green" / "03.png"
    kept = file.stat()
    file.write_bytes(b"no image any more")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert seen(opener(data)())
    shutil.copy(data / "red" / "00.png", data / "red" / "more" / "new.png")
    (data / "blue" / "00.png").unlink()
    (data / "blue" / "photo.heic").touch()
    assert seen(opener(data)())
    (data / "blue").rename(data / "violet")
    (data / "green" / "nowhere.png").symlink_to(tmp_path / "nowhere.png")
    assert seen(opener(data)())
    data.rename(data.parent / "gone")
    with pytest.raises(InputError, match="no such folder"):
        opener(data)()


def test_each_way_to_divide_has_its_list(data, here, cache):
    for _ in range(2):
        for how in ({}, {"seed": 1}, {"val_fraction": 0.3}):
            assert same(opener(data, **how)(), open_dataset(data, **how))
    assert here == [{"seed": 0, "val_fraction": None, **how} for how in ({}, {"seed": 1}, {"val_fraction": 0.3})]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("what", ["few", "table"])
def test_what_is_listed_here(data, what, cache, here):
    opener(data)()
    if what == "few":  # by now
        for path in [*data.glob("red/0*.png")]:
            path.unlink()
    else:
        rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.glob("*/*.png"))]
        [path] = cache.iterdir()
        path.unlink()
        data = data / "table.csv"
        data.write_text("\n".join(["image,label", *rows]))
    for count in (2, 3):
        assert same(opener(data)(), open_dataset(data)) and len(here) == count
        assert not list(cache.iterdir())


@pytest.mark.parametrize("trouble", ["another program", "no such program", "no program", "frozen", "damaged list"])
def test_without_another_process_the_files_are_listed_here(data, trouble, here, monkeypatch):
    opener(data)()
    if trouble == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif trouble == "damaged list":
        monkeypatch.setattr(listed, "_load", lambda place, load=listed._load: place.write_bytes(b"PK") and load(place))
    else:
        program = {"another program": shutil.which("true"), "no such program": "/no/such/program", "no program": None}
        monkeypatch.setattr(sys, "executable", program[trouble])
    file = data / "green" / "03.png"
    file.write_bytes(b"no image any more")
    assert same(opener(data)(), open_dataset(data)) and len(here) == 2


@pytest.mark.parametrize("trouble", ["no home", "a file in place of the cache", "read only"])
def test_without_a_cache_the_files_are_listed_here(data, trouble, here, cache, monkeypatch):
    if trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine")))
    elif trouble == "a file in place of the cache":
        cache.parent.parent.write_text("a file")
    else:
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    for count in (1, 2):
        assert same(opener(data)(), open_dataset(data)) and len(here) == count


def test_the_process_is_this_module_and_runs_nothing_of_the_folder_one_is_in(data, tmp_path, cache):
    (tmp_path / "json.py").write_text("raise SystemExit('of the folder')")
    python = Path(sys.executable).read_text().split('"')[1]
    command = [python, "-P", "-m", "vitnext.data.listed", str(cache / "list.npz"), str(data), "0", ""]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")  # it is not large
    command[-3] = str(tmp_path / "nothing")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "no such folder" in done.stderr
