"""Which new weights let a layer compensate for removed inputs: from moments to weights.

Each rung approximates the removed columns of a layer's input by the kept ones, ``a_R ≈ M a_K + b``,
and puts that into the layer: ``W_K + W_R M``, ``bias + W_R b``. Shapes: n columns, of which r are
removed and k kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneviz.core.errors import ArgumentError

RUNGS = ("none", "fold", "merge", "lstsq", "distil")
RIDGE = 0.01  # as a share of the mean variance of the kept columns


@dataclass(frozen=True, eq=False)
class Substitute:
    """What replaces the removed columns: ``a_removed ≈ M a_kept + b``.

    Parameters
    ----------
    matrix : Tensor, float64, shape (removed, kept)
        M.
    offset : Tensor, float64, shape (removed,)
        b.
    """

    matrix: Tensor
    offset: Tensor


def check_repair_data(rung: str, evidence: object, batches: object) -> None:
    """Raise if a repair that needs data has neither evidence nor batches."""
    if rung == "distil" and batches is None:
        raise ArgumentError(
            "repair 'distil' learns the answers of the whole model to inputs, but there are none. Pass "
            "batches=...; labels are not needed."
        )
    if evidence is None and batches is None and rung != "merge":
        raise ArgumentError(
            f"repair {rung!r} needs data on what the layers read, but there is none. Pass "
            "batches=..., or evidence=pv.collect(model, batches)."
        )


def fold(mean: Tensor, keep: Tensor) -> Substitute:
    """Replace each removed column by its mean; exact where the column is constant.

    Parameters
    ----------
    mean : Tensor, shape (n,)
        Mean of each column.
    keep : Tensor of bool, shape (n,)
        True = the column is kept.

    Examples
    --------
    >>> fold(torch.tensor([1.0, 2.0]), torch.tensor([True, False])).offset
    tensor([2.], dtype=torch.float64)
    """
    removed, kept = int((~keep).sum()), int(keep.sum())
    return Substitute(torch.zeros(removed, kept, dtype=torch.float64), mean[~keep].double())


def merge(
    mean: Tensor, covariance: Tensor, keep: Tensor, index: Tensor, *, fit_bias: bool = True
) -> Substitute:
    """Replace each removed unit by a factor times its twin, the most similar kept unit, and a rest.

    Exact where the removed unit is a multiple of its twin plus a constant.

    Parameters
    ----------
    mean : Tensor, shape (n,)
    covariance : Tensor, shape (n, n)
    keep : Tensor of bool, shape (n,)
        True = kept. All columns of a unit are kept, or none.
    index : Tensor of int, shape (units, k)
        The columns of each unit. A unit and its twin are compared column by column, with one factor
        for all columns.
    fit_bias : bool
        Whether the rest can be added to a bias. If not, the offset is 0, and the factor is that of
        a line through 0.

    References
    ----------
    Srinivas & Babu 2015, "Data-free parameter pruning for deep neural networks", arXiv:1507.06149;
    Kim et al. 2020, "Neuron Merging", arXiv:2010.13160. Both choose a twin by its weights; here it
    is chosen by its activations.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # the second is twice the first
    >>> substitute = merge(x.mean(0), torch.cov(x.T), torch.tensor([True, False]), torch.tensor([[0], [1]]))
    >>> substitute.matrix, substitute.offset
    (tensor([[2.]], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    mean, square = mean.double(), covariance.double()  # (n,), (n, n)
    if not fit_bias:  # about 0, not about the mean: a line through 0
        square = square + mean.unsqueeze(1) * mean  # (n, n)
    # (units, units): summed over the columns of a unit, so that each pair of units gets one number
    product = sum(square[index[:, j]][:, index[:, j]] for j in range(index.shape[1]))
    power = product.diagonal().clamp(min=0)  # type: ignore[union-attr]  # (units,)
    kept_units = keep[index[:, 0]]  # (units,)
    similarity = (product / (power.unsqueeze(1) * power).sqrt()).abs()  # (units, units)
    similarity = similarity.nan_to_num(0, 0, 0)  # a constant unit is similar to none
    twin = torch.where(kept_units, similarity, -1.0).argmax(1)  # (units,)
    units = torch.arange(len(index))  # (units,)
    twin_power = power[twin]  # (units,)
    similar = product[units, twin]  # type: ignore[index]  # (units,)
    factor = torch.where(twin_power > 0, similar / twin_power, 0.0)  # (units,)
    position = torch.cumsum(keep, 0) - 1  # (n,): of a kept column among the kept
    row = torch.cumsum(~keep, 0) - 1  # (n,): of a removed column among the removed
    m = torch.zeros(int((~keep).sum()), int(keep.sum()), dtype=torch.float64)  # (r, k)
    b = mean[~keep].clone()  # (r,)
    for u in units[~kept_units].tolist() if kept_units.any() else ():  # no kept unit: no twin
        twin_columns, columns = index[twin[u]], index[u]
        m[row[columns], position[twin_columns]] = factor[u]
        b[row[columns]] -= factor[u] * mean[twin_columns]
    return Substitute(m, b if fit_bias else torch.zeros_like(b))


def lstsq(
    mean: Tensor, covariance: Tensor, keep: Tensor, *, ridge: float = RIDGE, fit_bias: bool = True
) -> Substitute:
    """Replace each removed column by the nearest linear combination of the kept columns.

    ``M = C_RK (C_KK + λI)⁻¹``, λ = ridge · mean of the diagonal of C_KK. For λ → 0 exact where
    a removed column is a linear combination of the kept ones.

    Parameters
    ----------
    mean, covariance, keep, fit_bias
        As for `merge`.
    ridge : float
        Pulls towards M = 0, which means the old weights.

    References
    ----------
    He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
    arXiv:1707.06168, §3.1, and Luo, Wu, Lin 2017, "ThiNet", arXiv:1707.06342, eq. 7, re-fit by least
    squares on samples of the outputs. The fit on moments of the inputs is the same.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    >>> keep = torch.tensor([True, True, False])  # the third is the sum of both
    >>> lstsq(x.mean(0), torch.cov(x.T), keep, ridge=0).matrix
    tensor([[1., 1.]], dtype=torch.float64)
    """
    mean, square = mean.double(), covariance.double()  # (n,), (n, n)
    if not fit_bias:  # about 0, not about the mean: there is no offset
        square = square + mean.unsqueeze(1) * mean  # (n, n)
    m = solve_ridge(square[keep][:, keep], square[keep][:, ~keep], ridge).T  # (r, k)
    b = mean[~keep] - m @ mean[keep]  # (r,)
    return Substitute(m, b if fit_bias else torch.zeros_like(b))


def solve_ridge(square: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve (square + λI) x = right for a symmetric, positive semi-definite matrix.

    Shapes: `square` (k, k); `right` and the solution (k, columns). If the matrix is singular and
    there is no ridge, the solution with the smallest norm is returned.
    """
    return solve_damped(
        square, right, ridge * float(square.diagonal().mean()) if len(square) else 0
    )


def solve_damped(square: Tensor, right: Tensor, damping: float) -> Tensor:
    """Solve (square + damping · I) x = right, as `solve_ridge`."""
    n = square.shape[0]
    if not n:
        return right.clone()
    if damping > 0:
        damped = square + damping * torch.eye(n, dtype=square.dtype)
        factor, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            return torch.cholesky_solve(right, factor)
    return torch.linalg.pinv(square, rtol=1e-12, hermitian=True) @ right


def refit_columns(weight: Tensor, keep: Tensor, substitute: Substitute) -> tuple[Tensor, Tensor]:
    """Return the new kept weights, (outputs, kept), and what is added to the bias, (outputs,).

    ``W_K + W_R M`` and ``W_R b``.
    """
    w_removed = weight.double()[:, ~keep]  # (outputs, r)
    w_kept = weight.double()[:, keep]  # (outputs, k)
    return w_kept + w_removed @ substitute.matrix, w_removed @ substitute.offset


def refit_rows(
    weight: Tensor, mean: Tensor, covariance: Tensor, keep: Tensor, *, ridge: float = RIDGE,
    fit_bias: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Re-fit the kept weights of each row by least squares, for masks of single weights.

    Parameters
    ----------
    weight : Tensor, shape (outputs, n)
    mean, covariance
        As for `merge`.
    keep : Tensor of bool, shape (outputs, n)
    ridge, fit_bias
        As for `lstsq`.

    Returns
    -------
    tuple of Tensor, float64
        The new weights, (outputs, n), 0 where not kept, and what is added to the bias, (outputs,).

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]])  # the second is twice the first
    >>> w, keep = torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]])
    >>> refit_rows(w, x.mean(0), torch.cov(x.T), keep, ridge=0)[0]
    tensor([[3., 0.]], dtype=torch.float64)
    """
    if weight.shape != keep.shape:
        raise ArgumentError(
            f"`keep` must have the shape {tuple(weight.shape)} of the weight, but it has "
            f"{tuple(keep.shape)}."
        )
    w, mean, square = weight.double(), mean.double(), covariance.double()
    if not fit_bias:  # about 0, not about the mean: there is no bias
        square = square + mean.unsqueeze(1) * mean  # (n, n)
    new = torch.where(keep, w, 0.0)  # (outputs, n)
    for row, kept in enumerate(keep):  # kept: (n,)
        if kept.any() and not kept.all():
            k = kept.nonzero()[:, 0]  # (kept,)
            inside = square[k]  # (kept, n)
            # co-moment of the kept columns with the removed part of the output
            right = inside[:, ~kept] @ w[row, ~kept]  # (kept,)
            new[row, k] += solve_ridge(inside[:, k], right.unsqueeze(1), ridge)[:, 0]
    bias_change = (
        (w - new) @ mean if fit_bias else torch.zeros(len(w), dtype=torch.float64)
    )  # (outputs,)
    return new, bias_change
