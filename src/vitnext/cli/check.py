"""`vitnext check`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vitnext.cli.terminal import progress_bar, progress_console


def check(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder, a table, or digits, fashion-mnist, digit-scenes.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for check.html, a page that shows masks over images.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
) -> None:
    """Find mistakes in a data set before training does.

    Looks for files that cannot be read, empty classes, class lists that differ between splits, the same image in two
    splits, and classes with very few images. Of masks: other sizes than their images', ids and colours that classes.txt
    does not name, images without a mask, and classes that a split lacks. Errors would stop training (exit code 2);
    warnings would not.

    \b
    Examples:
      vitnext check photos
      vitnext check street --out runs/street
      vitnext check photos --json
    """
    from vitnext.data import doctor, mask_doctor
    from vitnext.data.dataset import open_dataset
    from vitnext.errors import InputError
    from vitnext.files import writable_folder

    dataset = open_dataset(data)
    masks = dataset.task == "semantic"
    if out is not None:
        if not masks:
            raise InputError(f"--out writes a page about masks, and {dataset.name} has labels: leave it out")
        writable_folder(out)
    with progress_bar("checking", progress_console()) as progress:
        if masks:
            looked = mask_doctor.look(dataset, progress=progress)
            report = mask_doctor.findings(dataset, looked)
        else:
            report = doctor.check(dataset, progress=progress)
    if out is not None:
        from vitnext.evaluation.classification import write
        from vitnext.evaluation.mask_report import render

        out.mkdir(parents=True, exist_ok=True)
        write(out / "check.html", render(dataset, looked, report))
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(dataset.line)
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
