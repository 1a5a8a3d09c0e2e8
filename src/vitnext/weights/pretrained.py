"""A model filled with weights from anywhere: found, read, recognised, renamed, adapted, loaded strictly, all said."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from vitnext.card import Card, read_card
from vitnext.errors import InputError
from vitnext.models import catalog, create, neighbours
from vitnext.models.vit import Size, sides
from vitnext.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitnext.weights import hub, sources
from vitnext.weights.adapt import RESIZES, Resize, adapt, head_of, misfits, resize_of
from vitnext.weights.read import READERS, backbone_alone, read_weights
from vitnext.weights.recognise import Recognised, recognise
from vitnext.weights.segmenters import (
    CLASSIFIERS,
    OF_THE_HEAD,
    adapt_segmenter,
    holds_segmenter,
    merged,
    under_new_head,
)
from vitnext.weights.sources import Source

# What an artifact was regularised with belongs to its training, not to whoever goes on from its weights.
OF_THE_RUN = ("dropout", "attention_dropout", "stochastic_depth")

# How a classifier gets from its features to classes: nothing to a segmenter on its backbone.
OF_A_CLASSIFIER = ("classes", "representation", "pool")


@dataclass(frozen=True)
class Pretrained:
    """The model, and what is known of its weights.

    name: the catalog's; path: the file; lines: what was done, for the log; licence: of the weights, with what it
    restricts; preprocess: how their images are prepared, None if not known; classes: the names of the head's outputs,
    None if not known; source: the row of the published weights; new_head: whether these had none for this model.
    """

    model: nn.Module
    name: str
    path: Path
    lines: tuple[str, ...]
    licence: str
    preprocess: Preprocess | None
    classes: tuple[str, ...] | None
    source: Source | None
    card: Card | None
    new_head: bool


def load(
    where: str | Path,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    resize: Resize | None = None,
    image_size: Size | None = None,
    as_published: bool = False,
    classes: Sequence[str] | None = None,
) -> Pretrained:
    """Build the model ``name`` with ``config`` and fill it with the weights at ``where``.

    A segmenter is filled with a segmenter's weights, or its backbone alone with a classifier's.

    Args:
        where: a file (READERS lists the kinds; a vitnext artifact is one too), or a name on the hub.
        name: the model; recognised from the weights if not given.
        config: fields of the family's config. What it does not say is as in the weights (classes, image size,
            channels, windows, a segmenter's head), what it says they are adapted to.
        resize: how position embeddings are resized (``adapt.RESIZES``); None: as those do it in whose names they are.
        image_size: of a network with learned positions, as if ``config`` had it; of others it says nothing.
        classes: the names of the classes, in order; a head that an artifact has for others is replaced.
        as_published: take the image size at which published weights are evaluated, instead of that of their positions.

    Raises InputError when the weights cannot be found or read, or fit nothing, and WorkError when the hub fails.
    """
    if resize is not None and resize not in RESIZES:
        raise InputError(f'position embeddings cannot be resized in the way "{resize}": give {", ".join(RESIZES)}')
    asked = dict(config or {})
    path, source = locate(where)
    card = _card(path)
    source = None if card is not None else source  # an artifact says itself what it is, wherever it lies
    label = source.name if source else str(where)
    lines = [f"weights: {label}"]
    state, did = read_weights(path)
    if card is not None and create.head_of(card.architecture) == neighbours.NAME:
        card, state = _of_backbone(card), {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    whole = holds_segmenter(state) and (name is None or create.is_segmenter(name))
    if not whole:
        state, alone = backbone_alone(state)
        did += alone
    start = name is not None and create.is_segmenter(name) and not whole  # with a classifier's weights in its backbone
    base: dict[str, Any] = {}
    given = name
    of_head = {key: asked.pop(key) for key in OF_THE_HEAD if start and key in asked}
    if name is not None and start:
        name = create.backbone_of(name)
    if as_published and source and _known(source.model) and catalog.resolve(source.model)[0].has("image_size"):
        asked.setdefault("image_size", source.preprocess.image_size[0])
    if card is not None and name in (None, card.architecture):
        name = card.architecture
        base = _unregularised(card.config)
    elif source is not None and name is None and _known(source.model):
        name = source.model
    # Whatever name is asked for, an artifact knows which grid its positions are for.
    oblong = card.config if card is not None and isinstance(card.config.get("image_size"), list) else None
    found = recognise(state, label, name, merged(base, asked, _sized(image_size)), oblong=oblong)
    original = state.keys()
    lines += [*did, found.line]
    if image_size is not None and catalog.FAMILIES[create.family_of(found.name)].has("image_size"):
        asked["image_size"] = image_size
    target = merged(base, found.config, asked)
    if given is not None and "patch_size" not in {**base, **asked} and (not whole or _says_patches(given)):
        target.pop("patch_size", None)  # the name says it
    if target.get("classes") != found.config.get("classes", _classes(found.name)) and "representation" not in asked:
        target.pop("representation", None)  # a layer of the old head
    if start:
        target = {key: value for key, value in target.items() if key not in OF_A_CLASSIFIER or key in asked} | of_head
    name = given if start and given is not None else found.name
    model = create.build(name, **target)
    state = found.state
    old = CLASSIFIERS if whole else head_of(state)
    if card is not None and classes is not None and old and not start and tuple(classes) != card.classes:
        lines.append(f"head: that of {', '.join(card.classes[:3])}{' ...' * (len(card.classes) > 3)} is left out")
        state = {key: tensor for key, tensor in state.items() if key not in old}
    fill = under_new_head if start else adapt_segmenter if whole else adapt
    registers = any(key.endswith("registers") for key in found.state)
    way = resize or resize_of(found.naming.source, found.naming.family, original, registers)
    weights, steps = fill(state, model, way, _grid(found))
    if problems := misfits(weights, model.state_dict(), name):
        raise InputError(f"{label} does not fit this {name}: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=True)
    kept = bool(target.get("classes")) and not any(step.startswith("head:") for step in steps)
    licence = source.terms if source else card.licence if card else _unknown(label, found.name)
    if source is None and card is None and not Path(where).exists():  # from the hub
        lines.append("not among the published weights that vitnext knows: names and shapes fit, compare some results")
    lines += [*steps, f"licence of the weights: {licence}"]
    return Pretrained(
        model=model,
        name=name,
        path=path,
        lines=tuple(lines),
        licence=f"{licence}; of {source.name}" if source else licence,
        preprocess=source.preprocess if source else card.preprocess if card else None,
        classes=card.classes if card and kept else None,
        source=source,
        card=card,
        new_head=start,
    )


def _unknown(label: str, model: str) -> str:
    """What is said of an unknown licence; of the backbone's published weights too where all are restricted."""
    model = create.backbone_of(model)
    published = sources.of_model(model)
    unknown = f"unknown: that of {Path(label).name}"
    if not published or any(row.permissive for row in published):
        return unknown
    return f"{unknown}; published ones of {model}: {' or '.join(dict.fromkeys(row.terms for row in published))}"


def locate(where: str | Path) -> tuple[Path, Source | None]:
    """The file at ``where``, from the hub if it is a name there, and the published weights it is, if known.

    Raises InputError when there is none, and WorkError when the hub fails.
    """
    if on_hub(where):
        return hub.fetch(str(where)), sources.find(str(where))
    path = Path(where)
    if path.is_dir():
        path = next((path / name for name in hub.FILES if (path / name).is_file()), path)
    return path, _source_of(path)


def on_hub(where: str | Path) -> bool:
    """Whether this is a name on the hub, and neither a file, nor what would be called one."""
    path = Path(where)
    return not (path.exists() or path.suffix.lower() in READERS or path.is_absolute())


def _source_of(path: Path) -> Source | None:
    """Of a file in a folder of the repository's name, or in the hub's cache (below "models--timm--NAME")."""
    *_, above, folder, _ = ("", "", *path.absolute().parts)
    names = [f"{above}/{folder}"]
    names += [part.removeprefix("models--").replace("--", "/", 1) for part in path.parts if part.startswith("models--")]
    return next((source for name in names if (source := sources.find(name))), None)


def _card(path: Path) -> Card | None:
    with contextlib.suppress(InputError):
        return read_card(path) if path.suffix.lower() == ".safetensors" else None
    return None


def _of_backbone(card: Card) -> Card:
    """Of an artifact that remembers its training images the card of its backbone, which has no head."""
    config = {**card.config, "classes": 0}
    del config["head"]
    return replace(card, task="features", architecture=create.backbone_of(card.architecture), config=config)


def _unregularised(config: Mapping[str, Any]) -> dict[str, Any]:
    """A card's config without what is OF_THE_RUN, in a segmenter's head too."""
    kept = {key: value for key, value in config.items() if key not in OF_THE_RUN}
    if isinstance(kept.get("head"), Mapping):
        kept["head"] = _unregularised(kept["head"])
    return kept


def _sized(image_size: Size | None) -> dict[str, Any]:
    return {} if image_size is None else {"image_size": image_size}


def _grid(found: Recognised) -> tuple[int, int] | None:
    """Rows and columns of the patches that the weights have positions for; None of a network without learned ones."""
    network = create.resolve(found.name, **found.config)
    return getattr(getattr(network, "backbone", network), "grid", None)


def _says_patches(name: str) -> bool:
    """Whether the name gives a network other patches than its size has: "vit_small_patch8"."""
    backbone = create.backbone_of(name)
    return "_patch" in backbone and backbone not in catalog.FAMILIES[catalog.family_of(backbone)].sizes


def _known(name: str) -> bool:
    """Whether the catalog has this model."""
    with contextlib.suppress(InputError):
        return bool(catalog.family_of(name))
    return False


def customary(name: str, config: Mapping[str, Any], path: Path, image_size: Size | None = None) -> Preprocess:
    """How images are prepared for weights of which nothing is known: as for ImageNet's, or as for Google's .npz.

    A segmenter sees the whole image, create.SEGMENTED pixels a side unless its positions say otherwise. Raises
    InputError for a network that sees neither 1 nor 3 channels.
    """
    family, segments = catalog.FAMILIES[create.family_of(name)], create.is_segmenter(name)
    size = image_size or config.get("image_size", create.SEGMENTED if segments else family.image_size)
    channels = config["channels"]
    if channels not in (1, 3):
        raise InputError(f"{path}: its network sees {channels} channels, but images have 1 or 3")
    color: Literal["RGB", "L"] = "RGB" if channels == 3 else "L"
    half = path.suffix.lower() == ".npz" or channels == 1
    mean = (0.5,) * channels if half else IMAGENET_MEAN
    std = (0.5,) * channels if half else IMAGENET_STD
    if segments:
        return Preprocess(sides(size), "stretch", interpolation="bilinear", color=color, mean=mean, std=std)
    short = min(sides(size))
    fraction = short / round(short * 8 / 7)  # 224 of 256
    return Preprocess(sides(size), "crop", fraction, "bicubic", color, mean=mean, std=std)


def _classes(name: str) -> int:
    classes: int = create.resolve(name).classes
    return classes
