"""What prediction returns: a ``Classification`` for an image that was read, a ``Failure`` for one that was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """One image's class probabilities.

    source:  the path as given, or a name for an image that came as bytes or an array
    classes: C class names
    scores:  float32 (C,), probabilities in the order of ``classes``
    """

    source: str
    classes: tuple[str, ...]
    scores: np.ndarray

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.classes),):
            raise ValueError(f"{len(self.classes)} classes but scores of shape {self.scores.shape}")

    @property
    def index(self) -> int:
        """Index of the most probable class; the first one when several tie."""
        return int(np.argmax(self.scores))

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.classes[self.index]

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return float(self.scores[self.index])

    def top(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` most probable classes (all when there are fewer), most probable first, ties in class order."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.classes[i], float(self.scores[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: source, label, score, error (None), and ``scores`` as {class: probability}."""
        scores = {name: float(score) for name, score in zip(self.classes, self.scores, strict=True)}
        return {"source": self.source, "label": self.label, "score": self.score, "error": None, "scores": scores}


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be read: its source and, in one line, why."""

    source: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``Classification.to_dict``; all but source and error are None."""
        return {"source": self.source, "label": None, "score": None, "error": self.error, "scores": None}


Prediction = Classification | Failure
