"""Which segmenter and which recipe suit these images and masks on this machine. Every choice is said in a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from vitnext.data.facts import Facts
from vitnext.errors import InputError
from vitnext.models import catalog, create
from vitnext.models.names import answers_with_queries
from vitnext.recipe import Model, Recipe, override, read
from vitnext.training.defaults import Choice, length
from vitnext.wording import counted

SMALL = 128  # pixels of the short side: below it a stem or patches of 4 px blur what there is
GRAIN = 32  # pixels: stride of the coarsest features
SHORT_SIDE = {"cpu": 512, "gpu": 1024}  # longer ones are made smaller to it
CROP = {"cpu": 256, "gpu": 512}
LARGEST_WINDOW = 640  # pixels a side
MEASURED_WITH = {"scenes": 14_400, "masks": 400}  # training images of the recipe's epochs: with fewer, more epochs
VALIDATION = 0.08  # share of the time, about, that validation may take
EPOCHS = {"scenes": 150, "masks": 300}  # at most; at least 5


def choose_segmenter(
    facts: Facts,
    *,
    model: str | None = None,
    recipe: str | None = None,
    pretrained: bool = False,
    gpu: bool = False,
    objects: bool = False,
    watched: int = 0,
    overrides: Sequence[str] = (),
) -> Choice:
    """Fill in what the user left open: recipe, model, scale, crops, windows, epochs. As ``defaults.choose``. objects:
    whether the truth tells the objects of a class apart; watched: how many images validate.

    Raises InputError for names that do not exist, a model that is no segmenter, and overrides that do not fit.
    """
    if recipe is not None:
        chosen = override(_with_model(read(recipe), model), overrides)
        return Choice(_with_window(chosen, facts, objects), [f"recipe {recipe} as given"])
    machine = "gpu" if gpu else "cpu"
    band = "scenes" if facts.short_side <= SMALL and not pretrained else "masks"
    name = "masks_finetune" if pretrained else "digit_scenes" if band == "scenes" else "masks_convnext"
    if answers_with_queries(model or ""):
        name = "masks_queries"
    elif create.head_of(model or "") == "panoptic_deeplab" and not pretrained:
        name = f"{name}_panoptic"
    chosen = _with_model(read(name), model)
    whole = objects and answers_with_queries(chosen.model.name)
    short = SHORT_SIDE[machine] if facts.short_side > SHORT_SIDE[machine] and not whole else 0
    side = short or facts.short_side
    crop = max(GRAIN, min(CROP[machine], side // GRAIN * GRAIN))
    if _fixed(chosen.model.name):
        patch = catalog.resolve(create.backbone_of(chosen.model.name))[1].patch_size
        crop = max(patch, crop // patch * patch)
    epochs = max(5, min(EPOCHS[band], round(chosen.schedule.epochs * MEASURED_WITH[band] / facts.count)))
    warmup = chosen.schedule.warmup_epochs * epochs / chosen.schedule.epochs
    batch = min(chosen.batch_size, max(2, 1 << (max(1, facts.count // 4).bit_length() - 1)))
    chosen = replace(
        chosen,
        data=replace(chosen.data, image_size=crop, short_side=short),
        schedule=replace(
            chosen.schedule,
            epochs=epochs,
            warmup_epochs=warmup,
            validate_epochs=_validate_epochs(facts, watched, side / facts.short_side, crop),
        ),
        batch_size=batch,
    )
    crop = override(chosen, overrides).data.image_size  # what is asked for decides what follows from it
    config = chosen.model.config
    grain = {} if pretrained else _grain(chosen.model.name, crop)
    grain = {key: min(stride, config.get(key, stride)) for key, stride in grain.items()}  # the recipe may be finer
    chosen = replace(chosen, model=replace(chosen.model, config={**config, **grain}))
    chosen = _with_window(override(chosen, overrides), facts, objects)
    why = "the run starts from weights" if pretrained else f"the images' short side is {facts.short_side} px"
    reasons = [f"recipe {name}: {why}"]
    if chosen.data.short_side:
        reasons.append(f"images are made smaller to a short side of {chosen.data.short_side} px")
    height, width = chosen.data.window or (chosen.data.image_size,) * 2
    seen = f"windows of {width} x {height} px" if chosen.data.window else f"whole images in {width} x {height} px"
    reasons.append(
        f"crops of {chosen.data.image_size} px, {length(chosen)}: {counted(facts.count, 'training image')}; "
        f"{seen} in prediction"
    )
    return Choice(chosen, reasons)


def _validate_epochs(facts: Facts, watched: int, scale: float, crop: int) -> int:
    """So many that validation takes no more than about VALIDATION of the time: a training step passes its crops
    forward and, for twice the time, backward."""
    height, width = facts.size
    share = watched * height * width * scale**2 / (3 * facts.count * crop**2)
    return max(1, round(share / VALIDATION))


def _with_model(recipe: Recipe, name: str | None) -> Recipe:
    """A backbone alone gets the recipe's head; another model brings its own widths and depths."""
    if name is None or name == recipe.model.name:
        return recipe
    if not create.is_segmenter(name):
        catalog.family_of(name)  # raises InputError for a name that does not exist
        head = create.head_of(recipe.model.name)
        name = create.composed(name, head)
    create.family_of(name)
    kept = {key: recipe.model.config[key] for key in ("stochastic_depth",) if key in recipe.model.config}
    if not catalog.FAMILIES[create.family_of(name)].has("stochastic_depth"):
        kept = {}
    return replace(recipe, model=Model(name, recipe.model.pretrained, kept))


def _fixed(name: str) -> bool:
    """Whether the backbone takes images of one size alone."""
    return catalog.FAMILIES[create.family_of(name)].has("image_size")


def _grain(name: str, crop: int) -> dict[str, int]:
    """A finer stem or finer patches for small images, where the name leaves that open."""
    family = catalog.FAMILIES[create.family_of(name)]
    if crop > SMALL or "_patch" in name:
        return {}
    if family.has("stem_stride"):
        return {"stem_stride": min(2, family.config().stem_stride)}
    if family.has("window"):
        return {"patch_size": 2}
    return {"patch_size": max(s for s in range(1, 9) if crop % s == 0)} if family.has("patch_size") else {}


def _with_window(recipe: Recipe, facts: Facts, objects: bool) -> Recipe:
    """The window of prediction: that of the recipe, the crop where the backbone takes no other, else whole images of
    the common size, if they are not too large. Queries that tell objects apart see whole images, made to fit."""
    size = recipe.data.image_size
    if answers_with_queries(recipe.model.name) and objects:
        if recipe.data.window is not None or recipe.data.short_side:
            raise InputError(
                f"{recipe.model.name} sees whole images, made to fit into data.image_size: leave data.window and "
                "data.short_side out"
            )
        return replace(recipe, data=replace(recipe.data, resize="fit"))
    if recipe.data.window is not None:
        if _fixed(recipe.model.name) and recipe.data.window != (size, size):
            raise InputError(
                f"data.window is {recipe.data.window}, but {recipe.model.name} takes images of data.image_size, {size} "
                "px, alone: leave data.window out"
            )
        return recipe
    if _fixed(recipe.model.name):
        window = (size, size)
    else:
        short = recipe.data.short_side
        scale = min(1.0, short / facts.short_side) if short else 1.0
        height, width = (min(LARGEST_WINDOW, math.ceil(side * scale / GRAIN) * GRAIN) for side in facts.size)
        window = (height, width)
    return replace(recipe, data=replace(recipe.data, window=window))
