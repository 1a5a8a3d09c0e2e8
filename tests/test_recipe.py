"""Recipes: what may stand in them, and one line for everything that may not."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from vitnext.errors import InputError
from vitnext.recipe import AUTO, Augment, Data, Model, Recipe, builtin_names, field_named, from_dict, override, read

# Another value than the default for every field, as the command line takes it.
OTHER = {
    "title": "a title",
    "paper": "arXiv:2010.11929",
    "expected": "97%",
    "model.name": "vit_tiny",
    "model.pretrained": "timm/vit_tiny",
    "model.config": "{depths: [2, 2], layer_scale: 0.0}",
    "data.image_size": "28",
    "data.resize": "stretch",
    "data.crop_fraction": "0.875",
    "data.color": "L",
    "data.window": "[384, 480]",
    "data.short_side": "512",
    "data.merge": "{vehicle: [car, bus]}",
    "data.ignore": "[pole]",
    "data.class_sampling": "0.5",
    "data.val_fraction": "0.2",
    "data.skip_unreadable": "true",
    "augment.crop_scale": "[0.35, 1.0]",
    "augment.crop_padding": "2",
    "augment.horizontal_flip": "0.5",
    "augment.color_jitter": "0.4",
    "augment.trivial_augment": "true",
    "augment.rand_augment": "[9, 0.5]",
    "augment.erasing": "0.25",
    "augment.mixup": "0.8",
    "augment.cutmix": "1.0",
    "augment.repeats": "3",
    "augment.scale": "[0.5, 2.0]",
    "augment.aspect": "[0.8, 1.25]",
    "augment.rotation": "10",
    "optimizer.name": "muon",
    "optimizer.learning_rate": "2e-3",
    "optimizer.weight_decay": "0.1",
    "optimizer.betas": "[0.8, 0.95]",
    "optimizer.clip_norm": "0",
    "optimizer.train_blocks": "2",
    "optimizer.layer_decay": "0.8",
    "schedule.epochs": "3",
    "schedule.steps": "500",
    "schedule.minutes": "1.5",
    "schedule.decay": "poly",
    "schedule.warmup_epochs": "0.5",
    "schedule.final_fraction": "0.01",
    "schedule.validate_epochs": "2",
    "schedule.patience": "4",
    "loss.cross_entropy": "0",
    "loss.focal": "1",
    "loss.dice": "0.5",
    "loss.lovasz": "1",
    "loss.hardest": "0.25",
    "loss.balanced": "true",
    "loss.binary": "true",
    "loss.auxiliary": "0.1",
    "label_smoothing": "0.1",
    "ema": "0.999",
    "batch_size": "64",
    "accumulate": "4",
    "precision": "bf16",
    "compile": "on",
    "parallel": "fsdp",
    "device": "cuda:1",
    "workers": "0",
    "seed": "7",
    "save_minutes": "2.5",
    "save_steps": "50",
    "track": "tensorboard",
}

WRONG = {
    "title": ["3"],
    "paper": ["[a]"],
    "expected": ["0.97"],
    "model.name": ["3", "null"],
    "model.pretrained": ["3", "null"],
    "model.config": ["3", "[patch_size]", "{1: 2}"],
    "data.image_size": ["0", "-8", "8.5", "big", "true", "null", "[8, 8]"],
    "data.resize": ["squash", "1"],
    "data.crop_fraction": ["0", "1.1", ".nan", "true"],
    "data.color": ["RGBA", "l"],
    "data.window": ["384", "[384]", "[0, 5]", "[a, b]"],
    "data.short_side": ["-1", "0.5", "true"],
    "data.merge": ["3", "[car]", "{vehicle: car}"],
    "data.ignore": ["pole", "3"],
    "data.class_sampling": ["-0.1", "1.1", "true"],
    "data.val_fraction": ["1", "-0.1", "ten", "false"],
    "data.skip_unreadable": ["sometimes", "2"],
    "augment.crop_scale": ["0.5", "[0.5]", "[0, 1]", "[0.5, 1, 1]", "[1.0, 0.35]", "[0.5, 1.5]", "[a, b]"],
    "augment.crop_padding": ["-1", "0.5", "true"],
    "augment.horizontal_flip": ["1.5", "-0.5", "true", "half"],
    "augment.color_jitter": ["2", "-1", "true"],
    "augment.trivial_augment": ["sometimes", "2"],
    "augment.rand_augment": ["9", "[9]", "[11, 0]", "[0, 0.5]", "[9, -1]", "true"],
    "augment.mixup": ["-1", ".inf", "true"],
    "augment.cutmix": ["-1", ".inf", "true"],
    "augment.repeats": ["0", "1.5", "true"],
    "augment.erasing": ["1.1", "true"],
    "augment.scale": ["0.5", "[0, 2]", "[2, 0.5]", "[0.5]"],
    "augment.aspect": ["0.5", "[0, 2]", "[2, 0.5]", "[0.5]"],
    "augment.rotation": ["-1", "181", "true"],
    "optimizer.name": ["sgd", "Muon", "3"],
    "optimizer.learning_rate": ["0", "-1e-3", ".inf", ".nan", "fast", "true", "null"],
    "optimizer.weight_decay": ["-0.1", ".nan"],
    "optimizer.betas": ["0.9", "[0.9]", "[0.9, 1.0]", "[0.9, true]"],
    "optimizer.clip_norm": ["-1", ".inf"],
    "optimizer.train_blocks": ["-1", "0.5", "all", "true"],
    "optimizer.layer_decay": ["0", "1.1", "true"],
    "schedule.epochs": ["0", "-5", "1.5", "many", "true"],
    "schedule.steps": ["-1", "0.5", "true"],
    "schedule.minutes": ["-1", ".inf", "true"],
    "schedule.decay": ["step", "2"],
    "schedule.warmup_epochs": ["-1", "true"],
    "schedule.final_fraction": ["1", "-0.1"],
    "schedule.validate_epochs": ["0", "1.5"],
    "schedule.patience": ["-1", "0.5"],
    **{f"loss.{name}": ["-1", ".inf", "true"] for name in ("cross_entropy", "focal", "dice", "lovasz", "auxiliary")},
    "loss.hardest": ["0", "1.1", "true"],
    "loss.balanced": ["2", "often"],
    "loss.binary": ["2", "often"],
    "label_smoothing": ["1", "-0.1", "true"],
    "ema": ["1", "-0.1", "true"],
    "accumulate": ["0", "1.5", "true"],
    "batch_size": ["0", "-1", "1.5", "true", "''"],
    "precision": ["fp16", "32"],
    "compile": ["1", "null", "always"],
    "parallel": ["pipeline", "null"],
    "device": ["3", "null"],
    "workers": ["-2", "0.5", "true"],
    "seed": ["-1", "0.5", "true"],
    "save_minutes": ["-1", ".inf", "true"],
    "save_steps": ["-1", "0.5", "true"],
    "track": ["neptune", "true"],
}


def leaves(tree, prefix=""):
    """Dotted path and value of every field; ``model.config`` and ``data.merge`` are one field each."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and path not in ("model.config", "data.merge"):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


LEAVES = dict(leaves(Recipe().to_dict()))
BRANCHES = sorted({path.partition(".")[0] for path in LEAVES if "." in path})


def nested(path, value):
    """{"a.b": 1} as {"a": {"b": 1}}"""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def mistake(call, *arguments):
    """The message of the InputError, which is one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message and len(message.splitlines()) == 1
    return message


def test_fields_of_a_head_are_set_one_by_one():
    recipe = override(Recipe(), ["model.config.head.width=64", "model.config.head.dropout=0"])
    assert recipe.model.config == {"head": {"width": 64, "dropout": 0}}
    assert "model.config.dim has no fields" in mistake(override, recipe, ["model.config.dim.x=1"])


def test_the_tables_of_this_test_are_complete():
    assert set(OTHER) == set(WRONG) == set(LEAVES)


# ---- the page of the documentation

PAGE = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text(encoding="utf-8")


def test_the_page_lists_every_field_with_its_default():
    rows = re.findall(r"^\| `([\w.]+)` \| `(.+?)` \|", PAGE, re.MULTILINE)
    remarks = ("title", "paper", "expected")
    assert {path: yaml.safe_load(text) for path, text in rows} == {k: v for k, v in LEAVES.items() if k not in remarks}
    assert all(f"`{name}`" in PAGE for name in remarks)


def test_the_page_lists_every_builtin_recipe():
    kinds = "convnext|resnet|vit|finetune|probe|scenes|panoptic|queries|deit|swin|segformer|eomt"
    assert set(re.findall(rf"`(\w+_(?:{kinds}))`", PAGE)) == set(builtin_names())


# ---- the recipes that come with the package


@pytest.mark.parametrize("name", builtin_names())
def test_every_builtin_recipe_builds_and_takes_an_image_of_its_size(name):
    import torch

    from vitnext.models import create
    from vitnext.models.names import answers_with_queries
    from vitnext.training.defaults import model_config

    recipe = read(name)
    assert recipe.title and recipe.paper
    config = model_config(recipe, classes=7)
    with torch.device("meta"):
        model = create.build(recipe.model.name, **config).eval()
        built = create.config_dict(model)
        for key, value in recipe.model.config.items():
            assert built[key] == value
        size = recipe.data.image_size
        answers = model(torch.empty(2, config["channels"], size, size))
    if answers_with_queries(recipe.model.name):
        assert answers[1].shape == (2, built["queries"], 8)
        return
    masks = (size, size) if create.is_segmenter(recipe.model.name) else ()
    assert answers.shape == (2, 7 + 3 * create.tells_objects_apart(recipe.model.name), *masks)


@pytest.mark.parametrize(
    ("name", "batch", "rate", "last_rate", "warmup", "depth", "repeats", "ema", "clip", "parameters"),
    [  # of the papers: ConvNeXt's table 5, DeiT's table 9, Swin's appendix A2.1; parameters from table 1, 5 and 1; the
        # last rate from the authors' code: --min_lr, --min-lr, and TRAIN.MIN_LR times 1024 / 512
        ("convnext", 4096, 4e-3, 1e-6, 20, 0.1, 1, 0.9999, 0, 29),
        ("deit", 1024, 1e-3, 1e-5, 5, 0.1, 3, 0, 0, 22),
        ("swin", 1024, 1e-3, 1e-5, 20, 0.2, 1, 0, 1, 28),
    ],
)
def test_the_recipes_of_the_papers(name, batch, rate, last_rate, warmup, depth, repeats, ema, clip, parameters):
    import torch

    from vitnext.models import create
    from vitnext.training.defaults import model_config

    recipe = read(f"imagenet_{name}")
    augment, optimizer = recipe.augment, recipe.optimizer
    assert (recipe.batch_size, optimizer.learning_rate, optimizer.clip_norm, recipe.ema) == (batch, rate, clip, ema)
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs, recipe.schedule.decay) == (300, warmup, "cosine")
    assert rate * recipe.schedule.final_fraction == pytest.approx(last_rate)
    assert (optimizer.name, optimizer.weight_decay, recipe.label_smoothing) == ("adamw", 0.05, 0.1)
    assert (augment.rand_augment, augment.mixup, augment.cutmix, augment.erasing) == ((9, 0.5), 0.8, 1.0, 0.25)
    assert (augment.repeats, recipe.model.config["stochastic_depth"]) == (repeats, depth)
    with torch.device("meta"):
        model = create.build(recipe.model.name, **model_config(recipe, classes=1000))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == parameters


@pytest.mark.parametrize(
    ("name", "decay", "steps", "warmup", "rate", "weight_decay", "clip", "of_layers", "scale", "parameters"),
    [  # of the papers' sections and the authors' configs; parameters from ConvNeXt's table 7, SegFormer's 1a, EoMT's 1
        ("ade20k_upernet_convnext", "linear", 160_000, 1500, 1e-4, 0.05, 0, 0.97, 0.5, 60),
        ("ade20k_segformer", "linear", 160_000, 1500, 6e-5, 0.01, 0, 1.0, 0.5, 3.8),
        ("coco_eomt", "poly", 88_712, 1500, 1e-4, 0.05, 0.01, 0.8, 0.1, 316),
    ],
)
def test_the_segmenters_recipes_of_the_papers(
    name, decay, steps, warmup, rate, weight_decay, clip, of_layers, scale, parameters
):
    import torch

    from vitnext.models import create
    from vitnext.training.defaults import model_config
    from vitnext.training.schedules import total_steps

    recipe = read(name)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm) == (rate, weight_decay, clip)
    assert (optimizer.name, optimizer.layer_decay, recipe.batch_size) == ("adamw", of_layers, 16)
    assert (recipe.augment.scale, recipe.augment.horizontal_flip, schedule.decay) == ((scale, 2.0), 0.5, decay)
    images = 118_287 if name.startswith("coco") else 20_210
    assert total_steps(schedule, images // 16) == pytest.approx(steps, rel=1e-3)
    assert round(schedule.warmup_epochs * images / 16) == pytest.approx(warmup, rel=0.02)
    with torch.device("meta"):
        classes = 133 if name.startswith("coco") else 150
        model = create.build(recipe.model.name, **model_config(recipe, classes=classes))
    own = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("auxiliary"))
    assert own / 1e6 == pytest.approx(parameters, rel=0.02)


def test_there_are_builtin_recipes_for_every_choice_of_the_defaults():
    bands, families = ("digits", "fashion_mnist", "photos"), ("convnext", "vit")
    assert {f"{band}_{family}" for band in bands for family in families} <= set(builtin_names())


@pytest.mark.parametrize("name", builtin_names())
def test_a_recipe_survives_json_and_yaml(name, tmp_path):
    recipe = read(name)
    tree = recipe.to_dict()
    assert from_dict(json.loads(json.dumps(tree))) == recipe
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert read(tmp_path / "recipe.yaml") == recipe


# ---- values


@pytest.mark.parametrize("path", OTHER)
def test_set_changes_that_field_and_no_other(path):
    before = Recipe()
    after = override(before, [f"{path}={OTHER[path]}"])
    changed = {name: value for name, value in leaves(after.to_dict()) if value != LEAVES[name]}
    assert list(changed) == [path]
    assert from_dict(after.to_dict()) == after
    # A file says the same. (YAML 1.1 takes 2e-3 for a text; a number is meant.)
    assert from_dict(nested(path, yaml.safe_load(OTHER[path]))) == after


@pytest.mark.parametrize(("text", "value"), [("on", "on"), ("off", "off"), ("'on'", "on"), ("True", "on")])
def test_on_and_off_may_be_written_bare(text, value, tmp_path):
    """YAML 1.1 takes them for booleans."""
    (tmp_path / "given.yaml").write_text(f"compile: {text}\n", encoding="utf-8")
    recipe = read(tmp_path / "given.yaml")
    assert recipe.compile == value == override(Recipe(), [f"compile={text}"]).compile
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    assert read(tmp_path / "written.yaml") == recipe


def test_all_fields_at_once_survive_the_round_trip():
    recipe = override(Recipe(), [f"{path}={value}" for path, value in OTHER.items()])
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.augment == Augment(
        (0.35, 1.0), 2, 0.5, 0.4, True, (9.0, 0.5), 0.25, 0.8, 1.0, 3, (0.5, 2.0), (0.8, 1.25), 10.0
    )
    assert recipe.model == Model("vit_tiny", "timm/vit_tiny", {"depths": [2, 2], "layer_scale": 0.0})
    assert recipe.data == Data(
        28,
        "stretch",
        (384, 480),
        512,
        {"vehicle": ["car", "bus"]},
        ["pole"],
        0.875,
        "L",
        0.5,
        0.2,
        True,
    )
    assert recipe.optimizer.learning_rate == 2e-3 and isinstance(recipe.batch_size, int)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("0.001", 1e-3), (" 0.001 ", 1e-3), ("1", 1.0)],
)
def test_numbers_are_read_in_every_usual_form(text, value):
    assert override(Recipe(), [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == value


def test_what_is_decided_when_the_run_begins_stays_auto_until_then():
    recipe = override(Recipe(), ["optimizer.learning_rate=auto", "batch_size=auto"])
    assert (recipe.optimizer.learning_rate, recipe.batch_size) == (AUTO, AUTO)
    tree = recipe.to_dict()
    assert (tree["optimizer"]["learning_rate"], tree["batch_size"]) == ("auto", "auto") and from_dict(tree) == recipe


def test_later_assignments_win_and_the_original_is_not_changed():
    recipe = read("digits_vit")
    tree = recipe.to_dict()
    changed = override(recipe, ["seed=1", "seed=2", "model.config.dim=32", "model.config.new=[1, 2]"])
    assert (changed.seed, changed.model.config["dim"], changed.model.config["new"]) == (2, 32, [1, 2])
    assert recipe.to_dict() == tree
    assert override(recipe, []) is recipe


@pytest.mark.parametrize("text", ["a: b: c", "[1", "2026-13-45"])
def test_a_text_that_is_no_yaml_is_a_text(text):
    assert override(Recipe(), [f"title={text}"]).title == text


def test_a_file_of_nothing_is_the_default_and_no_section_is_required(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text in ("", "# only a remark\n"):
        path.write_text(text)
        assert read(path) == Recipe()
    path.write_text("schedule: {epochs: 3}\n")
    assert read(str(path), ["seed=5"]) == dataclasses.replace(override(Recipe(), ["schedule.epochs=3"]), seed=5)


# ---- mistakes


@pytest.mark.parametrize(("path", "text"), [(path, text) for path in WRONG for text in WRONG[path]])
def test_a_wrong_value_is_one_line_that_names_the_field(path, text, tmp_path):
    from_set = mistake(override, Recipe(), [f"{path}={text}"])
    assert from_set.startswith(f'--set "{path}={text}": {path}')
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(nested(path, yaml.safe_load(text))), encoding="utf-8")
    from_file = mistake(read, tmp_path / "mine.yaml")
    assert from_file.startswith(f"recipe {tmp_path / 'mine.yaml'}: {path}")


@pytest.mark.parametrize("path", [*LEAVES, *BRANCHES])
def test_a_typo_is_found_at_every_level_and_answered_with_the_right_name(path, tmp_path):
    *parents, last = path.split(".")
    typo = ".".join([*parents, last[:-1] + "x" + last[-1]])
    for message in (mistake(override, Recipe(), [f"{typo}=1"]), mistake(from_dict, nested(typo, 1))):
        assert message.endswith(f"there is no field {typo}; did you mean {path}?")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.learningrate", "optimizer.learning_rate"),
        ("learningrate", "optimizer.learning_rate"),
        ("optimiser.learning_rate", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("optimiser.lr", "optimizer.learning_rate"),
        ("epochs", "schedule.epochs"),
        ("schedule.warmup", "schedule.warmup_epochs"),
        ("image_size", "data.image_size"),
        ("name", "model.name"),
        ("model.batch_size", "batch_size"),
        ("modle.config.patch_size", "model.config.patch_size"),  # and not batch_size
        ("modle.lr", "optimizer.learning_rate"),
    ],
)
def test_a_field_is_found_wherever_it_is(typed, meant):
    assert mistake(override, Recipe(), [f"{typed}=1"]).endswith(f"there is no field {typed}; did you mean {meant}?")
    in_a_file = mistake(from_dict, nested(typed, 1))
    first, _, rest = typed.partition(".")
    if first in BRANCHES or not rest:  # else the section is what is not there
        assert in_a_file.endswith(f"there is no field {typed}; did you mean {meant}?")
    else:
        assert f"there is no field {first}; did you mean " in in_a_file


@pytest.mark.parametrize("path", LEAVES)
def test_a_field_of_something_else_is_answered_with_the_fields_there_are(path):
    *parents, last = path.split(".")
    there = ".".join([*parents, "zzz"])
    for message in (mistake(override, Recipe(), [f"{there}=1"]), mistake(from_dict, nested(there, 1))):
        assert f"there is no field {there}; there are " in message
        assert last in message


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("value", ["3", "null", "[]", "a text", "true"])
def test_a_section_must_hold_fields(branch, value):
    assert f"{branch} is " in mistake(override, Recipe(), [f"{branch}={value}"])
    assert f"{branch} is " in mistake(from_dict, {branch: yaml.safe_load(value)})


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in ("model.config", "data.merge")])
def test_a_value_has_no_fields_of_its_own(path):
    assert f"{path} has no fields of its own" in mistake(override, Recipe(), [f"{path}.more=1"])


@pytest.mark.parametrize(
    ("assignment", "answer"),
    [
        ("", "write it as path.to.field=value"),
        ("seed", "write it as path.to.field=value"),
        ("=3", "write it as path.to.field=value"),
        (" =3", "write it as path.to.field=value"),
        ("seed:3", "write it as path.to.field=value"),
        (".seed=3", "there is no field .seed"),
        ("seed.=3", "seed has no fields of its own"),
        ("optimizer..betas=3", "there is no field optimizer..betas"),
        ("optimizer.=3", "there is no field optimizer."),
        ("model.config.depths.0=3", "model.config.depths has no fields of its own"),
        ("model.config.new.field=3", "model.config.new has no fields of its own"),
    ],
)
def test_a_malformed_set_is_one_line(assignment, answer):
    message = mistake(override, read("digits_convnext"), [assignment])
    assert message.startswith(f'--set "{assignment}": ')
    assert answer in message


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("seed: [", "is not valid YAML"),
        ("seed: 1\n seed: 2", "is not valid YAML"),
        ("title: 2026-13-45", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("- seed", "must be a mapping of fields to values, not a list"),
        ("seed", "must be a mapping of fields to values, not a str"),
        ("[]", "must be a mapping of fields to values, not a list"),
        ("0", "must be a mapping of fields to values, not a int"),
        ("false", "must be a mapping of fields to values, not a bool"),
        ("1: 2", "keys should be strings"),
        ("model: {1: 2}", "keys should be strings"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line_that_names_it(text, answer, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    message = mistake(read, path)
    assert str(path) in message and answer in message


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x80")
    assert f"recipe {path} cannot be read" in mistake(read, path)


@pytest.mark.parametrize("name", ["", "digits", "no", "x" * 300, "a\0b", "."])
def test_a_recipe_that_does_not_exist_is_answered_with_those_that_do(name):
    message = mistake(read, name)
    assert "there is no recipe" in message
    for builtin in builtin_names():
        assert builtin in message


@pytest.mark.parametrize("assignment", ["data.window=480", "data.window=480x360", "augment.crop_scale=0.5"])
def test_a_pair_that_is_none_is_shown_how_to_write(assignment):
    with pytest.raises(InputError, match=r"write its two values in brackets, as \[A, B\]"):
        override(Recipe(), [assignment])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("batch_size=abc", """batch_size is 'abc': input should be greater than 0, or "auto\""""),
        ("augment.crop_scale=[0.5]", "augment.crop_scale is [0.5]: write its two values in brackets"),
        ("schedule={epochs: 0}", "schedule.epochs is 0: input should be greater"),
        ("model={nam: vit}", "there is no field model.nam; did you mean model.name?"),
    ],
)
def test_a_mistake_names_the_assignment_it_is_in_and_no_other(said, message):
    for assignments in (["seed=3", said], [said, "augment.mixup=0.1"]):
        assert mistake(override, Recipe(), assignments).startswith(f'--set "{said}": {message}')


def test_bad_yaml_is_told_with_its_place(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer:\n  learning_rate: 1\n schedule: 3\n")
    with pytest.raises(InputError, match=r"mine.yaml, line 3, column 2 is not valid YAML: expected <block end>"):
        read(path)
    with pytest.raises(InputError, match=r"other.yaml: no such file"):
        read(tmp_path / "other.yaml")


def test_a_name_alone_finds_its_field():
    found = [field_named(name) for name in ("lr", "image_size", "batch_size", "x")]
    assert found == ["optimizer.learning_rate", "data.image_size", "batch_size", None]
