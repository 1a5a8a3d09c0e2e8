"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from colours import TINY, journal, mistake, on_step, press_at, same_weights, train, weights
from vitnext import api
from vitnext.api import checks, run
from vitnext.api.training import _length
from vitnext.card import read_card
from vitnext.cli.main import main
from vitnext.data import facts
from vitnext.errors import DiskError, WorkError
from vitnext.recipe import ENDLESS
from vitnext.training import compilation, loop
from vitnext.weights.artifact import load_artifact, save_artifact

# Of torch on a machine with one core, and of Python 3.12 and later wherever worker processes are forked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


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
from vitnext.api import checks
from vitnext.api.training import _length
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
    again = api.train(tree, out=copy, resume=True, pretrained="none")  # as it began
    assert same_weights(again.artifact, trained.artifact)
    assert again.metrics["top1"] == trained.metrics["top1"]
    assert read_card(again.artifact) == read_card(trained.artifact)
    assert journal(copy) == journal(trained.out)


def test_images_are_sampled_once_and_of_a_run_that_goes_on_not_at_all(tree, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(facts, "_sample", lambda source, of=facts._sample: looked.append(source) or of(source))
    end = train(tree, tmp_path / "run")
    assert len(looked) == len(set(looked)) == read_card(end.artifact).data["counts"]["train"]
    looked.clear()
    again = api.train(tree, out=end.out, resume=True)
    assert not looked and read_card(again.artifact).preprocess == read_card(end.artifact).preprocess


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


def test_a_model_that_the_run_did_not_keep_is_not_measured_for_it(given, trained, tmp_path):
    end = train(given, tmp_path / "run")
    whole = end.artifact.read_bytes()
    shutil.copy(trained.artifact, end.artifact)  # of another run, which kept another epoch
    message = mistake(api.train, given, out=end.out, resume=True)
    wrong = f"{end.artifact} is damaged, or not what the run kept (epoch 2): put that back, or "
    assert message == f"{wrong}remove it to go on"  # the last epoch is in last.pt
    end.artifact.write_bytes(whole[:-100])
    assert mistake(api.train, given, out=end.out, resume=True) == f"{wrong}remove it to go on"
    assert mistake(api.train, given, out=end.out, resume=True, epochs=3) == f"{wrong}start anew with another --out"
    end.artifact.write_bytes(whole)
    (end.out / ".tmpfolder").mkdir()  # not ours
    (end.out / ".tmpa1B2c3").write_bytes(whole[:-100])  # what a kill left
    api.train(given, out=end.out, resume=True)
    assert [path.name for path in end.out.glob(".*")] == [".tmpfolder"]


def test_files_that_are_newer_than_the_run_are_said_where_not_all_were_looked_at(tree, tmp_path, monkeypatch, heard):
    data = shutil.copytree(tree, tmp_path / "data")
    monkeypatch.setattr(checks, "LOOKED_AT", 9)
    train(data, tmp_path / "run", epochs=1)
    warning = "warning: files are newer than the run: "
    api.train(data, out=tmp_path / "run", resume=True, epochs=2, console=heard)
    assert warning not in heard.file.getvalue()
    file = data / "red" / "00.png"
    file.write_bytes(file.read_bytes())  # as large as it was
    api.train(data, out=tmp_path / "run", resume=True, epochs=3, console=heard)
    said = f"{warning}red/00.png; not all images were looked at, so that other contents go unnoticed"
    assert said in heard.file.getvalue()


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
    recipe = (tmp_path / "run" / "recipe.yaml").read_bytes()
    message = mistake(api.train, tree, out=tmp_path / "run", resume=True, epochs=7, overrides=["batch_size=5"])
    assert "(batch_size was 10, is 5)" in message and "may change schedule.epochs" in message
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == recipe
    resumed = api.train(tree, out=tmp_path / "run", resume=True)  # without it, all is well
    assert same_weights(resumed.artifact, train(tree, tmp_path / "whole").artifact)


def test_each_length_of_a_run_that_goes_on_lifts_the_others():
    assert set(_length(3, None, None, (), True)) == {"schedule.epochs=3", "schedule.steps=0", "schedule.minutes=0"}
    endless = f"schedule.epochs={ENDLESS}"
    assert set(_length(None, 9, None, (), True)) == {endless, "schedule.steps=9", "schedule.minutes=0"}
    assert set(_length(None, None, 2.0, (), True)) == {endless, "schedule.minutes=2.0", "schedule.steps=0"}
    assert set(_length(3, None, None, ("schedule.minutes=5",), True)) == {"schedule.epochs=3", "schedule.steps=0"}
    assert _length(None, None, None, (), True) == [] and _length(3, None, None, (), False) == ["schedule.epochs=3"]


def test_more_epochs_lift_the_steps_that_ended_a_run(tree, tmp_path):
    train(tree, tmp_path / "run", epochs=None, steps=4)
    end = api.train(tree, out=tmp_path / "run", resume=True, epochs=3)
    assert [line["step"] for line in journal(end.out) if line["event"] == "epoch"] == [3, 4, 6, 9]
    schedule = read_card(end.artifact).recipe["schedule"]
    assert (schedule["epochs"], schedule["steps"], schedule["minutes"]) == (3, 0, 0)


def test_what_was_said_the_first_time_may_be_said_again(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    assert same_weights(train(tree, copy, epochs=15, resume=True).artifact, trained.artifact)


def test_a_run_may_be_given_more_epochs_and_keeps_them(tree, tmp_path, monkeypatch):
    train(tree, tmp_path / "run")
    with monkeypatch.context() as patched:
        on_step(patched, press_at(7))
        with pytest.raises(KeyboardInterrupt):
            api.train(tree, out=tmp_path / "run", resume=True, epochs=4, overrides=["device=cpu"])
    end = api.train(tree, out=tmp_path / "run", resume=True)
    card = read_card(end.artifact)
    assert (card.recipe["schedule"]["epochs"], card.recipe["device"]) == (4, "cpu")
    assert journal(end.out)[-1]["epoch"] == 4


def test_ctrl_c_twice_says_how_to_go_on_if_that_is_possible(tree, tmp_path, monkeypatch):
    def twice(wanted):
        def press(step):
            for _ in range(2 if step == wanted else 0):
                os.kill(os.getpid(), signal.SIGINT)

        return press

    for wanted, message in ((1, ""), (5, "interrupted; go on from the last checkpoint with: vitnext train ")):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as caught:
            on_step(patched, twice(wanted))
            train(tree, tmp_path / "run")
        assert str(caught.value).startswith(message) and bool(str(caught.value)) == bool(message)
    resumed = api.train(tree, out=tmp_path / "run", resume=True)
    assert same_weights(resumed.artifact, train(tree, tmp_path / "whole").artifact)


def test_a_run_without_its_checkpoint_cannot_go_on_beside_its_model(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    (copy / "last.pt").unlink()
    message = mistake(api.train, tree, out=copy, resume=True)
    assert message.endswith("last.pt does not exist; start without --resume and with another --out")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are POSIX's")
@pytest.mark.parametrize(("name", "limit"), [("last.pt", 100_000), ("model.safetensors", 20_000)])
def test_a_disk_that_is_full_leaves_the_last_good_files_and_a_line(name, limit, tree, tmp_path, monkeypatch):
    """After the fourth step the system refuses to write beyond a size that the file would have had."""
    import resource

    out, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (limit, before[1])
    on_step(monkeypatch, lambda step: resource.setrlimit(resource.RLIMIT_FSIZE, full) if step == 4 else None)
    try:
        with pytest.raises(WorkError) as caught:
            train(tree, out, "model.config.dim=32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(caught.value)
    assert f"{name}" in message and "File too large" in message and len(message.splitlines()) == 1
    assert "; the last checkpoint is kept; make room and go on with: vitnext train" in message
    assert torch.load(out / "last.pt", weights_only=True)["progress"]["step"] == 3
    assert read_card(out / "model.safetensors").metrics["epoch"] == 1  # which is what the state knows
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "convnext"}, "trains vit, not convnext: leave --model out"),
        ({"recipe": "digits_vit"}, "leave --recipe out"),
        ({"pretrained": "timm/nonsense.x"}, "began from scratch, not from timm/nonsense.x: leave --pretrained out"),
        ({"seed": 4}, "(seed was 0, is 4): a run that goes on cannot change seed"),  # nor does it say: other images
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
    (tmp_path / "run" / "last.pt").touch()
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
    began = f"began from {start}, not from none: leave --pretrained out"
    assert began in mistake(api.train, tree, out=tmp_path / "run", resume=True, pretrained="none")
    resumed = api.train(tree, out=tmp_path / "run", resume=True, pretrained=start)  # what it says already may be said
    assert same_weights(resumed.artifact, whole.artifact)
    one, other = (read_card(result.artifact) for result in (whole, resumed))
    assert (one.licence, one.preprocess, one.config) == (other.licence, other.preprocess, other.config)


def test_a_run_that_was_killed_before_its_first_checkpoint_may_begin_anew(trained, tree, tmp_path):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    assert "holds a run already" in mistake(train, tree, copy)
    (copy / "last.pt").unlink()
    assert "holds a model already" in mistake(train, tree, copy)
    (copy / "model.safetensors").rename(copy / "model.safetensors.next")
    assert same_weights(train(tree, copy, epochs=15).artifact, trained.artifact)
    assert not (copy / "model.safetensors.next").exists()


def test_a_kept_epoch_that_the_state_knows_becomes_the_model_and_no_other(trained, tree, tmp_path):
    """Killed before the model had its name: the state says whether it is the epoch that was kept."""
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    kept = torch.load(copy / "last.pt", weights_only=True)["progress"]["kept_epoch"]
    network, card = load_artifact(trained.artifact)
    (copy / "model.safetensors").unlink()
    save_artifact(copy / "model.safetensors.next", network, card)
    assert card.metrics["epoch"] == kept
    assert same_weights(api.train(tree, out=copy, resume=True).artifact, trained.artifact)

    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    save_artifact(copy / "model.safetensors.next", network, replace(card, metrics={"epoch": kept + 1}))
    assert same_weights(api.train(tree, out=copy, resume=True).artifact, trained.artifact)
    assert not (copy / "model.safetensors.next").exists()


def test_another_number_of_threads_is_said(trained, tree, tmp_path, heard):
    copy = shutil.copytree(trained.out, tmp_path / "copy")
    api.train(tree, out=copy, resume=True, console=heard)
    assert "the run had" not in heard.file.getvalue()
    state = torch.load(copy / "last.pt", weights_only=True)
    threads = state["threads"]
    torch.save(state | {"threads": threads + 1}, copy / "last.pt")
    api.train(tree, out=copy, resume=True, console=heard)  # only measured
    assert "the run had" not in heard.file.getvalue()
    api.train(tree, out=copy, resume=True, epochs=16, console=heard)
    assert f"warning: the run had {threads + 1} threads and goes on with {threads}: sums" in heard.file.getvalue()


def test_a_disk_that_is_full_from_the_start_is_said(tree, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskError) as caught:
        train(tree, tmp_path / "run")
    left = "nothing was saved yet; make room and start again"
    assert str(caught.value).endswith(f"last.pt: cannot be written (No space left on device); {left}")


def test_a_disk_that_is_full_at_the_report_is_said_with_the_way_on(tree, tmp_path, monkeypatch):
    def full(*_, **__):
        raise DiskError("report.html: cannot be written (No space left on device)")

    with monkeypatch.context() as patched:
        patched.setattr(run, "measure", full)
        with pytest.raises(DiskError, match="kept; make room and go on with: vitnext train .* --resume"):
            train(tree, tmp_path / "run")
    assert api.train(tree, out=tmp_path / "run", resume=True).metrics["n"]


def test_changed_images_are_accepted_if_asked(tree, tmp_path, monkeypatch, heard):
    data = shutil.copytree(tree, tmp_path / "data")
    with monkeypatch.context() as patched:
        on_step(patched, press_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", epochs=3)
    for i in range(10):
        shutil.copy(data / "red" / "01.png", data / "red" / f"new{i}.png")
    difference = r"\(train had 3\d images, has \d+; val had .*\): add --accept-changes to go on all the same, or start"
    assert re.search(difference, mistake(api.train, data, out=tmp_path / "run", resume=True))
    end = api.train(data, out=tmp_path / "run", resume=True, accept_changes=True, console=heard)
    assert "warning: the images or labels have changed since the run was stopped (train had" in heard.file.getvalue()
    assert "some that are held out now may have been trained on" in heard.file.getvalue()
    counts = read_card(end.artifact).data["counts"]
    assert sum(counts.values()) == 49 and end.metrics["n"] == counts["test"]
    assert "add --resume" in mistake(api.train, data, out=tmp_path / "other", accept_changes=True)


def test_other_contents_of_the_same_size_are_a_change(tree, tmp_path):
    data = shutil.copytree(tree, tmp_path / "data")
    train(data, tmp_path / "run", epochs=1)
    red, blue = ((data / name / "01.png").read_bytes() for name in ("red", "blue"))
    size = max(len(red), len(blue))
    for path, content in ((data / "red" / "01.png", red), (data / "blue" / "01.png", blue)):
        path.write_bytes(content.ljust(size, b"\0"))
    train(data, tmp_path / "other", epochs=1)
    assert api.train(data, out=tmp_path / "other", resume=True, epochs=2).metrics["n"]
    (data / "red" / "01.png").write_bytes(blue.ljust(size, b"\0"))
    message = mistake(api.train, data, out=tmp_path / "other", resume=True, epochs=3)
    changed = (
        "the images or labels have changed since the run was stopped (as many as before; files are newer than the run"
    )
    assert f"{changed}: red/01.png)" in message


def test_images_that_become_readable_are_a_change(damaged, tree, tmp_path):
    """Of the same size as before, so that the files alone do not tell."""
    train(damaged, tmp_path / "run", skip_unreadable=True, epochs=1)
    whole = (tree / "red" / "03.png").read_bytes()
    (damaged / "red" / "03.png").write_bytes(whole.ljust(8, b"\0"))
    assert "have changed" in mistake(api.train, damaged, out=tmp_path / "run", resume=True, epochs=2)


def test_an_image_that_is_damaged_meanwhile_is_said_with_the_way_on(tree, tmp_path, monkeypatch):
    data = shutil.copytree(tree, tmp_path / "data")
    sets = ("save_steps=1", "augment.crop_scale=[0.5, 1]", "data.image_size=72", "workers=0")
    monkeypatch.setattr("vitnext.data.loaders.cache_limit", lambda: 0)  # read from files
    on_step(
        monkeypatch, lambda step: [path.write_bytes(b"no image") for path in data.glob("*/*.png")] if step == 2 else 0
    )
    message = mistake(train, data, tmp_path / "run", *sets, epochs=2)
    assert ".png: " in message and f"--out {tmp_path / 'run'} --resume --accept-changes" in message
    assert len(message.splitlines()) == 1


def test_a_compiled_run_goes_on_as_if_it_had_not_been_stopped(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    sets = ("compile=on", "accumulate=3", "augment.mixup=0.2", "ema=0.9")  # parts of 4, 3 and 3 images
    sets += ("model.config.dropout=0.1", "model.config.stochastic_depth=0.2")
    whole = train(tree, tmp_path / "whole", *sets)
    with monkeypatch.context() as patched:
        on_step(patched, press_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(tree, tmp_path / "stopped", *sets)
    counters.clear()
    resumed = api.train(tree, out=tmp_path / "stopped", resume=True)
    assert counters["stats"]["unique_graphs"] == 2
    assert same_weights(resumed.artifact, whole.artifact)
    assert read_card(resumed.artifact).recipe["compile"] == "on"
    whole_batch = (*sets, "model.config.stochastic_depth=0")  # else dropout draws for the kept samples alone, if eager
    compiled = train(tree, tmp_path / "compiled", *whole_batch)
    assert same_weights(train(tree, tmp_path / "eager", *whole_batch, "compile=off").artifact, compiled.artifact)
