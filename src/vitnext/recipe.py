"""A recipe: every choice of a training run, as a tree of frozen dataclasses read from YAML.

``read(source, overrides)`` takes the name of a recipe that comes with the package or the path of a YAML file, applies
``path.to.field=value`` overrides, and answers each mistake with one line that says what may stand there.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from vitnext.errors import InputError


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):  # Python counts with them: horizontal_flip: true would flip every image
        raise PydanticCustomError("number", "input should be a number")
    return value


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("ascending", "the smaller number should come first")
    return pair


def _with_magnitude(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[1] and not pair[0]:
        raise PydanticCustomError("magnitude", "the magnitude, which stands first, should be above 0")
    return pair


Real = Annotated[float, BeforeValidator(_no_truth_value)]
Whole = Annotated[int, BeforeValidator(_no_truth_value)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Probability = Annotated[Real, Field(ge=0, le=1)]
Share = Annotated[Real, Field(gt=0, le=1)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
ScaleRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Level = Annotated[Real, Field(ge=0, le=10)]
Magnitude = Annotated[tuple[Level, NotNegative], AfterValidator(_with_magnitude)]
Angle = Annotated[Real, Field(ge=0, le=180)]
Count = Annotated[Whole, Field(ge=1)]
Natural = Annotated[Whole, Field(ge=0)]

ENDLESS = 100_000  # epochs, where steps or minutes end a run
AUTO = 0  # what "auto" is as a number: decided when the run begins


def _auto(value: Any) -> Any:
    if value == "auto":
        return AUTO
    number = value
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            number = float(value)
        except ValueError:
            number = AUTO
    if isinstance(number, int | float) and not isinstance(number, bool) and number == AUTO:
        raise PydanticCustomError("auto", 'input should be greater than 0, or "auto"')
    return value


_OR_AUTO = (BeforeValidator(_auto), PlainSerializer(lambda value: value or "auto"))


def _on_or_off(value: Any) -> Any:
    return ("on" if value else "off") if isinstance(value, bool) else value  # YAML 1.1 reads bare ones as booleans


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)]

PositiveOrAuto = Annotated[Real, Field(ge=0), *_OR_AUTO]
CountOrAuto = Annotated[Whole, Field(ge=0), *_OR_AUTO]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Model:
    """Which network. ``config`` overrides fields of the family's config (patch_size, stem_stride, dim, ...)."""

    __pydantic_config__ = _STRICT
    name: str = "convnext"
    pretrained: str = "none"  # weights to start from: a file, or a name on the hub
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What the network sees."""

    __pydantic_config__ = _STRICT
    image_size: Count = 224  # pixels, height and width; of a segmenter the size of its training crops
    resize: Literal["stretch", "crop", "fit"] = "crop"  # of whole images at validation and prediction
    window: tuple[Count, Count] | None = None  # height and width that a segmenter predicts at a time; None: chosen
    short_side: Natural = 0  # images for a segmenter whose short side is longer are made smaller to it; 0: none
    merge: dict[str, list[str]] = field(default_factory=dict)  # classes of masks that become one: {vehicle: [car, bus]}
    ignore: list[str] = field(default_factory=list)  # classes of masks that are neither trained on nor measured
    crop_fraction: Share = 1.0  # central share of the short side that is kept
    color: Literal["RGB", "L"] = "RGB"
    class_sampling: Probability = 1.0  # classes are drawn by their number of images to this power; 0: all alike
    val_fraction: Fraction | None = None  # share of train held out when the data has no val; None: the data set's own
    skip_unreadable: bool = False  # images that cannot be read are left out; else they stop the training


@dataclass(frozen=True)
class Augment:
    """Random changes to training images; everything off by default."""

    __pydantic_config__ = _STRICT
    crop_scale: ShareRange = (1.0, 1.0)  # area share of the random resized crop; (1, 1): no crop
    crop_padding: Natural = 0  # pixels: the image is shifted by up to this much
    horizontal_flip: Probability = 0.0
    color_jitter: Probability = 0.0  # strength of brightness, contrast and saturation changes
    trivial_augment: bool = False  # one random operation of random strength (Mueller and Hutter 2021)
    rand_augment: Magnitude = (0.0, 0.0)  # two operations of this magnitude, 0 to 10, give or take (Cubuk et al. 2020)
    erasing: Probability = 0.0  # probability that a random rectangle is blanked (Zhong et al. 2020)
    mixup: NotNegative = 0.0  # alpha: images are blended in pairs (Zhang et al. 2018); 0: not
    cutmix: NotNegative = 0.0  # alpha: a rectangle comes from another image (Yun et al. 2019); 0: not
    repeats: Count = 1  # how often, each time changed anew, an image is in a batch (Hoffer et al. 2020)
    scale: ScaleRange = (1.0, 1.0)  # of a segmenter's images, before crops of data.image_size are cut from them
    aspect: ScaleRange = (1.0, 1.0)  # of these images, height to width as many times as it was
    rotation: Angle = 0.0  # degrees by which these images are turned at most, either way


@dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or Muon for the matrices inside the network and AdamW for all else (Jordan et
    al. 2024); weight decay acts on the weights of Linear and Conv layers alone."""

    __pydantic_config__ = _STRICT
    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveOrAuto = 1e-3  # peak, for the batch size given in the recipe; auto: by a range test
    weight_decay: NotNegative = 0.05
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_norm: NotNegative = 1.0  # largest norm of the whole gradient; 0: no clipping
    train_blocks: Natural | None = None  # blocks next to the head that are trained with it, 0: none; None: everything
    layer_decay: Share = 1.0  # of the learning rate, for each block further from the head (Bao et al. 2022); 1: none


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a decay to ``final_fraction`` of the peak learning rate: half a cosine, (1 - t)^0.9
    or 1 - t."""

    __pydantic_config__ = _STRICT
    epochs: Count = 100  # at most, where steps or minutes end a run
    steps: Natural = 0  # optimizer steps that the schedule fits; 0: as many as the epochs have
    minutes: NotNegative = 0.0  # time that the schedule fits, validation included; 0: no limit
    decay: Literal["cosine", "poly", "linear"] = "cosine"
    warmup_epochs: NotNegative = 5.0
    final_fraction: Fraction = 0.0
    validate_epochs: Count = 1  # epochs from one validation to the next; the last epoch is validated in any case
    patience: Natural = 0  # stop after so many epochs without a better validation top-1; 0: never stop early


@dataclass(frozen=True)
class Loss:
    """Of segmenters a sum of losses over the labelled pixels, each with its weight; 0 leaves one out. Of classifiers
    ``balanced`` and ``binary``."""

    __pydantic_config__ = _STRICT
    cross_entropy: NotNegative = 1.0
    focal: NotNegative = 0.0  # Lin et al. 2017, gamma 2
    dice: NotNegative = 0.0  # Milletari et al. 2016
    lovasz: NotNegative = 0.0  # Berman et al. 2018
    hardest: Share = 1.0  # share of the pixels, those with the highest cross-entropy, that count in it (OHEM)
    balanced: bool = False  # classes count in the cross-entropy alike, however frequent they are
    binary: bool = False  # of a classifier: binary cross-entropy of every class, for mixed images
    auxiliary: NotNegative = 0.4  # weight of an auxiliary head's loss, where the model has one


@dataclass(frozen=True)
class Recipe:
    """The whole tree. ``title``, ``paper`` and ``expected`` describe a recipe that comes with a measured result."""

    __pydantic_config__ = _STRICT
    title: str = ""
    paper: str = ""
    expected: str = ""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    label_smoothing: Fraction = 0.0
    ema: Fraction = 0.0  # decay a step of the moving average of the weights, which is what is kept; 0: none
    batch_size: CountOrAuto = 128  # images an optimizer step; auto: by a measurement at the start
    accumulate: Count = 1  # parts in which they pass through the network, to save memory
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where a measurement at start finds it faster
    compile: Switch = "auto"  # by torch.compile; auto: where a measurement at the start finds that it pays
    device: str = "auto"  # auto: cuda, else mps, else cpu
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of torchrun's processes: each has the whole model, or a part of it
    workers: Annotated[Whole, Field(ge=-1)] = -1  # processes that decode and augment; -1: chosen from data and cores
    seed: Natural = 0
    save_minutes: NotNegative = 10.0  # at most, between checkpoints; after an epoch there may be one sooner
    save_steps: Natural = 0  # steps between them, too; 0: by the clock alone
    track: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"  # beside the journal

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON and YAML."""
        return _adapter().dump_python(self, mode="json")


@functools.cache
def _adapter() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def builtin_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(f.name[:-5] for f in resources.files("vitnext.recipes").iterdir() if f.name.endswith(".yaml"))


def read(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by the name of a built-in or the path of a YAML file, then apply ``a.b=value`` overrides.

    Raises InputError for a missing file, bad YAML, an unknown field or a value out of range.
    """
    name = str(source)
    if name in builtin_names():
        text = (resources.files("vitnext.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    elif os.path.isfile(name):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe {name} cannot be read: {error}") from error
    elif name.endswith((".yaml", ".yml")):
        raise InputError(f"recipe {name}: no such file")
    else:
        raise InputError(f"there is no recipe {name}: give a YAML file or one of {', '.join(builtin_names())}")
    try:
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise InputError(f"recipe {name}{where} is not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        raise InputError(f"recipe {name} is not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:  # an empty file changes nothing
        tree = {}
    if not isinstance(tree, dict):
        raise InputError(f"recipe {name} must be a mapping of fields to values, not a {type(tree).__name__}")
    return override(from_dict(tree, where=f"recipe {name}"), overrides)


def from_dict(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validate a tree of plain values. Raises InputError that names the first mistake and the fields there are."""
    try:
        return _adapter().validate_python(dict(tree))
    except ValidationError as error:
        raise InputError(f"{where}: {_first_mistake(error, tree)}") from error


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply ``path.to.field=value``; values are read as YAML (``1e-3``, ``true``, ``[0.5, 1]``, ``vit_tiny``)."""
    if not assignments:
        return recipe
    tree = recipe.to_dict()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise InputError(
                f'--set "{assignment}": write it as path.to.field=value, e.g. optimizer.learning_rate=1e-3'
            )
        keys, node = path.split("."), tree
        for depth, key in enumerate(keys):
            free = keys[:depth] in (["model", "config"], ["data", "merge"], HEAD)  # whose names are checked later
            if key not in node and not free:
                raise InputError(f'--set "{assignment}": there is no field {path}; {_suggest(path)}')
            if depth < len(keys) - 1:
                if keys[: depth + 1] == HEAD:
                    node.setdefault(key, {})
                if not isinstance(node.get(key), dict):
                    raise InputError(f'--set "{assignment}": {".".join(keys[: depth + 1])} has no fields of its own')
                node = node[key]
        node[keys[-1]] = _scalar(text)
    try:
        return from_dict(tree, where="recipe")
    except InputError as error:
        field = error.args[0].removeprefix("recipe: ").removeprefix("there is no field ").partition(" ")[0].rstrip(";")
        concerned = [a for a in assignments if f"{field}.".startswith(f"{a.partition('=')[0].strip()}.")] or assignments
        said = " ".join(f'--set "{a}"' for a in concerned)
        raise InputError(f"{said}: {error.args[0].removeprefix('recipe: ')}") from error


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value


ALIASES = {"lr": "learning_rate"}
HEAD = ["model", "config", "head"]  # of a segmenter, with fields of its own


def field_named(name: str) -> str | None:
    """The field that a name alone means, "optimizer.learning_rate" for "lr", if there is one."""
    name = ALIASES.get(name, name)
    return next((path for path in _paths() if path.rpartition(".")[2] == name), None)


@functools.cache
def _paths() -> tuple[str, ...]:
    """Of every field and section, such as "optimizer.betas"; ``model.config`` and ``data.merge`` are one field each."""

    def below(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in tree.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from below(value, f"{prefix}{name}.")

    return tuple(below(Recipe().to_dict()))


def _suggest(path: str) -> str:
    """What was meant by ``path``, which names no field: one of that name anywhere, one like it, or what there is."""
    known, keys = _paths(), path.split(".")
    right = next(i for i in range(len(keys)) if ".".join(keys[: i + 1]) not in known)  # so many keys exist
    here = [other.rpartition(".")[2] for other in known if other.split(".")[:-1] == keys[:right]]
    names = list(dict.fromkeys(other.rpartition(".")[2] for other in known))
    name = ALIASES.get(keys[-1], keys[-1])
    if name not in names:
        for close in difflib.get_close_matches(keys[right], here, n=1):
            mended = ".".join([*keys[:right], close, *keys[right + 1 :]])
            if mended in known or mended.startswith("model.config."):
                return f"did you mean {mended}?"
    for close in difflib.get_close_matches(name, names, n=1):
        of_that_name = [other for other in known if other.rpartition(".")[2] == close]
        [nearest] = difflib.get_close_matches(path, of_that_name, n=1, cutoff=0)
        return f"did you mean {nearest}?"
    return f"there are {', '.join(here)}"


def _first_mistake(error: ValidationError, tree: Mapping[str, Any]) -> str:
    mistake = error.errors()[0]
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] in ("tuple_type", "missing", "too_long"):  # all of which are pairs
        where = where.removesuffix(".1")
        return f"{where} is {mistake['input']!r}: write its two values in brackets, as [A, B] (docs/recipe.md)"
    if mistake["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"there is no field {where}; {_suggest(where)}"
    return f"{where} is {mistake['input']!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}"
