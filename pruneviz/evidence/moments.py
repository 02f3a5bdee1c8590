"""How is a stream of numbers summarised without keeping it? Moments, which can be merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import at_least_float32

BLOCK = 1 << 17  # so many numbers fit into the cache: further passes over them cost little


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Count, mean, co-moment, zeros, lowest and highest of the n columns of a stream of rows.

    All tensors are float64 on the CPU. Before n there may be further dimensions, such as the groups
    of a grouped convolution.

    Parameters
    ----------
    count : int
        Number of rows.
    mean : Tensor, shape (..., n)
    comoment : Tensor, shape (..., n, n) or (..., n)
        Σ (x − mean)(x − mean)ᵀ over the rows; or only its diagonal.
    zeros : Tensor, shape (..., n)
        Number of rows with exactly 0 in this column.
    low, high : Tensor, shape (..., n)
        Lowest and highest number.

    References
    ----------
    Chan, Golub, LeVeque 1983, "Algorithms for Computing the Sample Variance", eq. 1.5: how two parts
    are merged.

    Examples
    --------
    >>> import torch
    >>> from pruneviz.evidence.moments import Moments
    >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]])
    >>> both = Moments.of(x[:2]).merge(Moments.of(x[2:]))
    >>> both
    Moments of 2 columns over 3 rows
    >>> both.mean, both.zero_fraction, both.covariance[0, 1]
    (tensor([3., 2.], dtype=torch.float64), tensor([0.0000, 0.6667], dtype=torch.float64), tensor(4., dtype=torch.float64))
    """

    count: int
    mean: Tensor
    comoment: Tensor
    zeros: Tensor
    low: Tensor
    high: Tensor

    def __repr__(self) -> str:
        part = "" if self.full else ", diagonal only"
        return f"Moments of {self.mean.shape[-1]:,} columns over {self.count:,} rows{part}"

    @classmethod
    def of(cls, x: Tensor, *, comoment: bool = True) -> Moments:
        """Return the moments of the rows of a matrix.

        Parameters
        ----------
        x : Tensor, shape (..., rows, n)
        comoment : bool
            False: only the diagonal.
        """
        if x.ndim < 2 or x.shape[-2] == 0:
            raise ArgumentError(
                f"moments need rows of numbers, shape (..., rows, n), but {tuple(x.shape)} was passed."
            )
        x = at_least_float32(x.detach())
        mean = x.mean(-2, dtype=torch.float64)  # (..., n)
        d = x - mean.to(x.dtype).unsqueeze(-2)
        # the mean was rounded to the type of x: correct for the remaining mean of d
        rest = d.mean(-2, dtype=torch.float64)
        rows = x.shape[-2]
        if comoment:
            moment = (d.mT @ d).double() - rows * rest.unsqueeze(-1) * rest.unsqueeze(-2)
        else:
            moment = (d * d).sum(-2, dtype=torch.float64) - rows * rest * rest
        zeros = (x == 0).sum(-2)
        parts = mean, moment, zeros, x.amin(-2), x.amax(-2)
        return cls(rows, *(t.double().cpu() for t in parts))

    @property
    def full(self) -> bool:
        """Whether it holds the whole co-moment, not only its diagonal."""
        return self.comoment.ndim > self.mean.ndim

    @property
    def variance(self) -> Tensor:
        """Mean square of the deviations, shape (..., n)."""
        square = self.comoment.diagonal(dim1=-2, dim2=-1) if self.full else self.comoment
        return square.clamp(min=0) / self.count

    @property
    def covariance(self) -> Tensor:
        """Mean product of the deviations, shape (..., n, n).

        Raises
        ------
        ArgumentError
            If only the diagonal was kept.
        """
        if not self.full:
            raise ArgumentError(
                f"only the diagonal of the co-moment of {self.mean.shape[-1]:,} columns was kept. Collect "
                "the whole: pv.collect(model, batches, comoment='all')."
            )
        return self.comoment / self.count

    @property
    def square(self) -> Tensor:
        """Mean of the squares, shape (..., n)."""
        return self.variance + self.mean**2

    @property
    def zero_fraction(self) -> Tensor:
        """Share of the rows with exactly 0 in this column (APoZ), shape (..., n)."""
        return self.zeros / self.count

    @property
    def max(self) -> Tensor:
        """Largest absolute value, shape (..., n)."""
        return torch.maximum(self.high.abs(), self.low.abs())

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both streams together.

        Raises
        ------
        ArgumentError
            If their columns differ, or only one of them has the whole co-moment.
        """
        if self.comoment.shape != other.comoment.shape or self.mean.shape != other.mean.shape:
            raise ArgumentError(
                f"moments of different shapes cannot be merged: {_shapes(self)} and {_shapes(other)}. "
                "Collect both from the same model, with the same arguments."
            )
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        outer = step.unsqueeze(-1) * step.unsqueeze(-2) if self.full else step * step
        comoment = self.comoment + other.comoment + outer * (self.count * other.count / count)
        zeros, low = self.zeros + other.zeros, torch.minimum(self.low, other.low)
        return Moments(count, mean, comoment, zeros, low, torch.maximum(self.high, other.high))

    def each(self, fn: Callable[[Tensor], Tensor]) -> Moments:
        """Return the moments with `fn` applied to each tensor, such as a choice of columns."""
        fields = (self.mean, self.comoment, self.zeros, self.low, self.high)
        return Moments(self.count, *map(fn, fields))

    def diagonal(self) -> Moments:
        """Return the same moments with only the diagonal of the co-moment."""
        moment = self.comoment.diagonal(dim1=-2, dim2=-1).clone() if self.full else self.comoment
        return Moments(self.count, self.mean, moment, self.zeros, self.low, self.high)


def _shapes(m: Moments) -> str:
    return f"{tuple(m.mean.shape)} with a co-moment {tuple(m.comoment.shape)}"
