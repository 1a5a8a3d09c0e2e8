"""The artifact: one safetensors file with the weights and, in its metadata, the card."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitnext.card import METADATA_KEY, Card, read_card
from vitnext.errors import InputError
from vitnext.files import atomic_write, unwritten
from vitnext.models import create
from vitnext.wording import counted


def save_artifact(path: Path, model: nn.Module, card: Card) -> None:
    """Write weights and card, whole or not at all. Raises DiskError if the disk does not take it."""
    save_weights(path, {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, card)


def save_weights(path: Path, weights: dict[str, Tensor], card: Card) -> None:
    """The same of a model's weights, on the CPU."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    with atomic_write(path, durable=True) as temporary:
        try:
            save_file(tensors, temporary, metadata={METADATA_KEY: card.to_json()})
        except SafetensorError as error:  # input/output errors come in a class of its own
            raise unwritten(path, error) from error
        os.umask(umask := os.umask(0))  # the only way to read it
        temporary.chmod(0o666 & ~umask)  # safetensors lets nobody but the owner read


def build_model(card: Card) -> nn.Module:
    """The model that a card describes, freshly initialised. Raises InputError if it describes none."""
    return create.build(card.architecture, **card.config)


def load_artifact(path: Path) -> tuple[nn.Module, Card]:
    """Build the model that the card describes and fill it, strictly. Returns it in evaluation mode, on the CPU.

    Raises InputError if the file is no artifact, or if its weights or class names do not fit its card.
    """
    card = read_card(path)
    try:
        with torch.device("meta"):  # no memory for what a card may ask for, no time for a start that is replaced
            model = build_model(card)
    except InputError as error:
        raise InputError(f"{path}: its card describes no model ({error})") from error
    outputs = create.config_dict(model)["classes"]
    if outputs != len(card.classes):
        raise InputError(
            f"{path} does not fit its card: {counted(outputs, 'output')} for {counted(card.classes, 'class name')}"
        )
    try:
        tensors = load_file(path)
    except Exception as error:
        raise InputError(f"{path} is damaged ({error}): get or train it again") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = sorted(expected.items() ^ found.items())[0][0]
        raise InputError(
            f"{path} does not fit its card: {name} is {found.get(name, 'missing')}, "
            f"the {card.architecture} needs {expected.get(name, 'nothing of that name')}"
        )
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.load_state_dict(floats, assign=True)
    return model.eval(), card
