"""``load`` a model file and predict: images in, probabilities or masks out, one at a time or as a stream."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vitnext.card import Card, read_card
from vitnext.cores import usable_cores
from vitnext.data.mask_values import MOST_CLASSES
from vitnext.decode import decode
from vitnext.errors import ImageError, InputError, WorkError
from vitnext.inference import queries
from vitnext.inference.activations import sigmoid, softmax
from vitnext.inference.engines import Engine, OnnxRuntimeEngine, OpenVinoEngine, TorchEngine
from vitnext.inference.panoptic import segment_objects
from vitnext.inference.windows import Tiling, segment
from vitnext.models.names import answers_with_queries
from vitnext.preprocess import Source
from vitnext.types import Classification, Failure, MultiLabel, PanopticSegmentation, Prediction, Segmentation
from vitnext.wording import counted, shortened

ENGINES = {"torch": TorchEngine, "onnxruntime": OnnxRuntimeEngine, "openvino": OpenVinoEngine}
ENGINES_FOR = {".safetensors": ("torch",), ".onnx": ("onnxruntime", "openvino")}  # the first is what "auto" takes
SEGMENTING = ("semantic", "panoptic")
TASKS = ("classification", "multilabel", "semantic", "panoptic")
SMALL_ARRAY = 128 * 128 * 3  # values; up to here, handing an array to a thread costs more than preparing it


def load(
    path: str | os.PathLike[str], engine: str = "auto", threads: int | None = None, *, tta: bool = False
) -> Predictor:
    """Load an artifact (``.safetensors``) or an export (``.onnx``) for prediction.

    Args:
        engine: "auto" runs an artifact on torch and an export on ONNX Runtime; an export also runs on "openvino".
        threads: how many CPU threads run the network, and how many decode images; None uses every core.
        tta: test-time augmentation: of a classifier or multi-label model the mean probability over the image and its
            mirror image, twice the time; of a semantic segmenter over three sizes of both, about six times the pixels.

    Raises:
        InputError: no such file, an unknown kind of file, an engine that cannot run it or is not installed, a file that
            is damaged or has no card, or a task that this version does not predict.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: this is a folder: name the model file in it, such as {path / 'model.safetensors'}")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in ENGINES_FOR:
        raise InputError(f"{path}: not a model file: give a name that ends in {' or '.join(ENGINES_FOR)}")
    engines = ENGINES_FOR[suffix]
    if engine == "auto":
        engine = engines[0]
    if engine not in engines:
        raise InputError(f'{path}: engine "{engine}" cannot run this file; choose from: auto, {", ".join(engines)}')
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be 1 or more")
    if suffix == ".safetensors":
        _check_task(path, read_card(path), tta)  # before torch builds an architecture that it may not know
    loaded: Engine = ENGINES[engine](path, threads)
    _check_task(path, loaded.card, tta)
    return Predictor(path, loaded, threads or usable_cores(), tta)


def _check_task(path: Path, card: Card, tta: bool) -> None:
    if card.task not in TASKS:
        raise InputError(f'{path}: a model for the task "{card.task}"; this version predicts {", ".join(TASKS)}')
    if card.task in SEGMENTING and len(card.classes) > MOST_CLASSES:
        raise InputError(f"{path}: a segmenter of {counted(card.classes, 'class')}; masks hold up to {MOST_CLASSES}")
    if tta and card.task == "panoptic":  # objects of two answers are not each other's
        raise InputError(f"{path}: a panoptic model, but test-time augmentation averages classes, not objects")


@dataclass(frozen=True)
class Predictor:
    """A model file ready to predict; ``load`` makes it. Safe to share between threads."""

    path: Path
    engine: Engine
    threads: int  # that decode images
    tta: bool = False  # test-time augmentation

    @property
    def card(self) -> Card:
        return self.engine.card

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of scores and of the values of masks."""
        return self.card.classes

    def __repr__(self) -> str:
        card, kind = self.card, type(self.engine)
        engine = next((name for name, known in ENGINES.items() if known is kind), kind.__name__)
        classes = f"{counted(card.classes, 'class')} ({shortened(card.classes, 3)})"
        return f"<Predictor {self.path}: {card.architecture}, {card.task}, {classes}, {engine}>"

    def predict(self, source: Source) -> Classification | MultiLabel | Segmentation | PanopticSegmentation:
        """Classify, label or segment one image: a path, an encoded file's bytes, uint8 pixels (H, W) or (H, W, 3), or
        a Pillow image.

        Raises ImageError when it cannot be read.
        """
        if self.card.task in SEGMENTING:
            return self._segment(_name(source), *self._whole(source))
        [classification] = self._classify([_name(source)], [self.card.preprocess.pixels(source)])
        return classification

    def predict_many(self, sources: Iterable[Source], batch: int = 32) -> Iterator[Prediction]:
        """Predict a stream of images: each gives a Classification, a MultiLabel, a Segmentation or a
        PanopticSegmentation, by the model's task, or a Failure if it cannot be read, in order.

        Lazy, with bounded memory: at most ``2 * batch`` sources are taken ahead of the predictions. While the network
        runs on one batch, threads decode the next; an array must stay as it is until its prediction has come. What is
        not a path is named by its place: "array[3]". A segmenter takes images one by one, two at most in memory, and
        ``batch`` windows of one at once.

        Raises:
            InputError: ``batch`` is below 1, or ``sources`` is one path or one file's bytes.
            WorkError: the network gave something else than one finite logit for each class.
        """
        if isinstance(sources, str | os.PathLike | bytes):  # a str would be taken for its characters
            raise InputError(
                f"predict_many takes several images, not {_name(sources)}: give a list, of a folder "
                "vitnext.inference.sources.find_images(folder), or predict one image with predict"
            )
        if batch < 1:
            raise InputError(f"batch is {batch}; it must be 1 or more")
        if self.card.task in SEGMENTING:
            return self._segment_stream(enumerate(sources), batch)
        return self._stream(enumerate(sources), batch)

    def _segment_stream(self, numbered: Iterator[tuple[int, Source]], batch: int) -> Iterator[Prediction]:
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
            waiting: deque[tuple[str, Future[tuple[np.ndarray, tuple[int, int]]]]] = deque()
            while True:
                while len(waiting) < 2 and (taken := next(numbered, None)) is not None:
                    waiting.append((_name(taken[1], taken[0]), pool.submit(self._whole, taken[1])))
                if not waiting:
                    return
                name, decoded = waiting.popleft()
                try:
                    pixels, size = decoded.result()
                except ImageError as error:
                    yield Failure(name, str(error))
                else:
                    yield self._segment(name, pixels, size, batch)

    def _whole(self, source: Source) -> tuple[np.ndarray, tuple[int, int]]:
        """The image at the scale at which the network sees it, uint8 (H, W, C), and its own height and width."""
        preprocess = self.card.preprocess
        image = decode(source, preprocess.color, preprocess.exif)
        return preprocess.pixels(image), (image.height, image.width)

    def _segment(
        self, name: str, pixels: np.ndarray, size: tuple[int, int], batch: int = 8
    ) -> Segmentation | PanopticSegmentation:
        card, preprocess, batch = self.card, self.card.preprocess, min(batch, 8)
        by_queries = answers_with_queries(card.architecture)

        def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
            given = self.engine.outputs(images) if by_queries else (self.engine.run(images),)
            self._check_shapes(given, len(images))
            if not all(np.isfinite(part).all() for part in given):
                raise WorkError(f"{self.path}: gave a logit that is not a finite number for {name}")
            return given

        if card.task == "panoptic":
            things = card.things or (True,) * len(card.classes)
            found = segment_objects(pixels, size, run, card.architecture, preprocess, things, batch=batch)
            return PanopticSegmentation(name, card.classes, things, *found)
        window = preprocess.image_size

        def answers(images: np.ndarray) -> np.ndarray:
            given = run(images)
            return queries.semantic(given[0], given[1], window) if len(given) == 2 else given[0]

        activate = queries.probabilities if by_queries else softmax
        tiling = Tiling(answers, preprocess.normalize, window, batch, activate)
        mask, confidence = segment(pixels, size, tiling, tta=self.tta)
        return Segmentation(name, card.classes, mask, confidence)

    def _check_shapes(self, given: tuple[np.ndarray, ...], images: int) -> None:
        classes, (height, width) = len(self.card.classes), self.card.preprocess.image_size
        shapes = [part.shape for part in given]
        if answers_with_queries(self.card.architecture):
            fits = len(shapes) == 2 and len(shapes[0]) == 4 and shapes[1] == (*shapes[0][:2], classes + 1)
            wanted = f"masks and classes of queries, for {counted(classes, 'class')}"
        else:
            channels = classes + 3 * (self.card.task == "panoptic")
            fits = shapes == [(images, channels, height, width)]
            wanted = str((images, channels, height, width))
        if not fits or shapes[0][0] != images:
            raise WorkError(
                f"{self.path}: gave logits {', '.join(map(str, shapes))} for {counted(images, 'window')}, not {wanted}"
            )

    def _stream(self, numbered: Iterator[tuple[int, Source]], batch: int) -> Iterator[Prediction]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        ahead: deque[list[tuple[str, Callable[[], np.ndarray | Failure]]]] = deque()
        try:
            while True:
                while len(ahead) < 2 and (taken := list(itertools.islice(numbered, batch))):
                    ahead.append([self._begin(_name(source, place), source, pool) for place, source in taken])
                if not ahead:
                    return
                yield from self._finish(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, name: str, source: Source, pool: ThreadPoolExecutor
    ) -> tuple[str, Callable[[], np.ndarray | Failure]]:
        """Start decoding; returns the name and what waits for the pixels. Small arrays wait for ``_finish``."""
        if isinstance(source, np.ndarray) and source.size <= SMALL_ARRAY:
            return name, partial(self._decode, name, source)
        return name, pool.submit(self._decode, name, source).result

    def _decode(self, name: str, source: Source) -> np.ndarray | Failure:
        try:
            return self.card.preprocess.pixels(source)
        except ImageError as error:
            return Failure(name, str(error))

    def _finish(self, begun: list[tuple[str, Callable[[], np.ndarray | Failure]]]) -> Iterator[Prediction]:
        decoded = [(name, wait()) for name, wait in begun]
        good = [(name, image) for name, image in decoded if not isinstance(image, Failure)]
        classified = iter(self._classify(*zip(*good, strict=True)) if good else ())
        for _, outcome in decoded:
            yield outcome if isinstance(outcome, Failure) else next(classified)

    def _classify(self, names: Sequence[str], pixels: Sequence[np.ndarray]) -> Sequence[Classification | MultiLabel]:
        """Pixels, uint8 (H, W, C) each, as the network takes them -> one prediction each."""
        classes = self.card.classes
        images = self.card.preprocess.normalize(np.stack(pixels))  # (B, C, H, W)
        probabilities = self._probabilities(names, images)
        if self.tta:
            probabilities = (probabilities + self._probabilities(names, images[..., ::-1].copy())) / 2
        if self.card.task == "multilabel":
            thresholds = self.card.thresholds
            return [MultiLabel(name, classes, s, thresholds) for name, s in zip(names, probabilities, strict=True)]
        return [Classification(name, classes, scores) for name, scores in zip(names, probabilities, strict=True)]

    def _probabilities(self, names: Sequence[str], images: np.ndarray) -> np.ndarray:
        """Normalised images (B, C, H, W) -> float32 (B, classes)."""
        classes, logits = self.card.classes, self.engine.run(images)
        if logits.shape != (len(names), len(classes)):
            raise WorkError(
                f"{self.path}: gave logits {logits.shape} for {counted(names, 'image')} and {counted(classes, 'class')}"
            )
        if not np.isfinite(logits).all():
            bad = names[int(np.argmin(np.isfinite(logits).all(axis=1)))]
            raise WorkError(f"{self.path}: gave a logit that is not a finite number for {bad}")
        if self.card.task == "multilabel":
            return sigmoid(logits)
        return softmax(logits.astype(np.float64)).astype(np.float32)


def _name(source: Source, place: int | None = None) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    kind = {np.ndarray: "array", bytes: "bytes"}.get(type(source), "image")
    return kind if place is None else f"{kind}[{place}]"
