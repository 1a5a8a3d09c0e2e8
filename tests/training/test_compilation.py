"""Compiled passes: the same loss and gradients whatever an objective calls, a line if that fails, and when it pays.

torch traces the networks as always, but what it has traced is then run as it is: its real compiler takes a minute on
the smallest network.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from toy_trial import toy
from vitnext.data.mask_loaders import SegmentTargets
from vitnext.errors import WorkError
from vitnext.models import create
from vitnext.models.stochastic_depth import StochasticDepth
from vitnext.recipe import Recipe
from vitnext.training import compilation, distributed
from vitnext.training.compilation import choose_compilation, compiled, expected_saving, failures_named, with_graphs
from vitnext.training.distributed import SyncBatchNorm
from vitnext.training.losses import LabelLoss, MaskLoss
from vitnext.training.mask_classification import MaskClassificationLoss
from vitnext.training.panoptic_deeplab import PanopticDeepLabLoss
from vitnext.training.trial import Trial


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    counters.clear()


VIT = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2, "stochastic_depth": 0.5}
CONVNEXT = {"depths": (1, 1), "widths": (8, 16), "stem_stride": 4}
QUERIES = {"width": 16, "queries": 5, "layers": 1, "hidden": 16, "pixel_layers": 1, "pixel_hidden": 16, "heads": 2}
LABELS = torch.tensor([0, 1, 2, 0, 1])
MASKS = torch.randint(3, (5, 16, 16), generator=torch.Generator().manual_seed(0))
SEGMENTS = SegmentTargets(MASKS, torch.tensor([[0, 1]] * 5))
OBJECTIVES = {
    "vit": (VIT, LabelLoss(0.1), LABELS),
    "swin": ({"dim": 8, "depths": (2,), "heads": (2,), "window": 2}, LabelLoss(0.1), LABELS),
    "convnext+upernet": (CONVNEXT | {"head": {"width": 8, "auxiliary_width": 8}}, MaskLoss(Recipe()), MASKS),
    "convnext+panoptic_deeplab": (CONVNEXT, PanopticDeepLabLoss(Recipe(), [True, False, True]), SEGMENTS),
    "convnext+mask2former": (CONVNEXT | {"head": QUERIES}, MaskClassificationLoss(3), SEGMENTS),
    "vit+eomt": (VIT | {"queries": 5, "blocks": 1}, MaskClassificationLoss(3), SEGMENTS),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_whatever_an_objective_calls_is_compiled_once_for_each_size_and_gives_the_same(name, monkeypatch):
    monkeypatch.setattr(  # as compiled steps draw
        StochasticDepth, "_draw", lambda self, x: self._draw_share(x, int(len(x) * self.rate))[2]
    )
    config, objective, truth = OBJECTIVES[name]
    torch.manual_seed(0)
    model, images = create.build(name, classes=3, **config).train(), torch.randn(5, 3, 16, 16)
    count = 2 if name == "vit" else 1
    parts = list(zip(images.tensor_split(count), truth.tensor_split(count), strict=True))  # of 3 images and of 2

    def losses_and_gradients(objective):
        """Of two steps at two places of the run."""
        losses = []
        for step, done in enumerate((0.1, 0.15)):
            torch.manual_seed(step)
            losses += [objective(model, some, of_some, done) for some, of_some in parts]
        return losses, torch.autograd.grad(sum(losses), list(model.parameters()), allow_unused=True)

    eager, fast = losses_and_gradients(objective), losses_and_gradients(compiled(objective))
    assert counters["stats"]["unique_graphs"] == count and not counters["graph_break"]
    torch.testing.assert_close(fast[0], eager[0])
    for gradient, expected in zip(fast[1], eager[1], strict=True):
        assert (gradient is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_the_model_itself_and_evaluation_stay_as_they_are():
    torch.manual_seed(0)
    model, images = create.build("vit", classes=3, **VIT), torch.randn(5, 3, 16, 16)
    before = dict(vars(model))
    objective = compiled(LabelLoss(0.1))
    objective(model.eval(), images, LABELS, 0.0)
    assert counters["stats"]["unique_graphs"] == 0
    objective(model.train(), images, LABELS, 0.0)
    assert counters["stats"]["unique_graphs"] == 1
    assert vars(model).keys() == before.keys() and "forward" not in vars(model)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no kernel\nfor it"), "ValueError: no kernel"),
        (
            CppCompileError(["g++"], "In a.h:\na.cpp:2: error: none\nended"),
            "CppCompileError: a.cpp:2: error: none",
        ),
        (InvalidCxxCompiler(), "there is no C++ compiler: install g++, or name one in CXX"),
    ],
)
def test_a_network_that_cannot_be_compiled_is_a_line(error, reason, monkeypatch):
    def broken(graph, inputs):
        raise error

    monkeypatch.setattr(compilation, "BACKEND", broken)
    model, task, recipe, preprocess, precision = toy("accumulate=1")
    trial, sample = Trial(model, task, recipe, preprocess, precision), next(task.batches.epoch(0))
    with pytest.raises(WorkError) as caught, failures_named():
        compiled(task.objective)(trial.model, torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.long), 0.0)
    assert str(caught.value) == f"torch cannot compile the network here ({reason}): set compile=off"
    assert choose_compilation(trial, sample, 1_000_000_000, 0.2) == ("off", f"it was tried and failed ({reason})")


@pytest.mark.parametrize(
    ("steps", "minutes", "fast", "compiling", "choice", "reason"),
    [
        (1260, 0, 0.3937, 41, "on", "measured 1.27x the speed of eager, 41 s to compile"),
        (1259, 0, 0.1, 41, "off", "training takes about 630 s, too short for it to pay"),
        (10**6, 9, 0.1, 41, "off", "training takes about 540 s, too short for it to pay"),
        (1260, 11, 0.25, 41, "on", "measured 2.00x the speed of eager, 41 s to compile"),
        (10**6, 0, 0.48, 41, "on", "measured 1.04x the speed of eager, 41 s to compile"),
        (10**6, 0, 0.494, 41, "off", "measured 1.01x the speed of eager, 41 s to compile"),
        (10**6, 0, 0.9, 41, "off", "measured 0.56x the speed of eager, 41 s to compile"),
        (1260, 0, 0.45, 64, "off", "measured 1.11x the speed of eager, 64 s to compile: more than it saves"),
    ],
)
def test_a_long_run_that_it_makes_shorter_is_compiled(steps, minutes, fast, compiling, choice, reason, monkeypatch):
    model, task, recipe, preprocess, precision = toy(f"schedule.minutes={minutes}")
    trial, given, seen = Trial(model, task, recipe, preprocess, precision), task.objective, []

    def seconds(_trial, objective, _sample):
        seen.append(objective is given)
        if objective is given:
            return 9.0 if len(seen) == 1 else 0.5  # the first step sets up
        return fast if False in seen[:-1] else compiling

    monkeypatch.setattr(compilation, "_seconds", seconds)
    said = []
    assert choose_compilation(trial, None, steps, 0.2, said.append) == (choice, reason)
    assert said == ["compile: trying a few steps, which takes about 1 minute"] * ("measured" in reason)
    assert (False in seen) == ("measured" in reason)  # a short run is not even tried
    if "short" in reason:
        assert len(seen) == (0 if minutes else compilation.ROUNDS)  # the clock says so without a step


def test_what_is_much_too_short_is_known_after_two_steps(monkeypatch):
    model, task, recipe, preprocess, precision = toy()
    trial, seen = Trial(model, task, recipe, preprocess, precision), []

    def seconds(*_):
        seen.append(1)
        return 12.0

    monkeypatch.setattr(compilation, "_seconds", seconds)
    reason = "training takes about 288 s, too short for it to pay"
    assert choose_compilation(trial, None, 24, 0.2) == ("off", reason) and len(seen) == 2


@pytest.mark.parametrize(("steps", "choice"), [(900, "on"), (899, "off")])
def test_long_steps_are_tried_in_a_run_that_is_long_beside_them(steps, choice, monkeypatch):
    """Two minutes for compiling and twelve steps of 5 s are a twenty-fifth of 4,500 s."""
    model, task, recipe, preprocess, precision = toy()
    trial, given, said = Trial(model, task, recipe, preprocess, precision), task.objective, []
    monkeypatch.setattr(compilation, "_seconds", lambda _trial, objective, _sample: 5.0 if objective is given else 4.8)
    assert choose_compilation(trial, None, steps, 0.04, said.append)[0] == choice
    assert said == ["compile: trying a few steps, which takes about 2 minutes"] * (choice == "on")


@pytest.mark.parametrize(
    ("device", "macs", "accumulate", "expected"),
    [
        ("cuda", 10**12, 1, 0.4),
        ("cuda", 10**9, 2, 0.2),
        ("cpu", 10**12, 1, 0.04),
        ("cpu", 10**9, 1, 0.2),
        ("mps", 10**9, 1, 0.0),
    ],
)
def test_what_is_worth_a_trial(device, macs, accumulate, expected):
    assert expected_saving(torch.device(device), Recipe(accumulate=accumulate), macs) == expected


@pytest.mark.parametrize(("steps", "choice"), [(630, "on"), (629, "off")])
def test_graphs_pay_sooner(steps, choice, monkeypatch):
    """Of 315 s, which is 630 steps, 0.4 are what the trial and the run may take to compile, and twelve steps."""
    model, task, recipe, preprocess, precision = toy()
    given = task.objective
    monkeypatch.setattr(compilation, "with_graphs", lambda device, recipe: True)
    passed = []
    model.register_forward_hook(lambda module, inputs, _: passed.append(len(inputs[0])))
    monkeypatch.setattr(compilation, "_seconds", lambda _trial, objective, _sample: 0.5 if objective is given else 0.1)
    trial = Trial(model, task, recipe, preprocess, precision)
    assert choose_compilation(trial, torch.zeros(8, 1, 8, 8, dtype=torch.uint8), steps, 0.4)[0] == choice
    assert passed == ([32] if choice == "on" else [])  # room for a validation is looked for, too


@pytest.mark.parametrize(
    ("device", "accumulate", "processes", "expected"),
    [("cuda", 1, False, True), ("cuda", 2, False, False), ("cuda", 1, True, False), ("cpu", 1, False, False)],
)
def test_graphs_are_for_a_gpu_alone_and_whole_batches(device, accumulate, processes, expected, monkeypatch):
    monkeypatch.setattr(distributed, "active", lambda: processes)
    assert with_graphs(torch.device(device), Recipe(accumulate=accumulate)) is expected


def test_what_is_measured_leaves_the_weights_alone(monkeypatch):
    monkeypatch.setattr(compilation, "COMPILING", 0.0)
    model, task, recipe, preprocess, precision = toy()
    trial, sample = Trial(model, task, recipe, preprocess, precision), next(task.batches.epoch(0))
    choice, reason = choose_compilation(trial, sample, 1000, 0.2)
    assert choice in ("on", "off") and reason.startswith("measured ")
    assert counters["stats"]["unique_graphs"] == 1  # two parts of four images each
    for ours, theirs in zip(trial.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_torch_cannot_look_into_is_run_as_it_is():
    norm = SyncBatchNorm(3).eval()  # trained on GPUs alone
    network = nn.Sequential(nn.Identity(), norm, nn.ReLU())
    images = torch.randn(2, 3, 4, 4)
    found = torch.compile(network, backend="eager")(images)
    assert torch.equal(found, network(images))
    assert len(counters["graph_break"]) == 1
