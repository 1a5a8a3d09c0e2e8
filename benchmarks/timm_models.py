"""The models of the recipes for small images as timm has them."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitnext.recipe import Recipe


def small_model(recipe: Recipe, classes: int) -> nn.Module:
    """timm's model with the shape of the recipe's ``vit`` or ``convnext``; initialised as timm does."""
    config, channels = recipe.model.config, 1 if recipe.data.color == "L" else 3
    if recipe.model.name == "convnext":
        widths, depths = config["widths"], config["depths"]
        four = {"depths": (*depths, 1), "dims": (*widths, widths[-1])}  # timm's has four stages
        model = ConvNeXt(channels, classes, patch_size=config["stem_stride"], ls_init_value=None, **four)
        model.stages[len(depths)] = nn.Identity()
        model.stages[0].downsample = nn.Identity()  # after a stem of stride 2 timm's halves the map once more
        return model
    return VisionTransformer(
        img_size=recipe.data.image_size,
        patch_size=config["patch_size"],
        in_chans=channels,
        num_classes=classes,
        global_pool="avg",
        class_token=False,
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        embed_layer=partial(Overlapping, stride=config["patch_stride"]),
    )


class Overlapping(PatchEmbed):
    """timm's patches, every ``stride`` pixels."""

    def __init__(self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, stride: int, **more: Any):
        super().__init__(img_size, patch_size, in_chans, embed_dim, **more)
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride)
        side = (img_size - patch_size) // stride + 1
        self.grid_size, self.num_patches = (side, side), side * side
