"""`vitnext check`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vitnext.cli.terminal import print_table, progress_console
from vitnext.errors import InputError
from vitnext.files import existing_file
from vitnext.progress import progress_bar
from vitnext.wording import counted

CLASSES = 30  # that are listed one by one
DOUBTS = 20  # likely wrong labels that are listed; the page and --json have more


def check(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder, a table, a COCO JSON file, or a built-in data set.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for check.html, a page with counts, findings and the images.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="A classifier, such as a probe's: labels its features contradict are listed.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
) -> None:
    """Find mistakes in a data set before training does.

    Looks for files that cannot be read, empty classes, class lists that differ between splits, the same image or nearly
    the same one in two splits or under two labels, images much smaller or longer than the others, classes with very few
    images, rows of a table without a file and files without a row. Of masks: other sizes than their images', ids and
    colours that classes.txt does not name, images without a mask, and classes that a split lacks. Of annotations: those
    outside the image, and objects that overlap. Errors would stop training (exit code 2); warnings would not.

    With --model, labels that are likely wrong: those that a cross-validated linear probe of the model's features
    contradicts with confidence (confident learning). How often that probe is right says how far to trust the list.

    \b
    Examples:
      vitnext check photos
      vitnext check photos --model runs/probe/model.safetensors --out runs/check
      vitnext check street --out runs/street
      vitnext check annotations/instances_val.json
      vitnext check photos --json
    """
    from vitnext.data import doctor, mask_doctor, survey
    from vitnext.data.dataset import open_dataset
    from vitnext.files import writable_folder

    dataset = open_dataset(data)
    masks = dataset.task == "semantic"
    if out is not None:
        writable_folder(out)
    if model is not None:
        existing_file(model)
        if dataset.task != "classification":
            raise InputError(f"--model is for images with one label each, which {dataset.name} has not: leave it out")
    doubts: list[dict[str, Any]] = []
    with progress_bar("checking", progress_console()) as progress:
        if masks:
            looked = mask_doctor.look(dataset, progress=progress)
            report = mask_doctor.findings(dataset, looked)
        else:
            seen = survey.look(dataset, progress=progress)
            report = doctor.findings(dataset, seen)
            if model is not None:
                from vitnext import api

                doubts, accuracy = api.doubtful_labels(model, dataset, report.unreadable, progress=progress)
                report = doctor.with_doubts(report, doubts, accuracy)
    if out is not None:
        from vitnext.evaluation import data_report, mask_report
        from vitnext.evaluation.evaluate import write

        out.mkdir(parents=True, exist_ok=True)
        page = (
            mask_report.render(dataset, looked, report) if masks else data_report.render(dataset, seen, report, doubts)
        )
        write(out / "check.html", page)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(dataset.line)
        if masks:
            print_pixels(report.facts)
        else:
            print_facts(report.facts)
            if report.facts.get("probe_accuracy") is not None:
                print(f"probe of the model's features: {report.facts['probe_accuracy']:.1%} right, cross-validated")
            if doubts:
                print_doubts(doubts)
        for finding in report.findings:
            print(f"{finding.severity}: {finding.message}")
        if not report.findings:
            print("no mistakes found")
        elif any(len(finding.items) > doctor.EXAMPLES for finding in report.findings):
            print(f"vitnext check {data} --json lists every file")
        if out is not None:
            print(f"page: {out / 'check.html'}")
    if report.errors:
        raise typer.Exit(2)


def print_doubts(doubts: list[dict[str, Any]]) -> None:
    """Print the labels that are most likely wrong, with the probabilities of both classes."""
    print_table(
        ["label", "perhaps", "file", "p(label)", "p(perhaps)"],
        [
            [
                doubt["label"],
                doubt["other"],
                doubt["file"],
                f"{doubt['probability']:.1%}",
                f"{doubt['other_probability']:.1%}",
            ]
            for doubt in doubts[:DOUBTS]
        ],
        texts=3,
    )


def print_pixels(facts: dict[str, Any]) -> None:
    """Print how many pixels each class of masks has, and in how many images."""
    from vitnext.data.mask_doctor import VOID_ROW

    counts = dict(facts["classes"])
    void = counts.pop(VOID_ROW)
    if len(counts) > CLASSES:
        for name in facts["images"]:
            held = sorted(of_split[name]["pixels"] for of_split in counts.values())
            print(f"{name}: {held[0]:,} to {counted(held[-1], 'pixel')} of a class, median {held[len(held) // 2]:,}")
        return
    if any(of_split["pixels"] for of_split in void.values()):
        counts[VOID_ROW] = void
    header = [word for name in facts["images"] for word in (f"{name} pixels", "images")]
    rows = [
        [name, *(f"{of_split[key]:,}" for of_split in of_class.values() for key in ("pixels", "images"))]
        for name, of_class in counts.items()
    ]
    print_table(["class", *header], rows)


def print_facts(facts: dict[str, Any]) -> None:
    """Print how many images each class has, how large they are, and what the files are."""
    counts = facts["classes"]
    if len(counts) <= CLASSES:
        rows = [[name, *(f"{n:,}" for n in of_split.values())] for name, of_split in counts.items()]
        print_table(["class", *facts["images"]], rows)
    else:
        for name in facts["images"]:
            held = sorted(of_split[name] for of_split in counts.values())
            print(f"{name}: {held[0]:,} to {counted(held[-1], 'image')} of a class, median {held[len(held) // 2]:,}")
    if facts["width"]:
        width, height = facts["width"], facts["height"]
        at = {key: f"{width[key]} x {height[key]}" for key in width}
        print(f"sizes: median {at['median']}, {at['smallest']} to {at['largest']} px (width x height, each by itself)")
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in facts["kinds"].items())
    turned = facts["turned_by_exif"]
    print(f"files: {kinds}" + (f"; {turned:,} turned upright by their EXIF orientation" if turned else ""))
