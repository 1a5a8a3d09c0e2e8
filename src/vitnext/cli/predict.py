"""`vitnext predict`"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitnext.cli.terminal import progress_bar, progress_console
from vitnext.files import existing_file, writable_file, writable_folder

if TYPE_CHECKING:
    from vitnext.types import Prediction


LARGEST = 4  # classes of a mask that are printed


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors or an exported .onnx.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATHS", help="Images, folders of images, or globs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .csv, .jsonl or .parquet file; the terminal if not given.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of a segmenter: where masks and confidences go, as PNG.")
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images predicted at once (at most 8 windows).")] = 32,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, torch, onnxruntime or openvino.")] = "auto",
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
    """
    existing_file(model)
    if out:
        writable_file(out)
    from vitnext.inference.predictor import load
    from vitnext.inference.sources import find_images
    from vitnext.inference.writers import write_predictions

    files = find_images(paths)
    predictor = load(model, engine=engine)
    card = predictor.card
    predictions = predictor.predict_many(files, batch=batch)
    if masks is not None:
        from vitnext.inference.mask_files import mask_names, with_masks

        predictions = with_masks(predictions, writable_folder(masks), mask_names(files), card)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with progress_bar("predicting", progress_console()) as progress:
            predicted, failed = write_predictions(
                out, counted(predictions, len(files), progress), card.classes, card.task
            )
    else:
        predicted, failed = print_predictions(files, predictions, card.classes, card.task)
    images = "1 image" if len(files) == 1 else f"{len(files):,} images"
    kept = (f"; predictions in {out}" if out else "") + (f"; masks in {masks}" if masks else "")
    print(f"{images}, {failed:,} unreadable{kept}", file=sys.stderr)
    if failed and not predicted:
        raise typer.Exit(1)


def counted(
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
    from vitnext.types import Failure, MultiLabel, Segmentation

    sources = max(map(len, ["source", *files]))
    labels = max(map(len, ["label", *classes]))
    heads = {
        "classification": f"{'label':{labels}}  score",
        "multilabel": "labels and scores",
        "semantic": "largest classes",
    }
    print(f"{'source':{sources}}  " + heads[task])
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
        elif isinstance(prediction, Segmentation):
            largest = sorted(prediction.shares.items(), key=lambda share: -share[1])[:LARGEST]
            named = ", ".join(f"{name} {share:.1%}" for name, share in largest if share)
            print(f"{prediction.source:{sources}}  {named}", flush=True)
        else:
            print(f"{prediction.source:{sources}}  {prediction.label:{labels}}  {prediction.score:.3f}", flush=True)
    return len(files) - failed, failed
