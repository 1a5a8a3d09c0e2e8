"""AdamW with the usual division: weights of Linear and Conv layers decay, everything else does not. On request the
matrices inside the network are trained by Muon instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vitnext.recipe import Optimizer

# A block's name in each family: encoder.3, stages.2.blocks.7 (levels, in MiT), body.stage2.0, rows.6.0.
ANSWERS = ("classifier", "center", "offset")  # what of a segmenter's head is its last layer
BLOCK = re.compile(r"^(encoder\.\d+|(stages|levels|rows|body)\.(stage)?\d+\.(blocks\.)?\d+)\.")


def optimizers(model: nn.Module, recipe: Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that together train every parameter of ``model``; they share one learning rate.

    Biases, norms, tokens, position embeddings and layer scales are not decayed, nor is the network that makes Swin V2's
    position bias, as in its authors' code; Muon leaves that one to AdamW.
    """
    matrices = hidden_matrices(model) if recipe.name == "muon" else []
    decayed, free = split_parameters(model)
    inside = {id(p) for p in matrices}
    decayed = [p for p in decayed if id(p) not in inside]
    scales = layer_scales(model, recipe.layer_decay)
    groups = [*_groups(decayed, recipe.weight_decay, scales), *_groups(free, 0.0, scales)]
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    if not matrices:
        return [adamw]
    return [Muon(_groups(matrices, recipe.weight_decay, scales), recipe.learning_rate), adamw]


def layer_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """id of each parameter -> what its learning rate is multiplied with (Bao et al. 2022, BEiT, appendix).

    Of n blocks the i-th (from 1) gets decay^(n + 1 - i), what stands before the first decay^(n + 1), and the head 1.
    """
    depth_of, depth = depths(model)
    return {of: decay ** (depth + 1 - at) for of, at in depth_of.items()}


def depths(model: nn.Module) -> tuple[dict[int, int], int]:
    """id of each parameter -> its block, and n, how many blocks there are.

    The i-th block is i, as is what stands between it and the next one; what stands before the first is 0, and the head
    n + 1.
    """
    backbone = getattr(model, "backbone", model)
    heads = {id(p) for p in model.parameters()} - {id(p) for p in backbone.parameters()}
    if isinstance(head := getattr(backbone, "head", None), nn.Module):
        heads |= {id(p) for p in head.parameters()}
    depth, last, depth_of = 0, "", {}
    for name, parameter in backbone.named_parameters():
        block = BLOCK.search(name)
        if block is not None and block[0] != last:
            depth, last = depth + 1, block[0]
        depth_of[id(parameter)] = depth
    return depth_of | dict.fromkeys(heads, depth + 1), depth


def _groups(parameters: list[nn.Parameter], weight_decay: float, scales: dict[int, float]) -> list[dict[str, Any]]:
    """Parameter groups, one for each scale of the learning rate; what the loop sets as rate is multiplied with it."""
    alike: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(scales[id(parameter)], []).append(parameter)
    if not alike:
        alike[1.0] = []
    return [{"params": group, "weight_decay": weight_decay, "scale": scale} for scale, group in alike.items()]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(with weight decay, without): each trainable parameter is in exactly one list."""
    of_bias = _of_position_bias(model)
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)} - of_bias
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trainable if id(p) in weights], [p for p in trainable if id(p) not in weights]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trainable weights of Linears and dense convolutions between the first layer, which sees pixels, and the head, or
    of a segmenter what gives answers in its head."""
    dense = [m for m in model.modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)]
    heads = [part for name in ("head", "auxiliary") if isinstance(part := getattr(model, name, None), nn.Module)]
    last = [[getattr(head, name) for name in ANSWERS if hasattr(head, name)] or [head] for head in heads]
    outer = {id(dense[0]), *(id(m) for parts in last for part in parts for m in part.modules())}
    inside = {id(m.weight) for m in dense if id(m) not in outer} - _of_position_bias(model)
    return [p for p in model.parameters() if id(p) in inside and p.requires_grad]


def _of_position_bias(model: nn.Module) -> set[int]:
    return {id(p) for name, p in model.named_parameters() if ".bias_network." in name}


class Muon(torch.optim.Optimizer):
    """Momentum whose step has all singular values near 1 (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

        M <- mu M + (1 - mu) G,   W <- W - lr (0.2 sqrt(max(m, n)) orthogonalize((1 - mu) G + mu M) + weight_decay W)

    The factor gives the m x n step the root mean square of a step of AdamW, so that both take one learning rate and
    one decay (Liu et al. 2025, arXiv:2502.16982, eq. 4). A convolution is the matrix (out, in * k * k).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
            alike: dict[tuple[int, ...], list[Tensor]] = {}  # one batched product for each shape
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(tuple(p.shape), []).append(p)
            for parameters in alike.values():
                means = [self._mean(p) for p in parameters]
                gradients = [p.grad for p in parameters if p.grad is not None]
                torch._foreach_lerp_(means, gradients, 1 - momentum)  # a GPU gets few kernels for all of them
                steps = orthogonalize(torch.stack(torch._foreach_lerp(gradients, means, momentum)).flatten(2))
                scale = 0.2 * max(steps.shape[-2:]) ** 0.5
                torch._foreach_mul_(parameters, 1 - lr * decay)
                torch._foreach_add_(parameters, list(steps.view(-1, *parameters[0].shape)), alpha=-lr * scale)

    def _mean(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        mean: Tensor = state["momentum"]
        return mean


def orthogonalize(matrices: Tensor) -> Tensor:
    """(..., m, n) -> U V^T of the singular value decomposition U S V^T, roughly: singular values land in 0.7 ... 1.2.

    Five steps of a Newton-Schulz iteration, X <- (a + b X X^T + c (X X^T)^2) X with Jordan's coefficients, which trade
    accuracy at 1 for speed near 0. Every factor is a polynomial of the first X X^T, so that all commute: their product
    and the next X X^T come of m x m matrices alone, and only the first and the last product see the long side. That
    needs products in full precision: in TF32 or bf16 what is rounded grows from factor to factor.
    """
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT  # the smaller product
    if x.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest":
        gram = x @ x.mT
        product = factor = _newton_schulz_factor(gram)
        for _ in range(4):
            gram = factor @ gram @ factor
            factor = _newton_schulz_factor(gram)
            product = factor @ product
        x = product @ x
    else:
        for _ in range(5):
            x = _newton_schulz_factor(x @ x.mT) @ x
    return x.mT if tall else x


def _newton_schulz_factor(gram: Tensor) -> Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315
    factor: Tensor = b * gram + c * gram @ gram
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
