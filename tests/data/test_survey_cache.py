"""A second look reads the files that have changed and no others, and sees what a first look sees."""

from __future__ import annotations

import os
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from vitnext.data import mask_doctor, survey, survey_cache
from vitnext.data.dataset import open_dataset
from vitnext.data.survey import look


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(survey_cache, "WORTH", 10)
    return tmp_path / "cache" / "vitnext" / "surveys"


def photograph(seed):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((64, 48))


@pytest.fixture
def data(tmp_path):
    """Six images in each of two classes, one of them twice, one nearly twice, one of a single grey value."""
    for i in range(12):
        path = tmp_path / "photos" / ("cat" if i < 6 else "dog") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(0 if i == 5 else i).save(path)
    photograph(1).save(tmp_path / "photos" / "cat" / "06.jpg", quality=70)
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "photos" / "dog" / "grey.png")
    return tmp_path / "photos"


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names, see = [], survey._see
    monkeypatch.setattr(survey, "_see", lambda image: names.append(os.path.basename(str(image))) or see(image))
    return names


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)[1:]) and (
        one.problems == other.problems
    )


def test_a_second_look_reads_nothing_and_sees_the_same(data, read, monkeypatch):
    first = look(open_dataset(data))
    assert len(read) == 14 and first.flat.sum() == 1 and len(np.unique(first.alike)) == 13
    read.clear()
    monkeypatch.setattr(survey.near_duplicates, "similar", None)  # what is alike is not searched for again either
    calls = []
    again = look(open_dataset(data), progress=lambda *counts: calls.append(counts))
    assert same(first, again) and read == [] and calls == []


@pytest.mark.parametrize("seed", [0, 1])
def test_changed_and_new_files_alone_are_read(data, read, seed):
    look(open_dataset(data, seed=0))
    read.clear()
    kept = os.stat(data / "cat" / "03.png")
    photograph(50).save(data / "cat" / "03.png")
    os.utime(data / "cat" / "03.png", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as rsync --times does
    photograph(51).save(data / "dog" / "new.png")
    (data / "cat" / "04.png").unlink()
    dataset = open_dataset(data, seed=seed)  # of another seed the same files stand in another order
    calls = []
    second = look(dataset, progress=lambda *counts: calls.append(counts))
    assert sorted(read) == ["03.png", "new.png"] and calls[-1] == (14, 14)
    survey_cache._path(dataset).unlink()
    assert same(second, look(dataset))


def test_what_cannot_be_read_is_tried_again(data, read):
    (data / "cat" / "00.png").write_text("no image")
    dataset = open_dataset(data)
    first = look(dataset)
    read.clear()
    assert same(look(dataset), first) and read == ["00.png"] and len(first.problems) == 1
    photograph(0).save(data / "cat" / "00.png")
    mended = look(open_dataset(data))
    assert mended.problems == {} and len(np.unique(mended.alike)) == 13


def test_a_limited_look_is_spread_and_counts_what_is_known(data, read):
    (data / "dog" / "nothing.png").touch()
    dataset = open_dataset(data)
    calls = []
    first = look(dataset, limit=5, progress=lambda *counts: calls.append(counts))
    assert calls[-1] == (6, 6)  # so many are looked at
    assert first.unseen == 9 and len(read) == 6 and (first.sizes[:, 0] > 0).sum() == 5  # and the one without contents
    assert [problem for problem in first.problems.values() if "nothing.png" not in problem] == []
    assert {os.path.dirname(name) for name in map(dataset.splits["train"].name, range(10))} == {"cat", "dog"}
    read.clear()
    again = look(open_dataset(data), limit=5)
    assert read == ["nothing.png"] and same(first, again) and again.unseen == 9
    assert look(open_dataset(data), limit=8).unseen == 6 and len(read) == 5  # three more, and the empty one twice
    whole = look(open_dataset(data))
    assert whole.unseen == 0 and len(np.unique(whole.alike)) == 14
    survey_cache._path(dataset).unlink()
    assert same(whole, look(open_dataset(data), limit=100))


def test_a_limited_look_looks_again_at_what_has_changed(data, read):
    look(open_dataset(data), limit=5)
    looked_at = data / ("cat" if read[2] < "06.png" else "dog") / read[2]
    photograph(80).save(looked_at)
    for seed in (0, 1):  # whatever the order
        dataset = open_dataset(data, seed=seed)
        read.clear()
        found = look(dataset, limit=5)
        assert read == [looked_at.name] * (seed == 0) and found.unseen == 9
    looked_at.write_text("no image")
    assert len(look(open_dataset(data), limit=5).problems) == 1


@pytest.mark.parametrize("damage", ["empty", "half", "other version", "no such folder may be made"])
def test_without_a_good_cache_all_is_read(data, read, damage, cache, monkeypatch):
    dataset = open_dataset(data)
    first = look(dataset)
    [path] = cache.iterdir()
    if damage == "other version":
        monkeypatch.setattr(survey_cache, "FORMAT", "0")
    elif damage == "no such folder may be made":
        path.unlink()
        cache.rmdir()
        cache.write_text("a file")
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-300])
    read.clear()
    assert same(look(dataset), first) and len(read) == 14


def test_a_file_that_changes_while_it_is_looked_at_is_read_again(data, read):
    dataset = open_dataset(data)
    photograph(60).save(data / "cat" / "03.png")
    look(dataset)
    read.clear()
    second = look(open_dataset(data))
    assert read == ["03.png"]
    look(open_dataset(data))
    assert read == ["03.png"] and second.problems == {}


def test_of_a_file_that_was_there_for_a_moment_nothing_is_told(data):
    link = data / "cat" / "link.png"
    link.symlink_to(data.parent / "elsewhere.png")
    dataset = open_dataset(data)
    photograph(70).save(data.parent / "elsewhere.png")
    assert look(dataset).problems == {}
    (data.parent / "elsewhere.png").unlink()
    again = look(open_dataset(data))
    names = [split.name(i) for split in dataset.splits.values() for i in range(len(split))]
    place = names.index("cat/link.png")
    assert len(again.problems) == 1
    assert again.sizes[place].tolist() == [0, 0] and again.digests[place] == b""


def test_what_looked_like_it_is_of_one_group_without_it(data):
    link = data / "cat" / "00 before all.png"  # the first of the group when it was there, 1.png and 1.jpg the others
    link.symlink_to(data.parent / "elsewhere.jpg")
    dataset = open_dataset(data, val_fraction=0)
    photograph(1).save(data.parent / "elsewhere.jpg", quality=60)
    names = [split.name(i) for split in dataset.splits.values() for i in range(len(split))]
    group = [names.index(name) for name in ("cat/00 before all.png", "cat/01.png", "cat/06.jpg")]
    assert set(look(dataset).alike[group]) == {min(group)}
    (data.parent / "elsewhere.jpg").unlink()
    again = look(open_dataset(data, val_fraction=0))
    survey_cache._path(dataset).unlink()
    assert same(again, look(open_dataset(data, val_fraction=0))) and again.alike[group[0]] == group[0]


def test_random_changes_are_seen_as_a_first_look_sees_them(data):
    random = np.random.default_rng(0)
    for step in range(25):
        names = sorted(path.relative_to(data).as_posix() for path in data.glob("*/*"))
        path, other = data / random.choice(names), data / random.choice(names)
        what = step % 5
        if what == 0 and len(names) > 10:
            path.unlink()
        elif what == 1:
            (data / "dog" / f"{step}.png").write_bytes(other.read_bytes())
        elif what == 2:
            photograph(step).save(data / "cat" / f"{random.integers(9):02}.jpg", quality=int(random.integers(40, 90)))
        elif what == 3:
            path.write_bytes(other.read_bytes()[: random.choice([None, 100])])
        else:
            path.rename(data / "cat" / f"moved {step}.png")
        limit, dataset = random.choice([None, 8]), open_dataset(data, seed=step % 2)
        found = look(dataset, limit=limit)
        if found.unseen == 0:
            survey_cache._path(dataset).rename(data.parent / "kept")
            assert same(found, look(dataset)), step
            (data.parent / "kept").replace(survey_cache._path(dataset))


def test_sizes_and_names_of_any_number_of_bytes_are_told_apart(data, read):
    """A key holds numbers, whose bytes may be 0, and a name, which may become the longest one."""
    for size, path in zip((2**8, 2**16, 2**16 + 2**8), sorted((data / "cat").iterdir()), strict=False):
        padded = path.read_bytes()
        path.write_bytes(padded + bytes(-len(padded) % size))
    first = look(open_dataset(data))
    read.clear()
    assert same(look(open_dataset(data)), first) and read == []
    (data / "cat" / "00.png").rename(data / "cat" / "a much longer name than the others.png")
    again = look(open_dataset(data))
    assert read == ["a much longer name than the others.png"] and again.problems == {}


def test_few_images_and_those_in_memory_leave_nothing(data, cache, monkeypatch):
    monkeypatch.setattr(survey_cache, "WORTH", 15)
    look(open_dataset(data))
    monkeypatch.setattr(survey_cache, "WORTH", 10)
    assert survey_cache.keys(open_dataset("digits")) is None
    listed = open_dataset(data)
    by_hand = replace(listed, splits={name: replace(split, times=None) for name, split in listed.splits.items()})
    assert look(by_hand).problems == {} and not cache.exists()


def test_data_sets_do_not_share_a_cache(data, cache, tmp_path):
    look(open_dataset(data))
    data.rename(tmp_path / "others")
    look(open_dataset(tmp_path / "others"))
    assert len(list(cache.iterdir())) == 2


@pytest.fixture
def masks(tmp_path):
    """Twelve images with masks and instance maps; one mask holds an id that classes.txt lacks, one is no image."""
    root = tmp_path / "roads"
    for folder in ("images", "masks", "instances"):
        (root / folder).mkdir(parents=True)
    for i in range(12):
        mask = np.random.default_rng(i).integers(0, 2, (48, 64)).astype(np.uint8)
        photograph(i).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask * 2 if i == 3 else mask).save(root / "masks" / f"{i:02}.png")
        Image.fromarray(mask * (1 + i)).save(root / "instances" / f"{i:02}.png")
    (root / "masks" / "05.png").write_bytes(b"no image")
    (root / "classes.txt").write_text("0 ground\n1 road thing\n")
    return root


def test_a_second_look_at_masks_reads_what_changed_and_sees_the_same(masks, monkeypatch):
    read, pair = [], mask_doctor._pair
    monkeypatch.setattr(mask_doctor, "_pair", lambda split, i: read.append(split.name(i)) or pair(split, i))

    def seen(**options):
        read.clear()
        dataset = open_dataset(masks, whole=True, **options)
        return [repr(looked) for looked in mask_doctor.look(dataset).values()], mask_doctor.check(dataset)

    first, report = seen()
    assert len(read) == 12 + 1  # what cannot be read is tried again
    assert {finding.kind for finding in report.errors} == {"unreadable_mask", "unknown_ids"}
    again, same_report = seen()
    assert again == first and same_report == report and read == ["images/05.png"] * 2
    for changed in ("images/02.png", "masks/04.png", "instances/07.png"):
        (masks / changed).touch()
        assert seen()[0] == first and set(read) == {"images/05.png", f"images/{changed[-6:]}"}
    (masks / "classes.txt").write_text("0 ground\n1 road thing\n2 kerb\n")
    assert seen()[0] != first and len(set(read)) == 12  # the same pixels mean something else
