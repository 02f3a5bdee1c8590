"""Which pairs of rows are most similar? Found block by block, without a matrix of all pairs."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

BLOCK = 320  # rows of a tile: its similarities stay in the cache, and its product is still fast
DECIMALS = 12  # similarities are rounded to these, so that multiples of one row are equal at 1
CONSTANT = 1e-13  # variance ÷ mean² of a constant, from float32 rounding alone

Pairs = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def similar_pairs(rows: Tensor, *, top: int | None = None, threshold: float | None = None) -> Pairs:
    """Find the pairs of rows with the largest cosine, the most similar first.

    Half of the matrix of all cosines is computed, tile by tile; only one tile is in memory. If no
    cosine of a tile can be among the `top`, the tile costs no more than its matrix product. A row
    of zeros has no direction, and is in no pair. Equally similar pairs are ordered by index.

    Parameters
    ----------
    rows : Tensor, shape (n, d)
        Not changed. Tiles are computed in float64 if `rows` are, else in float32; the cosines of
        the pairs that are returned always in float64.
    top : int, optional
        The largest number of pairs.
    threshold : float, optional
        The least similarity, in [-1, 1]. If both are given, both hold; if neither, all pairs are
        returned.

    Returns
    -------
    i, j : Tensor of int64, shape (pairs,)
        Always i < j.
    similarity : Tensor of float64, shape (pairs,)

    Raises
    ------
    ArgumentError
        If `rows` is not a matrix, or contains NaN or infinity; if `top` or `threshold` is out of
        range.

    Examples
    --------
    >>> import torch
    >>> from pruneviz.redundancy.similarity import similar_pairs
    >>> similar_pairs(torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]]), top=2)
    (tensor([0, 0]), tensor([2, 1]), tensor([1.0000, 0.8000], dtype=torch.float64))
    """
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ArgumentError(f"`rows` must be a matrix, shape (n, d), but {got} was passed.")
    rows, (n, d) = rows.detach(), rows.shape
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    size = norms(rows)
    is_zero = size == 0
    size = size.where(~is_zero, 1).unsqueeze(1)
    lengths = size.to(dtype)
    if not torch.isfinite(lengths).all():
        raise ArgumentError(
            "`rows` must be finite, with finite squares, but they contain NaN, infinity or larger "
            "numbers. Remove such rows, or scale them."
        )
    left, right = torch.empty(2, min(BLOCK, n), d, dtype=dtype, device=rows.device)
    out = torch.empty(BLOCK * BLOCK, dtype=dtype, device=rows.device)

    def unit(a: int, into: Tensor) -> Tensor:
        part = rows[a : a + BLOCK]
        return torch.div(part, lengths[a : a + BLOCK], out=into[: len(part)])  # (≤ BLOCK, d)

    def tile(a: int, b: int) -> Tensor:
        x = unit(a, left) if a == b else left[: min(BLOCK, n - a)]
        y = x if a == b else unit(b, right)
        return torch.mm(x, y.T, out=out[: len(x) * len(y)].view(len(x), len(y)))

    def exact(i: np.ndarray, j: np.ndarray, s: np.ndarray) -> np.ndarray:
        step = max(1, (1 << 18) // max(1, d))
        for p in range(0, len(s) if dtype == torch.float32 else 0, step):
            u, v = torch.from_numpy(i[p : p + step]), torch.from_numpy(j[p : p + step])
            x, y = rows[u].double() / size[u], rows[v].double() / size[v]
            s[p : p + step] = (x * y).sum(1).cpu().numpy()
        return s

    rounding = 2 * torch.finfo(dtype).eps * max(1, d) ** 0.5
    return _search(tile, exact, is_zero, limits(top, threshold, low=-1), rounding)


@torch.no_grad()
def correlated_pairs(
    covariance: Tensor,
    *,
    mean: Tensor | None = None,
    index: Tensor | None = None,
    top: int | None = None,
    threshold: float | None = None,
) -> Pairs:
    """Find the pairs of units with the largest absolute correlation, the most similar first.

    A unit that is constant, up to the rounding of float32, is in no pair.

    Parameters
    ----------
    covariance : Tensor of float64, shape (columns, columns)
        Not changed.
    mean : Tensor of float64, shape (columns,), optional
        Means of the columns: needed to pool them, and to detect constants up to rounding.
    index : Tensor of int64, shape (n, k), optional
        The k columns of each unit, pooled as by `pooled_covariance`. Default: one column per unit.
    top, threshold
        As for `similar_pairs`; the least similarity is in [0, 1].

    Returns
    -------
    i, j : Tensor of int64, shape (pairs,)
        Always i < j.
    similarity : Tensor of float64, shape (pairs,)

    Raises
    ------
    ArgumentError
        If `covariance` contains NaN or infinity, or `top` or `threshold` is out of range.

    Examples
    --------
    >>> import torch
    >>> from pruneviz.redundancy.similarity import correlated_pairs
    >>> c = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 5.0]]).double()
    >>> correlated_pairs(c)
    (tensor([0]), tensor([2]), tensor([0.8944], dtype=torch.float64))
    """
    within = limits(top, threshold, low=0)
    columns = len(covariance)
    index = torch.arange(columns).unsqueeze(1) if index is None else index
    mean = covariance.new_zeros(columns) if mean is None else mean
    variance = pooled_covariance(covariance, mean, index, index)
    if not torch.isfinite(variance).all():
        raise ArgumentError(
            "`covariance` and `mean` must be finite, but they contain NaN or infinity. Look for the "
            "batch that holds them, and collect them anew."
        )
    constant = variance <= CONSTANT * mean[index].mean(1) ** 2
    deviation = torch.where(constant, 1, variance).sqrt()

    def tile(a: int, b: int) -> Tensor:
        u, v = index[a : a + BLOCK, None], index[None, b : b + BLOCK]
        s = pooled_covariance(covariance, mean, u, v).abs()
        return s.div_(deviation[a : a + BLOCK, None]).div_(deviation[b : b + BLOCK])

    return _search(tile, lambda i, j, s: s, constant, within, 0)


def pooled_covariance(covariance: Tensor, mean: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the covariance of units over all their positions.

    Parameters
    ----------
    covariance : Tensor, shape (columns, columns)
    mean : Tensor, shape (columns,)
    u, v : Tensor of int64, shapes (..., k)
        The columns of the units; position p of one unit is paired with position p of the other.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 4.0, 1.0, 3.0], [2.0, 6.0, 1.0, 5.0]]).double()  # 2 units, 2 positions
    >>> u, v = torch.tensor([0, 1]), torch.tensor([2, 3])
    >>> pooled_covariance(x.T.cov(correction=0), x.mean(0), u, v)
    tensor(3.5000, dtype=torch.float64)
    >>> torch.cov(torch.stack([x[:, u].flatten(), x[:, v].flatten()]), correction=0)[0, 1]
    tensor(3.5000, dtype=torch.float64)
    """
    # subtract the mean over a unit's positions first: E[xy] − E[x] E[y] would lose digits
    p, q = (mean[w] - mean[w].mean(-1, keepdim=True) for w in (u, v))
    k = u.shape[-1]  # one position at a time: k tiles at once may not fit into memory
    return sum(covariance[u[..., i], v[..., i]] + p[..., i] * q[..., i] for i in range(k)) / k  # type: ignore[return-value]


def norms(rows: Tensor) -> Tensor:
    """Return the norm of each row in float64, shape (n,)."""
    # in parts, in one buffer: a float64 copy of all rows would be larger than the rows
    size = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    wide = torch.empty(32, rows.shape[1], dtype=torch.float64, device=rows.device)
    for a in range(0, len(rows), 32):
        part = rows[a : a + 32]
        size[a : a + 32] = wide[: len(part)].copy_(part).norm(dim=1)
    return size


def limits(top: Any, threshold: Any, *, low: int) -> tuple[int | None, float]:
    """Return `top` and the least similarity, checked; -2, below all, if there is no threshold."""
    top = None if top is None else checks.count(top, "top", low=1)
    if threshold is None:
        return top, -2.0
    number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    value = float(threshold) if number else np.nan
    if low <= value <= 1:
        return top, value
    message = f"`threshold` must be a similarity in [{low}, 1], but {threshold!r} was passed."
    if 1 < value <= 100:
        message += f" Did you mean {value / 100:g}? Similarities, never percentages."
    raise ArgumentError(message)


def _search(
    tile: Callable[[int, int], Tensor],
    exact: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    excluded: Tensor,
    within: tuple[int | None, float],
    rounding: float,
) -> Pairs:
    """Search the tiles on and above the diagonal for the pairs within the limits."""
    top, threshold = within
    n, rounding = len(excluded), rounding + 10.0**-DECIMALS
    # rounding may rank a pair too low: keep more candidates than asked, and rank them exactly later
    most = None if top is None else 2 * top + 100
    bound, last = threshold - rounding, n  # a pair that equals the bound counts up to row `last`
    any_excluded = bool(excluded.any())
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for a in range(0, n, BLOCK):
        for b in range(a, n, BLOCK):
            s = tile(a, b)
            if a == b:
                s.masked_fill_(torch.ones_like(s, dtype=torch.bool).tril_(), -torch.inf)
            if any_excluded:
                s.masked_fill_(excluded[a : a + BLOCK, None] | excluded[b : b + BLOCK], -torch.inf)
            # similarities that are 1 up to rounding are equal, and ordered by index
            best = float(s.amax())
            best = 1.0 if best >= 1 - rounding else best
            if best < bound or (best == bound and a > last):
                continue
            flat = s.cpu().numpy().ravel()
            at = np.flatnonzero(flat >= min(bound, 1 - rounding))
            if most is not None and len(at) > most:  # the first tiles have many candidates
                at = at[flat[at] >= min(np.partition(flat[at], -most)[-most], 1 - rounding)]
            i, j = np.divmod(at, s.shape[1]) + np.array([[a], [b]])
            values = flat[at].astype(np.float64)
            values[values >= 1 - rounding] = 1
            parts.append((i, j, values))
            if most is not None:
                parts = [_first(most, *map(np.concatenate, zip(*parts, strict=True)))]
                if len(parts[0][2]) == most:
                    bound, last = max(bound, float(parts[0][2][-1])), int(parts[0][0][-1])
    none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    i, j, values = map(np.concatenate, zip(none, *parts, strict=True))
    values = exact(i, j, values).clip(-1, 1).round(DECIMALS)
    ok = values >= threshold - 10.0**-DECIMALS / 2
    i, j, values = _first(top, i[ok], j[ok], values[ok])
    return tuple(torch.from_numpy(x).to(excluded.device) for x in (i, j, values))  # type: ignore[return-value]


def _first(
    most: int | None, i: np.ndarray, j: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs with the largest values; equal ones by index."""
    if most is not None and len(values) > most:
        least = np.partition(values, -most)[-most]
        i, j, values = (x[values >= least] for x in (i, j, values))
    order = np.lexsort((j, i, -values))[:most]
    return i[order], j[order], values[order]
