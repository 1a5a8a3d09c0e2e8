"""The vote of the nearest neighbours, against a loop over the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vitnext.errors import InputError
from vitnext.models import create
from vitnext.models.neighbours import NearestNeighbours, NeighboursConfig

TINY = {"image_size": 8, "patch_size": 4, "channels": 1, "dim": 16, "depth": 1, "heads": 2}
HEAD = {"samples": 7, "width": 16, "neighbours": 3}


def vote(features, labels, query, k, temperature, classes):
    """Wu et al. 2018, section 3.4, one image at a time."""
    cosine = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in features]
    nearest = sorted(range(len(cosine)), key=lambda i: -cosine[i])[:k]
    votes = [sum(math.exp(cosine[i] / temperature) for i in nearest if labels[i] == c) for c in range(classes)]
    return [share / sum(votes) for share in votes]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (40, 0.07)])
def test_it_is_the_weighted_vote(k, temperature):
    random = np.random.default_rng(k)
    features = random.normal(size=(40, 12)).astype(np.float32) + 1
    labels = random.integers(0, 4, 40)
    head = NearestNeighbours(NeighboursConfig(40, 12, k, temperature), classes=5)
    head.remember(torch.from_numpy(features), torch.from_numpy(labels))
    queries = random.normal(size=(9, 12)).astype(np.float32) + 1
    found = torch.softmax(head(torch.from_numpy(queries)).double(), dim=1).numpy()
    expected = [vote(features, labels, query, k, temperature, 5) for query in queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert torch.isfinite(head(torch.from_numpy(queries))).all() and (found[:, 4] < 1e-30).all()


def test_those_as_similar_as_the_last_vote_too():
    head = NearestNeighbours(NeighboursConfig(3, 2, 1), classes=3)
    head.remember(torch.tensor([[2.0, 0], [5, 0], [0, 1]]), torch.tensor([0, 1, 2]))
    np.testing.assert_allclose(head(torch.tensor([[1.0, 0.5]])).exp(), [[0.5, 0.5, 0]], atol=1e-6)


@pytest.mark.parametrize("backbone", ["vit", "deit", "convnext"])
def test_a_network_with_this_head_is_built_again_from_its_config(backbone):
    config = TINY if backbone != "convnext" else {"stem_stride": 2, "depths": (1, 1), "widths": (8, 16), "channels": 1}
    head = HEAD | {"width": 32} if backbone == "deit" else HEAD  # two tokens
    network = create.build(f"{backbone}+knn", **config, classes=3, head=head)
    described = create.config_dict(network)
    assert described["classes"] == 3 and described["head"] == {**head, "temperature": 0.07}
    again = create.build(f"{backbone}+knn", **described)
    again.load_state_dict(network.state_dict(), strict=True)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(network.eval()(images), again.eval()(images)) and network(images).shape == (2, 3)
    assert create.task_of(f"{backbone}+knn") == "classification" and not create.is_segmenter(f"{backbone}+knn")
    assert create.family_of(f"{backbone}+knn") == backbone


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "what a probe makes of training images"),
        ({**HEAD, "votes": 3}, r"no model.config.head.votes; there are samples, width, neighbours, temperature"),
        ({**HEAD, "neighbours": 8}, "more than the 7 samples"),
        ({**HEAD, "temperature": 0}, "it must be above 0"),
        ({**HEAD, "samples": 0}, "samples is 0"),
        ({**HEAD, "samples": "many"}, "vit.knn: "),
    ],
)
def test_what_it_cannot_be_is_one_line(head, message):
    given = {} if head is None else {"head": head}
    with pytest.raises(InputError, match=message):
        create.build("vit+knn", **TINY, classes=3, **given)
