"""Fine-tuning of the head, and of the blocks next to it, alone."""

from __future__ import annotations

from torch import nn

from vitnext.errors import InputError
from vitnext.training.optimizers import depths
from vitnext.wording import counted


def freeze(model: nn.Module, blocks: int) -> None:
    """Leave only the head and the last ``blocks`` blocks, with what stands between them, to be trained.

    Raises InputError if the network has no more blocks than that, so that nearly nothing would be frozen.
    """
    depth_of, depth = depths(model)
    if blocks >= depth:
        raise InputError(
            f"optimizer.train_blocks is {blocks}, but the network has {counted(depth, 'block')}: give fewer, or null"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(depth_of[id(parameter)] > depth - blocks)


def frozen_part(model: nn.Module) -> list[nn.Module]:
    """The modules before the first that is trained, to be kept in evaluation mode: without dropout, stochastic depth
    and new statistics of batch norm, what they give for an image stays the same. Empty if everything is trained."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        return []
    found: list[nn.Module] = []
    for module in model.modules():  # in the order in which images pass them
        if not any(parameter.requires_grad for parameter in module.parameters()):
            found.append(module)
        elif not any(module.children()):
            break
    return found
