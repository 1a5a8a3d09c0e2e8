"""Steps on a copy of a network, as `loop.fit` takes them, to find out what suits a run before it begins."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vitnext.data.loaders import place_seed
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.training.ema import WeightAverage
from vitnext.training.freezing import frozen_part
from vitnext.training.hardware import Precision
from vitnext.training.loop import Normalize
from vitnext.training.optimizers import optimizers as build_optimizers
from vitnext.training.task import Task


class Trial:
    """A copy of ``model`` with the recipe's optimizer, and average of the weights if it has one."""

    def __init__(
        self, model: nn.Module, task: Task, recipe: Recipe, preprocess: Preprocess, precision: Precision
    ) -> None:
        self.device = next(model.parameters()).device
        self.model, self.task, self.recipe, self.precision = copy.deepcopy(model).train(), task, recipe, precision
        for module in frozen_part(self.model):
            module.eval()
        self.optimizers = build_optimizers(self.model, recipe.optimizer)
        self.average = WeightAverage(self.model, recipe.ema) if recipe.ema else None
        self._normalize = Normalize(preprocess, self.device)

    def step(self, images: Tensor, truth: Any, rate: float, number: int = 0) -> float:
        """Train on uint8 (B, C, H, W) and their truth, as the step of this number. Returns the loss before it."""
        torch.manual_seed(place_seed(self.recipe.seed, number))
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group.get("scale", 1.0)
        loss = self._backward(self._normalize(images.to(self.device)), truth.to(self.device))
        if self.recipe.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, number + 1)
        return loss

    def _backward(self, images: Tensor, truth: Any) -> float:
        if self.task.mix is not None:
            images, truth = self.task.mix(images, truth)
        total, parts = 0.0, min(self.recipe.accumulate, len(images))
        for some, of_some in zip(images.tensor_split(parts), truth.tensor_split(parts), strict=True):
            with self.precision.autocast(self.device):
                loss = self.task.objective(self.model, some, of_some, 0.0) * (len(some) / len(images))
            loss.backward()
            total += float(loss.detach())
        return total
