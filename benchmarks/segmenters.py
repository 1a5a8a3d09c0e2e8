"""Segmenters beside transformers' same architectures, in turns: inference and a training step, fp32 and bf16.

UPerNet on ConvNeXt-T and SegFormer-B0 at 512 px; EoMT on ViT-S/16 of DINOv2 with 4 registers at 512 px, as it was
published. Random weights of the same shapes: the counts of parameters are compared first. Inference ends with logits
at the image's size, of EoMT with masks and classes of the queries; it runs without the auxiliary head and masked
attention on both sides. A training step is forward, cross-entropy on logits at the image's size (and on the auxiliary
head's, times 0.4; of EoMT binary cross-entropy on the masks and cross-entropy on the classes, with masked attention in
the last blocks) and backward. Inference in bf16 has weights in bf16, training in bf16 is autocast.

Where vitnext runs a model in channels-last memory, transformers' is measured in that layout and in torch's own, and the
faster one counts.

    python benchmarks/segmenters.py [--only upernet segformer eomt] [--modes inference training] [--dtypes fp32 bf16]
        [--batch 1] [--training-batch 2] [--size 512] [--rounds 7] [--threads 2] [--json segmenters.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Callable
from functools import partial

import torch
import transformers
from measure import interleaved, parser
from torch import Tensor, nn
from torch.nn import functional as F

from vitnext.models import catalog, create
from vitnext.models.eomt import EoMT
from vitnext.training.hardware import keep_heap

CLASSES = 150  # ADE20K's
STAGES = ["stage1", "stage2", "stage3", "stage4"]
NAMES = {
    "upernet": "convnext_tiny+upernet",
    "segformer": "segformer_b0",
    "eomt": "vit_small_patch14_reg4_dinov2+eomt",
}
AUXILIARY = 0.4  # weight of the auxiliary head's loss
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__)
    flags.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    flags.add_argument("--modes", nargs="+", choices=("inference", "training"), default=["inference", "training"])
    flags.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    flags.add_argument("--batch", type=int, default=1, help="of inference")
    flags.add_argument("--training-batch", type=int, default=2, help="UPerNet's batch norm needs 2 or more")
    flags.add_argument("--size", type=int, default=512, help="height and width in pixels; of EoMT a multiple of 16")
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_heap()  # as vitnext trains; one process, so transformers has it too
    rows = []
    for kind, mode, dtype in itertools.product(arguments.only, arguments.modes, arguments.dtypes):
        batch = arguments.batch if mode == "inference" else arguments.training_batch
        variants = candidates(kind, mode, dtype, batch, arguments.size)
        times = interleaved(variants, arguments.rounds)
        theirs = min(time for name, time in times.items() if name != "vitnext")
        row = {"model": NAMES[kind], "mode": mode, "dtype": dtype, "batch": batch, "size": arguments.size}
        rows.append(row | {"ms": {name: round(1e3 * time, 1) for name, time in times.items()}})
        rows[-1]["ratio"] = round(theirs / times["vitnext"], 3)
        cells = "  ".join(f"{name} {1e3 * time:,.0f} ms" for name, time in times.items())
        print(
            f"{NAMES[kind]}, {mode}, {dtype}, batch {batch}: {cells}  ratio {theirs / times['vitnext']:.2f}", flush=True
        )
    if arguments.json is not None:
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        table = {**machine, "transformers": transformers.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def candidates(kind: str, mode: str, dtype: str, batch: int, size: int) -> dict[str, Callable[[], object]]:
    """One call of each model, by name: what ``interleaved`` times."""
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {"vitnext": ours(kind, size), "transformers": theirs(kind, size)}
    counts = {name: parameters(model) for name, model in models.items()}
    print(f"{NAMES[kind]}: parameters " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    if max(counts.values()) > 1.0001 * min(counts.values()):  # our class token of EoMT has a position, theirs has none
        raise SystemExit(f"{NAMES[kind]}: the models differ in parameters")
    layouts = dict.fromkeys(models, torch.contiguous_format)
    if catalog.FAMILIES[create.family_of(NAMES[kind])].channels_last:
        layouts["vitnext"] = torch.channels_last
        models["transformers, channels-last"] = theirs(kind, size)
        layouts["transformers, channels-last"] = torch.channels_last
    if mode == "inference":  # what either leaves out once it is trained
        for model in models.values():
            if isinstance(model, transformers.UperNetForSemanticSegmentation):
                model.auxiliary_head = None
            if isinstance(model, transformers.EomtForUniversalSegmentation):
                model.attn_mask_probs.zero_()  # annealed
    step = infer if mode == "inference" else train
    kept = DTYPES[dtype] if mode == "inference" else torch.float32
    images = torch.randn(batch, 3, size, size, dtype=kept)
    truth = torch.randint(0, CLASSES, (batch, size, size))
    return {
        name: partial(
            step,
            model.to(dtype=kept, memory_format=layouts[name]).train(mode == "training"),
            images.to(memory_format=layouts[name]),
            truth,
            dtype,
        )
        for name, model in models.items()
    }


def parameters(model: nn.Module) -> int:
    """All but the token of masked patches, which belongs to DINOv2's pretraining."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith("mask_token"))


def ours(kind: str, size: int) -> nn.Module:
    config = {"patch_size": 16, "image_size": size} if kind == "eomt" else {}
    return create.build(NAMES[kind], classes=CLASSES, **config)


def theirs(kind: str, size: int) -> nn.Module:
    if kind == "upernet":
        backbone = transformers.ConvNextConfig(
            depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768], out_features=STAGES
        )
        config = transformers.UperNetConfig(
            backbone_config=backbone, hidden_size=512, auxiliary_in_channels=None, num_labels=CLASSES
        )
        model = transformers.UperNetForSemanticSegmentation(config)
    elif kind == "segformer":
        model = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(num_labels=CLASSES, drop_path_rate=0.0)
        )
    else:
        config = transformers.EomtConfig(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            mlp_ratio=4,
            num_blocks=3,
            num_queries=100,
            patch_size=16,
            image_size=size,
            num_register_tokens=4,
            num_labels=CLASSES,
        )
        model = transformers.EomtForUniversalSegmentation(config)
    return model


def infer(model: nn.Module, images: Tensor, truth: Tensor, dtype: str) -> object:
    with torch.inference_mode():
        if isinstance(model, transformers.PreTrainedModel):
            out = model(images)
            return at_size(out.logits, images) if "logits" in out else out.masks_queries_logits
        return model(images)


def train(model: nn.Module, images: Tensor, truth: Tensor, dtype: str) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        loss = loss_of(model, images, truth)
    loss.backward()
    model.zero_grad(set_to_none=True)


def loss_of(model: nn.Module, images: Tensor, truth: Tensor) -> Tensor:
    if isinstance(model, EoMT):
        return query_loss(*model.predictions(images, [1.0] * model.config.blocks)[-1])
    if isinstance(model, transformers.EomtForUniversalSegmentation):
        out = model(images)
        return query_loss(out.masks_queries_logits, out.class_queries_logits)
    if isinstance(model, transformers.SegformerForSemanticSegmentation):
        return F.cross_entropy(at_size(model(images).logits, images).float(), truth)
    if isinstance(model, transformers.UperNetForSemanticSegmentation):
        maps = model.backbone(images).feature_maps  # once for both heads, as its forward does with labels
        logits, auxiliary = at_size(model.decode_head(maps), images), at_size(model.auxiliary_head(maps), images)
    else:
        logits, auxiliary = model.forward_with_auxiliary(images)
    loss = F.cross_entropy(logits.float(), truth)
    return loss if auxiliary is None else loss + AUXILIARY * F.cross_entropy(auxiliary.float(), truth)


def query_loss(masks: Tensor, classes: Tensor) -> Tensor:
    """Of random targets: matching is no part of the model."""
    masks = masks.float()
    inside = F.binary_cross_entropy_with_logits(masks, (masks.detach() > 0).float())
    labels = torch.zeros(classes.shape[:2], dtype=torch.long)
    return inside + F.cross_entropy(classes.float().flatten(0, 1), labels.flatten())


def at_size(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


if __name__ == "__main__":
    main()
