"""swin_tiny+mask2former beside transformers' same model, in turns, fp32: inference, and forward and backward of every
layer's prediction; and where ours spends its time.

python benchmarks/mask2former.py [--json mask2former.json] [--size 256] [--batch 1] [--rounds 7]
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import interleaved, parser, report
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from vitnext.models import create


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--size", type=int, default=256)
    flags.add_argument("--batch", type=int, default=1)
    flags.add_argument("--rounds", type=int, default=7)
    arguments = flags.parse_args()
    swin = SwinConfig(drop_path_rate=0.0, out_features=[f"stage{i}" for i in range(1, 5)])
    reference = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=swin, num_labels=150))
    model = create.build("swin_tiny+mask2former", classes=150)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    rows = []
    with torch.inference_mode():
        variants: dict[str, Callable[[], object]] = {
            "reference": lambda: reference.eval()(images),
            "vitnext": lambda: model.eval()(images),
        }
        rows.append({"part": "inference", **interleaved(variants, arguments.rounds)})
        maps = model.maps(images)
        decoder = model.head.pixel_decoder
        whole = interleaved(
            {
                "backbone": lambda: model.maps(images),
                "pixel decoder": lambda: decoder(maps),
                "head": lambda: model.head(maps),
                "deformable attention": attention(decoder, maps),
            },
            arguments.rounds,
        )

    def theirs() -> None:
        out = reference.train()(images, output_auxiliary_logits=True)
        answers = [(out.masks_queries_logits, out.class_queries_logits)]
        answers += [(a["masks_queries_logits"], a["class_queries_logits"]) for a in out.auxiliary_logits]
        total(answers).backward()

    variants = {"reference": theirs, "vitnext": lambda: total(model.train().predictions(images)).backward()}
    rows.append({"part": "forward and backward", **interleaved(variants, arguments.rounds)})
    report(rows, baseline="reference", path=arguments.json)
    print("  ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in whole.items()))


def total(answers: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([masks.square().mean() + classes.square().mean() for masks, classes in answers]).sum()


def attention(decoder: nn.Module, maps: list[Tensor]) -> Callable[[], None]:
    """Its deformable attention alone, of all layers, on what they are given."""
    calls: list[tuple[nn.Module, tuple[object, ...]]] = []
    hooks = [
        layer.attention.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs)))
        for layer in decoder.layers
    ]
    decoder(maps)
    for hook in hooks:
        hook.remove()

    def run() -> None:
        for module, inputs in calls:
            module(*inputs)

    return run


if __name__ == "__main__":
    main()
