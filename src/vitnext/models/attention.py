"""Self-attention (Vaswani et al. 2017, section 3.2; Dosovitskiy et al. 2021, appendix A).

[q, k, v] = z W_qkv                       W_qkv in R^{D x 3 D}           (ViT eq. 5)
A         = softmax(q k^T / sqrt(D_h))    A in R^{N x N}, rows sum to 1  (ViT eq. 6)
SA(z)     = A v                                                          (ViT eq. 7)
MSA(z)    = [SA_1(z); ...; SA_h(z)] W^O   D_h = D / h                    (ViT eq. 8)

W_qkv holds the paper's h matrices U_qkv (D x 3 D_h) side by side; W^O is its U_msa. Deviation: both have a bias, as in
the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """The equation, step by step: softmax(q k^T / sqrt(d)) v.

    q, k, v: (..., N, d). Returns the weighted sum (..., N, d) and the attention weights (..., N, N) before dropout,
    whose rows sum to one.
    """
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (..., N, N)
    weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0.0) @ v, weights


def fast_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """The same weighted sum, (B, h, N, d), without the weights: on torch's fused kernel, which never stores them.

    On the CPU the backward pass of that kernel is slow for few tokens of little width, and in bfloat16 for any number:
    training there multiplies matrices in batches (benchmarks/attention.py), which keeps the weights, so that it stops
    at 600 keys. ``mask`` (B, N, N): where False, a query does not see the key.
    """
    if mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], dropout_p=dropout)
    if q.requires_grad and q.device.type == "cpu" and batches_are_faster(q, k):
        return batched_attention(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def batches_are_faster(q: Tensor, k: Tensor) -> bool:
    """Whether ``batched_attention`` trains faster on the CPU than the fused kernel, without a need of much memory."""
    if q.dtype == torch.bfloat16:
        return k.shape[-2] <= 600
    return max(q.shape[-2], k.shape[-2]) <= 50 and q.shape[-1] <= 32


def batched_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """The same as matrix products over one batch of B * h; 1 / sqrt(d) is a factor of the first, no step of its own."""
    shape = q.shape  # (B, h, N, d)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # (B * h, N, d)
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=shape[-1] ** -0.5)  # (B * h, N, N)
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0.0)
    return torch.bmm(weights, v).view(shape)


class MultiHeadSelfAttention(nn.Module):
    """h heads attend side by side in D / h dimensions each; W^O mixes what they found.

    ``forward(z)`` maps (B, N, D) to (B, N, D) on the fastest path. ``forward(z, return_weights=True)`` takes the
    readable path above and returns the weights (B, h, N, N) too. All give the same result.
    ``queries``: only so many tokens, the first ones, ask, and the result is theirs: (B, queries, D).
    ``mask`` (B, N, N) says who may attend to whom: queries by keys, at least one True in a row. ``attention_dropout``
    acts on the weights, in training. Raises ValueError if ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True, attention_dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)  # W_qkv: one product gives q, k and v of all heads
        self.output = nn.Linear(dim, dim)  # W^O

    def forward(
        self, z: Tensor, return_weights: bool = False, mask: Tensor | None = None, queries: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        batch, tokens, dim = z.shape
        qkv = self.qkv(z).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B, h, N, d)
        q = q if queries is None else q[:, :, :queries]
        dropout = self.attention_dropout if self.training else 0.0
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, dropout)
        else:
            heads = fast_attention(q, k, v, dropout, mask)
        concatenated = heads.transpose(1, 2).flatten(2)  # (B, N, h * d)
        out: Tensor = self.output(concatenated)
        return (out, weights) if return_weights else out
