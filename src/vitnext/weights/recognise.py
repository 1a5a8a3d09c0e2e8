"""What a file of weights holds: which model of the catalog, in whose names. The keys and the shapes tell.

The names are read with every table of every family, of classifiers or, where a head for masks is among them, of
segmenters; where all have a place, the weights are compared with the models of that family. What the image size, the
channels, the classes, the windows or a segmenter's head change is taken from the shapes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitnext.errors import InputError
from vitnext.models import catalog, create
from vitnext.models.vit import in_pixels
from vitnext.weights.adapt import BIAS_TABLE, PATCHES, POSITIONS, State, classes_of, misfits, square, stem_of
from vitnext.weights.naming import OURS, WHOSE, Naming, namings
from vitnext.weights.rename import listed
from vitnext.weights.segmenters import OF_THE_HEAD, body, masked_blocks, merged, seen
from vitnext.wording import counted

# Fields of a config that the shapes tell, and that ``adapt`` can change.
ADAPTABLE = ("channels", "classes", "image_size", "patch_size", "window", "representation", "auxiliary_width")

SHAPES_SHOWN = 3


@dataclass(frozen=True)
class Recognised:
    """Weights in our names, the catalog's name of what they are of, and the fields that their shapes ask for."""

    name: str
    config: dict[str, Any]
    state: State
    naming: Naming
    line: str


def recognise(
    state: Mapping[str, Tensor],
    label: str,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    oblong: Mapping[str, Any] | None = None,
) -> Recognised:
    """Find out what ``state`` is, or read it as the model ``name`` that is built with ``config``.

    Learned positions are taken for those of a square; if they are of none, of the ``image_size`` that ``config`` has.
    ``oblong``: the config that the weights are known to have, where its image size is no square.

    ``label`` stands for it in messages. Raises InputError when it fits nothing, with the nearest model and all that is
    left over, missing or of another shape.
    """
    meta = {key: torch.empty_like(tensor, device="meta") for key, tensor in state.items()}
    fixed = _without(config or {}, ADAPTABLE)
    if isinstance(fixed.get("head"), Mapping):
        fixed["head"] = _without(fixed["head"], ADAPTABLE)
    windows = _windows(meta, label)
    # What is asked goes before what the name tells, which still tells what G was trained with under other windows.
    given = {key: (config or {}).get(key) for key in ("window", "pretrained_windows")}
    windows |= {key: value for key, value in given.items() if value is not None}
    sizes = [_size(oblong)] if oblong else [{}, _size(config or {})]
    ways = [(ours, size) for size in sizes for ours in (bool(name), True)]
    fits = next((fits for ours, size in ways if (fits := list(_fits(meta, name, fixed | size, windows, ours)))), [])
    if not fits:
        size = _size(oblong or config or {}).get("image_size")
        raise InputError((name and _other(state, label, name, fixed)) or _nearest(meta, label, name, fixed, size))
    # Of several, the one that these are nearest to as it stands; then the one that has a head, or none, as they have
    # (ConvNeXt's and DINOv3's).
    fits.sort(
        key=lambda fit: (len(fit[2].keys() - {"classes", "channels"}), _headless(fit[1], fit[2]) != _headless(fit[1]))
    )
    naming, found, asked = fits[0]
    network = create.resolve(found, **asked)  # two names of one network (vit_small, deit_small) are no doubt
    whose = dict.fromkeys(WHOSE[fit[0].source] for fit in fits if fit[1] == found)
    line = f"recognised: {' and '.join(whose)} layout of {found}, {_details(found, asked)}"
    if naming.family == "swinv2" and not windows and naming.source != OURS:
        window = getattr(network, "backbone", network).window
        line += (
            f"; windows of {window} are taken, which these weights do not tell: "
            'a file name with "window16" says 16, "window12to24" 24 after training with 12'
        )
    if naming.head == "eomt" and "blocks" not in asked:
        line += f"; queries in the last {counted(network.blocks, 'block')} are taken, which these weights do not tell"
    if left := naming.dropped(state):
        line += f"; left behind, as no part of it: {listed(left)}"
    rivals = [fit for fit in fits if fit[2].keys() == asked.keys() and create.resolve(fit[1], **fit[2]) != network]
    if others := list(dict.fromkeys(name for _, name, _ in rivals if name != found)):
        line += f" (the shapes are those of {', '.join(others)} too)"
    return Recognised(found, asked, naming.rename(state), naming, line)


def _fits(
    meta: Mapping[str, Tensor], name: str | None, fixed: Mapping[str, Any], windows: Mapping[str, Any], ours: bool
) -> Iterator[tuple[Naming, str, dict[str, Any]]]:
    """Every naming and model, with its config, whose names and shapes are exactly these."""
    for naming in namings(meta, name, ours):
        if any(naming.leftovers(meta)):
            continue
        try:
            renamed = naming.rename(meta)
        except InputError:
            continue
        told = {**naming.told(renamed), **(masked_blocks(meta) if naming.head == "eomt" else {}), **fixed}
        if naming.family == "swinv2":
            told |= windows
        for size in [name] if name else naming.sizes:
            asked = _config(size, renamed, told)
            with contextlib.suppress(InputError):  # shapes that ask for a config that cannot be
                if asked is None or misfits(renamed, _weights(size, asked), size):
                    continue
                if not name and "patch_size" in asked and "_patch" not in size:
                    size += f"_patch{asked.pop('patch_size')}"
                yield naming, size, asked


def _config(name: str, ours: Mapping[str, Tensor], fixed: Mapping[str, Any]) -> dict[str, Any] | None:
    """``fixed`` and the adaptable fields of the model ``name`` that these shapes ask for; None if it is not theirs."""
    if head := create.head_of(name):
        of_backbone = _config(create.backbone_of(name), body(ours), {**_without(fixed, OF_THE_HEAD), "classes": 0})
        with contextlib.suppress(KeyError):  # the weights have no such head
            own = {key: value for key, value in fixed.items() if key in OF_THE_HEAD}
            return None if of_backbone is None else merged(of_backbone, seen(head, ours), own)
        return None
    try:
        if "image_size" in fixed and PATCHES in ours and ours[PATCHES].shape[-1] != catalog.resolve(name)[1].patch_size:
            fixed = {"patch_size": ours[PATCHES].shape[-1], **fixed}  # without which the size may be no whole number
        family, config = catalog.resolve(name, **fixed)
        widths = [config.dim] if family.has("dim") else getattr(config, "widths", [])
        if widths and not family.has("stem_width") and len(ours[_stem(catalog.family_of(name))]) != widths[0]:
            return None  # spares building it
        expected = _weights(name, fixed)
    except (InputError, KeyError):  # no such model, or no convolution
        return None
    asked = dict(fixed)

    def ask(field: str, value: int | bool) -> None:
        if family.has(field) and value != getattr(config, field):
            asked[field] = value

    if (stem := stem_of(expected)) in ours and ours[stem].ndim == 4:
        ask("channels", ours[stem].shape[1])
    ask("classes", classes_of(ours))
    if "head.2.weight" in ours:
        ask("representation", ours["head.2.weight"].shape[1])
    if family.has("qkv_bias"):
        ask("qkv_bias", any(key.endswith(("qkv.bias", "qv_bias", "query_value_bias")) for key in ours))
    if PATCHES in ours and PATCHES in expected:
        ask("patch_size", ours[PATCHES].shape[-1])
    if POSITIONS in ours and POSITIONS in expected:
        prefix = expected[POSITIONS].shape[1] - math.prod(config.grid)
        rows, _ = square(max(ours[POSITIONS].shape[1] - prefix, 1))
        patch = asked.get("patch_size", config.patch_size)
        stride = patch if config.stride == config.patch_size else config.stride
        if "image_size" not in fixed:
            ask("image_size", (rows - 1) * stride + patch)
    if rows := next((len(tensor) for key, tensor in ours.items() if key.endswith(BIAS_TABLE)), 0):
        ask("window", (math.isqrt(rows) + 1) // 2)
    return asked


def _size(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a config what gives a grid that is no square; {} if it is one."""
    oblong = isinstance(config.get("image_size"), list | tuple)
    return {key: config[key] for key in ("image_size", "patch_size") if oblong and key in config}


def _windows(meta: Mapping[str, Tensor], label: str) -> dict[str, Any]:
    """The windows of a Swin V2, which no weight tells: buffers of the authors' files do, and timm's and their names.

    "window12to24" was trained with windows of 12, and of 6 in the last stage, and then with 24.
    """
    if told := re.search(r"window(\d+)(?:to(\d+))?(?!\d)", label):
        first, last = int(told[1]), int(told[2] or told[1])
        return {"window": last} | ({"pretrained_windows": (first, first, first, first // 2)} if told[2] else {})
    for key, tensor in meta.items():
        if key.endswith("layers.0.blocks.0.attn.relative_coords_table"):  # (1, 2 M - 1, 2 M - 1, 2)
            return {"window": (tensor.shape[1] + 1) // 2}
    return {}


@functools.lru_cache
def _stem(family: str) -> str:
    """What we call a family's first convolution."""
    return stem_of(_weights(next(iter(catalog.FAMILIES[family].sizes)), {}))


def _weights(name: str, config: Mapping[str, Any]) -> State:
    """Names and shapes of a model's weights, without memory. Raises InputError for a config that cannot be."""
    return _build(name, json.dumps(config, sort_keys=True, default=repr))


@functools.lru_cache(maxsize=256)
def _build(name: str, config: str) -> State:
    with torch.device("meta"):
        return create.build(name, **json.loads(config)).state_dict()


def _without(config: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in fields}


def _headless(name: str, config: Mapping[str, Any] | None = None) -> bool:
    return not create.resolve(name, **(config or {})).classes


def _details(name: str, asked: Mapping[str, Any]) -> str:
    """ "1000 classes, 518 px": the classes, and what is not the model's default."""
    whole = create.resolve(name, **asked)
    config = getattr(whole, "backbone", whole)
    details = [counted(whole.classes, "class") if whole.classes else "no head"]
    details += [in_pixels(config.image_size)] if "image_size" in asked else []
    details += [f"patches of {config.patch_size} px"] if "patch_size" in asked and config is not whole else []
    details += [counted(config.channels, "channel")] if "channels" in asked else []
    details += [f"windows of {config.window}"] if "window" in asked else []
    if widths := asked.get("head", {}):
        details.append(f"head of {widths['width']}")
    if "auxiliary_width" in widths:
        auxiliary = widths["auxiliary_width"]
        details.append(f"auxiliary head of {auxiliary}" if auxiliary else "no auxiliary head")
    if "queries" in asked or "queries" in widths:
        details.append(f"{widths.get('queries', asked.get('queries'))} queries")
    details += [f"in the last {counted(whole.blocks, 'block')}"] if "blocks" in asked else []
    return ", ".join(details)


def _other(state: Mapping[str, Tensor], label: str, name: str, fixed: Mapping[str, Any]) -> str:
    """That these are the weights of another model than ``name``, or "" if they are not.

    Raises InputError if they are ``name``'s, and only what was asked of it cannot be.
    """
    try:
        other = recognise(state, label)
    except InputError:
        return ""
    if other.name == name:
        create.resolve(name, **merged(other.config, fixed))
        return ""
    return f"{label} is not {name}, it holds {other.line.removeprefix('recognised: ')}"


def _nearest(
    meta: Mapping[str, Tensor], label: str, name: str | None, fixed: Mapping[str, Any], size_asked: Any = None
) -> str:
    """Why ``meta`` fits nothing: the model that it is nearest to, and everything that stands in the way."""
    ways = list(namings(meta, name, ours=any(key.endswith(POSITIONS) for key in meta)))  # our word for them
    if not ways:
        return f"{label} does not fit {name}, and other libraries' names of it are not known"
    naming = min(ways, key=lambda each: len(list(each.leftovers(meta))))
    left = list(naming.leftovers(meta))
    kept = {key: tensor for key, tensor in meta.items() if key not in left}
    if len(kept) < len(meta) / 2 and name:
        return f"{label} does not hold {name}; {_nearest(meta, 'it', None, {}, size_asked)}"
    if len(kept) < len(meta) / 2:
        return (
            f"{label} fits no model: of its {len(meta)} weights only {len(kept)} have a place in the nearest layout "
            f"({naming} of {naming.model}); the first without one: {', '.join(left[:5])}"
        )
    try:
        ours = naming.rename(kept)
    except InputError as error:
        return f"{label} fits no model; the nearest is {naming} of {naming.model}: {error}"

    def distance(size: str) -> int:
        return sum(key not in ours or ours[key].shape != t.shape for key, t in wanted[size].items()) + sum(
            key not in wanted[size] for key in ours
        )

    sizes = [name] if name else naming.sizes
    told = {**naming.told(ours), **fixed}
    wanted = {size: _weights(size, _config(size, ours, told) or told) for size in sizes}
    size = min(sizes, key=distance)
    over = left + naming.theirs(key for key in ours if key not in wanted[size])
    missing = naming.theirs(key for key in wanted[size] if key not in ours)
    problems = [f"left over: {listed(over)}"] if over else []
    problems += [f"missing: {listed(missing)}"] if missing else []
    shapes = [
        f"{naming.theirs([key])[0]} is {tuple(ours[key].shape)} as {key}, {size} has {tuple(tensor.shape)}"
        for key, tensor in wanted[size].items()
        if key in ours and ours[key].shape != tensor.shape
    ]
    if len(shapes) == 1 and POSITIONS in shapes[0]:
        more = f", nor those of {in_pixels(size_asked)}" if size_asked else ": give the image size, HEIGHTxWIDTH"
        shapes = [f"{shapes[0].split(' as ')[0]}, whose patches are no square{more}"]
    problems += shapes[:SHAPES_SHOWN]
    problems += [f"{len(shapes) - SHAPES_SHOWN} more of other shapes"] if len(shapes) > SHAPES_SHOWN else []
    return f"{label} fits no model; the nearest is {naming} of {size}: {'; '.join(problems)}"
