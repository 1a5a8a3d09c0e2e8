from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitnext.models import attention as attention_module
from vitnext.models.attention import (
    MultiHeadSelfAttention,
    batched_attention,
    fast_attention,
    scaled_dot_product_attention,
)

PATHS = pytest.mark.parametrize("readable", [False, True], ids=["fast", "readable"])


def attention(dim=12, heads=3, **options):
    torch.manual_seed(0)
    module = MultiHeadSelfAttention(dim, heads, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def tokens(batch=2, number=5, dim=12):
    return torch.randn(batch, number, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def attend(module, z, readable):
    return module(z, return_weights=True)[0] if readable else module(z)


def one_query_at_a_time(module, z):
    """Equations 5 to 8 for one sample z (N, D) in Python's numbers: the output (N, D) and the weights (h, N, N)."""
    number, dim = z.shape
    d = dim // module.heads
    projected = (z @ module.qkv.weight.T + (0 if module.qkv.bias is None else module.qkv.bias)).tolist()
    concatenated = [[] for _ in range(number)]
    weights = []
    for head in range(module.heads):
        first = head * d
        q, k, v = ([row[part * dim + first : part * dim + first + d] for row in projected] for part in range(3))
        weights.append([])
        for i in range(number):
            scores = [sum(q[i][c] * k[j][c] for c in range(d)) / math.sqrt(d) for j in range(number)]
            exponentials = [math.exp(score - max(scores)) for score in scores]
            row = [e / sum(exponentials) for e in exponentials]
            weights[-1].append(row)
            concatenated[i] += [sum(row[j] * v[j][c] for j in range(number)) for c in range(d)]
    out = torch.tensor(concatenated, dtype=torch.float64) @ module.output.weight.T + module.output.bias
    return out, torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_both_paths_are_the_equations(heads, qkv_bias):
    module, z = attention(heads=heads, qkv_bias=qkv_bias), tokens()
    readable, weights = module(z, return_weights=True)
    assert readable.shape == z.shape and weights.shape == (2, heads, 5, 5)
    for sample in range(len(z)):
        expected, expected_weights = one_query_at_a_time(module, z[sample])
        torch.testing.assert_close(readable[sample], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights[sample], expected_weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(module(z), readable, rtol=0, atol=1e-12)


def test_rows_of_the_weights_are_probabilities():
    _, weights = attention()(tokens(), return_weights=True)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5, dtype=torch.float64))


def test_scores_are_divided_by_the_root_of_d():
    q = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    k = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 7.0, 0.0, 0.0]])
    out, weights = scaled_dot_product_attention(q, k, torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    expected = math.exp(3) / (math.exp(3) + 1)  # 2 * 3 / sqrt(4) = 3 against 0
    assert weights[0].tolist() == pytest.approx([expected, 1 - expected])
    assert out[0].tolist() == pytest.approx([expected, 0, 0, 0])


def test_gradients_of_both_paths_are_equal():
    module, gradients = attention(), []
    for readable in (False, True):
        z = tokens().requires_grad_()
        (attend(module, z, readable) * tokens().cos()).sum().backward()
        gradients.append([z.grad, *(parameter.grad.clone() for parameter in module.parameters())])
        module.zero_grad()
    for fast, readable in zip(*gradients, strict=True):
        assert fast.abs().max() > 1e-3
        torch.testing.assert_close(fast, readable, rtol=1e-9, atol=1e-12)


@PATHS
def test_permuted_tokens_give_permuted_outputs(readable):
    module, z = attention(), tokens()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(attend(module, z[:, order], readable), attend(module, z, readable)[:, order])


@PATHS
def test_attention_dropout_drops_weights_in_training_only(readable):
    size, rate = 16, 0.25
    module = MultiHeadSelfAttention(size, 1, attention_dropout=rate)
    with torch.no_grad():  # q = k = 0 makes every weight 1 / size; v = z = identity lets the weights come out
        for parameter in module.parameters():
            parameter.zero_()
        module.qkv.weight[2 * size :] = module.output.weight[:] = torch.eye(size)
        z = torch.eye(size).expand(64, -1, -1)
        torch.manual_seed(0)
        dropped = attend(module, z, readable)
        kept = dropped > 0
        torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / size / (1 - rate)))
        assert kept.double().mean().item() == pytest.approx(1 - rate, abs=0.02)
        module.eval()
        torch.testing.assert_close(attend(module, z, readable), torch.full_like(z, 1 / size))


def test_returned_weights_are_those_before_dropout():
    module, z = attention(attention_dropout=0.5), tokens()
    _, in_training = module(z, return_weights=True)
    _, in_evaluation = module.eval()(z, return_weights=True)
    assert torch.equal(in_training, in_evaluation)


@pytest.mark.parametrize("heads", [5, 24, 0, -3])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"dim 12 is not a multiple of heads {heads}"):
        MultiHeadSelfAttention(12, heads)


# Around the rule's limits of 50 tokens and a width of 32.
SHAPES = [(50, 32), (51, 32), (50, 36), (1, 4)]


def heads_of(tokens, width, dtype=torch.float64):
    torch.manual_seed(2)
    packed = torch.randn(2, tokens, 3, 3, width, dtype=dtype)
    return packed.permute(2, 0, 3, 1, 4).unbind(0)  # as in MultiHeadSelfAttention: not contiguous


@pytest.mark.parametrize("path", [fast_attention, batched_attention, F.scaled_dot_product_attention])
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_every_path_is_the_equation(path, tokens, width):
    found, expected = ([x.clone().requires_grad_() for x in heads_of(tokens, width)] for _ in range(2))
    out, (readable, _) = path(*found), scaled_dot_product_attention(*expected)
    assert out.shape == (2, 3, tokens, width)
    torch.testing.assert_close(out, readable, rtol=0, atol=1e-12)
    torch.testing.assert_close(path(*heads_of(tokens, width)), readable, rtol=0, atol=1e-12)  # without gradients
    weight = torch.randn_like(out)
    for result in (out, readable):
        (result * weight).sum().backward()
    for x, y in zip(found, expected, strict=True):
        assert tokens == 1 or y.grad.abs().max() > 1e-3
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("tokens", "width", "dtype", "gradients", "batched"),
    [
        (50, 32, torch.float32, True, True),
        (51, 32, torch.float32, True, False),
        (50, 36, torch.float32, True, False),
        (50, 32, torch.float32, False, False),
        (197, 64, torch.bfloat16, True, True),
        (601, 64, torch.bfloat16, True, False),
        (50, 32, torch.bfloat16, False, False),
    ],
)
def test_matrices_are_multiplied_in_batches_where_that_is_faster(tokens, width, dtype, gradients, batched, monkeypatch):
    calls = []
    monkeypatch.setattr(attention_module, "batched_attention", lambda *x: calls.append(1) or batched_attention(*x))
    fast_attention(*(x.requires_grad_(gradients) for x in heads_of(tokens, width, dtype)))
    assert bool(calls) == batched


def test_training_in_bfloat16_is_the_equation_but_for_rounding():
    exact = [x.clone().requires_grad_() for x in heads_of(197, 64)]
    rounded = [x.to(torch.bfloat16).requires_grad_() for x in heads_of(197, 64)]
    weight = heads_of(197, 64)[0].flip(-1)
    found = fast_attention(*rounded)
    expected, _ = scaled_dot_product_attention(*exact)
    (found * weight.to(found)).sum().backward()
    (expected * weight).sum().backward()
    for x, y in [(found, expected), *((x.grad, y.grad) for x, y in zip(rounded, exact, strict=True))]:
        assert x.dtype is torch.bfloat16
        assert (x.double() - y).norm() < 0.02 * y.norm()
