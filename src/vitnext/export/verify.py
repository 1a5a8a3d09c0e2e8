"""Check that an exported model still is the model that was trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
    """How many images were compared and how many could not be read; the largest difference of two probabilities."""

    images: int
    unreadable: int
    max_difference: float


def verify(reference: Engine, exported: Engine, sources: Iterable[Source]) -> Agreement:
    """Compare the probabilities that two engines give for ``sources``: the first image alone, then all in batches.

    Of a segmenter the middle window of each image is compared, pixel by pixel. Images that cannot be read are passed
    over and counted.

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
    images, labels, changed, largest = 0, 0, 0, 0.0
    while batch := list(itertools.islice(prepared, BATCH)):
        trials = [batch] if images else [batch[:1], (batch * 3)[:BATCH]]  # a lone image is repeated to make a batch
        for trial in map(np.stack, trials):
            (p, of_objects), (q, exported_objects) = (_answers(engine, trial) for engine in (reference, exported))
            largest = np.maximum(largest, np.abs(p - q).max())  # unlike max(), keeps a NaN
            if of_objects is not None and exported_objects is not None:
                largest = np.maximum(largest, np.abs(of_objects - exported_objects).max())
            if several:
                far = np.abs(p - thresholds) > TIE
                changed += int((((p >= thresholds) != (q >= thresholds)) & far).sum())
                labels += p.size
                continue
            theirs = np.take_along_axis(p, q.argmax(axis=1, keepdims=True), axis=1)
            lost = p.max(axis=1, keepdims=True) - theirs  # probability, by the other's choice
            changed += int((lost > (TIE if p.ndim == 2 else TIE_OF_PIXELS)).sum())
            labels += lost.size
        images += len(batch)
    if images == 0:
        none = f"none of the {len(errors)} images can be read: {errors[0]}" if errors else "there are no images"
        raise InputError(f"{none}; the export cannot be checked without one")
    if changed or not largest <= TOLERANCE:
        raise WorkError(
            f"the export does not agree with the model: probabilities differ by up to {largest:.2g} "
            f"(allowed: {TOLERANCE:g}) and {changed} of {labels} labels changed"
        )
    return Agreement(images, len(errors), float(largest))


def _answers(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities of classes (B, classes, ...), and what else a panoptic network says: the centres' heat and offsets,
    or the probabilities of queries' masks."""
    if engine.card.task == "multilabel":
        return sigmoid(engine.run(images)), None
    if engine.card.task == "classification" or (engine.card.task == "semantic" and not _by_queries(engine)):
        return softmax(engine.run(images).astype(np.float64)), None
    given = [part.astype(np.float64) for part in engine.outputs(images)]
    if _by_queries(engine):
        masks, classes = given
        return softmax(np.moveaxis(classes, -1, 1)), 1 / (1 + np.exp(-masks.clip(-80, 80)))
    return softmax(given[0][:, :-3]), given[0][:, -3:]


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
