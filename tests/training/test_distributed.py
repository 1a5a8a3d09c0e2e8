"""Two processes train what one does. They are forked, and find each other on the loopback."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vitnext.data import scenes
from vitnext.data.dataset import Dataset, open_dataset
from vitnext.data.facts import look_at
from vitnext.data.mask_loaders import SegmentTargets
from vitnext.errors import InputError, WorkError
from vitnext.evaluation.panoptic import PanopticQuality
from vitnext.models import create
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe, from_dict, override
from vitnext.training import compilation, distributed, sharding
from vitnext.training.checkpoint import load_run, trained_on
from vitnext.training.compilation import compiled
from vitnext.training.defaults import model_config
from vitnext.training.hardware import Precision
from vitnext.training.loop import Interrupted, fit
from vitnext.training.losses import MaskLoss
from vitnext.training.mask_classification import MaskClassificationLoss
from vitnext.training.mask_validation import MaskValidator
from vitnext.training.panoptic_deeplab import PanopticDeepLabLoss
from vitnext.training.task import require_suitable, task_of
from vitnext.training.validation import MultiLabelValidator, Validator

pytestmark = [
    # autograd refuses to work in the fork of a process in which it has begun threads, as some tests make it do
    pytest.mark.forks,
    # of Python 3.12 and later, where a process with threads is forked
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

DIGITS = from_dict(
    {
        "model": {"name": "vit", "config": {"patch_size": 4, "dim": 16, "depth": 2, "heads": 2}},
        "data": {"image_size": 8, "resize": "stretch", "color": "L"},
        "augment": {"crop_padding": 1, "erasing": 0.3, "mixup": 0.5, "cutmix": 0.5},
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"epochs": 2, "warmup_epochs": 1},
        "batch_size": 16,
        "accumulate": 2,
        "ema": 0.9,
        "label_smoothing": 0.1,
    }
)
SCENES = from_dict(
    {
        "model": {
            "name": "convnext+segformer",
            "config": {"widths": [8, 16], "depths": [1, 1], "stem_stride": 4, "head": {"width": 16, "dropout": 0.0}},
        },
        "data": {"image_size": 32, "window": [96, 96]},
        "augment": {"scale": [0.8, 1.25], "horizontal_flip": 0.5},
        "optimizer": {"learning_rate": 2e-4},  # Adam makes steps of it even where a gradient is rounding alone
        "schedule": {"epochs": 2, "warmup_epochs": 0},
        "loss": {"dice": 0.5, "focal": 0.5, "balanced": True},
        "batch_size": 4,
        "workers": 0,
    }
)


@pytest.fixture(scope="module")
def digits() -> Dataset[Any]:
    """96 to train on, 31 to validate: an odd number."""
    whole = open_dataset("digits")
    splits = {
        name: whole.splits[name].subset(np.arange(count)) for name, count in {"train": 96, "val": 31, "test": 8}.items()
    }
    return Dataset("digits", "builtin", whole.classes, splits, {}, fingerprint="digits", line="")


@pytest.fixture(scope="module")
def digit_scenes() -> Dataset[Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scenes, "COUNTS", {"train": 12, "val": 5, "test": 2})
        patched.setattr(scenes, "splits", scenes.splits.__wrapped__)  # which remembers nothing
        return open_dataset("digit-scenes")


class Watcher:
    def __init__(self, on) -> None:
        self.on, self.epochs = on, []

    def start(self, state, steps, ended) -> None: ...

    def step(self, state, loss, learning_rate, images) -> None:
        self.on(state.step)

    def epoch(self, state, values, kept) -> None:
        self.epochs.append(values)


def train(data: Dataset[Any], recipe: Recipe, folder: Path, *, resume: bool = False, on=lambda step: None) -> Any:
    """Each epoch's numbers, and the weights that were kept last; of other processes than the first no weights."""
    folder.mkdir(exist_ok=True)
    facts = look_at(data.splits["train"])
    size, window = recipe.data.image_size, recipe.data.window
    preprocess = Preprocess(
        window or (size, size),
        resize="window" if window else "stretch",
        color=recipe.data.color,
        mean=facts.mean,
        std=facts.std,
    )
    torch.manual_seed(recipe.seed)
    model = create.build(recipe.model.name, **model_config(recipe, len(data.classes)))
    task = task_of(data, "val", preprocess, recipe, PanopticQuality)
    seen, state = trained_on(data), None
    if resume:
        state, _ = load_run(folder / "last.pt", recipe, seen, task.batches.steps_per_epoch)
    kept: dict[str, Any] = {}

    def keep(network, *_):
        kept.update({n: t.clone().numpy() for n, t in network.state_dict().items()})
        return lambda: lambda: None

    watcher = Watcher(on)
    fit(
        model,
        task.batches,
        compiled(task.objective) if recipe.compile == "on" else task.objective,
        task.validate,
        recipe,
        preprocess,
        Precision(torch.float32),
        folder=folder,
        keep=keep,
        watch=watcher,
        data=seen,
        mix=task.mix,
        select=False,
        resume=state,
    )
    return watcher.epochs, kept


def together(count: int, work, *arguments: Any, **more: Any) -> list[Any]:
    """What ``work`` gives, or the error that it raises, in each of ``count`` processes; None of one that was killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]

    def process(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        torch.set_num_threads(1)
        try:
            with distributed.joined():
                answer = work(*arguments, **more)
        except BaseException as error:
            answer = error
        pipes[rank][1].send_bytes(pickle.dumps(answer))  # tensors by value
        os._exit(0)  # without what pytest does at the end of a process

    processes = [context.Process(target=process, args=(rank,), daemon=True) for rank in range(count)]
    for one in processes:
        one.start()
    answers = []
    for one, (receive, send) in zip(processes, pipes, strict=True):
        send.close()
        try:
            answers.append(pickle.loads(receive.recv_bytes()) if receive.poll(60) else TimeoutError())
        except EOFError:
            answers.append(None)
        one.join(10)
    return answers


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder) if line["event"] == "step"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["digits", "digit_scenes"])
def test_two_processes_train_what_one_does(name, parallel, request, tmp_path):
    data = request.getfixturevalue(name)
    recipe = override(DIGITS if name == "digits" else SCENES, [f"parallel={parallel}"])
    epochs, weights = train(data, recipe, tmp_path / "one")
    first, second = together(2, train, data, recipe, tmp_path / "two")
    assert not isinstance(first, BaseException), first
    assert first[0] == second[0] and second[1] == {}  # the same numbers in both; the first alone keeps
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-5)
    for one, two in zip(epochs, first[0], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert two.get("top1") == one.get("top1")
        assert two.get("miou") == pytest.approx(one.get("miou"), abs=1e-4)  # a pixel between two classes
    away = max(np.abs(first[1][key] - value).max() for key, value in weights.items())
    assert first[1].keys() == weights.keys() and away < 3e-3  # Adam makes much of gradients that are all but 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # which torch itself looks at
@pytest.mark.parametrize(("name", "parallel"), [("digits", "fsdp"), ("digit_scenes", "ddp")])  # these have batch norms
def test_compiled_they_train_the_same(name, parallel, request, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    data, recipe = request.getfixturevalue(name), DIGITS if name == "digits" else SCENES
    recipe = override(recipe, [f"parallel={parallel}", "schedule.epochs=1"])
    eager, _ = together(2, train, data, recipe, tmp_path / "eager")
    fast, _ = together(2, train, data, override(recipe, ["compile=on"]), tmp_path / "fast")
    assert not isinstance(fast, BaseException), fast
    assert losses(tmp_path / "fast") == pytest.approx(losses(tmp_path / "eager"), rel=2e-5)
    assert max(np.abs(fast[1][key] - value).max() for key, value in eager[1].items()) < 3e-3


def stopped(data, recipe, folder, *, resume=False, kill=0, by=signal.SIGTERM):
    """Train until the last process has been sent a signal after step ``kill``."""

    def on(step):
        if step == kill and distributed.rank() == distributed.world() - 1:
            os.kill(os.getpid(), by)

    try:
        return train(data, recipe, folder, resume=resume, on=on)
    except Interrupted as stop:
        return stop.signal


PLAIN = override(DIGITS, ["accumulate=1", "augment.mixup=0", "augment.cutmix=0"])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_signal_to_one_stops_all_and_any_number_goes_on(parallel, digits, tmp_path):
    recipe = override(PLAIN, [f"parallel={parallel}"])
    _, weights = train(digits, recipe, tmp_path / "whole")
    run = tmp_path / "run"
    assert together(2, stopped, digits, recipe, run, kill=8) == [signal.SIGTERM] * 2
    assert lines(run)[-1]["step"] == 9
    for count in (1, 4):
        copy = shutil.copytree(run, tmp_path / f"on {count}")
        if count == 1:
            _, kept = train(digits, recipe, copy, resume=True)
        else:
            (first, *_) = together(count, train, digits, recipe, copy, resume=True)
            assert not isinstance(first, BaseException), first
            kept = first[1]
        assert max(np.abs(kept[key] - value).max() for key, value in weights.items()) < 3e-3
        for key in ("train_loss", "loss", "top1"):
            assert lines(copy)[-1][key] == pytest.approx(lines(tmp_path / "whole")[-1][key], rel=2e-5)
        shards = list(copy.glob("last.shards*"))
        assert len(shards) == (parallel == "fsdp" and count > 1)  # those of the last state, and no others


def test_shards_are_not_written_where_some_are(tmp_path):
    assert sharding._unused(tmp_path, "last.shards-40") == "last.shards-40"
    for name in ("last.shards-40", "last.shards-40.1", "last.shards-41"):
        (tmp_path / name).mkdir()
    assert sharding._unused(tmp_path, "last.shards-40") == "last.shards-40.2"
    sharding.tidy(tmp_path, {"model": "last.shards-40.1"})
    assert [path.name for path in tmp_path.iterdir()] == ["last.shards-40.1"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_same_number_goes_on_bit_for_bit(parallel, digits, tmp_path):
    recipe = override(PLAIN, [f"parallel={parallel}", "model.config.dropout=0.1", "model.config.stochastic_depth=0.2"])
    whole = together(2, train, digits, recipe, tmp_path / "whole")[0]
    assert together(2, stopped, digits, recipe, tmp_path / "run", kill=8) == [signal.SIGTERM] * 2
    resumed = together(2, train, digits, recipe, tmp_path / "run", resume=True)[0]
    assert all(np.array_equal(resumed[1][key], value) for key, value in whole[1].items())
    assert resumed[0] == whole[0][1:]


def test_a_whole_checkpoint_goes_on_divided(digits, tmp_path):
    _, weights = train(digits, PLAIN, tmp_path / "whole")
    assert stopped(digits, PLAIN, tmp_path / "run", kill=8) == signal.SIGTERM
    recipe = override(PLAIN, ["parallel=fsdp"])
    first, _ = together(2, train, digits, recipe, tmp_path / "run", resume=True)
    assert not isinstance(first, BaseException), first
    assert max(np.abs(first[1][key] - value).max() for key, value in weights.items()) < 3e-3
    assert isinstance(torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"], str)


def test_a_process_that_is_killed_ends_the_run_and_is_named(digits, tmp_path):
    began = time.monotonic()
    first, second = together(2, stopped, digits, PLAIN, tmp_path / "run", kill=3, by=signal.SIGKILL)
    assert second is None and isinstance(first, WorkError)
    assert str(first).startswith("process 1 of 2 (pid ") and "has ended" in str(first)
    assert len(str(first).splitlines()) == 1
    assert time.monotonic() - began < 60


class Still(nn.Module):
    """A classifier, or segmenter, of weights that are not trained."""

    def __init__(self, classes: int, masks: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mix = nn.Parameter(torch.randn(classes, 3 if masks else 64, generator=generator))
        self.masks = masks

    def forward(self, x):
        if self.masks:
            return torch.einsum("kc,bchw->bkhw", self.mix, x)
        return x.flatten(1) @ self.mix.T


def measure(validators, models):
    return [
        validate(model, Precision(torch.float32))
        for validate, model in zip([make() for make in validators], models, strict=True)
    ]


def test_measured_by_three_the_numbers_are_the_same(digits, digit_scenes):
    grey = Preprocess((8, 8), resize="stretch", color="L", mean=(0.5,), std=(0.5,))
    color = Preprocess((96, 96), resize="window", mean=(0.5,) * 3, std=(0.5,) * 3)
    labels = np.eye(10, dtype=np.uint8)[digits.splits["val"].labels]
    several = dataclasses.replace(digits.splits["val"], labels=labels)
    validators = (
        lambda: Validator(digits.splits["val"], grey, 32),
        lambda: MultiLabelValidator(several, grey, 32),
        lambda: MaskValidator(digit_scenes.splits["val"], color),
    )
    models = (Still(10, False), Still(10, False), Still(11, True))
    alone = measure(validators, models)
    for numbers in together(3, measure, validators, models):
        for one, three in zip(alone, numbers, strict=True):
            assert three.pop("loss") == pytest.approx(one["loss"], rel=1e-6)
            assert three == {key: value for key, value in one.items() if key != "loss"}


def normalised(inputs, targets):
    """Loss, running statistics and gradients of a batch norm that sees a part of ``inputs``."""
    norm = nn.Sequential(nn.BatchNorm2d(3))
    distributed.synchronize_batch_norms(norm)
    places = distributed.part().places(len(inputs))
    mine = inputs[places].requires_grad_()
    loss = (norm(mine) * targets[places]).square().mean()
    loss.backward()
    gradients = [distributed.average(parameter.grad) for parameter in norm.parameters()]
    return [distributed.average(loss.detach()), norm[0].running_mean, norm[0].running_var, *gradients], mine.grad


def test_batch_norm_sees_the_whole_batch():
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 3, 5, 5) * 3 + 1, torch.randn(8, 3, 5, 5)
    whole, gradient = normalised(inputs.clone(), targets)
    parts = together(2, normalised, inputs.clone(), targets)
    for values, _ in parts:
        for value, expected in zip(values, whole, strict=True):
            torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.cat([part for _, part in parts]) / 2, gradient)


def pixel_loss(logits, truth):
    recipe = override(SCENES, ["loss.focal=1", "loss.dice=1", "loss.cross_entropy=1"])
    places = distributed.part().places(len(truth))
    logits = logits[places].requires_grad_()
    loss = MaskLoss(recipe).of(logits, truth[places])
    loss.backward()
    return loss.detach(), logits.grad / distributed.world()


def test_losses_of_masks_count_the_pixels_of_the_whole_batch():
    torch.manual_seed(0)
    logits, truth = torch.randn(4, 3, 6, 6), torch.randint(0, 3, (4, 6, 6))
    truth[0, :4], truth[2:] = 255, 255  # the second process has nothing to count
    loss, gradient = pixel_loss(logits.clone(), truth)
    parts = together(2, pixel_loss, logits.clone(), truth)
    for value, _ in parts:
        torch.testing.assert_close(value, loss)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient)


def segment_losses(out, masks, classes, targets):
    """Panoptic-DeepLab's loss of ``out``, and that of queries' ``masks`` and ``classes``; gradients of all three.

    The queries' points are random, and other ones in each process; here they are the same for all segments.
    """
    drawn = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))

    def same_points(*shape, device):
        return drawn[: shape[-2]].expand(shape)

    places = distributed.part().places(len(targets))
    mine = SegmentTargets(targets.ids[places], targets.labels[places])
    given = [values[places].requires_grad_() for values in (out, masks, classes)]
    panoptic = PanopticDeepLabLoss(SCENES, [False, True, True]).of(given[0], mine, spread=2.0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "rand", same_points)
        by_queries = MaskClassificationLoss(3).of(given[1], given[2], mine)
    (panoptic + by_queries).backward()
    values = torch.stack([panoptic.detach(), by_queries.detach()])
    return values, [values.grad / distributed.world() for values in given]


def test_losses_of_segments_count_those_of_the_whole_batch():
    torch.manual_seed(0)
    ids = torch.randint(0, 4, (4, 12, 12))
    labels = torch.tensor([[0, 1, 2], [1, 1, 2], [2, -1, -1], [-1, -1, -1]])  # few and none in the second process
    ids[2][ids[2] > 1], ids[3] = 0, 0
    inputs = torch.randn(4, 6, 12, 12), torch.randn(4, 5, 6, 6), torch.randn(4, 5, 4)
    whole, gradients = segment_losses(*(values.clone() for values in inputs), SegmentTargets(ids, labels))
    parts = together(2, segment_losses, *inputs, SegmentTargets(ids, labels))
    for values, _ in parts:
        torch.testing.assert_close(values, whole)
    for expected, *found in zip(gradients, *(part for _, part in parts), strict=True):
        torch.testing.assert_close(torch.cat(found), expected)


def test_two_processes_train_panoptic_deeplab_as_one_does(digit_scenes, tmp_path):
    recipe = override(SCENES, ["model.name=convnext+panoptic_deeplab", "schedule.epochs=1", "loss.balanced=false"])
    [alone], _ = train(digit_scenes, recipe, tmp_path / "one")
    first, second = together(2, train, digit_scenes, recipe, tmp_path / "two")
    assert not isinstance(first, BaseException), first
    assert first[0] == second[0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-5)
    assert first[0][0]["train_loss"] == pytest.approx(alone["train_loss"], rel=2e-5)


def refused_by_first():
    return distributed.from_first(lambda: require_here())


def require_here():
    raise InputError(f"process {distributed.rank()} of {distributed.world()} refuses")


def test_what_the_first_refuses_all_refuse():
    errors = together(2, refused_by_first)
    assert [type(error) for error in errors] == [InputError] * 2
    assert {str(error) for error in errors} == {"process 0 of 1 refuses"}  # it was by itself


def other_data():
    distributed.require_same("data", distributed.rank())


def test_processes_that_see_other_images_are_refused():
    assert all("process 1 sees other images" in str(error) for error in together(2, other_data))


def refused(data, *sets):
    messages = []
    for setting in sets:
        with pytest.raises(InputError) as caught:
            require_suitable(override(SCENES, ["model.config={}", *setting]), data)
        messages.append(str(caught.value))
    with pytest.raises(InputError) as caught:
        distributed.own_device(torch.device("cuda:0"))
    return [*messages, str(caught.value)]


def test_what_needs_all_of_a_batch_or_a_matrix_is_refused(digit_scenes):
    sets = (["loss.lovasz=1"], ["loss.hardest=0.5"], ["optimizer.name=muon", "parallel=fsdp"])
    for setting in sets:
        require_suitable(override(SCENES, ["model.config={}", *setting]), digit_scenes)  # alone all is well
    for lovasz, hardest, muon, device in together(2, refused, digit_scenes, *sets):
        assert lovasz == hardest and lovasz.startswith("loss.lovasz and loss.hardest put the pixels")
        assert (
            muon == "muon needs whole matrices, which parallel=fsdp divides: set parallel=ddp or optimizer.name=adamw"
        )
        assert device == "device is cuda:0, but there are 2 processes: set device=cuda or device=cpu"


def test_a_batch_that_cannot_be_divided_is_refused(digits, tmp_path):
    for error in together(3, train, digits, PLAIN, tmp_path / "run"):
        assert isinstance(error, InputError)
        assert str(error) == "a batch of 16 images cannot be divided evenly among 3 processes: set batch_size=15"


def test_without_torchrun_nothing_is_divided():
    values = np.arange(3)
    assert distributed.total(values) is values and distributed.gathered(values) == [values]
    assert distributed.share(3).tolist() == [0, 1, 2] and distributed.part(mixed=True).places(4) == [0, 1, 2, 3]
    assert distributed.agree(15, 2.5) == (15, 2.5) and distributed.main() and distributed.command() == "vitnext"
