"""`vitnext evaluate`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitnext.cli.terminal import print_table, progress_console
from vitnext.files import existing_file, writable_folder
from vitnext.progress import progress_bar

WORST = 5  # classes shown; the report has all


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors or an exported .onnx.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder, a table, or digits, fashion-mnist, digit-scenes.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the report goes: evaluation/ beside MODEL if not given.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="train, val or test; test (or else val) if not given.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, torch, onnxruntime or openvino.")] = "auto",
    tta: Annotated[
        bool, typer.Option("--tta", help="Average the image and its mirror image; to segment, at three sizes.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")
    ] = False,
) -> None:
    """Measure a model on labelled images.

    Writes DIR/metrics.json and DIR/report.html: accuracy with its 95% interval, precision, recall and F1 of every
    class, the confusion matrix, calibration, and the most confident mistakes. Of several labels an image: mean average
    precision, F1 at the model's thresholds; of a segmenter mean IoU, or panoptic quality and mask AP.

    \b
    Examples:
      vitnext evaluate runs/photos/model.safetensors photos
      vitnext evaluate model.onnx photos --split val --out reports/val
    """
    existing_file(model)
    out = writable_folder(out or model.parent / "evaluation")
    from vitnext import api

    console = progress_console()
    with progress_bar("evaluating", console) as progress:
        metrics = api.evaluate(
            model,
            data,
            out=out,
            split=split,
            skip_unreadable=skip_unreadable,
            engine=engine,
            tta=tta,
            progress=progress,
            console=console,
        )
    show = {
        "classification": print_summary,
        "multilabel": print_labels,
        "semantic": print_masks,
        "panoptic": print_segments,
    }
    show[metrics["task"]](metrics)
    print(f"\nreport  {out / 'report.html'}\nnumbers {out / 'metrics.json'}")


def print_summary(metrics: dict[str, Any]) -> None:
    """Print the headline and the classes with the lowest F1."""
    low, high = metrics["top1_interval"]
    print(f"images    {metrics['n']:,}")
    print(f"top-1     {metrics['top1']:.2%}  (95% interval {low:.2%} to {high:.2%})")
    if len(metrics["per_class"]) > 5:  # of fewer the truth is always among the first five
        print(f"top-5     {metrics['top5']:.2%}")
    print(f"macro F1  {metrics['macro_f1']:.4f}")
    print(f"ECE       {metrics['ece']:.4f}\n")
    present = [row for row in metrics["per_class"] if row["n"]]
    worst = sorted(present, key=lambda row: row["f1"])[:WORST]
    print_table(
        ["lowest F1" if len(present) > len(worst) else "class", "images", "precision", "recall", "F1"],
        [[row["class"], str(row["n"]), *(share(row[key]) for key in ("precision", "recall", "f1"))] for row in worst],
    )


def print_labels(metrics: dict[str, Any]) -> None:
    """Print the headline of a multi-label model and the classes with the lowest average precision."""
    print(f"images           {metrics['n']:,}")
    if metrics["map"] is not None:
        low, high = metrics["map_interval"]
        # Where all images rank right, all that the bootstrap draws do too: that tells nothing of other images.
        interval = f"  (95% interval {low:.2%} to {high:.2%})" if low < high else ""
        print(f"mAP              {metrics['map']:.2%}{interval}")
        print(f"micro F1         {metrics['micro_f1']:.4f}")
        print(f"macro F1         {metrics['macro_f1']:.4f}")
    print(f"all labels right {metrics['exact']:.2%}\n")
    present = [row for row in metrics["per_class"] if row["n"]]
    worst = sorted(present, key=lambda row: row["ap"])[:WORST]
    print_table(
        [
            "lowest AP" if len(present) > len(worst) else "class",
            "images",
            "AP",
            "threshold",
            "precision",
            "recall",
            "F1",
        ],
        [
            [row["class"], str(row["n"]), *(share(row[k]) for k in ("ap", "threshold", "precision", "recall", "f1"))]
            for row in worst
        ],
    )


def print_masks(metrics: dict[str, Any]) -> None:
    """Print the headline of a segmenter and the classes with the lowest IoU."""
    print(f"images          {metrics['n']:,}")
    print(f"mean IoU        {metrics['miou']:.2%}")
    print(f"pixel accuracy  {metrics['pixel_accuracy']:.2%}")
    print(f"boundary IoU    {metrics['boundary_iou']:.2%}")
    print(f"ECE             {metrics['ece']:.4f}\n")
    present = [row for row in metrics["per_class"] if row["iou"] is not None]
    worst = sorted(present, key=lambda row: row["iou"])[:WORST]
    print_table(
        ["lowest IoU" if len(present) > len(worst) else "class", "pixels", "IoU", "precision", "recall"],
        [
            [row["class"], f"{row['pixels']:,}", *(share(row[k]) for k in ("iou", "precision", "recall"))]
            for row in worst
        ],
    )


def print_segments(metrics: dict[str, Any]) -> None:
    """Print the headline of a panoptic model and the classes with the lowest panoptic quality."""
    things, stuff = (share(metrics[kind]["pq"]) for kind in ("things", "stuff"))
    print(f"images            {metrics['n']:,}")
    print(f"panoptic quality  {metrics['pq']:.2%}  (things {things}, stuff {stuff})")
    if metrics["detections"] is not None:
        print(f"mask AP           {share(metrics['ap'])}")
    elif any(row["thing"] for row in metrics["per_class"]):
        print('mask AP           needs pycocotools: pip install "vitnext[coco]"')
    print(f"mean IoU          {metrics['miou']:.2%}\n")
    present = [row for row in metrics["per_class"] if row["pq"] is not None]
    worst = sorted(present, key=lambda row: row["pq"])[:WORST]
    print_table(
        ["lowest PQ" if len(present) > len(worst) else "class", "segments", "PQ", "SQ", "RQ", "AP"],
        [[row["class"], str(row["n"]), *(share(row[key]) for key in ("pq", "sq", "rq", "ap"))] for row in worst],
    )


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"  # a class never predicted has no precision
