"""A large folder is opened from the list that an earlier start kept, and its files are listed again beside."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import fields

import numpy as np
import pytest

from colours import COLORS, plant
from vitnext.data import listed
from vitnext.data.dataset import open_dataset
from vitnext.data.listed import ARRAYS, opener
from vitnext.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listed, "WORTH", 24)
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
def opened(monkeypatch):
    """How often files were listed."""
    calls = []
    monkeypatch.setattr(listed, "open_dataset", lambda *data, **how: calls.append(how) or open_dataset(*data, **how))
    return calls


def same(one, other):
    said = [f.name for f in fields(one) if f.name not in ("splits", "current")]
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
def test_the_second_start_does_not_wait_for_the_list(data, tmp_path, given, monkeypatch):
    if given:
        data = tmp_path / "given"
        for split, count in (("train", 10), ("valid", 3), ("test", 4)):
            plant(data / split, dict.fromkeys(COLORS, count))
    first = opener(data)()
    assert same(first, open_dataset(data)) and first.current()
    monkeypatch.setattr(listed, "open_dataset", lambda *data, **how: pytest.fail("listed"))
    second = opener(str(data))()
    assert same(second, first) and second.current()  # another process has listed them


@pytest.mark.parametrize("what", ["its contents", "its contents, with the time set back", "what a link leads to"])
def test_a_file_that_was_written_to_is_noticed(data, tmp_path, what, opened):
    file = data / "green" / "03.png"
    if "link" in what:
        (data / "green" / "03.png").rename(tmp_path / "far.png")
        file.symlink_to(tmp_path / "far.png")
    opener(data)()
    kept = file.stat()
    with open(file, "r+b") as written:
        written.write(b"no image any more")
    if "back" in what:
        os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    second = opener(data)()
    assert len(opened) == 1 and not second.current()
    third = opener(data)()
    assert len(opened) == 2 and same(third, open_dataset(data)) and third.current()
    assert opener(data)().current() and len(opened) == 2


@pytest.mark.parametrize("python", ["false", "there is no such program"])
def test_without_another_process_the_files_are_listed_by_this_one(data, python, opened, monkeypatch):
    opener(data)()
    monkeypatch.setattr(sys, "executable", python)
    second = opener(data)()
    assert len(opened) == 1 and second.current() and len(opened) == 2
    (data / "green" / "03.png").write_bytes(b"no image any more")
    assert not opener(data)().current()


@pytest.mark.parametrize("change", ["new", "deep", "gone", "renamed", "class", "folder", "moved"])
def test_folders_that_have_changed_are_listed_before_anything_else(data, change, opened):
    opener(data)()
    image = data / "blue" / "00.png"
    if change == "new":
        shutil.copy(image, data / "green" / "new.png")
    elif change == "deep":
        shutil.copy(image, data / "red" / "more" / "deep" / "new.png")
    elif change == "gone":
        image.unlink()
    elif change == "renamed":
        image.rename(data / "blue" / "other.png")
    elif change == "class":
        shutil.copytree(data / "blue", data / "violet")
    elif change == "folder":
        shutil.copytree(data / "red" / "more", data / "red" / "another")
    else:
        image.rename(data / "red" / "from blue.png")
    second = opener(data)()
    assert len(opened) == 2 and same(second, open_dataset(data)) and second.current()


def test_no_name_is_not_the_folder_one_is_in(data, monkeypatch):
    monkeypatch.chdir(data)
    opener(".")()
    assert opener(".")().current()
    with pytest.raises(InputError, match="name is empty"):
        opener("")()


def test_each_way_to_divide_has_its_list(data, opened, cache):
    for how in ({}, {"seed": 1}, {"val_fraction": 0.3}):
        assert same(opener(data, **how)(), open_dataset(data, **how))
    assert [(how["seed"], how["val_fraction"]) for how in opened] == [(0, None), (1, None), (0, 0.3)]
    assert len(list(cache.iterdir())) == 3
    again = opener(data, seed=1)()
    assert again.split_rule["seed"] == 1 and again.current()


@pytest.mark.parametrize("what", ["few", "table", "a link that leads nowhere", "an empty file"])
def test_what_is_not_kept(data, tmp_path, what, cache, monkeypatch):
    if what == "few":
        monkeypatch.setattr(listed, "WORTH", 32)
    elif what == "table":
        rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.glob("*/*.png"))]
        data = data / "table.csv"
        data.write_text("\n".join(["image,label", *rows]))
    elif what == "an empty file":
        (data / "green" / "nothing.png").touch()
    else:
        (data / "green" / "nowhere.png").symlink_to(tmp_path / "nowhere.png")
    assert opener(data)().current() and not cache.exists()


@pytest.mark.parametrize("damage", ["empty", "half", "other version", "no such folder may be made"])
def test_without_a_good_list_the_files_are_listed(data, damage, cache, opened, monkeypatch):
    first = opener(data)()
    [path] = cache.iterdir()
    if damage == "other version":
        monkeypatch.setattr(listed, "FORMAT", "0")
    elif damage == "no such folder may be made":
        path.unlink()
        cache.rmdir()
        cache.write_text("a file")
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-300])
    assert same(opener(data)(), first) and len(opened) == 2
