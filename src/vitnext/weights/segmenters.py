"""Weights of segmenters in our names: the backbone's below "backbone.", the head's beside it.

What of a segmenter its shapes tell, and the two ways to fill one: with the weights of a whole segmenter, or with a
classifier's, whose backbone goes on under a new head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from vitnext.models.heads.mask2former import POINTS
from vitnext.models.segmenter import ONLY_POOLED
from vitnext.weights.adapt import Grid, Resize, State, adapt, classes_of, head_of
from vitnext.wording import counted

BACKBONE = "backbone."
AUXILIARY = "auxiliary."

# What only a segmenter's names begin with: transformers' and mmsegmentation's, transformers' of queries, our own.
MARKS = ("decode_head.", "class_predictor.", "head.classifier.", "queries")

# The layers with a row for each class, and of queries one more for "no object"; EoMT's is "head".
CLASSIFIERS = tuple(
    f"{layer}.{part}" for layer in ("head.classifier", "auxiliary.classifier", "head") for part in ("weight", "bias")
)

OF_THE_HEAD = ("classes", "head", "queries", "blocks")  # fields of a segmenter's config that are not its backbone's


def holds_segmenter(keys: Iterable[str]) -> bool:
    """Whether weights of these names, in whose ever, are of a segmenter with its head."""
    return any(key.startswith(MARKS) for key in keys)


def body(state: Mapping[str, Tensor]) -> State:
    """The backbone's weights, as it is called alone."""
    return {key.removeprefix(BACKBONE): tensor for key, tensor in state.items() if key.startswith(BACKBONE)}


def seen(head: str, ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes tell of the config's OF_THE_HEAD. Raises KeyError for weights without such a head."""
    if head == "eomt":
        return {"classes": len(ours["head.weight"]) - 1, "queries": ours["queries"].shape[1]}
    classifier = ours["head.classifier.weight"]
    if head == "mask2former":
        return {"classes": len(classifier) - 1, "head": _of_mask2former(ours)}
    fields: dict[str, Any] = {"classes": len(classifier)}
    if head != "linear":
        fields["head"] = {"width": classifier.shape[1]}
    if head == "upernet":
        auxiliary = ours.get("auxiliary.classifier.weight")
        fields["head"]["auxiliary_width"] = 0 if auxiliary is None else auxiliary.shape[1]
    return fields


def _of_mask2former(ours: Mapping[str, Tensor]) -> dict[str, int]:
    pixels = "head.pixel_decoder"
    queries, width = ours["head.queries"].shape
    points = len(ours[f"{pixels}.scales"]) * POINTS  # of a head
    return {
        "width": width,
        "queries": queries,
        "layers": sum(key.startswith("head.layers.") and key.endswith(".norm1.weight") for key in ours),
        "hidden": len(ours["head.layers.0.mlp.0.weight"]),
        "pixel_layers": sum(key.startswith(f"{pixels}.layers.") and key.endswith(".norm1.weight") for key in ours),
        "pixel_hidden": len(ours[f"{pixels}.layers.0.mlp.0.weight"]),
        "heads": len(ours[f"{pixels}.layers.0.attention.weights.weight"]) // points,
    }


def masked_blocks(state: Mapping[str, Tensor]) -> dict[str, int]:
    """In how many blocks an EoMT's queries take part: transformers keeps a probability of masking for each."""
    return {"blocks": len(state["attn_mask_probs"])} if "attn_mask_probs" in state else {}


def merged(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """Configs in one, the later before the earlier; so are the fields of their heads."""
    fields: dict[str, Any] = {}
    for config in configs:
        both = isinstance(fields.get("head"), Mapping) and isinstance(config.get("head"), Mapping)
        fields |= {**config, "head": {**fields["head"], **config["head"]}} if both else config
    return fields


def adapt_segmenter(
    state: State, model: nn.Module, resize: Resize = "antialias", grid: Grid | None = None
) -> tuple[State, list[str]]:
    """A segmenter's weights for ``model``, which is initialised, and a line for each step.

    The backbone is adapted as it is alone; the classifiers are the model's where ``state`` has other classes or none;
    an auxiliary head that the model lacks is left out. What no step can mend stays, for ``misfits`` to name.
    """
    wanted = model.state_dict()
    backbone: Any = model.backbone
    inside, lines = adapt(body(state), backbone, resize, grid)
    state = _beside(state) | _below(inside)
    if any(key.startswith(AUXILIARY) for key in state) and not any(key.startswith(AUXILIARY) for key in wanted):
        state = {key: tensor for key, tensor in state.items() if not key.startswith(AUXILIARY)}
        lines.append("auxiliary head: none; that of the weights is left out")
    fresh = {key: wanted[key] for key in CLASSIFIERS if key in wanted}
    old = {key: state[key] for key in fresh if key in state}
    if len({len(tensor) for tensor in (*fresh.values(), *old.values())}) > 1 or not old:
        before = f"those of {_classes(old, model)} are left out" if old else "the weights have none"
        lines.append(f"head: new classifiers for {counted(_classes(fresh, model), 'class')}; {before}")
        state |= fresh
    return state, lines


def under_new_head(
    state: State, model: nn.Module, resize: Resize = "antialias", grid: Grid | None = None
) -> tuple[State, list[str]]:
    """A classifier's weights for the segmenter ``model``: the backbone's are taken, the rest is as it is initialised.

    A classifier's norm of the pooled feature is no part of a segmenter whose stages have norms of their own.
    """
    backbone: Any = model.backbone
    family: str = model.config.family  # type: ignore[union-attr, assignment]
    left = tuple(f"{name}." for name in (ONLY_POOLED.get(family),) if name)
    inside = {key: tensor for key, tensor in state.items() if key not in head_of(state) and not key.startswith(left)}
    inside, lines = adapt(inside, backbone, resize, grid)
    before = f"; their head of {counted(classes_of(state), 'class')} is left out" if head_of(state) else ""
    rest = _beside(model.state_dict())
    lines.append(f"head: new, for {counted(_classes(rest, model), 'class')}, on the backbone of these weights{before}")
    return rest | _below(inside), lines


def _beside(state: Mapping[str, Tensor]) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(BACKBONE)}


def _below(state: Mapping[str, Tensor]) -> State:
    return {BACKBONE + key: tensor for key, tensor in state.items()}


def _classes(state: Mapping[str, Tensor], model: nn.Module) -> int:
    """Of the classifier's rows, of which one of queries is for "no object"."""
    by_queries = any(name.endswith("queries") for name, _ in model.named_parameters())
    return len(state["head.weight" if "head.weight" in state else "head.classifier.weight"]) - by_queries
