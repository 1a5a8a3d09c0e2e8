"""AdamW with the usual division: weights of Linear and Conv layers decay, everything else does not."""

from __future__ import annotations

import torch
from torch import nn

from vitnext.recipe import Optimizer


def adamw(model: nn.Module, recipe: Optimizer) -> torch.optim.AdamW:
    """Biases, norms, tokens, position embeddings and layer scales are not decayed."""
    decayed, free = split_parameters(model)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(with weight decay, without): each trainable parameter is in exactly one list."""
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trainable if id(p) in weights], [p for p in trainable if id(p) not in weights]
