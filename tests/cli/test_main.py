"""The command line as a whole: help, start-up, and one line and an exit code for every failure."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from typing import get_type_hints

import pytest
import torch
from typer.models import OptionInfo

from vitnext.cli.main import app, explain, main
from vitnext.errors import ImageError, InputError, WorkError

VERBS = [command.callback.__name__ for command in app.registered_commands]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def fail_with(monkeypatch, error: BaseException) -> None:
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("vitnext.data.dataset.open_dataset", fail)


def test_verbs():
    assert VERBS == ["train", "evaluate", "predict", "export", "convert", "check", "models", "roadmap", "bench"]


def test_no_arguments_is_help(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out == run(capsys, "--help")[1]
    assert all(verb in out for verb in VERBS) and "classifier or segmenter" in " ".join(out.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_examples_and_few_options(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert f"vitnext {verb} " in out.split("Examples:")[1]
    assert sum(line.startswith("  --") for line in out.splitlines()) <= 15  # --help is one
    assert max(map(len, out.splitlines())) <= 80


def test_an_option_whose_value_is_called_as_it_is_says_its_own_name():
    """typer 0.27 makes --TIME of an option "time" with the metavar TIME that does not."""
    for command in app.registered_commands:
        hints = get_type_hints(command.callback, include_extras=True)
        for name, hint in hints.items():
            for told in getattr(hint, "__metadata__", ()):
                if isinstance(told, OptionInfo) and (told.metavar or "").lower() == name:
                    assert f"--{name}" in (told.default, *(told.param_decls or ()))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["trian"], ["predict", "no.onnx", "no.jpg"]]
)
def test_help_and_usage_errors_import_nothing_heavy(arguments):
    heavy = ("torch", "torchvision", "numpy", "PIL", "onnxruntime", "sklearn", "matplotlib", "rich.console")
    script = (
        f"import sys; from vitnext.cli.main import main; main({arguments}); "
        f"print('loaded:', *(name for name in {heavy} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["nowhere"], ["digits", "--set", "optimizer.lr=1"], ["digits", "--resume", "--out", "nowhere"]),
        *(["digits", "--recipe", "no.yaml"], ["digits", "--find-lr", "--set", "batch_size=-1"]),
    ],
)
def test_mistakes_in_training_are_told_without_torch(arguments):
    script = (
        f"import sys; from vitnext.cli.main import main; code = main(['train', *{arguments}]); "
        "print(code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "2 False", result.stderr


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"vitnext {version('vitnext')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no such command 'trian'. Did you mean 'train'? (see vitnext --help)"),
        (["--loud"], "no such option: --loud"),
        (["train"], "missing argument 'DATA' (see vitnext train --help)"),
        (["train", "digits", "--epoch", "3"], "no such option: --epoch (Possible options: --epochs)"),
        (["train", "digits", "--epochs", "-3"], "invalid value for '--epochs'"),
        (["train", "digits", "--epochs", "three"], "invalid value for '--epochs'"),
        (["train", "digits", "--seed", "-1"], "invalid value for '--seed'"),
        (["train", "digits", "extra"], "unexpected extra argument"),
        (["predict", "model.onnx"], "missing argument 'PATHS"),
        (["predict", "model.onnx", "a.jpg", "--batch", "0"], "invalid value for '--batch'"),
        (["train", "digits", "--set"], "option '--set' requires an argument"),
    ],
)
def test_a_usage_error_is_one_line(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("vitnext: ") and err.count("\n") == 1
    assert message.lower() in err.lower()


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (InputError("photos: no such folder"), "photos: no such folder", 2),
        (ImageError("a.jpg: truncated"), "a.jpg: truncated", 2),
        (WorkError("the loss is nan at step 3"), "the loss is nan at step 3", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (KeyboardInterrupt("stopped; --resume continues"), "stopped; --resume continues", 130),
        (ValueError("two\nlines"), "unexpected ValueError: two lines (VITNEXT_DEBUG=1 shows where)", 1),
        (OSError(28, "No space left on device", "runs/model"), "No space left on device: runs/model", 1),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory", 1),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(capsys, monkeypatch, error, message, code):
    fail_with(monkeypatch, error)
    assert run(capsys, "check", "digits") == (code, "", f"vitnext: {message}\n")


def test_debug_shows_the_traceback_before_the_line(capsys, monkeypatch):
    fail_with(monkeypatch, InputError("photos: no such folder"))
    monkeypatch.setenv("VITNEXT_DEBUG", "1")
    code, _, err = run(capsys, "check", "digits")
    assert code == 2
    assert err.startswith("Traceback") and err.endswith("vitnext: photos: no such folder\n")


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("sklearn.datasets", "train"), ("pyarrow", "parquet"), ("openvino", "openvino")],
)
def test_a_missing_extra_is_named(module, extra):
    message, code = explain(ModuleNotFoundError(f"No module named '{module}'", name=module))
    assert code == 2
    assert f'pip install "vitnext[{extra}]"' in message


def test_a_missing_module_of_ours_is_a_bug():
    message, code = explain(ModuleNotFoundError("No module named 'vitnext.nothing'", name="vitnext.nothing"))
    assert code == 1 and message.startswith("unexpected ModuleNotFoundError")


def test_torch_and_torchvision_that_do_not_fit():
    message, code = explain(RuntimeError("operator torchvision::nms does not exist"))
    assert code == 2 and "pip install --force-reinstall torch torchvision" in message


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
    ],
)
def test_a_full_gpu_is_one_line_that_says_what_to_set(capsys, monkeypatch, error):
    fail_with(monkeypatch, error)
    code, out, err = run(capsys, "check", "digits")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "the GPU's memory is full" in err and "batch_size" in err and "accumulate" in err


@pytest.mark.skipif(os.name == "nt", reason="pipes close differently on Windows")
def test_a_closed_pipe_is_quiet():
    script = "import sys; from vitnext.cli.main import main; sys.exit(main(['--help']))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        result = subprocess.run([sys.executable, "-c", script], stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "")
