"""What is decided about the machine, and that finding it out changes nothing."""

from __future__ import annotations

import ctypes

import pytest
import torch

from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.training import distributed, hardware
from vitnext.training.hardware import Precision, choose_device, choose_precision, keep_heap
from vitnext.training.losses import LabelLoss

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = {"image_size": 8, "patch_size": 4, "channels": 1, "dim": 16, "depth": 1, "heads": 2, "classes": 3}
    return catalog.build("vit", **config, dropout=0.5)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0])


# ---- precision


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_what_is_asked_for_is_taken_without_measuring(asked, dtype, model, batch, monkeypatch):
    monkeypatch.setattr(hardware, "_step_time", lambda *_: pytest.fail("measured"))
    assert choose_precision(asked, model, LabelLoss(0), batch).dtype == dtype


@pytest.mark.parametrize(
    ("fp32", "bf16", "dtype"),
    [
        (2.3, 2.0, torch.bfloat16),  # exactly 1.15 times as fast
        (2.29, 2.0, torch.float32),
        (2.0, 2.0, torch.float32),
        (1.0, 9.0, torch.float32),
        (9.0, 1.0, torch.bfloat16),
    ],
)
def test_bf16_must_be_15_percent_faster(fp32, bf16, dtype, model, batch, monkeypatch):
    monkeypatch.setattr(hardware, "product_ratio", lambda: 1.0)
    monkeypatch.setattr(hardware, "_step_time", lambda _model, _objective, _batch, in_bf16: bf16 if in_bf16 else fp32)
    chosen = choose_precision("auto", model, LabelLoss(0), batch)
    assert chosen.dtype == dtype
    assert f"{fp32 / bf16:.2g}x" in chosen.reason


@pytest.mark.parametrize(("ratio", "measured"), [(0.49, False), (0.5, True)])
def test_a_cpu_that_emulates_bf16_is_not_asked_for_a_step(ratio, measured, model, batch, monkeypatch):
    asked = []
    monkeypatch.setattr(hardware, "product_ratio", lambda: ratio)
    monkeypatch.setattr(hardware, "_step_time", lambda *given: asked.append(given) or 1.0)
    chosen = choose_precision("auto", model, LabelLoss(0), batch)
    assert chosen.dtype == torch.float32 and bool(asked) == measured
    assert ("0.49x" in chosen.reason) == (not measured)


def test_the_product_is_measured_in_both_formats():
    assert hardware.product_ratio(side=32) > 0


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_weights_gradients_and_mode_alone(training, model, batch, monkeypatch):
    monkeypatch.setattr(hardware, "product_ratio", lambda: 1.0)
    images, labels = batch
    model.train(training)
    given = torch.ones_like(model.head.weight)
    model.head.weight.grad = given
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = images.clone()
    chosen = choose_precision("auto", model, LabelLoss(0), (images, labels))
    assert chosen.dtype in (torch.float32, torch.bfloat16) and "measured" in chosen.reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.head.weight.grad is given and torch.equal(given, torch.ones_like(given))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "head.weight")
    assert model.training is training
    assert torch.equal(images, kept)


def test_the_measured_steps_run_in_the_format_they_are_named_by(model, batch):
    seen = []
    model.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    assert hardware._step_time(model, LabelLoss(0), batch, False) > 0
    assert set(seen) == {torch.float32}
    seen.clear()
    assert hardware._step_time(model, LabelLoss(0), batch, True) > 0
    assert set(seen) == {torch.bfloat16}
    assert all(p.grad is None for p in model.parameters())


def test_what_else_runs_on_the_machine_plays_no_part(model, batch, monkeypatch):
    """It makes passes of one format slower, even most of them."""
    seconds = {False: iter([9.0, 0.2, 0.3, 0.2, 0.3, 0.3]), True: iter([9.0, 0.9, 0.1, 0.8, 0.9, 0.9])}
    monkeypatch.setattr(hardware, "product_ratio", lambda: 1.0)
    monkeypatch.setattr(hardware, "_step_time", lambda *given: next(seconds[given[-1]]) / 10)
    assert choose_precision("auto", model, LabelLoss(0), batch).dtype == torch.bfloat16


def test_a_slow_step_is_not_repeated(model, batch, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(clock))
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append(1))
    assert hardware._step_ratio(model, LabelLoss(0), batch) == 1
    assert len(seen) == 2


def test_autocast_follows_the_format():
    linear, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with Precision(torch.bfloat16, "").autocast(CPU):
        assert linear(x).dtype == torch.bfloat16
    with Precision(torch.float32, "").autocast(CPU):
        assert linear(x).dtype == torch.float32
    assert linear.weight.dtype == torch.float32


# ---- device


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_there_is(cuda, mps, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(device)


def test_a_device_that_is_there_is_taken_by_name():
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:99", "cuda:-1", "meta", "hpu", "vulkan", "a\nb"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(InputError) as caught:
        choose_device(name)
    message = str(caught.value)
    assert repr(name) in message and "cpu" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_of_several_processes_none_uses_the_gpu_of_another(name, monkeypatch):
    events = []
    monkeypatch.setattr(distributed, "active", lambda: True)
    monkeypatch.setattr(distributed, "world", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: events.append(index))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda size, device: events.append(str(device)) or zeros(size))
    assert choose_device(name) == torch.device("cuda", 2)
    assert events == ([2] if name == "auto" else [2, "cuda:2"])


# ---- heap


def test_keeping_the_heap_changes_no_result():
    torch.manual_seed(0)
    before = torch.randn(100, 100)
    keep_heap()
    keep_heap()
    torch.manual_seed(0)
    assert torch.equal(torch.randn(100, 100), before)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_the_c_library_is_not_even_opened(platform, monkeypatch):
    monkeypatch.setattr(hardware.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("opened"))
    keep_heap()


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_another_c_library_is_left_alone(error, monkeypatch):
    def missing(_name):
        raise error

    monkeypatch.setattr(hardware.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    keep_heap()
