"""Which model and which recipe suit these images on this machine. Every choice is said in a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from vitnext.data.facts import Facts
from vitnext.errors import InputError, WorkError
from vitnext.models import catalog, create
from vitnext.recipe import Model, Recipe, override, read
from vitnext.wording import counted

TINY, SMALL = 16, 64  # pixels of the short side: digits, garments; beyond are photographs
REGULARISERS = ("dropout", "attention_dropout", "stochastic_depth", "layer_scale")
MEASURED_WITH = {"digits": 1_295, "fashion_mnist": 60_000, "photos": 3_000}  # training images: with fewer, more epochs
EPOCHS = {"digits": 200, "fashion_mnist": 200, "photos": 80}  # at most; at least 5
GPU_EPOCHS = 4  # times as many of photographs
HEAD_ALONE = 50  # times the learning rate of fine-tuning, which spares the backbone, where a head is trained alone
PHOTO_SIZE = {"cpu": 96, "gpu": 224}


@dataclass(frozen=True)
class Choice:
    """A recipe in which nothing is left open, and why it looks so."""

    recipe: Recipe
    reasons: list[str]


@dataclass(frozen=True)
class Start:
    """The weights that a run starts from, as what they add to the recipe, and the model that this decides.

    fetch: the name on the hub of those that are not looked for yet; model: None too if they alone can tell it
    """

    pretrained: bool
    model: str | None
    overrides: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    fetch: str = ""


def starting_point(
    asked: str,
    facts: Facts,
    *,
    model: str | None,
    recipe: str | None,
    overrides: Sequence[str] = (),
    default: str = "photos_finetune",
    small: int = SMALL,
) -> Start:
    """``asked`` is "none", a file, a name on the hub, or "auto": published weights for photographs.

    Images with a short side up to ``small`` are no photographs; ``default`` is the recipe whose model is taken if none
    is named. Of a segmenter the backbone starts from weights.

    Of the published weights of a model those are taken whose licence allows any use. Nothing is fetched: ``fetched``
    does that. Raises InputError for weights that are named and cannot be read.
    """
    from vitnext.weights import hub, pretrained, sources

    given = [assignment.partition("=")[2] for assignment in overrides if assignment.startswith("model.pretrained=")]
    if given and asked != "auto":
        raise InputError("--pretrained and --set model.pretrained both name weights: leave one of them out")
    if given:
        asked = str(yaml.safe_load(given[-1]))
    if asked == "none":
        return Start(False, model, ("model.pretrained=none",))
    if asked != "auto":
        name = model or (read(recipe).model.name if recipe else None)
        if pretrained.on_hub(asked):
            hub.require_name(asked)
            return Start(True, name, (f"model.pretrained={json.dumps(asked)}",), fetch=asked)
        path, _ = pretrained.locate(asked)
        if not path.is_file():
            raise InputError(f"{asked}: no such file of weights")
        where = json.dumps(str(path.resolve()))
        return Start(True, name or pretrained.load(asked).name, (f"model.pretrained={where}",))
    if recipe is not None or facts.short_side <= small:
        return Start(False, model)
    name = model or read(default).model.name
    if any(assignment.startswith("model.") for assignment in overrides):
        return Start(False, model, reasons=("from scratch: the network is changed by --set",))
    source = sources.default_for(create.backbone_of(name))
    if source is None:
        return Start(False, model, reasons=(f"from scratch: no weights of {name} are published for any use",))
    reason = f"from published weights, {source.name} ({source.licence}); --pretrained none starts from scratch"
    return Start(True, name, (f"model.pretrained={json.dumps(source.name)}",), (reason,), source.name)


def fetched(start: Start, asked: str, model: str | None) -> Start:
    """``start`` with its weights in the cache. Published ones that nobody named need not be had: without them the run
    starts from scratch and says why, with the user's ``model``.

    Raises InputError for weights that are named and do not exist, WorkError when they cannot be fetched.
    """
    from vitnext.weights import hub, pretrained

    try:
        hub.fetch(start.fetch)
    except (InputError, WorkError) as error:
        if asked != "auto":
            raise
        why = f"from scratch: {str(error).partition(': ')[0]}; --pretrained none does not ask for it"
        return Start(False, model, reasons=(why,))
    return replace(start, model=start.model or pretrained.load(start.fetch).name, fetch="")


def choose(
    facts: Facts,
    *,
    model: str | None = None,
    recipe: str | None = None,
    pretrained: bool = False,
    gpu: bool = False,
    overrides: Sequence[str] = (),
) -> Choice:
    """Fill in what the user left open: recipe, model, image size, patch or stem, epochs.

    With ``pretrained`` weights the network keeps its published patches or stem, and sees colours. A given ``recipe`` is
    taken as it stands but for ``model`` and ``overrides``. Raises InputError for names that do
    not exist and for overrides that do not fit.
    """
    if recipe is not None:
        theirs = read(recipe)
        chosen = override(_with_model(theirs, model), overrides)
        if (
            theirs.model.pretrained != "none"
            and chosen.model.pretrained == "none"
            and not _says("model.pretrained", overrides)
        ):
            raise InputError(
                f"recipe {recipe} starts from {theirs.model.pretrained}, weights of {theirs.model.name}: with --model "
                f"{model} say --pretrained, too"
            )
        return Choice(chosen, [f"recipe {recipe} as given"])
    family = catalog.FAMILIES[catalog.family_of(model)].recipe if model else "convnext"
    band = "digits" if facts.short_side <= TINY else "fashion_mnist" if facts.short_side <= SMALL else "photos"
    band = "photos" if pretrained else band
    name = "photos_finetune" if pretrained else f"{band}_{family}"
    chosen = _with_model(read(name), model)
    if pretrained and model:  # a family's name is that of an artifact: its own network, not the recipe's
        chosen = replace(chosen, model=replace(chosen.model, name=model))
    if pretrained and facts.short_side <= TINY:
        chosen = replace(chosen, augment=replace(chosen.augment, horizontal_flip=0.0))  # digits have no mirror image
    machine = "gpu" if gpu else "cpu"
    if band == "photos":
        size = min(PHOTO_SIZE[machine], max(32, facts.short_side // 32 * 32))
    else:
        multiple = 2 if band == "digits" else 4
        size = max(multiple, facts.short_side // multiple * multiple)
    if "_patch" in chosen.model.name or (
        pretrained and catalog.FAMILIES[catalog.family_of(chosen.model.name)].has("image_size")
    ):
        patch = catalog.resolve(chosen.model.name)[1].patch_size
        size = max(patch, size // patch * patch)
    more = GPU_EPOCHS if band == "photos" and gpu else 1
    epochs = more * max(5, min(EPOCHS[band], round(chosen.schedule.epochs * MEASURED_WITH[band] / facts.count)))
    warmup = chosen.schedule.warmup_epochs * epochs / chosen.schedule.epochs
    chosen = replace(chosen, schedule=replace(chosen.schedule, epochs=epochs, warmup_epochs=warmup))
    grey = facts.grey and not pretrained
    data = replace(chosen.data, image_size=size, color="L" if grey else "RGB", val_fraction=None)
    chosen = replace(chosen, data=data)
    batch = max(8, 1 << (max(1, facts.count // 8).bit_length() - 1))
    few = facts.count < 8 * chosen.batch_size
    if few:
        scale = batch / chosen.batch_size
        optimizer = replace(chosen.optimizer, learning_rate=chosen.optimizer.learning_rate * scale**0.5)
        chosen = replace(chosen, batch_size=batch, optimizer=optimizer)
    alone = pretrained and override(chosen, overrides).optimizer.train_blocks == 0
    if alone:
        optimizer = replace(chosen.optimizer, learning_rate=chosen.optimizer.learning_rate * HEAD_ALONE)
        chosen = replace(chosen, optimizer=optimizer)
    size = override(chosen, overrides).data.image_size  # what is asked for decides what follows from it
    grain = {} if pretrained else _grain(chosen.model, size)
    config = {**chosen.model.config, **grain}
    if _says("model.config.patch_size", overrides):
        config.pop("patch_stride", None)  # chosen for other patches; without it they do not overlap
    chosen = override(replace(chosen, model=replace(chosen.model, config=config)), overrides)

    why = "the run starts from weights" if pretrained else f"the images' short side is {facts.short_side} px"
    reasons = [f"recipe {name}: {why}"]
    where = f" on a {machine.upper()}" if band == "photos" else ""
    reasons.append(f"{size} px, {length(chosen)}: {counted(facts.count, 'training image')}{where}")
    if few and chosen.batch_size == batch:
        reasons.append(
            f"batches of {batch}: {counted(facts.count, 'training image')} {'is' if facts.count == 1 else 'are'} few"
        )
    if alone and not _says("optimizer.learning_rate", overrides):
        reasons.append(f"learning rate {chosen.optimizer.learning_rate:.1e}: the head alone is trained")
    if grain.items() <= chosen.model.config.items():  # not those who asked for something else
        reasons += [_why(grain, size)] if grain else []
    return Choice(chosen, reasons)


def length(recipe: Recipe) -> str:
    """How long a run of this recipe trains, in words: "20 epochs", "1,000 steps or 30 minutes"."""
    schedule = recipe.schedule
    limits = [counted(schedule.steps, "step")] if schedule.steps else []
    if 0 < schedule.minutes < 2 and schedule.minutes != 1:
        limits.append(f"{60 * schedule.minutes:.3g} second{'s' * (round(60 * schedule.minutes, 3) != 1)}")
    elif schedule.minutes:
        limits.append(f"{round(schedule.minutes, 2):g} minute{'s' * (schedule.minutes != 1)}")
    return " or ".join(limits) or counted(schedule.epochs, "epoch")


def _says(field: str, overrides: Sequence[str]) -> bool:
    return any(assignment.partition("=")[0] == field for assignment in overrides)


def _with_model(recipe: Recipe, name: str | None) -> Recipe:
    """A family's name keeps the recipe's own model of it; another model brings its own widths and depths, and of the
    recipe keeps what regularises it, if the recipe suits its family."""
    family = catalog.family_of(recipe.model.name)
    if name is None or name in (recipe.model.name, family):
        return recipe
    other = catalog.FAMILIES[catalog.family_of(name)]  # raises InputError for a name that does not exist
    alike = other.recipe == catalog.FAMILIES[family].recipe
    regularisers = [key for key in recipe.model.config if key in REGULARISERS and alike and other.has(key)]
    kept = {key: recipe.model.config[key] for key in regularisers}
    return replace(recipe, model=Model(name, config=kept))


def _grain(model: Model, image_size: int) -> dict[str, int]:
    """Patches or a stem that suit the image; a patch size in the model's name stays."""
    family = catalog.FAMILIES[catalog.family_of(model.name)]
    if "_patch" in model.name:
        return {}
    if family.has("stem_stride"):
        return {"stem_stride": min(stem_for(image_size), family.config().stem_stride)}
    if family.has("window"):  # the hierarchical transformers: their patches are what a stem is elsewhere
        return {"patch_size": stem_for(image_size)}
    patch, stride = patches_for(image_size)
    if family.has("patch_stride"):
        return {"patch_size": patch, "patch_stride": stride}
    return {"patch_size": stride or patch}


def _why(grain: Mapping[str, int], image_size: int) -> str:
    if "stem_stride" in grain:
        why = f": larger ones would blur {image_size} px images" if image_size <= SMALL else ", as in the paper"
        return f"stem stride {grain['stem_stride']}{why}"
    patch = grain["patch_size"]
    step = grain.get("patch_stride") or patch
    tokens = ((image_size - patch) // step + 1) ** 2
    return f"patches of {patch} px{f' every {step} px' if step != patch else ''}: {tokens} tokens"


def patches_for(image_size: int) -> tuple[int, int]:
    """(patch_size, patch_stride): on photographs the largest patch up to 16 px that gives at least 7 x 7 tokens.

    On small images, patches twice as large as their stride: a token then sees across the edges of its neighbours.
    Up to 16 px a patch is half of the image.
    """
    if image_size <= TINY:
        return max(1, image_size // 2), max(1, image_size // 8)
    stride = max(s for s in range(1, 17) if image_size % s == 0 and (image_size // s >= 7 or s == 1))
    return (2 * stride, stride) if image_size <= SMALL else (stride, 0)


def stem_for(image_size: int) -> int:
    """ConvNeXt's stem stride: 4 as in the paper for photographs, less where that would blur what there is."""
    return 1 if image_size <= TINY else 2 if image_size <= SMALL else 4


def model_config(recipe: Recipe, classes: int) -> Mapping[str, Any]:
    """The recipe's model config with what the data decides: channels, classes and, where a config has it, image size.

    Raises InputError if the recipe sets one of them to something else.
    """
    decided: dict[str, Any] = {"classes": classes, "channels": 1 if recipe.data.color == "L" else 3}
    if catalog.FAMILIES[create.family_of(recipe.model.name)].has("image_size"):
        decided["image_size"] = recipe.data.image_size
    for key, value in decided.items():
        given = recipe.model.config.get(key, value)
        if given != value:
            raise InputError(f"model.config.{key} is {given}, but the data makes it {value}: leave it out")
    return {**recipe.model.config, **decided}
