"""Stochastic depth (Huang et al. 2016): in training a residual branch is dropped for some of the samples.

Where it pays, the branches of these samples are not computed (``StochasticDepth.residual``): in eager steps on the CPU,
and in compiled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from vitnext.models.layers import add_scaled, check_rates


class StochasticDepth(nn.Module):
    """Drop a residual branch for a whole sample with probability ``rate`` (Huang et al. 2016, eq. 2).

    The kept branches are divided by 1 - rate, so that nothing changes at inference. ``residual`` adds a branch that it
    is told how to compute. ``forward`` scales one that was computed for all samples, as batch norm needs it, whose
    statistics are theirs.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        check_rates(self, "rate")

    def forward(self, branch: Tensor) -> Tensor:
        return self._scaled(branch, self._draw(branch)) if self.training and self.rate else branch

    def residual(
        self,
        x: Tensor,
        branch: Callable[..., Tensor],
        *others: Tensor | None,
        scale: Tensor | None = None,
        first: int | None = None,
    ) -> Tensor:
        """x + scale * branch(x, *others), of a branch that looks at each sample by itself: (B, ...) -> (B, ...).

        ``branch`` gives a new tensor; ``others`` have a row for each sample, too, or are None; ``first``: the branch
        gives so many tokens of x (B, N, D), and so does the sum.

        In training on the CPU the branch is given the samples that keep it, and no others, unless there are none. What
        is compiled for a batch of a fixed size is given the same number in every step, as in DINOv2 (Oquab et al. 2023,
        section 5): the least that is no fewer than are kept on average, and one of them is dropped so often that each
        sample keeps its branch with probability 1 - rate. An eager GPU, which waits for the process that hands it
        kernels, is given all.
        """
        if not self.training or not self.rate:
            return add_scaled(_first(x, first), scale, branch(x, *others))
        if is_compiling() and (dropped := self._least(x)):
            index, place, keep = self._draw_share(x, dropped)
            x, rows = _Gather.apply(x, index, place, keep)
            out = branch(rows, *(None if other is None else other[index] for other in others))
            out = out if scale is None else scale * out
            shared: Tensor = _Spread.apply(_first(x, first), out, index, place, keep, 1 / (1.0 - self.rate))
            return shared
        keep = self._draw(x)
        if type(x) is Tensor and x.device.type == "cpu" and not (is_compiling() or torch.jit.is_tracing()):
            runs = list(_runs(keep.tolist()))
            kept = sum(run.stop - run.start for run in runs)
            if 0 < kept < x.shape[0]:  # where all are dropped the parameters still want a gradient, of zero
                x, rows = _Select.apply(x, runs)
                out = branch(rows, *(None if other is None else _select(other, runs) for other in others))
                out = out if scale is None else scale * out
                added: Tensor = _Add.apply(_first(x, first), out, runs, 1 / (1.0 - self.rate))
                return added
        return add_scaled(_first(x, first), scale, self._scaled(branch(x, *others), keep))

    def _draw(self, x: Tensor) -> Tensor:
        """1 for a sample that keeps its branch, else 0: (B,)."""
        return torch.empty(x.shape[0], device=x.device).bernoulli_(1.0 - self.rate)

    def _least(self, x: Tensor) -> int:
        """How many samples of a batch are dropped at least; 0 where their number is not fixed when it is traced."""
        from torch.fx.experimental.symbolic_shapes import has_static_value  # takes a while, and only to compile

        if has_static_value(x.shape[0]) and has_static_value(least := int(x.shape[0] * self.rate)):
            return least
        return 0

    def _draw_share(self, x: Tensor, dropped: int) -> tuple[Tensor, Tensor, Tensor]:
        """All samples but ``dropped`` random ones: their numbers (k,), the place of each sample among them (B,), any
        where it has none, and whether it keeps its branch (B,), which one of them may not.
        """
        batch = x.shape[0]
        last = batch - dropped - 1
        order = torch.rand(batch, device=x.device).argsort()
        place = order.argsort()
        keeps_too = torch.rand((), device=x.device) < batch * (1.0 - self.rate) - last
        keep = (place < last) | ((place == last) & keeps_too)
        return order[: last + 1], place.clamp(max=last), keep

    def _scaled(self, branch: Tensor, keep: Tensor) -> Tensor:
        factors = keep.to(branch.dtype) / (1.0 - self.rate)
        return branch * factors.view(-1, *(1,) * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def _first(x: Tensor, tokens: int | None) -> Tensor:
    return x if tokens is None else x[:, :tokens]


def stochastic_depth_rates(final_rate: float, blocks: int) -> list[float]:
    """0 for the first block, ``final_rate`` for the last (or only) one, linear between: as DeiT, Swin and ConvNeXt.

    Huang et al. 2016, eq. 4, start the line one block earlier, at the input.
    """
    if blocks == 1:
        return [final_rate]
    return [final_rate * i / (blocks - 1) for i in range(blocks)]


# Rows of a batch by runs of neighbours: slices, which torch copies and adds several times faster than indexed rows,
# and in the order that the memory has.


def _runs(keep: list[float]) -> Iterator[slice]:
    """The runs of samples that keep the branch: [1, 0, 1, 1] -> 0:1, 2:4."""
    start = 0
    for kept, run in groupby(keep):
        stop = start + len(list(run))
        if kept:
            yield slice(start, stop)
        start = stop


def _select(x: Tensor, runs: list[slice]) -> Tensor:
    return torch.cat([x[run] for run in runs])


def _add(x: Tensor, rows: Tensor, runs: list[slice], factor: float = 1.0) -> Tensor:
    """x with factor * rows added to its ``runs``."""
    out = x.to(torch.result_type(x, rows), copy=True)
    for run, part in zip(runs, rows.split([run.stop - run.start for run in runs]), strict=True):
        out[run].add_(part, alpha=factor)
    return out


class _Select(torch.autograd.Function):
    """x, and its rows. autograd's own way would add x's gradient to a map of zeros and the rows' one."""

    @staticmethod
    def forward(x: Tensor, runs: list[slice]) -> tuple[Tensor, Tensor]:
        return x.view_as(x), _select(x, runs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, list[slice]], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.runs = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        of_x, of_rows = gradients
        return _add(of_x, of_rows, ctx.runs), None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, rows: Tensor, runs: list[slice], factor: float) -> Tensor:
        return _add(x, rows, runs, factor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, list[slice], float], output: Tensor) -> None:
        _, _, ctx.runs, ctx.factor = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        return gradient, _select(gradient, ctx.runs) * ctx.factor, None, None


# The same for rows by their number, whose count does not change: both ways all is read, and nothing written twice.


class _Gather(torch.autograd.Function):
    """x, and its rows ``index`` (k,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, place: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(place, keep)
        return x.view_as(x), _rows(x, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        of_x, of_rows = gradients
        return _spread(of_x, of_rows, *ctx.saved_tensors), None, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, index: Tensor, place: Tensor, keep: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(index, keep)
        ctx.factor = factor
        return _spread(x, rows, place, keep, factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        index, keep = ctx.saved_tensors
        of_rows = torch.where(_each(keep[index], gradient), _rows(gradient, index), 0.0) * ctx.factor
        return gradient, of_rows, None, None, None, None


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], in the order that the memory has."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
    return x[index]


def _spread(x: Tensor, rows: Tensor, place: Tensor, keep: Tensor, factor: float = 1.0) -> Tensor:
    """x, to which each sample that is kept has factor * the row at its place added."""
    return torch.add(x, torch.where(_each(keep, rows), _rows(rows, place), 0.0), alpha=factor)


def _each(keep: Tensor, x: Tensor) -> Tensor:
    return keep.view(-1, *(1,) * (x.ndim - 1))
