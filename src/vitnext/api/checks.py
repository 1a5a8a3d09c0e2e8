"""The doctor's look at the data before training."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from vitnext.api.console import Say
from vitnext.data import doctor, mask_doctor
from vitnext.data.dataset import Dataset, Split
from vitnext.errors import InputError
from vitnext.wording import counted

LOOKED_AT = 10_000  # images that are read before training; more would keep it waiting
UNREADABLE = ("unreadable", "unreadable_mask", "size", "no_file")  # findings that --skip-unreadable leaves out


def checked(dataset: Dataset[Any], skip_unreadable: bool, say: Say) -> Dataset[Any]:
    """Let the doctor look before training: warnings are said, errors stop unless they can be skipped. The data set
    that it gives knows its ``contents``.

    Of more than ``LOOKED_AT`` labelled images some are not looked at, unless those that cannot be read are to be
    skipped, or `vitnext check` has looked at them before.
    """
    from vitnext.training.distributed import from_first

    semantic = dataset.task == "semantic"
    limit = None if skip_unreadable else LOOKED_AT
    check = partial(mask_doctor.check, dataset) if semantic else partial(doctor.check, dataset, limit=limit)
    with say.progress("looking at the images") as progress:
        report = from_first(lambda: check(progress=progress))
    if report.unseen:
        total = sum(map(len, dataset.splits.values()))
        say(f"looked at {total - report.unseen:,} of {total:,} images; vitnext check looks at all of them")
    for finding in report.warnings:
        say(f"warning: {finding.message}")
    for finding in report.errors:
        if finding.kind in UNREADABLE and skip_unreadable:
            say(f"skipped: {finding.message}")
            for item in finding.items[doctor.EXAMPLES :]:  # the message names the first ones
                say(f"skipped: {item}")
        elif finding.kind in UNREADABLE:
            raise InputError(
                f"{finding.message}; mend or remove them (vitnext check --json lists all), or add --skip-unreadable"
            )
        else:
            raise InputError(finding.message)
    dataset = dataclasses.replace(dataset, contents=report.contents)
    if not report.unreadable:
        return dataset
    splits: dict[str, Split] = {}
    for name, split in dataset.splits.items():
        good = np.setdiff1d(np.arange(len(split)), report.unreadable.get(name, []))
        if not len(good):
            raise InputError(f"{dataset.name}: none of the {counted(split, f'{name} image')} can be used")
        splits[name] = split.subset(good)
    readable = dataclasses.replace(dataset, splits=splits)
    again = from_first(lambda: mask_doctor.check(readable) if semantic else doctor.check(readable, decode=False))
    for finding in again.errors:  # a class may have lost all of its images
        raise InputError(finding.message)
    return readable
