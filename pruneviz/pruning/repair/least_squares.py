"""Fit a layer of a changed model to what it gave in the whole one, by least squares over batches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import single
from pruneviz.model.forward import arguments, run_forward
from pruneviz.model.hooks import evaluating, hooked
from pruneviz.model.layers import consumers, open_attention
from pruneviz.model.patches import patches
from pruneviz.pruning.repair import ladder


def fits(model: nn.Module, new: nn.Module, layer: str, batches: Iterable[Any]) -> list[Fit]:
    """Return, for each group of a layer, the sums of what it reads in the new model and gave in the old.

    `batches`: inputs alone; they are run through both models.
    """
    whole, changed = consumers(model)[layer], consumers(new)[layer]
    found = [Fit() for _ in range(getattr(whole, "groups", 1))]
    calls = 0
    for inputs in batches:
        args, kwargs = arguments(inputs)
        want = ran(model, layer, whole, args, kwargs, target=True, calls=calls)
        have = ran(new, layer, changed, args, kwargs, target=False, calls=calls)
        calls = len(want)
        for z, x in zip(want, have, strict=True):
            for b, fit in enumerate(found):
                fit.add(x[b], z[b])
    return found


class Fit:
    """Least squares from sums: of what a layer reads, and of what it should give."""

    def __init__(self) -> None:
        self.count = 0
        self.shift: tuple[Tensor, Tensor] | None = None

    def add(self, x: Tensor, z: Tensor) -> None:
        """Add rows that are read, (rows, n), and wanted, (rows, outputs)."""
        if not len(x):
            return
        x = single(x)
        z = z.to(x.dtype)
        if self.shift is None:
            self.shift = x.mean(0), z.mean(0)
            self.x, self.z = torch.zeros_like(x[0]).double(), torch.zeros_like(z[0]).double()
            self.xx = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            self.zx = x.new_zeros(z.shape[1], x.shape[1], dtype=torch.float64)
        x, z = x - self.shift[0], z - self.shift[1]
        self.count += len(x)
        self.x += x.sum(0)
        self.z += z.sum(0)
        self.xx += x.T @ x
        self.zx += z.T @ x

    def solve(
        self, old: Tensor, ridge: float, free: bool, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return weights, (outputs, n), and what a bias gains, (outputs,), of some `rows` or all.

        ``W = (C_zx + λ W_old) (C_xx + λI)⁻¹``
        """
        xx, zx, x, z = self.moments(free)
        if rows is not None:
            zx, z = zx[rows], z[rows]
        old = old.double().cpu()
        # as a step away from the old weights: with no ridge and a singular matrix they stay where
        # nothing speaks for others
        weight = old + ladder.solved(xx, (zx - old @ xx).T, ridge).T
        gain = z - weight @ x if free else torch.zeros(len(old), dtype=torch.float64)
        return weight, gain

    def solve_rows(
        self, old: Tensor, keep: Tensor, ridge: float, free: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the same where each row keeps columns of its own, (outputs, n)."""
        xx, zx, x, z = self.moments(free)
        weight = torch.where(keep.cpu(), old.double().cpu(), 0.0)
        right = zx - weight @ xx  # (outputs, n)
        for row, stays in enumerate(keep.cpu()):
            if stays.any():
                k = stays.nonzero()[:, 0]
                weight[row, k] += ladder.solved(xx[k][:, k], right[row, k].unsqueeze(1), ridge)[
                    :, 0
                ]
        gain = z - weight @ x if free else torch.zeros(len(weight), dtype=torch.float64)
        return weight, gain

    def moments(self, free: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C_xx, C_zx and the means of x and z; not `free`: about 0, not about the mean."""
        if self.shift is None:
            raise ArgumentError(
                "`batches` hold no example that reaches each layer: there is nothing to fit to."
            )
        x, z = self.x / self.count, self.z / self.count
        xx, zx = self.xx / self.count, self.zx / self.count
        if free:
            xx, zx = xx - x.unsqueeze(1) * x, zx - z.unsqueeze(1) * x
        x, z = x + self.shift[0], z + self.shift[1]
        if not free:  # moments about 0, not about the mean
            dx, dz = self.shift[0].double(), self.shift[1].double()
            sx, sz = self.x / self.count, self.z / self.count
            xx = xx + dx.unsqueeze(1) * sx + sx.unsqueeze(1) * dx + dx.unsqueeze(1) * dx
            zx = zx + dz.unsqueeze(1) * sx + sz.unsqueeze(1) * dx + dz.unsqueeze(1) * dx
        return xx.cpu(), zx.cpu(), x.cpu(), z.cpu()


def ran(
    model: nn.Module,
    layer: str,
    module: nn.Module,
    args: Any,
    kwargs: Any,
    *,
    target: bool,
    calls: int = 0,
) -> list[Tensor]:
    """Run a model; return what a layer multiplies, or gives, without its bias, at each of its calls.

    Each of shape (groups, rows, n). After so many `calls` the run stops: 0 for never.
    """
    found: list[Tensor] = []
    groups = getattr(module, "groups", 1)

    def note(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        if target:
            rows = output
            bias = getattr(module, "bias", None)
            if isinstance(module, _ConvNd):
                rows = rows.flatten(2).transpose(1, 2)
            rows = rows if bias is None else rows - bias
        else:
            rows = patches(module, inputs[0]) if isinstance(module, _ConvNd) else inputs[0]
        rows = rows.detach().reshape(-1, rows.shape[-1])
        found.append(torch.stack(rows.chunk(groups, -1)))
        if len(found) == calls:
            raise _Enough

    with (
        suppress(_Enough),
        evaluating(model),
        open_attention(model),
        hooked(model, [layer], note),
    ):
        run_forward(model, args, kwargs)
    return found


class _Enough(BaseException):
    """What was wanted has been seen; no `except Exception` on the way may stop it."""
