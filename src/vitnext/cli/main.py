"""The `vitnext` command: its verbs, and one line and an exit code for everything that can go wrong."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vitnext.cli import bench, check, convert, evaluate, export, models, predict, roadmap, train
from vitnext.errors import InputError, Terminated, WorkError

# Plain help pages: rich ones take twice as long to appear, and their boxes break when they are piped or narrow.
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(export.export)
app.command()(convert.convert)
app.command()(check.check)
app.command()(models.models)
app.command()(roadmap.roadmap)
app.command()(bench.bench)

EXTRA_OF = {
    "torch": "train",
    "torchvision": "train",
    "sklearn": "train",
    "onnx": "train",
    "onnxscript": "train",
    "pyarrow": "parquet",
    "pycocotools": "coco",
    "openvino": "openvino",
    "huggingface_hub": "train",
}


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"vitnext {version('vitnext')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From a folder of images to a trained, measured and deployed classifier or segmenter.

    \b
    Examples:
      vitnext check photos
      vitnext train photos --out runs/photos
      vitnext evaluate runs/photos/model.safetensors photos
      vitnext predict runs/photos/model.safetensors new/*.jpg --out labels.csv
      vitnext export runs/photos/model.safetensors --to onnx

    `vitnext COMMAND --help` explains a command. With VITNEXT_DEBUG=1 an error also prints its traceback.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done; 1 the work failed; 2 the input or the usage is wrong; 130 interrupted; 143 terminated. Every failure is one
    line on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not fit the terminal's encoding
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone (`vitnext models | head`); without this, Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if os.environ.get("VITNEXT_DEBUG"):
            import traceback

            traceback.print_exc()
        message, code = explain(error)
        if speaks():
            print("vitnext: " + " ".join(message.split()), file=sys.stderr)
        return code


def run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("vitnext", arguments) as context:
            command.invoke(context)
        return 0
    except typer.Exit as done:
        return done.exit_code


def speaks() -> bool:
    """Whether this process tells its error: of those that torchrun started, the first to fail."""
    if "RANK" not in os.environ:
        return True
    from vitnext.training.distributed import first_to_fail

    return first_to_fail()


def explain(error: BaseException) -> tuple[str, int]:
    """The one line for ``error`` and the exit code."""
    text = str(error)
    if isinstance(error, InputError):
        return text, 2
    if isinstance(error, WorkError):
        return text, 1
    if isinstance(error, KeyboardInterrupt):
        return text or "interrupted", 130
    if isinstance(error, Terminated):
        return text, 143
    if hasattr(error, "format_message"):  # typer's usage errors, whose class lives in click or in typer, by its version
        return explain_usage(error), 2
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRA_OF.get((error.name or "").partition(".")[0])):
        return f"the Python package '{error.name}' is not installed: pip install \"vitnext[{extra}]\"", 2
    if "torchvision::nms" in text:
        return (
            "torch and torchvision are builds that do not fit together (a CPU-only torch with PyPI's torchvision, for "
            "example): install both again from the same index: pip install --force-reinstall torch torchvision"
        ), 2
    if isinstance(error, RuntimeError) and any(words in text for words in ("out of memory", "ALLOC_FAILED")):
        return (
            "the GPU's memory is full: to train, set batch_size lower, or accumulate higher (--set accumulate=4), "
            "which takes the same steps in parts; to predict, give a smaller --batch"
        ), 1
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}", 1
    return f"unexpected {type(error).__name__}: {text} (VITNEXT_DEBUG=1 shows where)", 1


def explain_usage(error: Any) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx
    verb = context.command_path if context else "vitnext"
    if verb == "vitnext train" and (option := getattr(error, "option_name", None)):
        from vitnext.recipe import field_named

        if field := field_named(option.lstrip("-").replace("-", "_")):
            return f"no such option: {option}; write --set {field}=VALUE"
    return f"{message[:1].lower()}{message[1:]} (see {verb} --help)"
