"""What frozen features are worth: a linear classifier, or the vote of the nearest neighbours, chosen on validation
images.

The linear one is logistic regression by scikit-learn on standardised features (Alain and Bengio 2017,
arXiv:1610.01644), its standardisation folded into the weights; the vote is ``models/neighbours.py``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from vitnext.errors import require
from vitnext.models.deit import TwoHeads
from vitnext.models.neighbours import NearestNeighbours, NeighboursConfig

Kind = Literal["knn", "linear"]
KINDS: tuple[Kind, ...] = ("knn", "linear")
STRENGTHS = tuple(float(f"{10 ** (i / 2):.3g}") for i in range(-10, 5))  # 1e-5 to 100, in half decades
PATIENCE = 2  # strengths in a row that are no better, after which still weaker regularisation is not tried
ITERATIONS = 1000
NEIGHBOURS = (5, 10, 20)
STRENGTH_UNCHOSEN = 1.0  # without validation images: scikit-learn's own
NEIGHBOURS_UNCHOSEN = 20  # without them: what works best for Caron et al. 2021
LEAST_SPREAD = 1e-3  # of the median standard deviation: dividing by less would make rounding errors large
ROWS = 256  # whose neighbours are looked for at once

Held = tuple[np.ndarray, np.ndarray]  # features float32 (N, width), and labels int64 (N,) or uint8 (N, C)


@dataclass(frozen=True, eq=False)
class Linear:
    """logits = features @ weight.T + bias.

    weight: float32 (C, width); bias: float32 (C,); strength: C of scikit-learn, the inverse of the L2 regularisation;
    loss: mean cross-entropy on the validation images, NaN without them.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    loss: float = float("nan")

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32 (N, width) -> float32 (N, C)."""
        logits: np.ndarray = features @ self.weight.T + self.bias
        return logits


def fit_linear(train: Held, val: Held | None) -> Linear:
    """Logistic regression: multinomial for one label an image, and for several each class against the rest.

    The strength is the one of STRENGTHS with the lowest cross-entropy on ``val``; they are tried from the strongest
    regularisation on, each from the solution before it.
    """
    features, labels = train
    rows = features.astype(np.float64)
    mean, std = rows.mean(0), rows.std(0)
    std = np.maximum(std, LEAST_SPREAD * np.median(std))
    std[std == 0] = 1.0
    rows = (rows - mean) / std
    several = labels.ndim == 2
    problems = list(labels.T) if several else [labels]
    model = require("sklearn.linear_model", "train").LogisticRegression
    models = [model(tol=1e-8, max_iter=ITERATIONS, warm_start=True) for _ in problems]
    best, worse = None, 0
    for strength in STRENGTHS if val is not None else (STRENGTH_UNCHOSEN,):
        pairs = zip(models, problems, strict=True)
        solved = [_solve(model.set_params(C=strength), rows, y, several) for model, y in pairs]
        weight = np.concatenate([found for found, _ in solved])
        folded = weight[:, 1:] / std
        found = Linear(folded.astype(np.float32), (weight[:, 0] - folded @ mean).astype(np.float32), strength)
        if val is not None:
            found = replace(found, loss=cross_entropy(found.logits(val[0]), val[1]))
        if best is None or found.loss < best.loss:
            best, worse = found, 0
        else:
            worse += 1
        if worse == PATIENCE or not all(converged for _, converged in solved):  # a weaker one would not, either
            break
    assert best is not None
    return best


def _solve(model: Any, rows: np.ndarray, labels: np.ndarray, rest: bool) -> tuple[np.ndarray, bool]:
    """Intercepts and coefficients, float64 (classes, 1 + width), and whether ITERATIONS were enough.

    rest: the labels say of one class whether an image has it, and there is one row."""
    known = np.unique(labels)
    if len(known) == 1:  # nothing tells these images apart: the odds, with Laplace's rule
        row = np.zeros((1, 1 + rows.shape[1]))
        row[0, 0] = np.log(len(rows) + 1) * (1 if known[0] else -1)
        return row, True
    convergence: Any = require("sklearn.exceptions", "train").ConvergenceWarning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", convergence)
        model.fit(rows, labels)
    weight = np.concatenate([model.intercept_[:, None], model.coef_], axis=1)
    if len(weight) == 1 and not rest:  # two classes: sigmoid(x) is the softmax of -x/2 and x/2
        weight = np.concatenate([-weight, weight]) / 2
    return weight, not any(issubclass(warning.category, convergence) for warning in caught)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the images, in nats; of several labels an image the binary one, mean over the classes too."""
    logits = logits.astype(np.float64)
    if labels.ndim == 2:
        return float((np.logaddexp(0, logits) - labels * logits).mean())
    peak = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - peak).sum(1)) + peak[:, 0]
    return float((total - logits[np.arange(len(labels)), labels]).mean())


def put_linear(network: nn.Module, found: Linear) -> None:
    """Make ``found`` the head of a network that has a Linear for its head, or DeiT's two, whose mean is taken."""
    weight, bias = torch.from_numpy(found.weight), torch.from_numpy(found.bias)
    head = network.head
    with torch.no_grad():
        if isinstance(head, TwoHeads):
            for linear, half in zip((head.label, head.teacher), (2 * weight).chunk(2, dim=1), strict=True):
                linear.weight.copy_(half)
                linear.bias.copy_(bias)
        else:
            assert isinstance(head, nn.Linear)
            head.weight.copy_(weight)
            head.bias.copy_(bias)


def fit_neighbours(train: Held, val: Held | None, classes: int) -> NearestNeighbours:
    """The vote of the NEIGHBOURS that name the most validation images right; of equally good ones of the fewest."""
    features, labels = (torch.from_numpy(part) for part in train)
    config = NeighboursConfig(len(features), features.shape[1], min(NEIGHBOURS_UNCHOSEN, len(features)))
    head = NearestNeighbours(config, classes)
    head.remember(features, labels)
    if val is None:
        return head
    right = {}
    for neighbours in dict.fromkeys(min(k, len(features)) for k in NEIGHBOURS):
        head.config = replace(config, neighbours=neighbours)
        right[neighbours] = float((_answers(head, val[0]).argmax(1) == val[1]).mean())
    head.config = replace(config, neighbours=max(right, key=right.__getitem__))
    return head


def scores(network: nn.Module, features: np.ndarray) -> np.ndarray:
    """What the head of a network gives of features, float32 (N, C)."""
    assert isinstance(network.head, nn.Module)
    return _answers(network.head, features)


@torch.inference_mode()
def _answers(head: nn.Module, features: np.ndarray) -> np.ndarray:
    return np.concatenate([head(part).numpy() for part in torch.from_numpy(features).split(ROWS)])
