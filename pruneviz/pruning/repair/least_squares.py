"""Which weights of a pruned layer best give its old outputs: least squares over batches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import at_least_float32
from pruneviz.model.batches import Batch
from pruneviz.model.hooks import evaluating, hooked
from pruneviz.model.layers import consumers, open_attention
from pruneviz.model.patches import patches
from pruneviz.pruning.repair import ladder


def fits(model: nn.Module, new: nn.Module, layer: str, batches: Iterable[Batch]) -> list[Fit]:
    """Return one fit for each group of a layer: its inputs in the new model, outputs in the old."""
    dense, pruned = consumers(model)[layer], consumers(new)[layer]
    found = [Fit() for _ in range(getattr(dense, "groups", 1))]
    calls = 0
    for batch in batches:
        targets = layer_rows(model, layer, dense, batch, target=True, calls=calls)
        inputs_now = layer_rows(new, layer, pruned, batch, target=False, calls=calls)
        calls = len(targets)  # from the second batch on a forward stops after the layer's last call
        for z, x in zip(targets, inputs_now, strict=True):  # z: (groups, rows, outputs), x: (.., n)
            for b, fit in enumerate(found):
                fit.add(x[b], z[b])
    if not all(fit.finite for fit in found if fit.count):
        raise ArgumentError(
            f"layer {layer!r} read or returned NaN or infinity. Look at the data and at the weights "
            "before it."
        )
    return found


class Fit:
    """Least squares from streamed sums over the inputs x of a layer and its target outputs z.

    All sums are shifted by the means of the first batch: E[x²] − E[x]² of unshifted numbers loses
    precision.
    """

    def __init__(self) -> None:
        self.count = 0
        self.shift: tuple[Tensor, Tensor] | None = None  # (n,), (outputs,)

    def add(self, x: Tensor, z: Tensor) -> None:
        """Add inputs, (rows, n), and their targets, (rows, outputs)."""
        if not len(x):
            return
        x = at_least_float32(x)
        z = z.to(x.dtype)
        if self.shift is None:
            self.shift = x.mean(0), z.mean(0)
            self.x, self.z = torch.zeros_like(x[0]).double(), torch.zeros_like(z[0]).double()
            self.xx = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            self.zx = x.new_zeros(z.shape[1], x.shape[1], dtype=torch.float64)
        x, z = x - self.shift[0], z - self.shift[1]
        self.count += len(x)
        self.x += x.sum(0)  # (n,)
        self.z += z.sum(0)  # (outputs,)
        self.xx += x.T @ x  # (n, n)
        self.zx += z.T @ x  # (outputs, n)

    def solve(
        self, old: Tensor, ridge: float, fit_bias: bool, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return weights, (outputs, n), and the bias's change, (outputs,); of some `rows`, or all.

        ``W = (C_zx + λ W_old) (C_xx + λI)⁻¹``
        """
        xx, zx, x, z = self.moments(fit_bias)
        if rows is not None:
            zx, z = zx[rows], z[rows]
        old = old.double().cpu()
        # Solved for the change of the weights. So without a ridge, where the matrix is singular,
        # the solution nearest to the old weights is taken.
        weight = old + ladder.solve_ridge(xx, (zx - old @ xx).T, ridge).T
        bias_change = z - weight @ x if fit_bias else torch.zeros(len(old), dtype=torch.float64)
        return weight, bias_change

    def solve_rows(
        self, old: Tensor, keep: Tensor, ridge: float, fit_bias: bool
    ) -> tuple[Tensor, Tensor]:
        """Like `solve`, but each row keeps its own columns; `keep` is (outputs, n)."""
        xx, zx, x, z = self.moments(fit_bias)
        weight = torch.where(keep.cpu(), old.double().cpu(), 0.0)
        right = zx - weight @ xx  # (outputs, n)
        for row, kept in enumerate(keep.cpu()):  # kept: (n,)
            if kept.any():
                k = kept.nonzero()[:, 0]
                step = ladder.solve_ridge(xx[k][:, k], right[row, k].unsqueeze(1), ridge)
                weight[row, k] += step[:, 0]  # (kept,)
        bias_change = z - weight @ x if fit_bias else torch.zeros(len(weight), dtype=torch.float64)
        return weight, bias_change

    @property
    def finite(self) -> bool:
        """Whether all that was added is finite."""
        return bool(torch.isfinite(self.xx).all() and torch.isfinite(self.zx).all())

    def moments(self, fit_bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C_xx, (n, n), C_zx, (outputs, n), and the means of x and z.

        With `fit_bias` moments about the mean, because a bias absorbs the mean; else about 0.
        """
        if self.shift is None:
            raise ArgumentError(
                "`batches` must hold an example that reaches each repaired layer, but for one "
                "layer there is none. Pass other batches."
            )
        x, z = self.x / self.count, self.z / self.count
        xx = self.xx / self.count - x.unsqueeze(1) * x
        zx = self.zx / self.count - z.unsqueeze(1) * x
        x, z = x + self.shift[0], z + self.shift[1]
        if not fit_bias:
            xx, zx = xx + x.unsqueeze(1) * x, zx + z.unsqueeze(1) * x
        return xx.cpu(), zx.cpu(), x.cpu(), z.cpu()


def layer_rows(
    model: nn.Module,
    layer: str,
    module: nn.Module,
    batch: Batch,
    *,
    target: bool,
    calls: int = 0,
) -> list[Tensor]:
    """Run a model; return for each call of a layer its inputs or, with `target`, its outputs.

    Each tensor has the shape (groups, rows, n). Inputs of a convolution are its patches; outputs
    are without the bias. The forward stops after `calls` calls of the layer; 0: it never stops.
    """
    found: list[Tensor] = []
    groups = getattr(module, "groups", 1)

    def record(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
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
            raise _StopForward

    with (
        suppress(_StopForward),
        evaluating(model),
        open_attention(model),
        hooked(model, [layer], record),
    ):
        batch.run(model)
    return found


class _StopForward(BaseException):
    """Ends a forward early; as a BaseException it passes every `except Exception` of a model."""
