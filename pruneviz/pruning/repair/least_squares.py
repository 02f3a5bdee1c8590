"""Which weights of a pruned layer best give its old outputs? Least squares over rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pruneviz.core.names import at_least_float32
from pruneviz.pruning.repair.ladder import solve_damped, solve_ridge

NARROW = 2048  # columns: up to here products are added up, beyond the rows themselves are kept
KEPT = 1 << 26  # numbers of such rows: 256 MiB
HELD = 1 << 23  # the same of held-out rows
WIDEST = 8192  # columns of a layer whose single weights are re-fitted, row by row

Solution = tuple[Tensor, Tensor]  # weights, (outputs, n), and the bias's change, (outputs,)


class Solver(NamedTuple):
    """What fits best: the bias's change alone, (outputs,), and weights and bias for a ridge."""

    fold: Tensor
    at: Callable[[float], Solution]


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

    def solver(self, old: Tensor, fit_bias: bool, rows: Tensor | None = None) -> Solver:
        """Return what fits best to some `rows` of the outputs, or all.

        ``W = (C_zx + λ W_old) (C_xx + λI)⁻¹``
        """
        xx, zx, x, z = self.moments(fit_bias)
        if rows is not None:
            zx, z = zx[rows], z[rows]
        old = old.double().cpu()
        right = (zx - old @ xx).T

        def solve(ridge: float) -> Solution:
            # Solved for the change of the weights. So without a ridge, where the matrix is
            # singular, the solution nearest to the old weights is taken.
            weight = old + solve_ridge(xx, right, ridge).T
            return weight, z - weight @ x if fit_bias else torch.zeros(len(old)).double()

        return Solver(z - old @ x, solve)

    def row_solver(self, old: Tensor, keep: Tensor, fit_bias: bool) -> Solver:
        """Like `solver`, but each row keeps its own columns; `keep` is (outputs, n)."""
        xx, zx, x, z = self.moments(fit_bias)
        keep = keep.cpu()
        start = torch.where(keep, old.double().cpu(), 0.0)
        right = zx - start @ xx  # (outputs, n)

        def solve(ridge: float) -> Solution:
            weight = start.clone()
            for row, kept in enumerate(keep):  # kept: (n,)
                if kept.any():
                    k = kept.nonzero()[:, 0]
                    step = solve_ridge(xx[k][:, k], right[row, k].unsqueeze(1), ridge)
                    weight[row, k] += step[:, 0]  # (kept,)
            return weight, z - weight @ x if fit_bias else torch.zeros(len(weight)).double()

        return Solver(z - start @ x, solve)

    @property
    def finite(self) -> bool:
        """Whether all that was added is finite."""
        return bool(torch.isfinite(self.xx).all() and torch.isfinite(self.zx).all())

    def moments(self, fit_bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C_xx, (n, n), C_zx, (outputs, n), and the means of x and z.

        With `fit_bias` moments about the mean, because a bias absorbs the mean; else about 0.
        """
        assert self.shift is not None
        x, z = self.x / self.count, self.z / self.count
        xx = self.xx / self.count - x.unsqueeze(1) * x
        zx = self.zx / self.count - z.unsqueeze(1) * x
        x, z = x + self.shift[0], z + self.shift[1]
        if not fit_bias:
            xx, zx = xx + x.unsqueeze(1) * x, zx + z.unsqueeze(1) * x
        return xx.cpu(), zx.cpu(), x.cpu(), z.cpu()


class WideFit(Fit):
    """The same fit for many columns: the rows are kept, not their products, (n, n).

    With fewer rows than columns it is solved in the space of the rows, by Woodbury's identity:
    ``(XᵀX + λI)⁻¹ Xᵀ = Xᵀ (XXᵀ + λI)⁻¹``. So memory and time are those of the rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, z: Tensor) -> None:
        """Add inputs, (rows, n), and their targets, (rows, outputs)."""
        if len(x):
            x = at_least_float32(x)
            self.parts.append((x.cpu().clone(), z.to(x.dtype).cpu().clone()))
            self.count += len(x)

    @property
    def finite(self) -> bool:
        """Whether all that was added is finite."""
        return all(bool(torch.isfinite(t).all()) for part in self.parts for t in part)

    def solver(self, old: Tensor, fit_bias: bool, rows: Tensor | None = None) -> Solver:
        """As `Fit.solver`."""
        x, z = (torch.cat([p[i] for p in self.parts]) for i in (0, 1))
        self.parts = []  # the rows are large: once is enough
        z = z if rows is None else z[:, rows]
        old = old.double().cpu()
        rest = z.double() - (x @ old.to(x).T).double()  # (rows, outputs)
        shift = x.mean(0) if fit_bias else torch.zeros_like(x[0])
        offset = rest.mean(0) if fit_bias else rest.new_zeros(rest.shape[1])
        x -= shift
        rest -= offset
        scale = float(x.square().mean()) if x.numel() else 0.0  # mean of the diagonal of C_xx
        few = len(x) < x.shape[1]
        square = torch.from_numpy(_gram(x.numpy() if few else x.numpy().T)).double() / len(x)
        right = rest if few else (rest.T.to(x) @ x).T.double() / len(x)

        def solve(ridge: float) -> Solution:
            change = solve_damped(square, right, ridge * scale)
            if few:
                change = ((change / len(x)).T.to(x) @ x).T.double()
            bias = offset - change.T @ shift.double()
            return old + change.T, bias if fit_bias else torch.zeros_like(offset)

        return Solver(offset, solve)


def _gram(x: np.ndarray) -> np.ndarray:
    """Return x xᵀ; numpy knows that it is symmetric, and computes half of it."""
    return np.dot(x, x.T)


class HeldOut:
    """Rows that no fit sees."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, z: Tensor) -> None:
        """Add inputs, (rows, n), and their targets, (rows, outputs)."""
        if len(x):
            x = at_least_float32(x)
            self.parts.append((x.cpu().clone(), z.to(x.dtype).cpu().clone()))

    def errors(self, solution: Solution, rows: Tensor | None = None) -> Tensor:
        """Return the squared difference between a layer's outputs and the targets, (rows,)."""
        weight, bias = solution
        found = []
        for x, z in self.parts:
            z = z if rows is None else z[:, rows]
            off = x @ weight.to(x).T + bias.to(x) - z
            found.append(off.square().sum(1, dtype=torch.float64))
        return torch.cat(found)

    def sizes(self, rows: Tensor | None = None) -> Tensor:
        """Return the squared size of the targets, (rows,)."""
        parts = [z if rows is None else z[:, rows] for _, z in self.parts]
        return torch.cat([z.square().sum(1, dtype=torch.float64) for z in parts])
