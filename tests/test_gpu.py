"""Training on a GPU of CUDA's: the same loop, which never waits for the device within a step. Skipped without one."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from colours import journal, on_step, plant, press_at, weights
from vitnext import api
from vitnext.data.mask_loaders import SegmentTargets
from vitnext.data.mask_values import VOID
from vitnext.models import create
from vitnext.recipe import from_dict
from vitnext.training import distributed, loop
from vitnext.training.compilation import compiled
from vitnext.training.losses import LabelLoss, MaskLoss
from vitnext.training.panoptic_deeplab import PanopticDeepLabLoss

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SHORT = ("model.config.depth=2", "optimizer.learning_rate=1e-3", "optimizer.name=adamw", "precision=bf16")
MIXED = ("augment.mixup=0.8", "augment.cutmix=1.0", "ema=0.9", "optimizer.clip_norm=1.0")


def digits(out, *sets, epochs=2, **more):
    return api.train("digits", model="vit", out=out, epochs=epochs, overrides=[*SHORT, *sets], **more)


def losses(folder):
    return [line["loss"] for line in journal(folder) if line["event"] == "step"]


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """24 scenes of 96 px with squares of two classes on a ground, each an object."""
    root, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for part in ("images", "masks", "instances"):
        (root / part).mkdir()
    for i in range(24):
        mask = np.zeros((96, 96), np.uint8)
        for label in (1, 2):
            y, x = random.integers(0, 60, 2)
            mask[y : y + 30, x : x + 30] = label
        noise = random.normal(0, 20, (96, 96, 3))
        image = np.clip(np.array([(90, 90, 90), (220, 60, 30), (30, 60, 220)])[mask] + noise, 0, 255).astype(np.uint8)
        for part, pixels in (("images", image), ("masks", mask), ("instances", mask)):
            Image.fromarray(pixels).save(root / part / f"{i:02}.png")
    (root / "classes.txt").write_text("0 ground #5a5a5a\n1 fire #dc3c1e\n2 water #1e3cdc\n255 void\n")
    return root


def test_digits_are_learnt(tmp_path):
    result = api.train("digits", model="convnext", out=tmp_path / "run", epochs=8)
    assert result.metrics["top1"] > 0.9


def test_the_loss_curve_is_that_of_the_cpu(tmp_path):
    digits(tmp_path / "gpu", "precision=fp32", "device=cuda")
    digits(tmp_path / "cpu", "precision=fp32", "device=cpu")
    on_gpu, on_cpu = losses(tmp_path / "gpu"), losses(tmp_path / "cpu")
    assert on_gpu == pytest.approx(on_cpu, rel=0.05)  # batches and start are the same, dropout is not


@pytest.mark.parametrize(
    ("data", "model", "sets"),
    [
        ("digits", "vit", (*SHORT, *MIXED)),
        ("digits", "vit", (*SHORT, *MIXED, "compile=on")),
        ("digits", "convnext", ("optimizer.name=muon", "precision=bf16", "accumulate=2")),
        (
            "photos",
            "convnext_atto",
            ("precision=bf16", "data.image_size=64", "batch_size=8", "augment.crop_scale=[0.3,1]"),
        ),
        ("masks", "convnext_atto+segformer", ("precision=bf16", "batch_size=4", "data.image_size=64")),
        ("masks", "resnet18+upernet", ("precision=bf16", "batch_size=4", "data.image_size=64", "loss.dice=1")),
        ("masks", "convnext_atto+segformer", ("precision=bf16", "batch_size=4", "data.image_size=64", "compile=on")),
        ("masks", "resnet18+panoptic_deeplab", ("precision=bf16", "batch_size=4", "data.image_size=64")),
    ],
    ids=["vit", "compiled", "accumulated", "photographs", "segformer", "upernet", "compiled segmenter", "panoptic"],
)
def test_no_step_waits_for_the_gpu(data, model, sets, masks, tmp_path, monkeypatch):
    """From the fourth step on to the look at the losses, at the end of the epoch."""
    folder = {"masks": lambda: masks, "photos": lambda: plant(tmp_path / "photos", {"red": 40, "blue": 40})}
    average, transfer, calls = distributed.average, loop.Transfer.__call__, []

    def transferred(self, images, truth):
        assert images.is_pinned()
        calls.append(len(images))
        torch.cuda.set_sync_debug_mode("error" if len(calls) > 3 else "default")
        return transfer(self, images, truth)

    def looked(losses):
        torch.cuda.set_sync_debug_mode("default")
        return average(losses)

    monkeypatch.setattr(loop.Transfer, "__call__", transferred)
    monkeypatch.setattr(loop.distributed, "average", looked)
    try:
        where = folder[data]() if data in folder else data
        api.train(where, model=model, pretrained="none", out=tmp_path / "run", epochs=2, overrides=sets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) > 6 and all(math.isfinite(loss) for loss in losses(tmp_path / "run"))


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(compiled, tmp_path, monkeypatch):
    sets = (*MIXED, f"compile={compiled}", "save_steps=5")
    digits(tmp_path / "whole", *sets)
    with monkeypatch.context() as stopping:
        on_step(stopping, press_at(7))
        with pytest.raises(KeyboardInterrupt):
            digits(tmp_path / "stopped", *sets)
    digits(tmp_path / "stopped", *sets, resume=True)
    one, other = (weights(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert max(np.abs(one[name] - other[name]).max() for name in one) == 0


@pytest.mark.parametrize("name", ["convnext", "vit"])
def test_compiled_passes_have_the_gradients_of_the_cpu(name):
    """Of ConvNeXt's depthwise convolutions and ViT's patches, which are computed in other ways on each."""
    config = {"vit": {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2}}
    config["convnext"] = {"depths": (1, 2), "widths": (16, 32), "stem_stride": 2}
    torch.manual_seed(0)
    model, images = create.build(name, classes=5, **config[name]).train(), torch.randn(4, 3, 32, 32)
    layout = torch.channels_last if name == "convnext" else torch.contiguous_format
    labels, found = torch.tensor([0, 1, 2, 4]), []
    for device, objective in (("cpu", LabelLoss(0.0)), ("cuda", compiled(LabelLoss(0.0), graphs=True))):
        here = copy.deepcopy(model).to(device, memory_format=layout)
        batch = images.to(device, memory_format=layout)
        for _ in range(3):  # graphs are recorded in the second step
            here.zero_grad()
            objective(here, batch, labels.to(device), 0.0).backward()
        found.append([parameter.grad.cpu() for parameter in here.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=5e-3, atol=1e-4)  # TF32 in convolutions


def test_losses_are_those_of_the_cpu():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16))
    truth[:, :4] = VOID
    recipe = from_dict({"loss": {"hardest": 0.25, "focal": 1.0, "dice": 1.0, "lovasz": 1.0}})
    ids = torch.randint(0, 4, (2, 16, 16))
    segments = SegmentTargets(ids, torch.tensor([[0, 1, 2], [2, 1, -1]]))
    segments.ids[1].clamp_(max=2)
    panoptic, answers = PanopticDeepLabLoss(from_dict({}), [False, True, True]), torch.randn(2, 6, 16, 16)
    for device in ("cpu", "cuda"):
        of_void = MaskLoss(recipe).of(logits[:1].to(device), torch.full_like(truth[:1], VOID, device=device))
        assert float(of_void) == 0
    one, other = (float(MaskLoss(recipe).of(logits.to(device), truth.to(device))) for device in ("cpu", "cuda"))
    assert other == pytest.approx(one, rel=1e-4)
    device = torch.device("cuda")
    expected = float(panoptic.of(answers, segments, 2.0))
    assert float(panoptic.of(answers.to(device), segments.to(device), 2.0)) == pytest.approx(expected, rel=1e-4)


def test_compiled_steps_learn_what_eager_ones_do(tmp_path):
    plain = ("precision=fp32", "model.config.dropout=0", "model.config.stochastic_depth=0")
    for choice in ("off", "on"):
        digits(tmp_path / choice, *plain, f"compile={choice}")
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=2e-3)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_nccl_gives_the_loss_curve_of_a_single_process(parallel, tmp_path):
    sets = ("precision=fp32", "model.config.dropout=0", "model.config.stochastic_depth=0")
    digits(tmp_path / "alone", *sets)
    chosen = [part for setting in (*SHORT, *sets, f"parallel={parallel}") for part in ("--set", setting)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    command = ["-m", "vitnext", "train", "digits", "--model", "vit", "--epochs", "2", *chosen]
    done = subprocess.run(
        [*launcher, *command, "--out", str(tmp_path / "run")], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)


def test_the_batch_that_fits_is_found(tmp_path):
    digits(tmp_path / "run", "batch_size=auto", epochs=1)
    assert "batch_size: 128" in (tmp_path / "run" / "recipe.yaml").read_text()  # an epoch has ten steps
