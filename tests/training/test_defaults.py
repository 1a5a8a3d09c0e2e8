"""What is chosen when little is said, and that all of it can be built."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vitnext.data.dataset import Split
from vitnext.data.facts import Facts
from vitnext.data.loaders import training_batches
from vitnext.errors import InputError
from vitnext.models import catalog
from vitnext.preprocess import Preprocess
from vitnext.recipe import read
from vitnext.training.defaults import choose, length, model_config, patches_for, starting_point, stem_for
from vitnext.training.mask_defaults import choose_segmenter


def facts(short_side, count=10_000, grey=False):
    channels = 1 if grey else 3
    return Facts(count, short_side, grey, (0.5,) * channels, (0.25,) * channels)


def config_of(recipe, classes=5):
    return catalog.resolve(recipe.model.name, **model_config(recipe, classes))[1]


def check(choice):
    """It can be built, takes a batch of its own images, and every reason is a line."""
    recipe = choice.recipe
    size, channels = recipe.data.image_size, 1 if recipe.data.color == "L" else 3
    arrays = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    split = Split(("a", "b"), np.arange(2), np.array([b"0", b"1"]), np.ones(2, np.int64), arrays=arrays)
    preprocess = Preprocess(
        (size, size), recipe.data.resize, color=recipe.data.color, mean=(0,) * channels, std=(1,) * channels
    )
    images, _ = next(training_batches(split, preprocess, recipe).epoch(0))
    assert images.shape == (2, channels, size, size)
    with torch.device("meta"):  # the shapes, without the work
        model = catalog.build(recipe.model.name, **model_config(recipe, 5)).eval()
        assert model(torch.empty(images.shape)).shape == (2, 5)
    for reason in choice.reasons:
        assert reason and len(reason.splitlines()) == 1 and len(reason) < 120
    return recipe


def test_the_length_of_a_run_is_said_as_it_was_asked_for():
    endless, scenes = "schedule.epochs=100000", replace(facts(32, count=1), size=(32, 32))
    for sets, said in (
        (["schedule.epochs=1"], "1 epoch"),
        (["schedule.epochs=20"], "20 epochs"),
        ([endless, "schedule.steps=1500"], "1,500 steps"),
        ([endless, "schedule.steps=1", "schedule.minutes=1"], "1 step or 1 minute"),
        ([endless, "schedule.minutes=0.5"], "30 seconds"),
        ([endless, f"schedule.minutes={20 / 60}"], "20 seconds"),
        ([endless, f"schedule.minutes={1 / 60}"], "1 second"),
        ([endless, "schedule.minutes=1.5"], "90 seconds"),
        ([endless, f"schedule.minutes={200 / 60}"], "3.33 minutes"),
    ):
        choice = choose(facts(28, count=1), overrides=sets)
        assert length(choice.recipe) == said
        assert f"28 px, {said}: 1 training image" in choice.reasons
        assert f"crops of 32 px, {said}: 1 training image; " in choose_segmenter(scenes, overrides=sets).reasons[-1]


@pytest.mark.parametrize(
    ("model", "stem"), [(None, 1), ("resnet+panoptic_deeplab", 2), ("convnext_atto+segformer", 2)], ids=str
)
def test_small_scenes_get_a_fine_stem_and_the_recipe_a_still_finer_one(model, stem):
    """digit_scenes says 1, digit_scenes_panoptic 2, and ConvNeXt's own is 4."""
    scenes = replace(facts(96, count=14400), size=(96, 96))
    assert choose_segmenter(scenes, model=model, objects=True).recipe.model.config["stem_stride"] == stem


# ---- everything that comes out can be trained

SIZES = [1, 2, 5, 8, 9, 16, 17, 19, 28, 29, 30, 50, 63, 64, 65, 80, 95, 100, 500]


@pytest.mark.parametrize("model", [None, "vit"])
@pytest.mark.parametrize(
    ("side", "gpu"), [(side, False) for side in SIZES] + [(side, True) for side in SIZES if side > 64]
)
def test_every_size_of_image_gets_a_recipe_that_runs(side, gpu, model):
    recipe = check(choose(facts(side), model=model, gpu=gpu))
    assert recipe.data.image_size <= max(side, 2)
    assert catalog.family_of(recipe.model.name) == (model or "convnext")
    config = config_of(recipe)
    if model == "vit":
        assert 1 <= math.prod(config.grid) <= 256  # attention over more tokens is slow
    else:
        assert recipe.data.image_size >= config.stride


@pytest.mark.parametrize("model", ["vit_tiny", "convnext_atto", "vit_small_patch8", "convnext_tiny"])
@pytest.mark.parametrize("side", [8, 16, 17, 28, 50, 63, 64, 65, 100, 500])
def test_every_size_of_image_gets_a_published_model_that_runs(side, model):
    assert check(choose(facts(side), model=model)).model.name == model


OTHERS = [
    *("deit_tiny", "deit_tiny_distilled", "deit3_small", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"),
    *("swin_tiny", "swinv2_tiny", "mit_b0", "convnextv2_atto", "resnet18", "mobilenet_v2", "roadmap_r50_06"),
]


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("side", [16, 28, 300])
def test_every_family_gets_a_recipe_that_runs(side, model):
    recipe = check(choose(facts(side), model=model))
    assert recipe.model.name == model


@pytest.mark.parametrize("count", [1, 2, 5, 8, 10, 63, 64, 100, 511, 512, 1023, 1024, 5000, 60_000, 10**7])
@pytest.mark.parametrize("side", [8, 28, 100])
def test_every_number_of_images_gets_a_recipe_that_runs(side, count):
    recipe = check(choose(facts(side, count)))
    assert recipe.batch_size >= 8
    assert recipe.batch_size == 8 or recipe.batch_size <= max(count // 8, 64)


# ---- what is chosen


@pytest.mark.parametrize(
    ("side", "size", "stem", "patch", "stride", "band"),
    [
        (8, 8, 1, 4, 1, "digits"),
        (9, 8, 1, 4, 1, "digits"),
        (16, 16, 1, 8, 2, "digits"),
        (17, 16, 1, 8, 2, "fashion_mnist"),
        (28, 28, 2, 8, 4, "fashion_mnist"),
        (30, 28, 2, 8, 4, "fashion_mnist"),
        (50, 48, 2, 12, 6, "fashion_mnist"),
        (63, 60, 2, 12, 6, "fashion_mnist"),
        (64, 64, 2, 16, 8, "fashion_mnist"),
        (65, 64, 2, 16, 8, "photos"),
        (100, 96, 4, 12, 12, "photos"),
        (500, 96, 4, 12, 12, "photos"),
    ],
)
def test_size_stem_and_patches_follow_the_images(side, size, stem, patch, stride, band):
    convnext, vit = choose(facts(side)), choose(facts(side), model="vit")
    for choice, family in ((convnext, "convnext"), (vit, "vit")):
        assert choice.recipe.data.image_size == size
        assert choice.recipe.title == read(f"{band}_{family}").title
        assert f"recipe {band}_{family}: the images' short side is {side} px" in choice.reasons
    assert config_of(convnext.recipe).stem_stride == stem
    patches = config_of(vit.recipe)
    assert (patches.patch_size, patches.stride) == (patch, stride)
    assert any(f"stem stride {stem}" in reason for reason in convnext.reasons)
    [reason] = [reason for reason in vit.reasons if "patches of" in reason]
    assert reason.startswith(f"patches of {patches.patch_size} px")
    assert reason.endswith(f" {math.prod(patches.grid)} tokens")
    assert ("every" in reason) == (patches.stride != patches.patch_size)


def test_a_gpu_gets_larger_photographs_and_more_epochs():
    cpu, gpu = choose(facts(500, 8000)), choose(facts(500, 8000), gpu=True)
    assert (cpu.recipe.data.image_size, gpu.recipe.data.image_size) == (96, 224)
    assert (cpu.recipe.schedule.epochs, gpu.recipe.schedule.epochs) == (15, 60)
    assert "96 px, 15 epochs: 8,000 training images on a CPU" in cpu.reasons
    assert "224 px, 60 epochs: 8,000 training images on a GPU" in gpu.reasons
    assert choose(facts(8), gpu=True).recipe == choose(facts(8)).recipe


@pytest.mark.parametrize(("count", "epochs"), [(100, 80), (3000, 40), (6000, 20), (36_000, 5), (10**6, 5)])
def test_photographs_are_seen_as_often_as_time_allows(count, epochs):
    recipe = choose(facts(300, count)).recipe
    assert recipe.schedule.epochs == epochs
    assert recipe.schedule.warmup_epochs == pytest.approx(epochs * 3 / 40)


def test_the_tuned_recipes_are_what_their_images_get():
    """The defaults for 8x8 digits and 28x28 garments are the recipes that were measured on them."""
    for name, side, count in (("digits", 8, 1294), ("fashion_mnist", 28, 60_000)):
        for family in ("vit", "convnext"):
            chosen, measured = choose(facts(side, count, grey=True), model=family).recipe, read(f"{name}_{family}")
            assert config_of(chosen) == config_of(measured)
            for part in ("augment", "optimizer", "schedule", "batch_size", "label_smoothing"):
                assert getattr(chosen, part) == getattr(measured, part)
            assert chosen.data.image_size == measured.data.image_size


@pytest.mark.parametrize(("grey", "color"), [(True, "L"), (False, "RGB")])
def test_grey_images_get_one_channel(grey, color):
    assert choose(facts(8, grey=grey)).recipe.data.color == color
    assert choose(facts(300, grey=grey)).recipe.data.color == color


def test_the_data_s_own_validation_split_is_kept():
    assert choose(facts(28)).recipe.data.val_fraction is None


@pytest.mark.parametrize(("count", "batch"), [(5, 8), (60, 8), (200, 16), (511, 32), (512, 64), (10_000, 64)])
def test_few_images_get_small_batches_and_a_lower_learning_rate(count, batch):
    choice, usual = choose(facts(8, count)), read("digits_convnext")
    assert choice.recipe.batch_size == batch
    assert choice.recipe.optimizer.learning_rate == pytest.approx(
        usual.optimizer.learning_rate * (batch / usual.batch_size) ** 0.5
    )
    assert any(f"batches of {batch}" in reason for reason in choice.reasons) == (batch < 64)


def test_a_family_means_the_recipe_s_model_of_it():
    """On photographs "vit" is not ViT-Base with its 86 million parameters."""
    assert choose(facts(300), model="vit").recipe == choose(facts(300), model="vit_tiny").recipe
    assert choose(facts(300), model="convnext").recipe == choose(facts(300)).recipe


def test_a_published_size_brings_its_own_shape():
    tiny = config_of(choose(facts(28), model="vit_tiny").recipe)
    assert (tiny.dim, tiny.depth, tiny.heads, tiny.mlp_ratio) == (192, 12, 3, 4.0)
    assert (tiny.patch_size, tiny.stride) == (8, 4)
    atto = config_of(choose(facts(8), model="convnext_atto").recipe)
    assert (atto.depths, atto.widths, atto.stem_stride) == ((2, 2, 6, 2), (40, 80, 160, 320), 1)


@pytest.mark.parametrize(
    ("side", "count", "recipe"), [(8, 1_295, "digits_vit"), (28, 60_000, "fashion_mnist_vit"), (8, 647, "digits_vit")]
)
def test_epochs_follow_the_number_of_small_images(side, count, recipe):
    measured, chosen = read(recipe).schedule, choose(facts(side, count), model="vit").recipe.schedule
    share = 2 if count == 647 else 1
    assert chosen.epochs == share * measured.epochs
    assert chosen.warmup_epochs == share * measured.warmup_epochs
    assert choose(facts(side, 10**7)).recipe.schedule.epochs == 5
    assert choose(facts(side, 10)).recipe.schedule.epochs == 200


def test_a_patch_size_in_the_name_is_kept():
    choice = choose(facts(300), model="vit_tiny_patch8")
    assert config_of(choice.recipe).patch_size == 8
    assert not any("patches of" in reason for reason in choice.reasons)


# ---- what the user says


def test_what_the_user_sets_is_not_given_as_a_choice():
    sets = ["schedule.epochs=3", "batch_size=4", "model.config.stem_stride=2", "seed=9"]
    choice = choose(facts(100, 50), overrides=sets)
    recipe = check(choice)
    assert (recipe.schedule.epochs, recipe.batch_size, recipe.seed) == (3, 4, 9)
    assert config_of(recipe).stem_stride == 2
    text = " ".join(choice.reasons)
    assert "80 epochs" not in text and "batches of" not in text and "stem stride" not in text


@pytest.mark.parametrize(("size", "patch", "stride"), [(64, 16, 8), (128, 16, 16), (30, 6, 3), (8, 4, 1), (1, 1, 1)])
def test_patches_and_stem_follow_the_image_size_that_is_asked_for(size, patch, stride):
    sets = [f"data.image_size={size}"]
    vit = choose(facts(300), model="vit", overrides=sets)
    patches = config_of(check(vit))
    assert (patches.patch_size, patches.stride) == (patch, stride)
    assert f"{size} px, 9 epochs: 10,000 training images on a CPU" in vit.reasons
    assert config_of(choose(facts(300), overrides=sets).recipe).stem_stride == stem_for(size)


@pytest.mark.parametrize("name", ["digits_vit", "fashion_mnist_convnext", "photos_vit"])
def test_a_recipe_that_is_given_stays_as_it_is(name):
    choice = choose(facts(300, 20), recipe=name, gpu=True)
    assert choice.recipe == read(name)
    assert choice.reasons == [f"recipe {name} as given"]
    assert choose(facts(300), recipe=name, overrides=["seed=4"]).recipe == read(name, ["seed=4"])


def test_a_recipe_of_the_user_s_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {name: vit, config: {patch_size: 2, dim: 32}}\nseed: 7\n")
    assert choose(facts(8), recipe=str(tmp_path / "mine.yaml")).recipe == read(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("recipe", "model", "name", "config"),
    [
        ("photos_vit", "vit", "vit_tiny", {"stochastic_depth": 0.1}),
        ("photos_vit", "vit_small", "vit_small", {"stochastic_depth": 0.1}),
        ("photos_vit", "convnext_atto", "convnext_atto", {}),
        ("digits_vit", "vit", "vit", read("digits_vit").model.config),
    ],
)
def test_another_model_for_a_recipe_that_is_given(recipe, model, name, config):
    chosen = choose(facts(300), recipe=recipe, model=model).recipe
    assert (chosen.model.name, chosen.model.config) == (name, config)
    assert chosen.optimizer == read(recipe).optimizer


@pytest.mark.parametrize(
    "given",
    [
        {"model": "vti"},
        {"model": "vit_enormous"},
        {"model": "convnext_tiny_patch4"},
        {"recipe": "no.yaml"},
        {"recipe": "digits_vit", "model": "alexnet"},
        {"overrides": ["optimizer.lr=1"]},
        {"overrides": ["seed=-1"]},
        {"overrides": ["data.image_size=0"]},
        {"recipe": "digits_vit", "overrides": ["schedule.epochs=0"]},
    ],
    ids=str,
)
def test_a_mistake_is_one_line(given):
    with pytest.raises(InputError) as caught:
        choose(facts(28), **given)
    assert len(str(caught.value).splitlines()) == 1


# ---- patches, stems, and what the data decides


def test_patches_cover_the_image_and_are_enough():
    for size in range(1, 300):
        patch, stride = patches_for(size)
        step = stride or patch
        assert 1 <= step <= patch <= max(1, size // 2, 16) and (size - patch) % step == 0
        if size <= 16:
            assert patch == max(1, size // 2)
            continue
        assert patch == (2 * step if size <= 64 else step)
        assert size % step == 0 and (step == 1 or size // step >= 7)
        for larger in range(step + 1, 17):  # a larger one would not divide the image, or give too few
            assert size % larger or size // larger < 7


@pytest.mark.parametrize(("size", "stem"), [(1, 1), (16, 1), (17, 2), (64, 2), (65, 4), (224, 4)])
def test_a_stem_spares_small_images(size, stem):
    assert stem_for(size) == stem


def test_the_data_decide_classes_channels_and_the_size_of_a_vit():
    vit = read("digits_vit")
    assert model_config(vit, 7) == {**vit.model.config, "classes": 7, "channels": 1, "image_size": 8}
    convnext = read("photos_convnext")
    assert model_config(convnext, 7) == {**convnext.model.config, "classes": 7, "channels": 3}
    same = read("digits_vit", ["model.config.classes=7", "model.config.image_size=8"])
    assert model_config(same, 7) == model_config(vit, 7)


@pytest.mark.parametrize(("field", "value", "made"), [("classes", 9, 7), ("channels", 3, 1), ("image_size", 16, 8)])
def test_what_the_data_decide_cannot_be_set(field, value, made):
    with pytest.raises(InputError, match=f"model.config.{field} is {value}, but the data makes it {made}"):
        model_config(read("digits_vit", [f"model.config.{field}={value}"]), 7)


# ---- where a run starts from


def test_weights_are_named_once(tmp_path):
    file = tmp_path / "w.pth"
    file.touch()
    start = starting_point(str(file), facts(200), model="vit_tiny", recipe=None)
    assert (start.pretrained, start.model) == (True, "vit_tiny")
    same = starting_point(
        "auto", facts(200), model="vit_tiny", recipe=None, overrides=[f"model.pretrained={json.dumps(str(file))}"]
    )
    assert same == start
    with pytest.raises(InputError, match="both name weights"):
        starting_point(str(file), facts(200), model=None, recipe=None, overrides=["model.pretrained=x"])
    with pytest.raises(InputError, match=r"nofile\.pth: no such file of weights"):
        starting_point("nofile.pth", facts(200), model="vit_tiny", recipe=None)


def test_none_is_none_whatever_the_recipe_says(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: {name: convnext_atto, pretrained: timm/convnext_atto.d2_in1k}")
    start = starting_point("none", facts(200), model=None, recipe=str(recipe))
    choice = choose(facts(200), recipe=str(recipe), overrides=start.overrides)
    assert choice.recipe.model.pretrained == "none"
    with pytest.raises(InputError, match="starts from timm/convnext_atto.d2_in1k, weights of convnext_atto: with"):
        choose(facts(200), recipe=str(recipe), model="vit_tiny")
    assert choose(facts(200), recipe=str(recipe)).recipe.model.pretrained == "timm/convnext_atto.d2_in1k"


def test_an_artifact_of_a_family_keeps_its_own_network():
    choice = choose(facts(28), model="convnext", pretrained=True)
    assert choice.recipe.model.name == "convnext"
    assert choice.reasons[0] == "recipe photos_finetune: the run starts from weights"
    assert choose(facts(8), model="convnext", pretrained=True).recipe.augment.horizontal_flip == 0
    assert choose(facts(200), model="convnext", pretrained=True).recipe.augment.horizontal_flip == 0.5


@pytest.mark.parametrize(("blocks", "times"), [("null", 1), ("2", 1), ("0", 50)])
def test_a_head_alone_learns_at_a_rate_of_its_own(blocks, times):
    given = {"model": "convnext_atto", "pretrained": True}
    said = [f"optimizer.train_blocks={blocks}"]
    choice, usual = choose(facts(200), **given, overrides=said), choose(facts(200), **given)
    assert choice.recipe.optimizer.learning_rate == pytest.approx(times * usual.recipe.optimizer.learning_rate)
    assert any("the head alone" in reason for reason in choice.reasons) == (times > 1)
    asked = choose(facts(200), **given, overrides=[*said, "optimizer.learning_rate=0.25"])
    assert asked.recipe.optimizer.learning_rate == 0.25 and not any("alone" in reason for reason in asked.reasons)


def test_dinov3_gets_the_patches_of_a_vit():
    assert choose(facts(224), model="dinov3", gpu=True).recipe.model.config["patch_size"] == 16
