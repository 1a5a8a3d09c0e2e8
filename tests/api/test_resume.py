"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from colours import TINY, journal, mistake, on_step, press_at, same_weights, train, weights
from vitnext import api
from vitnext.card import read_card
from vitnext.cli.main import main
from vitnext.training import loop


def test_ctrl_c_says_how_to_go_on_and_that_is_how(tree, tmp_path, monkeypatch, capsys):
    whole = train(tree, tmp_path / "whole")
    out = tmp_path / "a folder" / "stopped"
    with monkeypatch.context() as patched:
        on_step(patched, press_at(4))
        with pytest.raises(KeyboardInterrupt) as caught:
            train(tree, out)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    saved, command = message.split("; go on with: ")
    assert saved == "stopped and saved"
    assert shlex.split(command) == ["vitnext", "train", str(tree), "--out", str(out), "--resume"]
    assert main(shlex.split(command)[1:]) == 0
    assert "going on after step 5 of 6" in capsys.readouterr().err
    assert same_weights(whole.artifact, out / "model.safetensors")
    assert journal(out)[-1] == journal(whole.out)[-1]
    of_whole, of_resumed = (read_card(folder / "model.safetensors") for folder in (whole.out, out))
    for card in (of_whole, of_resumed):
        card.metrics.pop("seconds")
    assert of_whole == of_resumed


KILLED = """
import os, signal, sys
from vitnext import api
from vitnext.training.console import ConsoleWatcher
ConsoleWatcher.step = lambda self, state, *_: os.kill(os.getpid(), signal.SIGKILL) if state.step == 5 else None
api.train(sys.argv[1], model="vit", out=sys.argv[2], epochs=3, overrides=sys.argv[3:])
"""


def test_a_run_that_was_killed_goes_on_from_its_last_epoch(tree, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, tree, tmp_path / "killed", *TINY], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["progress"]["step"] == 3
    resumed = api.train(tree, out=tmp_path / "killed", resume=True)
    whole = train(tree, tmp_path / "whole", epochs=3)
    assert same_weights(resumed.artifact, whole.artifact)
    assert journal(resumed.out) == journal(whole.out)


def test_resuming_a_finished_run_measures_it_again_and_changes_nothing_else(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    again = api.train(tree, out=copy, resume=True)
    assert same_weights(again.artifact, trained.artifact)
    assert again.metrics["top1"] == trained.metrics["top1"]
    assert read_card(again.artifact) == read_card(trained.artifact)
    assert journal(copy) == journal(trained.out)


def test_a_finished_run_without_its_model_gets_it_back_if_the_last_epoch_was_kept(tree, tmp_path, monkeypatch):
    end = train(tree, tmp_path / "run", "data.val_fraction=0")  # each epoch is kept
    before = weights(end.artifact)
    end.artifact.unlink()
    again = weights(api.train(tree, out=end.out, resume=True).artifact)
    assert all(np.array_equal(before[name], again[name]) for name in before)


def test_what_was_kept_and_is_gone_cannot_be_had_again(given, tmp_path, monkeypatch):
    watched = iter([{"top1": top1, "score_error": 0.01, "loss": 1.0} for top1 in (0.9, 0.5, 0.4)])
    monkeypatch.setattr("vitnext.training.validation.Validator.__call__", lambda *_: next(watched))
    end = train(given, tmp_path / "run", epochs=3)
    end.artifact.unlink()
    message = mistake(api.train, given, out=end.out, resume=True)
    assert f"{end.artifact} is gone, and with it the weights of epoch 1: start anew" in message


def test_a_stopped_run_whose_kept_model_is_gone_is_refused_before_it_trains(given, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        on_step(patched, press_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(given, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    message = mistake(api.train, given, out=tmp_path / "run", resume=True)
    assert "is gone, and with it the weights of epoch 1" in message


def test_a_refused_change_leaves_the_run_as_it_was(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        on_step(patched, press_at(2))
        with pytest.raises(KeyboardInterrupt):
            train(tree, tmp_path / "run")
    message = mistake(api.train, tree, out=tmp_path / "run", resume=True, epochs=7)
    assert "schedule.epochs was 2, is 7" in message
    resumed = api.train(tree, out=tmp_path / "run", resume=True)  # without it, all is well
    assert same_weights(resumed.artifact, train(tree, tmp_path / "whole").artifact)


def test_what_was_said_the_first_time_may_be_said_again(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    assert same_weights(train(tree, copy, epochs=15, resume=True).artifact, trained.artifact)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "convnext"}, "trains vit, not convnext: leave --model out"),
        ({"recipe": "digits_vit"}, "leave --recipe out"),
        ({"pretrained": "timm/nonsense.x"}, "leave --pretrained out"),
        ({"seed": 4}, "have changed"),  # another seed is another division of the tree
        ({"overrides": ["optimizer.weight_decay=0.5"]}, "optimizer.weight_decay was 0.05, is 0.5"),
        ({"overrides": ["optimizer.decay=0.5"]}, "there is no field optimizer.decay"),
    ],
)
def test_resuming_with_something_else_is_refused(given, message, trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert message in mistake(api.train, tree, out=copy, resume=True, **given)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_resuming_on_other_images_is_refused(trained, tree, tmp_path):
    copy, other = shutil.copytree(trained.out, tmp_path / "copy"), shutil.copytree(tree, tmp_path / "my colours")
    (other / "red" / "12.png").unlink()
    assert "the images or labels have changed" in mistake(api.train, other, out=copy, resume=True)


def test_resuming_nothing_is_refused(tree, tmp_path):
    assert "there is no run in" in mistake(api.train, tree, out=tmp_path / "run", resume=True)
    (tmp_path / "run").mkdir()
    shutil.copy(loop.__file__, tmp_path / "run" / "recipe.yaml")
    assert "recipe.yaml" in mistake(api.train, tree, out=tmp_path / "run", resume=True)


def test_a_run_goes_on_without_the_weights_that_it_began_with(trained, tree, tmp_path, monkeypatch):
    start = shutil.copy(trained.artifact, tmp_path / "start.safetensors")
    more = {"model": "vit", "pretrained": start, "out": tmp_path / "run", "epochs": 2}
    sets = ["precision=fp32", "batch_size=10", "data.image_size=16"]
    with monkeypatch.context() as patched:
        on_step(patched, press_at(4))
        with pytest.raises(KeyboardInterrupt):
            api.train(tree, **more, overrides=sets)
    whole = api.train(tree, **more | {"out": tmp_path / "whole"}, overrides=sets)
    (tmp_path / "start.safetensors").unlink()
    resumed = api.train(tree, out=tmp_path / "run", resume=True)
    assert same_weights(resumed.artifact, whole.artifact)
    one, other = (read_card(result.artifact) for result in (whole, resumed))
    assert (one.licence, one.preprocess, one.config) == (other.licence, other.preprocess, other.config)


def test_a_run_that_was_killed_before_its_first_checkpoint_may_begin_anew(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    assert "holds a run already" in mistake(train, tree, copy)
    (copy / "last.pt").unlink()
    assert "holds a model already" in mistake(train, tree, copy)
    (copy / "metrics.json").unlink()
    assert same_weights(train(tree, copy, epochs=15).artifact, trained.artifact)
