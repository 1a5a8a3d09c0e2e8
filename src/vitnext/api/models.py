"""Model files: a network by its name, other people's weights as an artifact, an artifact as an export."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitnext.api.console import Say
from vitnext.card import Card, versions
from vitnext.data import table
from vitnext.data.dataset import held_out, open_dataset
from vitnext.errors import InputError, require
from vitnext.wording import counted

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from vitnext.exporting.onnx import ExportReport
    from vitnext.weights.adapt import Resize


def create_model(
    name: str,
    classes: int | Sequence[str] | None = None,
    *,
    pretrained: str | Path | None = None,
    resize: Resize | None = None,
    **config: Any,
) -> nn.Module:
    """A model, freshly initialised or with weights: ``create_model("convnext_tiny", classes=10)``.

    ``classes`` is a count or a list of names (default: the weights', else the family's; 0 gives the pooled feature);
    ``config`` overrides fields of the family's config. ``pretrained`` is a file of weights, in whose names whatever
    (timm's, torchvision's, transformers', the authors', our own), or a name on the hub: "timm/convnext_tiny.fb_in1k".
    What they do not fit, they are adapted to (image size, channels, windows, a new head); ``resize`` says how position
    embeddings are: "antialias" (as timm), "offset" (as DINOv2's authors) or "plain" (as transformers); if it does not,
    as those do it in whose names the weights are. What was done is logged by ``logging.getLogger("vitnext")`` at level
    INFO, and at WARNING what restricts the use of the weights.

    The model maps normalised float images (B, C, H, W) to logits (B, classes); a segmenter, "convnext_tiny+upernet" or
    "segformer_b0", to logits (B, classes, H, W); "vit_small+eomt" and "swin_tiny+mask2former" to masks and
    classes of queries. A segmenter takes a segmenter's weights, or a classifier's for its backbone alone.

    Raises InputError for an unknown name, field or value and for weights that cannot be read or do not fit, and
    WorkError when they cannot be downloaded.
    """
    require("torch", "train")
    from vitnext.models import create

    if isinstance(classes, str):
        raise InputError(f"classes is {classes!r}: give a count or a list of names")
    if classes is not None:
        config["classes"] = classes if isinstance(classes, int) else len(classes)
    if pretrained is None:
        return create.build(name, **config)
    from vitnext.weights.pretrained import load as load_weights

    loaded = load_weights(pretrained, name, config, resize=resize)
    for line in loaded.lines:
        logging.getLogger("vitnext").info(line)
    if loaded.source is not None and not loaded.source.permissive:
        logging.getLogger("vitnext").warning("%s: %s", loaded.source.name, loaded.source.terms)
    return loaded.model


def convert(
    weights: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    console: Console | None = None,
) -> Path:
    """Write other people's weights, a file or a name on the hub, as an artifact; what was done is said on ``console``.

    ``model`` is recognised if not given. ``classes`` names the outputs of the head in their order: a list, or a file
    with a name a line; outputs without names are numbered. Images are prepared as is published of these weights, or,
    if nothing is known of them, in the customary way, which is said; at ``image_size``, (height, width) or a square's
    side, if it is given, for which learned positions are resized.

    Raises InputError for wrong input and WorkError when the weights cannot be downloaded or ``out`` not be written.
    """
    require("torch", "train")
    from vitnext.models import create
    from vitnext.models.vit import sides
    from vitnext.weights import pretrained
    from vitnext.weights.artifact import save_artifact
    from vitnext.weights.hub import sha256

    say = Say(console)
    loaded = pretrained.load(weights, model, image_size=image_size, as_published=True)
    for line in loaded.lines:
        say(line)
    if loaded.new_head:
        raise InputError(
            f"{weights} has no head of a {loaded.name}, which would predict nothing: train it, with --pretrained"
        )
    full = create.config_dict(loaded.model)
    preprocess = loaded.preprocess
    if preprocess is not None and image_size is not None:
        preprocess = dataclasses.replace(preprocess, image_size=sides(image_size))
    if preprocess is None:
        preprocess = pretrained.customary(loaded.name, full, loaded.path, image_size)
        height, width = preprocess.image_size
        how = f"stretched to {height} x {width} px"
        if preprocess.resize == "crop":
            whole = " x ".join(str(round(side / preprocess.crop_fraction)) for side in (height, width))
            how = f"{height} x {width} px from the centre of {whole}"
        say(
            f"images: how these weights want them is not known; customary is taken: {how}, mean {preprocess.mean}, "
            f"std {preprocess.std}"
        )
    create.require_fit(loaded.model, loaded.name, preprocess.channels, preprocess.image_size)
    names = _class_names(classes, loaded.classes, full["classes"])
    if not names:
        say("there is no head, so nothing is predicted: train from it, with --pretrained")
    elif names == tuple(map(str, range(len(names)))):
        say(f"the classes have no names: they are numbered 0 to {len(names) - 1} (--classes FILE names them)")
    card = Card(
        task=create.task_of(loaded.name) if names else "features",
        architecture=loaded.name,
        config=full,
        classes=names,
        preprocess=preprocess,
        metrics=loaded.source.published if loaded.source and preprocess == loaded.preprocess else {},
        data={"name": str(weights), "kind": "weights", "sha256": sha256(loaded.path)},
        recipe={},
        versions=versions(),
        licence=loaded.licence,
    )
    if loaded.card is not None:  # an artifact of ours, which knows what it was trained and measured on
        card = dataclasses.replace(loaded.card, config=full, classes=names, preprocess=preprocess)
        if card.metrics and preprocess != loaded.card.preprocess:
            height, width = loaded.card.preprocess.image_size
            kept = ", the thresholds kept" if card.thresholds else ""
            say(
                f"the network sees {' x '.join(map(str, preprocess.image_size))} px at a time (height x width), no "
                f"longer {height} x {width}; the scores are left out{kept}, vitnext evaluate measures anew"
            )
            card = dataclasses.replace(card, metrics={})
    out = Path(out)
    save_artifact(out, loaded.model, card)
    return out


def _class_names(
    given: str | Path | Sequence[str] | None, known: tuple[str, ...] | None, outputs: int
) -> tuple[str, ...]:
    """A name for each of a head's outputs: the given ones, those that the weights came with, or numbers."""
    if given is None:
        return known if known is not None else tuple(map(str, range(outputs)))
    if isinstance(given, str | Path):
        try:
            lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is no text in UTF-8"
            raise InputError(f"{given}: the names of the classes cannot be read ({reason})") from error
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(given)
    if len(names) != outputs:
        raise InputError(f"{counted(names, 'class name')} for a head of {outputs}: give one for each output, in order")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f'two classes are called "{twice}": give each a name of its own')
    return names


def export(
    model: str | Path, to: str = "onnx", *, out: str | Path | None = None, images: str | Path | None = None
) -> ExportReport:
    """Write an artifact as ONNX beside it, or to ``out``, after it has given the model's own answers on ``images``.

    ``images`` is a folder, a table or a built-in name; the data the model was trained on is the natural choice.
    Without it, deterministic synthetic images are compared. Raises WorkError if the answers differ, InputError for
    wrong input.
    """
    from vitnext.exporting.onnx import export_onnx
    from vitnext.inference.sources import find_images

    if to != "onnx":
        raise InputError(f'cannot export to "{to}": give onnx')
    sources: list[Any] | None = None
    if images is not None:
        if Path(images).exists() and Path(images).suffix.lower() not in table.EXTENSIONS:
            sources = list(find_images([images]))
        else:
            _, split = held_out(open_dataset(images))
            sources = [split.image(i) for i in range(len(split))]
    return export_onnx(Path(model), Path(out) if out is not None else Path(model).with_suffix(".onnx"), sources)
