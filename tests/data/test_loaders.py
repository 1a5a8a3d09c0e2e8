"""Training batches: the same wherever a run starts, each image at most once an epoch, held as memory allows."""

from __future__ import annotations

import itertools
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitnext.data import loaders
from vitnext.data.dataset import Split
from vitnext.data.loaders import (
    HeldImages,
    Part,
    Photographs,
    SmallImages,
    batch_indices,
    cache_limit,
    generator,
    held_side,
    place_seed,
    shrink,
    training_batches,
)
from vitnext.errors import ImageError, InputError
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe, from_dict

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PHOTOS = {
    "data": {"image_size": 16},
    "augment": {"crop_scale": [0.5, 1.0], "horizontal_flip": 0.5, "trivial_augment": True, "erasing": 0.5},
    "batch_size": 4,
    "workers": 0,
    "seed": 3,
}
SMALL = {
    "data": {"image_size": 8, "color": "L"},
    "augment": {"crop_padding": 1, "horizontal_flip": 0.5, "erasing": 0.5},
    "batch_size": 4,
    "seed": 3,
}


def recipe(tree, **more) -> Recipe:
    return from_dict(tree | more)


def in_memory(count, size=8):
    """Image i holds the value i everywhere; its label is i as well."""
    arrays = np.arange(count, dtype=np.uint8)[:, None, None].repeat(size, axis=1).repeat(size, axis=2)
    names = np.array([f"{i}".encode() for i in range(count)])
    return Split(tuple(map(str, range(count))), np.arange(count), names, np.ones(count, np.int64), arrays=arrays)


@pytest.fixture
def photographs(tmp_path):
    """Eleven colour files of different sizes and shapes, none larger than 20 px on its short side."""
    random, names = np.random.default_rng(0), []
    for i in range(11):
        Image.fromarray(random.integers(0, 256, (14 + i % 7, 30 - i, 3), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
        names.append(f"{i:02}.png".encode())
    labels = np.arange(11) % 3
    return Split(("a", "b", "c"), labels, np.array(names), np.ones(11, np.int64), root=str(tmp_path))


def preprocess(of: Recipe) -> Preprocess:
    channels = 1 if of.data.color == "L" else 3
    size = of.data.image_size
    return Preprocess((size, size), resize="crop", color=of.data.color, mean=(0.5,) * channels, std=(0.5,) * channels)


def batches(split, tree, **more):
    made = recipe(tree, **more)
    return training_batches(split, preprocess(made), made)


def same(one, other):
    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


# ---- places in a run


def test_a_seed_depends_on_the_whole_place():
    places = [(seed, epoch, step) for seed in range(5) for epoch in range(5) for step in range(1, 5)]
    seeds = {place_seed(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert place_seed(1, 2, 3) == place_seed(1, 2, 3)
    assert torch.equal(torch.rand(3, generator=generator(1, 2)), torch.rand(3, generator=generator(1, 2)))


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(12, 4, [4, 4, 4]), (15, 4, [4, 4, 4]), (3, 4, [3])])
def test_an_epoch_is_full_batches_of_each_image_at_most_once(count, batch_size, sizes):
    for epoch in range(4):
        cut = batch_indices(count, batch_size, seed=0, epoch=epoch)
        assert [len(batch) for batch in cut] == sizes
        seen = np.concatenate(cut)
        assert len(set(seen.tolist())) == len(seen) and set(seen.tolist()) <= set(range(count))


def test_the_order_changes_with_epoch_and_seed_and_the_images_left_out_with_it():
    orders = {tuple(np.concatenate(batch_indices(10, 4, seed, epoch))) for seed in (0, 1) for epoch in range(5)}
    assert len(orders) == 10
    left_out = {i for epoch in range(60) for i in set(range(10)) - set(np.concatenate(batch_indices(10, 4, 0, epoch)))}
    assert left_out == set(range(10))


# ---- both kinds of batches


@pytest.fixture(params=["small", "held", "files", "workers"])
def kind(request, photographs, monkeypatch):
    """(split, recipe tree) of each way to hold images."""
    if request.param == "small":
        return in_memory(11), SMALL
    if request.param == "files":
        monkeypatch.setattr(loaders, "cache_limit", lambda: 0)
    return photographs, PHOTOS | {"workers": 2 if request.param == "workers" else 0}


def test_the_parts_of_a_batch_are_what_the_whole_has_there(kind):
    made = batches(*kind)
    whole = list(made.epoch(1))
    halves = [list(made.epoch(1, part=Part(index, 2))) for index in (0, 1)]
    assert same([tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(*halves, strict=True)], whole)
    later = list(made.epoch(1, 1, Part(0, 4, before=1)))  # after the last of all
    assert same(later, [tuple(values[[3, 0]] for values in whole[1])])


def test_a_batch_is_divided_into_equal_parts_alone():
    assert [Part(index, 3).places(6) for index in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert Part(1, 3, before=1).places(6) == [1, 2, 3] and Part(0, 1).places(3) == [0, 1, 2]
    with pytest.raises(InputError, match=r"a batch of 7 images .* among 3 processes: set batch_size=6$"):
        Part(0, 3).places(7)
    with pytest.raises(InputError, match="set batch_size higher, or start fewer processes"):
        Part(0, 3).places(2)


def test_processes_of_a_machine_share_its_memory_and_cores(monkeypatch):
    memory = loaders.cache_limit()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(loaders, "usable_cores", lambda: 16)
    assert loaders.cache_limit() == memory // 4 and loaders.spare_cores() == 3


def test_an_epoch_is_the_same_from_wherever_it_is_read(kind):
    split, tree = kind
    made = batches(split, tree)
    assert made.steps_per_epoch == 2
    whole = list(made.epoch(1))
    assert len(whole) == 2
    size, channels = tree["data"]["image_size"], 1 if "color" in tree["data"] else 3
    for images, labels in whole:
        assert images.shape == (4, channels, size, size) and images.dtype == torch.uint8
        assert labels.shape == (4,) and labels.dtype == torch.int64
    torch.seed()
    anew = batches(split, tree)
    list(anew.epoch(0))  # what came before plays no part
    assert same(anew.epoch(1), whole)
    assert same(anew.epoch(1, start=1), whole[1:])
    assert same(anew.epoch(1, start=2), [])


def test_epochs_and_seeds_differ(kind):
    split, tree = kind
    first = list(batches(split, tree).epoch(0))
    assert not same(batches(split, tree).epoch(1), first)
    assert not same(batches(split, tree, seed=4).epoch(0), first)


def test_a_set_smaller_than_a_batch_is_one_batch(kind):
    split, tree = kind
    made = batches(split, tree, batch_size=100)
    assert made.steps_per_epoch == 1
    [(images, labels)] = made.epoch(0)
    assert len(images) == len(labels) == 11
    assert sorted(labels.tolist()) == sorted(split.labels.tolist())


# ---- small images


def test_small_images_come_with_their_labels():
    off = {"augment": {}}
    for images, labels in batches(in_memory(40), SMALL, **off).epoch(0):
        assert torch.equal(images, labels[:, None, None, None].expand(4, 1, 8, 8).to(torch.uint8))


def test_small_images_are_those_of_preprocess(photographs):
    made = recipe(PHOTOS, augment={}, batch_size=11)
    [(images, _)] = training_batches(photographs, preprocess(made), made).epoch(0)
    [order] = batch_indices(11, 11, seed=3, epoch=0)
    for image, i in zip(images, order, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), preprocess(made).pixels(photographs.image(int(i))))


@pytest.mark.parametrize("kind", ["small", "photographs"])
def test_each_image_is_augmented_anew_in_each_epoch(kind):
    """All images are one image: what differs is the augmentation."""
    tree, crop = (SMALL, [1.0, 1.0]) if kind == "small" else (PHOTOS, [0.9, 1.0])
    augment = {"erasing": 1.0, "crop_scale": crop}
    made = batches(in_memory(8, size=16).subset([5] * 8), tree, augment=augment, batch_size=4)
    assert isinstance(made, SmallImages) == (kind == "small")
    seen = [image.flatten().tolist() for epoch in range(3) for images, _ in made.epoch(epoch) for image in images]
    assert len(seen) == 24
    assert len({tuple(image) for image in seen}) >= 20  # two rectangles may be alike


def test_augmenting_leaves_the_images_in_memory_alone():
    made = batches(in_memory(12), SMALL, augment={"erasing": 1.0}, batch_size=12)
    for epoch in range(2):
        list(made.epoch(epoch))
        assert torch.equal(made.images, torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 1, 8, 8))


def test_small_images_are_decoded_once_and_not_before_they_are_used(photographs, monkeypatch):
    made = batches(photographs, PHOTOS, augment={}, batch_size=4)
    read, pixels = [], Preprocess.pixels
    monkeypatch.setattr(Preprocess, "pixels", lambda self, path: read.append(path) or pixels(self, path))
    next(made.epoch(0))
    assert len(read) == 4
    for epoch in range(8):
        list(made.epoch(epoch))
    assert sorted(read) == [photographs.image(i) for i in range(11)]


# ---- photographs


def test_workers_memory_and_files_give_the_same_images(photographs, monkeypatch):
    held = batches(photographs, PHOTOS)
    assert isinstance(held, Photographs) and held.held is not None
    workers = batches(photographs, PHOTOS, workers=2)
    assert workers.held is None and workers.workers == 2
    monkeypatch.setattr(loaders, "cache_limit", lambda: 0)
    files = batches(photographs, PHOTOS)
    assert files.held is None and files.workers == 0
    expected = list(files.epoch(2))
    assert same(held.epoch(2), expected)  # none of them has to be shrunk
    assert same(held.epoch(2), expected)  # now from memory
    assert same(workers.epoch(2), expected)
    assert same(workers.epoch(2, start=1), expected[1:])


@pytest.mark.parametrize("kind", ["small", "memory", "workers"])
def test_a_stream_is_one_epoch_after_the_other(kind, photographs):
    made = batches(in_memory(40), SMALL) if kind == "small" else batches(photographs, PHOTOS)
    if kind == "workers":
        made = batches(photographs, PHOTOS, workers=2)
    steps = made.steps_per_epoch
    expected = [batch for epoch in (2, 3, 4) for batch in made.epoch(epoch)]
    for start in (0, 1, steps):
        with closing(made.stream(2, start)) as stream:
            processes = None
            found = []
            for batch in itertools.islice(stream, 3 * steps - start):
                found.append(batch)
                processes = processes or {process.pid for process in active_children()}
                assert {process.pid for process in active_children()} == processes  # from the first to the last epoch
        assert same(found, expected[start:])
        assert len(processes) == (2 if kind == "workers" else 0) and not active_children()


def test_a_batch_that_cannot_be_divided_starts_no_process(photographs):
    made = batches(photographs, PHOTOS, workers=2)
    with pytest.raises(InputError, match="cannot be divided evenly") as error:
        list(made.epoch(0, part=Part(0, 3)))
    assert active_children() == [] and error.value is not None  # the error holds what was under way


def test_a_photograph_is_augmented_by_its_epoch_and_index_alone(photographs):
    made = batches(photographs, PHOTOS)
    [(image, label)] = made.__getitems__([(5, 7)])
    made.__getitems__([(5, 8)]), torch.seed()
    _, (again, _) = batches(photographs, PHOTOS, batch_size=2).__getitems__([(5, 8), (5, 7)])
    assert torch.equal(again, image) and label == photographs.labels[7]
    assert not torch.equal(made.__getitems__([(6, 7)])[0][0], image)


def test_batches_lie_in_memory_channels_last(photographs):
    images, _ = next(batches(photographs, PHOTOS).epoch(0))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_grey_photographs_have_one_channel(photographs):
    made = recipe(PHOTOS, data={"image_size": 16, "color": "L"})
    for held in (None, HeldImages(photographs, preprocess(made), 20)):
        images, _ = next(Photographs(photographs, held, preprocess(made), made, 0).epoch(0))
        assert images.shape == (4, 1, 16, 16)


def test_held_images_are_the_decoded_ones_in_the_order_asked_for(photographs):
    held = HeldImages(photographs, preprocess(recipe(PHOTOS)), short_side=20)
    for indices in ([3, 3, 0], [0, 10, 3]):
        for i, image in zip(indices, held.get(np.array(indices)), strict=True):
            with Image.open(photographs.image(i)) as file:
                assert np.array_equal(image.permute(1, 2, 0), np.asarray(file))
    assert sorted(held.images) == [0, 3, 10]


def test_photographs_are_decoded_once_and_not_before_they_are_used(photographs, monkeypatch):
    made = batches(photographs, PHOTOS)
    read, decode = [], loaders.read_part
    monkeypatch.setattr(loaders, "read_part", lambda path, *how: read.append(path) or decode(path, *how))
    next(made.epoch(0))
    assert len(read) == 4
    for epoch in range(8):
        list(made.epoch(epoch))
    assert sorted(read) == [photographs.image(i) for i in range(11)]


def test_what_is_held_is_large_enough_for_the_smallest_crop():
    for scale, side in ((0.25, 448), (0.08, 792), (1.0, 224)):
        made = recipe(PHOTOS, data={"image_size": 224}, augment={"crop_scale": [scale, 1.0]})
        assert held_side(made) == side


@pytest.mark.parametrize("less", [0, 1])
def test_images_are_held_up_to_the_limit(less, photographs, monkeypatch):
    total = sum((14 + i % 7) * (30 - i) * 3 for i in range(11))
    monkeypatch.setattr(loaders, "cache_limit", lambda: total - less)
    assert (batches(photographs, PHOTOS).held is None) == bool(less)


def test_what_fits_is_decided_by_a_sample(photographs, monkeypatch):
    many = photographs.subset(np.arange(11).repeat(10))
    decoded, decode = [], loaders.read_part
    monkeypatch.setattr(loaders, "read_part", lambda path, *how: decoded.append(path) or decode(path, *how))
    once = sum((14 + i % 7) * (30 - i) * 3 for i in range(11))
    expected = HeldImages(many, preprocess(recipe(PHOTOS)), 100).expected_bytes()
    assert len(decoded) == 16 and expected == pytest.approx(10 * once, rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 60), (20, 30)), ((60, 40), (30, 20)), ((20, 60), (20, 60)), ((19, 90), (19, 90)), ((41, 400), (20, 195))],
)
def test_shrinking_brings_the_short_side_to_its_limit_and_keeps_the_shape(shape, expected, channels):
    image = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    small = shrink(image, 20)
    assert small.shape == (*expected, channels) and small.dtype == np.uint8
    if shape == expected:
        assert small is image
    else:
        assert abs(float(small.mean()) - float(image.mean())) < 2


def test_a_photograph_that_is_gone_is_named(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "cache_limit", lambda: 0)
    made = batches(photographs, PHOTOS)
    (tmp_path / "00.png").unlink()
    with pytest.raises(ValueError, match=r"00\.png: no such file"):
        for epoch in range(20):
            list(made.epoch(epoch))


# ---- where images are held


def test_a_quarter_of_the_memory_and_no_more_than_4_gib(monkeypatch):
    for memory, limit in ((1 << 30, 1 << 28), (8 << 30, 2 << 30), (256 << 30, 4 << 30)):
        monkeypatch.setattr(loaders, "usable_memory", lambda memory=memory: memory)
        assert cache_limit() == limit


@pytest.mark.parametrize(
    ("size", "augment", "limit", "held"),
    [
        (64, {}, 10 * 64 * 64 * 3, SmallImages),
        (64, {}, 10 * 64 * 64 * 3 - 1, Photographs),
        (65, {}, 1 << 30, Photographs),
        (64, {"horizontal_flip": 0.5, "crop_padding": 2, "erasing": 0.1}, 1 << 30, SmallImages),
        (64, {"crop_scale": [0.5, 1]}, 1 << 30, Photographs),
        (8, {"color_jitter": 0.5}, 1 << 30, Photographs),
        (8, {"trivial_augment": True}, 1 << 30, Photographs),
    ],
)
def test_small_images_are_batched_if_they_fit_and_the_augmentation_can(size, augment, limit, held, monkeypatch):
    monkeypatch.setattr(loaders, "cache_limit", lambda: limit)
    tree = {"data": {"image_size": size}, "augment": augment, "batch_size": 5, "workers": 0}
    made = batches(in_memory(10), tree)
    assert isinstance(made, held)
    images, _ = next(iter(made.epoch(0)))
    assert images.shape == (5, 3, size, size)


@pytest.mark.parametrize(
    ("asked", "fits", "cores", "workers", "held"),
    [
        (-1, True, 16, 0, True),
        (-1, False, 16, 8, False),
        (-1, False, 4, 3, False),
        (-1, False, 1, 1, False),
        (0, True, 16, 0, True),
        (0, False, 16, 0, False),
        (2, True, 16, 2, False),
        (2, False, 16, 2, False),
    ],
)
def test_workers_are_used_when_memory_is_not_enough(asked, fits, cores, workers, held, photographs, monkeypatch):
    monkeypatch.setattr(loaders, "cache_limit", lambda: (1 << 20) * fits)
    monkeypatch.setattr(loaders, "usable_cores", lambda: cores)
    made = batches(photographs, PHOTOS, workers=asked)
    assert (made.workers, made.held is not None) == (workers, held)
    assert ("decoded in memory" if held else "read from files") in made.description
    assert (f"{workers} worker" in made.description) == (workers > 0)
    assert "11 images" in made.description


def test_for_a_gpu_workers_share_photographs_that_are_decoded_before(photographs, monkeypatch):
    expected = list(batches(photographs, PHOTOS, workers=-1).epoch(1))
    monkeypatch.setattr(loaders, "usable_cores", lambda: 2)
    with monkeypatch.context() as patched:
        patched.setattr(loaders, "on_gpu", lambda recipe: True)
        made = batches(photographs, PHOTOS, workers=-1)
        assert batches(photographs, PHOTOS, workers=0).workers == 0
    assert made.description == "11 images decoded in memory, augmented by 1 worker process"
    monkeypatch.setattr(loaders, "read_part", None)  # nothing is left to read
    assert same(made.epoch(1), expected)


@pytest.mark.parametrize(
    ("device", "there", "used"),
    [
        ("auto", True, True),
        ("cuda:1", True, True),
        ("cpu", True, False),
        ("auto", False, False),
        ("cuda", False, False),
    ],
)
def test_a_gpu_that_is_there_may_be_left_alone(device, there, used, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert loaders.on_gpu(from_dict({"device": device})) is used


def test_no_two_places_share_a_stream():
    places = [(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1), (2, 3), (3, 2)]
    assert len({place_seed(*place) for place in places}) == len(places)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_one_line(photographs, monkeypatch, workers):
    monkeypatch.setattr(loaders, "cache_limit", lambda: 0)
    read = batches(photographs, PHOTOS, workers=workers)
    path = Path(read.split.image(3))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError) as error:
        list(read.epoch(0))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert active_children() == []  # while the error, which holds the loader, is still there
