"""`vitnext predict`"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitnext.cli.terminal import progress_console
from vitnext.errors import InputError
from vitnext.files import existing_file, passed_over, writable_file, writable_folder
from vitnext.progress import progress_bar
from vitnext.wording import counted, shortened

if TYPE_CHECKING:
    from vitnext.types import PanopticSegmentation, Prediction


LARGEST = 4  # classes of a mask that are printed


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors or an exported .onnx.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATHS", help="Images, folders of images, or globs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .csv, .jsonl or .parquet file; the terminal if not given.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(metavar="DIR", help="Of a segmenter: where masks go.")] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="NAMES", help="Of --masks: some of png,overlay,rle,polygons.")
    ] = "png",
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images predicted at once (at most 8 windows).")] = 32,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, torch, onnxruntime or openvino.")] = "auto",
    tta: Annotated[
        bool, typer.Option("--tta", help="Average the image and its mirror image; to segment, at three sizes.")
    ] = False,
) -> None:
    """Predict the class of images, with a multi-label model all of their labels, or with a segmenter every pixel's.

    The order of the images is kept. An image that cannot be read becomes a row with an error; the others are predicted.
    The exit code is 0 also if some images could not be read, and 1 if none could.

    \b
    Examples:
      vitnext predict runs/photos/model.safetensors cat.jpg
      vitnext predict model.onnx new/ --out labels.csv
      vitnext predict model.onnx "new/**/*.png" --out labels.parquet
      vitnext predict roads.safetensors new/ --out shares.csv --masks masks/
      vitnext predict roads.safetensors new/ --masks masks/ --format overlay,rle
    """
    existing_file(model)
    if formats != "png" and masks is None:
        raise InputError("--format says how masks are written: give --masks DIR too")
    if out:
        writable_file(out)
    from vitnext.inference.predictor import load
    from vitnext.inference.sources import images_and_results, other_files
    from vitnext.inference.writers import write_predictions

    files, results = images_and_results(paths, masks)
    if results:
        print(f"{counted(results, 'file')} left out: masks of an earlier run", file=sys.stderr)
    if others := other_files(paths, masks):
        print(f"{passed_over(len(others), others)}: {shortened(others, 3)}", file=sys.stderr)
    predictor = load(model, engine=engine, tta=tta)
    card = predictor.card
    predictions = predictor.predict_many(files, batch=batch)
    if masks is not None:
        from vitnext.inference.mask_files import mask_names, with_masks

        names = mask_names(files)
        if longer := [file for file, name in names.items() if name != Path(file).stem]:
            example = f"{names[longer[0]]} is of {longer[0]}"
            print(f"{counted(longer, 'image')} of a name that others have: {example}", file=sys.stderr)
        predictions = with_masks(predictions, writable_folder(masks), names, card, formats.split(","))
    if out:
        if not out.parent.exists():
            out.parent.mkdir(parents=True)
            print(f"new folder {out.parent}", file=sys.stderr)
        with progress_bar("predicting", progress_console()) as progress:
            predicted, failed = write_predictions(
                out, watched(predictions, len(files), progress), card.classes, card.task
            )
    else:
        predicted, failed = print_predictions(files, predictions, card.classes, card.task)
    kept = (f"; predictions in {out}" if out else "") + (f"; masks in {masks}" if masks else "")
    print(f"{counted(files, 'image')}, {failed:,} unreadable{kept}", file=sys.stderr)
    if failed and not predicted:
        raise typer.Exit(1)


def watched(
    predictions: Iterable[Prediction], total: int, progress: Callable[[int, int], None]
) -> Iterator[Prediction]:
    """Pass ``predictions`` on and report after each how many there have been."""
    for done, prediction in enumerate(predictions, start=1):
        yield prediction
        progress(done, total)


def print_predictions(
    files: list[str], predictions: Iterable[Prediction], classes: Sequence[str], task: str
) -> tuple[int, int]:
    """Print a row per image as it comes; return how many were predicted and how many failed."""
    from vitnext.types import Classification, Failure, MultiLabel, PanopticSegmentation

    sources = max(map(len, ["source", *files]))
    labels = max(map(len, ["label", *classes]))
    titles = {
        "classification": f"{'label':{labels}}  score",
        "multilabel": "labels and scores",
        "panoptic": "objects, largest classes",
    }
    print(f"{'source':{sources}}  {titles.get(task, 'largest classes')}")
    failed = 0
    for prediction in predictions:
        if isinstance(prediction, Failure):
            failed += 1
            reason = prediction.error.removeprefix(f"{prediction.source}: ")
            print(f"{prediction.source:{sources}}  error: {reason}", flush=True)
        elif isinstance(prediction, MultiLabel):
            scores = prediction.to_dict()["scores"]
            held = ", ".join(f"{name} {scores[name]:.3f}" for name in prediction.labels)
            print(f"{prediction.source:{sources}}  {held or '-'}", flush=True)
        elif isinstance(prediction, Classification):
            print(f"{prediction.source:{sources}}  {prediction.label:{labels}}  {prediction.score:.3f}", flush=True)
        else:
            things = count_things(prediction) if isinstance(prediction, PanopticSegmentation) else {}
            surfaces = [(name, share) for name, share in prediction.shares.items() if share and name not in things]
            largest = sorted(surfaces, key=lambda surface: -surface[1])[:LARGEST]
            named = [f"{count} {name}" for name, count in things.items()]
            named += [f"{name} {share:.1%}" for name, share in largest]
            print(f"{prediction.source:{sources}}  {', '.join(named) or '-'}", flush=True)
    return len(files) - failed, failed


def count_things(prediction: PanopticSegmentation) -> dict[str, int]:
    """How many objects there are of each class of things that is there, in the order of classes."""
    labels = prediction.segments.labels.tolist()
    kinds = zip(prediction.classes, prediction.things, strict=True)
    return {name: labels.count(i) for i, (name, thing) in enumerate(kinds) if thing and i in labels}
