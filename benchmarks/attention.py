"""Attention, forward and backward or forward alone: torch's fused kernel beside batched products, in turns.

python benchmarks/attention.py [--dtypes fp32 bf16] [--json attention.json]
"""

from __future__ import annotations

import itertools

import torch
from measure import interleaved, parser, report
from torch.nn import functional as F

from vitnext.models.attention import batched_attention
from vitnext.training.hardware import keep_heap

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# batch, heads, tokens, width of a head
SHAPES = [
    (128, 4, 17, 16),
    (128, 4, 36, 16),
    (128, 4, 50, 16),
    (128, 4, 65, 16),
    (128, 4, 36, 32),
    (128, 4, 50, 32),
    (128, 4, 65, 32),
    (64, 3, 37, 64),
    (64, 3, 65, 64),
    (32, 3, 197, 64),
    (16, 6, 197, 64),
    (8, 6, 257, 64),
    (8, 6, 577, 64),
    (2, 6, 1025, 64),
    (1, 6, 197, 64),
]


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    arguments = flags.parse_args()
    keep_heap()
    rows = []
    for dtype, training in itertools.product(arguments.dtypes, (True, False)):
        for batch, heads, tokens, width in SHAPES:
            packed = torch.randn(batch, tokens, 3, heads, width, dtype=DTYPES[dtype], requires_grad=training)
            gradient = torch.randn(batch, heads, tokens, width, dtype=DTYPES[dtype])

            def fused() -> None:
                run(F.scaled_dot_product_attention, packed, gradient)  # noqa: B023

            def batched() -> None:
                run(batched_attention, packed, gradient)  # noqa: B023

            what = "forward and backward" if training else "forward"
            times = interleaved({"fused": fused, "batched": batched})
            rows.append({"shape": f"{dtype}, {what}, {batch} x {heads} x {tokens} x {width}", **times})
    report(rows, baseline="fused", path=arguments.json)


def run(attention, packed, gradient):  # type: ignore[no-untyped-def]
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, h, N, d), as MultiHeadSelfAttention has them
    if packed.requires_grad:
        attention(q, k, v).backward(gradient)
    else:
        with torch.inference_mode():
            attention(q, k, v)


if __name__ == "__main__":
    main()
