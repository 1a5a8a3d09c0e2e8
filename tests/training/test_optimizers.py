"""Who is trained by which optimizer, who decays, and that a step is the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitnext.models import catalog
from vitnext.recipe import Optimizer
from vitnext.training.optimizers import Muon, hidden_matrices, optimizers, orthogonalize, split_parameters

VIT = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "classes": 3, "representation": 8}
CONVNEXT = {"stem_stride": 2, "depths": [1, 1], "widths": [8, 16], "classes": 3, "layer_scale": 0.1}
MODELS = [("vit", VIT), ("vit", {**VIT, "qkv_bias": False}), ("convnext", CONVNEXT)]


def names(model, parameters):
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for parameter in parameters]


@pytest.mark.parametrize(("name", "config"), MODELS)
def test_each_parameter_is_in_exactly_one_group(name, config):
    model = catalog.build(name, **config)
    decayed, free = split_parameters(model)
    assert sorted(names(model, decayed) + names(model, free)) == sorted(n for n, _ in model.named_parameters())
    (optimizer,) = optimizers(model, Optimizer(weight_decay=0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert names(model, optimizer.param_groups[0]["params"]) == names(model, decayed)
    assert names(model, optimizer.param_groups[1]["params"]) == names(model, free)


@pytest.mark.parametrize(("name", "config"), MODELS)
def test_matrices_decay_and_biases_norms_tokens_positions_and_layer_scales_do_not(name, config):
    model = catalog.build(name, **config)
    decayed, free = (set(names(model, group)) for group in split_parameters(model))
    for parameter, tensor in model.named_parameters():
        spared = (
            parameter.endswith(".bias")
            or "norm" in parameter
            or parameter in ("class_token", "position_embedding", "stem.1.weight")
            or parameter.endswith(("layer_scale", "downsample.0.weight"))
        )
        assert (parameter in free) == spared, parameter
        assert (parameter in decayed) == (not spared), parameter
        assert spared or tensor.ndim >= 2
    expected = {"vit": {"class_token", "position_embedding"}, "convnext": {"stages.0.blocks.0.layer_scale"}}[name]
    assert expected <= free  # the names above are still those of the model


def test_what_is_frozen_is_in_no_group():
    model = catalog.build("vit", **VIT)
    model.patch_embedding.requires_grad_(False)
    model.class_token.requires_grad_(False)
    decayed, free = split_parameters(model)
    left = names(model, decayed + free)
    assert not {"patch_embedding.weight", "patch_embedding.bias", "class_token"} & set(left)
    assert len(left) == len(list(model.parameters())) - 3


def test_steps_are_those_of_the_paper():
    """Algorithm 2 of Loshchilov and Hutter 2019, with torch's convention that the decay is lr * weight_decay."""
    torch.manual_seed(0)
    model = catalog.build("vit", **VIT)
    recipe = Optimizer(learning_rate=0.02, weight_decay=0.3, betas=(0.8, 0.9))
    (optimizer,) = optimizers(model, recipe)
    decayed = set(names(model, split_parameters(model)[0]))
    state = {name: [p.detach().numpy().astype(np.float64), 0.0, 0.0] for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for t, rate in enumerate((0.02, 0.01, 0.005), start=1):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = rate
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            g = parameter.grad.numpy().astype(np.float64)
            theta, m, v = state[name]
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            adaptive = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
            theta = theta - rate * adaptive - (rate * 0.3 * theta if name in decayed else 0.0)
            state[name] = [theta, m, v]
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), state[name][0], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_recipe_s_numbers_are_used():
    (optimizer,) = optimizers(catalog.build("vit", **VIT), Optimizer(learning_rate=0.5, betas=(0.1, 0.2)))
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (0.5, (0.1, 0.2))


# ---- Muon


@pytest.mark.parametrize(
    ("name", "config", "outer"),
    [
        ("vit", VIT, {"patch_embedding.weight", "head.0.weight", "head.2.weight"}),
        ("convnext", CONVNEXT, {"stem.0.weight", "head.weight"}),
    ],
)
def test_muon_trains_the_dense_weights_between_the_first_layer_and_the_head(name, config, outer):
    model = catalog.build(name, **config)
    muon, adamw = optimizers(model, Optimizer(name="muon", learning_rate=0.5, weight_decay=0.3))
    matrices = set(names(model, hidden_matrices(model)))
    decayed = set(names(model, split_parameters(model)[0]))
    assert set(names(model, muon.param_groups[0]["params"])) == matrices
    assert decayed - matrices - outer == {n for n in decayed if "depthwise" in n}
    together = [p for o in (muon, adamw) for group in o.param_groups for p in group["params"]]
    assert sorted(names(model, together)) == sorted(n for n, _ in model.named_parameters())
    assert (muon.param_groups[0]["lr"], muon.param_groups[0]["weight_decay"]) == (0.5, 0.3)


@pytest.mark.parametrize("shape", [(8, 8), (6, 24), (24, 6)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_the_singular_vectors(shape):
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = orthogonalize(1000 * matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6 and values.max() < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.mT @ result @ v.mT
    assert (rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-6
    x = matrix / torch.linalg.matrix_norm(matrix, keepdim=True)  # the iteration as it is published
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.mT @ x) + 2.0315 * (x @ x.mT @ x @ x.mT @ x)
    torch.testing.assert_close(result, x)


def test_orthogonalize_stands_products_in_tf32_or_bf16(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    random = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(16, 16, generator=random))[0] for _ in range(2))
    result = orthogonalize(((u * torch.logspace(0, -4, 16)) @ v).bfloat16())  # rounds every product
    assert torch.linalg.matrix_norm(result.float(), 2) < 1.5


def test_muon_s_steps_are_momentum_orthogonalised_and_scaled():
    generator = torch.Generator().manual_seed(1)
    matrix, filters = torch.nn.Parameter(torch.randn(4, 10)), torch.nn.Parameter(torch.randn(6, 3, 2, 2))
    expected = [p.detach().clone() for p in (matrix, filters)]
    mean = [torch.zeros_like(p) for p in expected]
    optimizer = Muon([matrix, filters], lr=0.1, weight_decay=0.2, momentum=0.9)
    for _ in range(3):
        for i, p in enumerate((matrix, filters)):
            p.grad = torch.randn(p.shape, generator=generator)
            mean[i] = 0.9 * mean[i] + 0.1 * p.grad
            step = orthogonalize((0.1 * p.grad + 0.9 * mean[i]).reshape(len(p), -1)).reshape(p.shape)
            longest = max(len(p), p[0].numel())
            expected[i] = expected[i] - 0.1 * (0.2 * longest**0.5 * step + 0.2 * expected[i])
        optimizer.step()
    for p, value in zip((matrix, filters), expected, strict=True):
        torch.testing.assert_close(p.detach(), value)


def test_muon_s_step_is_torch_s():
    start, gradient = torch.randn(16, 32), torch.randn(16, 32)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers_ = (
        Muon([ours], lr=0.1, weight_decay=0.2, momentum=0.9),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
    )
    for p, optimizer in zip((ours, theirs), optimizers_, strict=True):
        p.grad = gradient.clone()
        optimizer.step()
    assert (ours - start).norm() > 0.1
    assert (ours - theirs).norm() < 0.05 * (ours - start).norm()  # torch iterates in bf16


def test_the_network_of_swin_v2_s_position_bias_is_left_to_adamw_and_not_decayed():
    sizes = {"patch_size": 2, "dim": 8, "depths": (1,), "heads": (2,), "window": 3, "classes": 5}
    model = catalog.build("swinv2", **sizes)
    of_bias = {id(p) for name, p in model.named_parameters() if "bias_network" in name}
    assert len(of_bias) == 3
    muon, adamw = optimizers(model, Optimizer(name="muon"))
    assert not of_bias & {id(p) for p in muon.param_groups[0]["params"]}
    assert of_bias <= {id(p) for p in adamw.param_groups[1]["params"]} and adamw.param_groups[1]["weight_decay"] == 0
