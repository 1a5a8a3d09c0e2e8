"""Export an artifact to ONNX: one file with the network, the weights and the card, checked against the model."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitnext.card import METADATA_KEY, Card
from vitnext.errors import DiskError, InputError, WorkError, require
from vitnext.exporting.verify import synthetic_images, verify
from vitnext.inference.engines import OnnxRuntimeEngine, TorchEngine
from vitnext.inference.predictor import TASKS
from vitnext.models.names import answers_with_queries
from vitnext.preprocess import Source

if TYPE_CHECKING:
    from torch import nn

OPSET = 18  # the exporter's own; every ONNX Runtime that vitnext installs with runs it
ONE_FILE_BYTES = 2_000_000_000  # a protobuf file ends at 2 GiB; larger weights go to NAME.onnx.data beside it


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how closely it agrees with the model.

    images:         how many images both were run on
    unreadable:     how many of those given could not be read
    max_difference: the largest difference between two probabilities
    redecided:      images of which one pixel more or less was inside a mask that attention looks at, by rounding
    synthetic:      the images were generated, because none were given
    """

    path: Path
    images: int
    unreadable: int
    max_difference: float
    redecided: int
    synthetic: bool


def export_onnx(
    artifact: str | os.PathLike[str], out: str | os.PathLike[str], images: Iterable[Source] | None = None
) -> ExportReport:
    """Write the artifact as ``out`` (``.onnx``): input "images" (batch, C, H, W), output "logits" (batch, classes), or
    of a segmenter (batch, classes, H, W), for windows of the H x W pixels that its card says. Of queries the outputs
    are "masks" (batch, queries, h, w) and "classes" (batch, queries, classes + 1).

    Both are run on ``images`` (synthetic ones if None; those that cannot be read are passed over and counted); a file
    that does not give the same labels, and the same probabilities to 1e-4, is not kept. Of Mask2Former that holds of
    the answers to the same decisions, see ``export.decisions``. ``out`` appears only when it is complete and checked.

    Raises:
        InputError: the artifact cannot be loaded, ``out`` cannot be written, or no image can be read.
        WorkError: torch cannot export the model, the disk is full, or the export does not agree with the model.
    """
    artifact, out = Path(artifact), Path(out)
    if out.suffix.lower() != ".onnx":
        raise InputError(f"{out}: the name of an ONNX export must end in .onnx")
    if out.is_dir():
        raise InputError(f"{out}: this is a folder: name a file")
    require("onnxscript", "train")
    from vitnext.exporting.decisions import Decisions
    from vitnext.models.segmenter import Mask2Former

    model = TorchEngine(artifact, device="cpu")
    if model.card.task not in TASKS:
        raise InputError(
            f'{artifact}: a model for the task "{model.card.task}"; this version exports {", ".join(TASKS)}'
        )
    sources = synthetic_images(model.card.preprocess) if images is None else images
    with _folder_beside(out) as folder:
        draft = folder / out.name  # its own name already: the file records the name of its .data file
        _write(model.model, model.card, draft)
        try:
            decisions = Decisions(model.model, draft) if isinstance(model.model, Mask2Former) else None
            agreement = verify(model, OnnxRuntimeEngine(draft), sources, decisions)
        except WorkError as error:
            raise WorkError(f"{out}: not written: {error}") from error
        for file in sorted(folder.iterdir(), reverse=True):  # the .data file first
            os.replace(file, out.with_name(file.name))
    return ExportReport(out, **dataclasses.asdict(agreement), synthetic=images is None)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as ``path``, removed at the end."""
    try:
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"{path}: cannot write here: {error.strerror}") from error
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            raise DiskError(f"{path}: writing stopped: {error.strerror or error}") from error


def _write(model: nn.Module, card: Card, path: Path) -> None:
    import torch

    from vitnext.exporting.decisions import DECISION, WithDecisions
    from vitnext.models.segmenter import Mask2Former

    height, width = card.preprocess.image_size
    outputs = ["masks", "classes"] if answers_with_queries(card.architecture) else ["logits"]
    decisions = len(model.head.layers) if isinstance(model, Mask2Former) else 0
    example = torch.zeros(2, card.preprocess.channels, height, width)  # 2, since a 1 would be taken for a constant
    try:
        with _quiet():
            program = torch.onnx.export(
                WithDecisions(model) if isinstance(model, Mask2Former) else model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=outputs + [f"{DECISION}{i}" for i in range(decisions)],
                dynamic_shapes=({0: torch.export.Dim("batch", min=2)},),  # up to torch 2.9 1 is a case of its own
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base and run over many lines
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkError(f"torch cannot export this model to ONNX: {reason}") from error
    assert program is not None
    del program.model.graph.outputs[len(outputs) :]  # the decisions keep their names inside
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with the paths of this machine
    program.model.metadata_props[METADATA_KEY] = card.to_json()
    size = sum(parameter.nbytes for parameter in model.state_dict().values())
    program.save(path, external_data=size > ONE_FILE_BYTES)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter prints, logs and warns about from the user's terminal; errors still are raised."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
