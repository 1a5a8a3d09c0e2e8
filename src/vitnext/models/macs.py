"""Multiply-adds of one forward pass, counted from the shapes that flow through a model on torch's meta device.

Counted: convolutions, linear layers and the two products of attention (q k^T and A v). Not counted, as in the papers'
tables: norms, activations, softmax, additions. Counted as there although it is not computed: what the last block of a
vision transformer would make of tokens that its head does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitnext.models.attention import MultiHeadSelfAttention
from vitnext.models.vit import Size, sides


def count_macs(model: nn.Module, image_size: Size) -> int:
    """Multiply-adds for one image of ``image_size`` pixels, (height, width) or a square's. Nothing is computed.

    model: of a catalogue family, so that ``type(model)(model.config)`` is its twin; on the meta device it is counted
    itself. Raises ValueError if the model does not take images of this size.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            # each output value: in_channels / groups * kernel area
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, MultiHeadSelfAttention):
            z: Tensor = inputs[0]
            batch, tokens, dim = z.shape
            total += 2 * batch * tokens * tokens * dim  # q k^T and A v over all heads
        else:  # attention in windows or over fewer keys, and a split Linear, know their own products
            own: Callable[[tuple[Any, ...]], int] | None = getattr(module, "own_macs", None)
            total += own(inputs) if own else 0

    def whole(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # All tokens come out of the last block: ``queries`` of vit.encode_all is left out.
        return inputs, {name: value for name, value in named.items() if name != "queries"}

    config: Any = model.config
    with torch.device("meta"), torch.no_grad():
        shapes_alone = all(parameter.is_meta for parameter in model.parameters())
        twin = model if shapes_alone else type(model)(config)
        training = twin.training
        hooks = [module.register_forward_hook(count) for module in twin.eval().modules()]
        hooks += [module.register_forward_pre_hook(whole, with_kwargs=True) for module in twin.modules()]
        try:
            twin(torch.empty(1, config.channels, *sides(image_size)))
        finally:
            for hook in hooks:
                hook.remove()
            twin.train(training)
    return total
