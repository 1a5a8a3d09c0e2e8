"""What is decided when a run begins: a learning rate, looked for alone or before training, and a batch size."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from colours import mistake, same_weights, train
from vitnext import api, roadmap
from vitnext.api import plan, run
from vitnext.api.console import Say
from vitnext.api.training import _prepared
from vitnext.cli.main import main
from vitnext.errors import InputError
from vitnext.recipe import read
from vitnext.training import compilation, distributed

TINY = ("model.config.patch_size=4", "model.config.dim=16", "model.config.depth=1", "model.config.heads=2")
AUTO = "optimizer.learning_rate=auto"


def test_it_is_said_drawn_and_trained_with_only_if_asked(tree, tmp_path, heard, capsys):
    sets = [*TINY, "precision=fp32", "batch_size=10", "schedule.warmup_epochs=1"]
    rate = api.find_learning_rate(tree, model="vit", out=tmp_path / "alone", overrides=sets, console=heard)
    assert f"learning rate {rate:.1e}: a tenth of the one with the lowest loss in a range test" in heard.file.getvalue()
    assert sorted(file.name for file in (tmp_path / "alone").iterdir()) == ["lr_test.csv", "lr_test.png"]
    (tmp_path / "alone" / "last.pt").touch()  # of a run, which it leaves alone

    found = train(tree, tmp_path / "auto", AUTO)
    assert read(tmp_path / "auto" / "recipe.yaml").optimizer.learning_rate == rate
    said = train(tree, tmp_path / "said", f"optimizer.learning_rate={rate}")
    assert same_weights(found.artifact, said.artifact)  # the test left no trace
    assert "leave auto out" in mistake(api.train, tree, out=tmp_path / "auto", resume=True, overrides=[AUTO])

    flags = [flag for field in sets for flag in ("--set", field)]
    assert main(["train", str(tree), "--model", "vit", "--find-lr", "--out", str(tmp_path / "alone"), *flags]) == 0
    assert capsys.readouterr().out == f"train with  --set optimizer.learning_rate={rate:.1e}\n"
    assert main(["train", str(tree), "--find-lr", "--probe", "knn", "--resume", "--epochs", "3"]) == 2
    assert "--find-lr trains nothing: leave --probe and --epochs and --resume out" in capsys.readouterr().err


def test_a_run_that_torchrun_restarts_goes_on_with_what_it_decided(tree, tmp_path, monkeypatch):
    sets = (AUTO, "batch_size=auto", "precision=auto", "data.val_fraction=null")
    train(tree, tmp_path / "run", *sets, epochs=1)
    decided = read(tmp_path / "run" / "recipe.yaml")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train(tree, tmp_path / "run", *sets, epochs=1)
    assert read(tmp_path / "run" / "recipe.yaml") == decided
    assert "leave auto out" in mistake(api.train, tree, out=tmp_path / "run", resume=True, overrides=[AUTO])


@pytest.mark.parametrize(("sets", "size"), [((), 128), (("device=cpu",), 96), (("device=cuda",), 128)])
def test_a_run_on_the_cpu_gets_its_plan_on_a_machine_with_a_gpu_too(sets, size, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("black", "white"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (128, 130), (40 * i, 50 * len(name), 0)).save(tmp_path / "data" / name / f"{i}.png")
    given = {"model": None, "pretrained": "none", "recipe": None, "say": Say()}
    recipe, *_ = plan.begin(tmp_path / "data", tmp_path / "run", **given, overrides=sets)
    assert recipe.data.image_size == size


@pytest.mark.parametrize(("parallel", "optimizer"), [("ddp", "muon"), ("fsdp", "adamw")])
def test_what_divides_matrices_gets_an_optimizer_that_can(parallel, optimizer, tree, tmp_path, monkeypatch, heard):
    monkeypatch.setattr(distributed, "active", lambda: True)
    monkeypatch.setattr(distributed, "from_first", lambda work: work())
    sets = [f"parallel={parallel}"]
    given = {"model": "convnext", "pretrained": "none", "recipe": None, "say": Say(heard)}
    recipe, *_ = plan.begin(tree, tmp_path / "run", **given, overrides=sets)
    assert recipe.optimizer.name == optimizer
    line = "optimizer adamw: muon needs whole matrices, which parallel=fsdp divides"
    assert (line in heard.file.getvalue().splitlines()) == (parallel == "fsdp")
    with pytest.raises(InputError, match="muon needs whole matrices") if parallel == "fsdp" else nullcontext():
        plan.begin(tree, tmp_path / "run", **given, overrides=[*sets, "optimizer.name=muon"])


def test_several_processes_neither_probe_nor_look_for_a_learning_rate(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for what, does, options in (
        ("--probe", api.train, {"probe": "knn"}),
        ("--find-lr", api.find_learning_rate, {}),
        ("the roadmap", roadmap.train, {}),
    ):
        told = mistake(does, tree, out=tmp_path / "run", **options)
        assert told == f"{what} is the work of one process: start it without torchrun"
    assert not (tmp_path / "run").exists()


def test_a_batch_size_that_is_decided_is_written_down_and_trained_with(tree, tmp_path, heard):
    sets = ("batch_size=auto", "accumulate=2", "augment.mixup=0.2", AUTO)
    found = train(tree, tmp_path / "auto", *sets, console=heard)
    recipe = read(tmp_path / "auto" / "recipe.yaml")
    assert recipe.batch_size == 4 and "batch size 4: there are too few images for another" in heard.file.getvalue()
    decided = ("batch_size=4", *sets[1:3], f"optimizer.learning_rate={recipe.optimizer.learning_rate}")
    assert same_weights(found.artifact, train(tree, tmp_path / "said", *decided).artifact)
    assert "leave auto out" in mistake(
        api.train, tree, out=tmp_path / "auto", resume=True, overrides=["batch_size=auto"]
    )


def test_a_short_run_is_not_compiled_which_may_be_changed_when_the_run_goes_on(tree, tmp_path, monkeypatch):
    train(tree, tmp_path / "run", epochs=1)
    assert read(tmp_path / "run" / "recipe.yaml").compile == "off"
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    api.train(tree, out=tmp_path / "run", resume=True, epochs=2, overrides=["compile=on"])
    assert read(tmp_path / "run" / "recipe.yaml").compile == "on"


def test_compilation_is_decided_by_steps_on_a_copy(tree, tmp_path, monkeypatch):
    ready = _prepared(tree, tmp_path, "vit", "none", None, [*TINY, "precision=fp32", "device=cpu"], False, Say())
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    said: list[str] = []
    assert "too short for it to pay" in run._measured_compilation(ready, 0.2, said.append)[1] and not said
    monkeypatch.setattr(compilation, "COMPILING", 0.0)
    choice, reason = run._measured_compilation(ready, 0.2, said.append)
    assert choice in ("on", "off") and "x the speed of eager" in reason
    assert said.pop() == "compile: trying a few steps, which takes about 1 minute"

    monkeypatch.setattr(run, "choose_compilation", lambda *_: ("on", "measured"))
    decided = run.with_compilation(ready, said.append)
    assert decided.recipe.compile == decided.card.recipe["compile"] == "on" and said == ["compile on: measured"]
    monkeypatch.setattr(run, "choose_compilation", lambda *given: ("off", str(given[3])))
    long_steps = replace(ready, macs=2 * compilation.SHORT)
    for parts, saving in ((1, compilation.SAVING_OF_LONG), (3, compilation.SAVING)):
        in_parts = replace(long_steps, recipe=replace(ready.recipe, accumulate=parts))
        undecided = run.with_compilation(in_parts, said.append)
        assert undecided.recipe.compile == undecided.card.recipe["compile"] == "off"
        assert said.pop() == f"compile off: {saving}"

    # What several processes cut to pieces is not measured.
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(run, "choose_compilation", lambda *_: pytest.fail("measured"))
    divided = replace(ready, recipe=replace(ready.recipe, parallel="fsdp"))
    normed = replace(ready, network=nn.Sequential(ready.network, nn.BatchNorm2d(3)))
    for cut in (divided, normed):
        assert run._measured_compilation(cut, 0.2, said.append)[0] == "off"
