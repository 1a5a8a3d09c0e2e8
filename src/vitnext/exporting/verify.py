"""Check that an exported model still is the model that was trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vitnext.errors import ImageError, InputError, WorkError
from vitnext.inference.activations import sigmoid, softmax
from vitnext.inference.engines import Engine
from vitnext.inference.windows import cut
from vitnext.models.names import answers_with_queries
from vitnext.preprocess import Preprocess, Source

TOLERANCE = 1e-4  # on a probability
TIE = 1e-6  # classes this close are equally probable: rounding in float32 chooses between them
TIE_OF_PIXELS = TOLERANCE  # the same of masks: among millions of pixels some lie closer than any tolerance
BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """How many images were compared and how many could not be read; the largest difference of two probabilities; on how
    many images the export decided otherwise, by rounding, and was compared with the model's answer to that."""

    images: int
    unreadable: int
    max_difference: float
    redecided: int = 0


class Followed(Protocol):
    """A network that decides something within: `export.decisions.Decisions`."""

    def followed(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """The reference's outputs for images (B, C, H, W), were it to decide as the export does."""


def verify(
    reference: Engine, exported: Engine, sources: Iterable[Source], decisions: Followed | None = None
) -> Agreement:
    """Compare the probabilities that two engines give for ``sources``: the first image alone, then all in batches.

    Of a segmenter the middle window of each image is compared, pixel by pixel. Images that cannot be read are passed
    over and counted. With ``decisions``, an export that answers otherwise is compared with what the reference answers
    to the export's decisions.

    Raises:
        WorkError: a label differs, a probability differs by more than 1e-4, or the cards are not the same.
        InputError: there are no images, or none of them can be read.
    """
    if exported.card.to_json() != reference.card.to_json():
        raise WorkError("the export does not carry the card of the model")
    errors: list[ImageError] = []

    def readable() -> Iterator[np.ndarray]:
        for source in sources:
            try:
                yield network_input(source, reference.card.preprocess)
            except ImageError as error:
                errors.append(error)

    several = reference.card.task == "multilabel"
    thresholds = np.array(reference.card.thresholds)
    prepared = readable()
    images, labels, changed, largest, redecided = 0, 0, 0, 0.0, 0
    while batch := list(itertools.islice(prepared, BATCH)):
        trials = [batch] if images else [batch[:1], (batch * 3)[:BATCH]]  # a lone image is repeated to make a batch
        otherwise = 0
        for trial in map(np.stack, trials):
            ours, theirs = _answers(reference, trial), _answers(exported, trial)
            apart = _apart(ours, theirs)
            if decisions is not None and not (apart <= TOLERANCE).all():
                ours = _of_queries(*(part.astype(np.float64) for part in decisions.followed(trial)))
                otherwise = max(otherwise, int((~(apart[: len(batch)] <= TOLERANCE)).sum()))
                apart = _apart(ours, theirs)
            largest = np.maximum(largest, apart.max())  # unlike max(), keeps a NaN
            p, q = ours[0], theirs[0]
            if several:
                far = np.abs(p - thresholds) > TIE
                changed += int((((p >= thresholds) != (q >= thresholds)) & far).sum())
                labels += p.size
                continue
            chosen = np.take_along_axis(p, q.argmax(axis=1, keepdims=True), axis=1)
            lost = p.max(axis=1, keepdims=True) - chosen  # probability, by the other's choice
            changed += int((lost > (TIE if p.ndim == 2 else TIE_OF_PIXELS)).sum())
            labels += lost.size
        images, redecided = images + len(batch), redecided + otherwise
    if images == 0:
        none = f"none of the {len(errors)} images can be read: {errors[0]}" if errors else "there are no images"
        raise InputError(f"{none}; the export cannot be checked without one")
    if changed or not largest <= TOLERANCE:
        raise WorkError(
            f"the export does not agree with the model: probabilities differ by up to {largest:.2g} "
            f"(allowed: {TOLERANCE:g}) and {changed} of {labels} labels changed"
        )
    return Agreement(images, len(errors), float(largest), redecided)


def _answers(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Probabilities of classes (B, classes, ...), and what else a panoptic network says: the centres' heat and offsets,
    or the probabilities of queries' masks."""
    if engine.card.task == "multilabel":
        return (sigmoid(engine.run(images)),)
    if engine.card.task == "classification" or (engine.card.task == "semantic" and not _by_queries(engine)):
        return (softmax(engine.run(images).astype(np.float64)),)
    given = [part.astype(np.float64) for part in engine.outputs(images)]
    if _by_queries(engine):
        return _of_queries(*given)
    return softmax(given[0][:, :-3]), given[0][:, -3:]


def _of_queries(masks: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return softmax(np.moveaxis(classes, -1, 1)), 1 / (1 + np.exp(-masks.clip(-80, 80)))


def _apart(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Of each image the largest difference (B,)."""
    largest: np.ndarray = np.max(
        [np.abs(a - b).reshape(len(a), -1).max(axis=1) for a, b in zip(ours, theirs, strict=True)], axis=0
    )
    return largest


def _by_queries(engine: Engine) -> bool:
    return answers_with_queries(engine.card.architecture)


def network_input(source: Source, preprocess: Preprocess) -> np.ndarray:
    """What the network sees of an image, float32 (C, H, W): of "window" the middle one. Raises ImageError."""
    pixels = preprocess.pixels(source)
    if preprocess.resize == "window":
        top, left = (max(0, (n - side) // 2) for n, side in zip(pixels.shape, preprocess.image_size, strict=False))
        pixels = cut(pixels, top, left, preprocess.image_size)
    return preprocess.normalize(pixels)


def synthetic_images(preprocess: Preprocess, count: int = BATCH) -> list[np.ndarray]:
    """Images of coloured tiles under noise, the same every time: uint8 (H, W, 3), for when no real ones are given."""
    height, width = preprocess.image_size
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        tiles = random.integers(0, 256, (4, 4, 3)).repeat(-(-height // 4), axis=0).repeat(-(-width // 4), axis=1)
        noise = random.integers(-32, 33, (height, width, 3))
        images.append(np.clip(tiles[:height, :width] + noise, 0, 255).astype(np.uint8))
    return images
