"""Repair: let what stays do the work of what goes. Moments in, weights out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneviz.core.errors import ArgumentError

RUNGS = ("none", "fold", "merge", "lstsq")
RIDGE = 0.01  # of the mean variance of what stays


@dataclass(frozen=True, eq=False)
class Stand:
    """How what stays stands in for what goes: ``a_gone ≈ M a_kept + b``.

    Parameters
    ----------
    matrix : Tensor, float64, shape (gone, kept)
        M.
    offset : Tensor, float64, shape (gone,)
        b.
    """

    matrix: Tensor
    offset: Tensor


def check_source(rung: str, evidence: object, batches: object) -> None:
    """Raise if there is nothing for a repair to learn from."""
    if evidence is None and batches is None and rung != "merge":
        raise ArgumentError(
            f"repair {rung!r} needs to know what the layers read. Pass batches=..., or "
            "evidence=pv.collect(model, batches)."
        )


def fold(mean: Tensor, keep: Tensor) -> Stand:
    """Replace what goes by its mean: exact where it is constant.

    Parameters
    ----------
    mean : Tensor, shape (n,)
        Of each column.
    keep : Tensor of bool, shape (n,)

    Examples
    --------
    >>> fold(torch.tensor([1.0, 2.0]), torch.tensor([True, False])).offset
    tensor([2.], dtype=torch.float64)
    """
    gone, kept = int((~keep).sum()), int(keep.sum())
    return Stand(torch.zeros(gone, kept, dtype=torch.float64), mean[~keep].double())


def merge(
    mean: Tensor, covariance: Tensor, keep: Tensor, index: Tensor, *, free: bool = True
) -> Stand:
    """Replace each unit that goes by the kept one most like it, scaled, and a remainder.

    Exact where the unit is a multiple of its twin plus a constant.

    Parameters
    ----------
    mean : Tensor, shape (n,)
    covariance : Tensor, shape (n, n)
    keep : Tensor of bool, shape (n,)
        Whole units stay or go.
    index : Tensor of int, shape (units, k)
        The columns of each unit; a unit and its twin are compared column by column, and share one
        factor.
    free : bool
        Whether a bias can take up the remainder. If not, the factor is that of a line through 0.

    References
    ----------
    Srinivas & Babu 2015, "Data-free parameter pruning for deep neural networks", arXiv:1507.06149;
    Kim et al. 2020, "Neuron Merging", arXiv:2010.13160; here twins are found by what they do.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # the second is twice the first
    >>> stand = merge(x.mean(0), torch.cov(x.T), torch.tensor([True, False]), torch.tensor([[0], [1]]))
    >>> stand.matrix, stand.offset
    (tensor([[2.]], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    mean, square = mean.double(), covariance.double()
    if not free:
        square = square + mean.unsqueeze(1) * mean
    like = sum(square[index[:, j]][:, index[:, j]] for j in range(index.shape[1]))  # (units, units)
    power = like.diagonal().clamp(min=0)  # type: ignore[union-attr]
    stays = keep[index[:, 0]]
    alike = (like / (power.unsqueeze(1) * power).sqrt()).abs().nan_to_num(0, 0, 0)
    twin = torch.where(stays, alike, -1.0).argmax(1)  # (units,)
    units = torch.arange(len(index))
    own = power[twin]
    factor = torch.where(own > 0, like[units, twin] / own, 0.0)  # type: ignore[index]
    place = torch.cumsum(keep, 0) - 1  # of a column among those that stay
    row = torch.cumsum(~keep, 0) - 1
    gone = ~stays
    m = torch.zeros(int((~keep).sum()), int(keep.sum()), dtype=torch.float64)
    b = mean[~keep].clone()
    for u in units[gone].tolist() if stays.any() else ():  # else nobody is left to stand in
        there, here = index[twin[u]], index[u]
        m[row[here], place[there]] = factor[u]
        b[row[here]] -= factor[u] * mean[there]
    return Stand(m, b if free else torch.zeros_like(b))


def lstsq(
    mean: Tensor, covariance: Tensor, keep: Tensor, *, ridge: float = RIDGE, free: bool = True
) -> Stand:
    """Replace what goes by the linear combination of what stays that is nearest to it.

    ``M = C_RK (C_KK + λI)⁻¹``, λ = ridge · mean of the diagonal of C_KK; exact for λ → 0 where it is
    a linear combination.

    Parameters
    ----------
    mean, covariance, keep, free
        As for `merge`.
    ridge : float
        Pulls towards M = 0: the old weights.

    References
    ----------
    He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
    arXiv:1707.06168, §3.1, and Luo, Wu, Lin 2017, "ThiNet", arXiv:1707.06342, eq. 7, re-fit by least
    squares on outputs; with moments of inputs in the place of samples it is the same fit.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    >>> keep = torch.tensor([True, True, False])  # the third is the sum of both
    >>> lstsq(x.mean(0), torch.cov(x.T), keep, ridge=0).matrix
    tensor([[1., 1.]], dtype=torch.float64)
    """
    mean, square = mean.double(), covariance.double()
    if not free:
        square = square + mean.unsqueeze(1) * mean
    m = solved(square[keep][:, keep], square[keep][:, ~keep], ridge).T  # (gone, kept)
    b = mean[~keep] - m @ mean[keep]
    return Stand(m, b if free else torch.zeros_like(b))


def solved(square: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve (square + λI) x = right for a symmetric, positive semi-definite matrix.

    Without a ridge, where the matrix is singular, the smallest solution.
    """
    n = square.shape[0]
    if not n:
        return right.clone()
    size = float(square.diagonal().mean())
    if ridge > 0 and size > 0:
        damped = square + ridge * size * torch.eye(n, dtype=square.dtype)
        factor, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            return torch.cholesky_solve(right, factor)
    return torch.linalg.pinv(square, rtol=1e-12, hermitian=True) @ right


def refitted(weight: Tensor, keep: Tensor, stand: Stand) -> tuple[Tensor, Tensor]:
    """Return the new weights of what stays, (outputs, kept), and what the bias gains, (outputs,).

    ``W_K + W_R M`` and ``W_R b``.
    """
    gone = weight.double()[:, ~keep]
    return weight.double()[:, keep] + gone @ stand.matrix, gone @ stand.offset


def refit_rows(
    weight: Tensor, mean: Tensor, covariance: Tensor, keep: Tensor, *, ridge: float = RIDGE,
    free: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Re-fit each row's kept weights by least squares: for masks of single weights.

    Parameters
    ----------
    weight : Tensor, shape (outputs, n)
    mean, covariance
        Of the n columns.
    keep : Tensor of bool, shape (outputs, n)
    ridge, free
        As for `lstsq`.

    Returns
    -------
    tuple of Tensor, float64
        The new weights, 0 where they do not stay, and what the bias gains, (outputs,).

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]])  # the second is twice the first
    >>> w, keep = torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]])
    >>> refit_rows(w, x.mean(0), torch.cov(x.T), keep, ridge=0)[0]
    tensor([[3., 0.]], dtype=torch.float64)
    """
    if weight.shape != keep.shape:
        raise ArgumentError(f"`keep` must have the shape {tuple(weight.shape)} of the weight.")
    w, mean, square = weight.double(), mean.double(), covariance.double()
    if not free:
        square = square + mean.unsqueeze(1) * mean
    new = torch.where(keep, w, 0.0)
    for row, stays in enumerate(keep):
        if stays.any() and not stays.all():
            k = stays.nonzero()[:, 0]
            inside = square[k]  # (kept, n)
            lost = inside[:, ~stays] @ w[row, ~stays]
            new[row, k] += solved(inside[:, k], lost.unsqueeze(1), ridge)[:, 0]
    gain = (w - new) @ mean if free else torch.zeros(len(w), dtype=torch.float64)
    return new, gain
