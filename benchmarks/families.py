"""Every family beside timm's same model (MiT: transformers'), eager inference, in turns: fp32 and bf16, batch 1 and 32.

python benchmarks/families.py [--json families.json] [--batches 1 32] [--dtypes fp32 bf16]
    [--only swin resnet] [--rounds 11]
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial

import timm
import torch
from measure import interleaved, parser, report
from transformers import SegformerConfig, SegformerForImageClassification

from vitnext.models import catalog

# Family -> our name, timm's name, and the image size.
MODELS = {
    "vit": ("vit_tiny", "vit_tiny_patch16_224", 224),
    "deit": ("deit_tiny_distilled", "deit_tiny_distilled_patch16_224", 224),
    "deit3": ("deit3_small", "deit3_small_patch16_224", 224),
    "dinov2": ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2", 224),
    "dinov3": ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb", 224),
    "swin": ("swin_tiny", "swin_tiny_patch4_window7_224", 224),
    "swinv2": ("swinv2_tiny", "swinv2_tiny_window8_256", 256),
    "mit": ("mit_b0", None, 224),
    "convnext": ("convnext_atto", "convnext_atto", 224),
    "convnextv2": ("convnextv2_atto", "convnextv2_atto", 224),
    "resnet": ("resnet18", "resnet18", 224),
    "mobilenet": ("mobilenet_v2", "mobilenetv2_100", 224),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__)
    flags.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    flags.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    flags.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    flags.add_argument("--rounds", type=int, default=11)
    arguments = flags.parse_args()
    rows = []
    for dtype, family, batch in itertools.product(arguments.dtypes, arguments.only, arguments.batches):
        ours, theirs, size = MODELS[family]
        config = {"image_size": size} if catalog.FAMILIES[family].has("image_size") else {}
        model = catalog.build(ours, classes=1000, **config).eval().to(DTYPES[dtype])
        reference = other(theirs, size if config else None).eval().to(DTYPES[dtype])
        images = torch.randn(batch, 3, size, size, dtype=DTYPES[dtype])
        if catalog.FAMILIES[family].channels_last:  # as vitnext runs it; timm is given the same
            model, reference = (each.to(memory_format=torch.channels_last) for each in (model, reference))
            images = images.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            variants = {"reference": partial(reference, images), "vitnext": partial(model, images)}
            times = interleaved(variants, arguments.rounds)
        rows.append({"model": f"{ours}, {dtype}, batch {batch}", **times})
    report(rows, baseline="reference", path=arguments.json)


def other(name: str | None, size: int | None) -> torch.nn.Module:
    if name is None:
        config = catalog.resolve("mit_b0")[1]
        return SegformerForImageClassification(
            SegformerConfig(
                depths=list(config.depths),
                hidden_sizes=list(config.widths),
                num_attention_heads=list(config.heads),
                sr_ratios=list(config.reductions),
                num_labels=1000,
            )
        )
    model: torch.nn.Module = timm.create_model(name, num_classes=1000, **({"img_size": size} if size else {}))
    return model


if __name__ == "__main__":
    main()
