"""How does one compute with numbers of which only bounds are known? Interval arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True, eq=False)
class Interval:
    """A tensor of which only the bounds `lo` and `hi` are known; both in its shape, in float64.

    >>> x = Interval(torch.tensor(-1.0), torch.tensor(3.0))
    >>> x.mid, x.rad, x.mag
    (tensor(1.), tensor(2.), tensor(3.))
    """

    lo: Tensor
    hi: Tensor

    @property
    def mid(self) -> Tensor:
        """The middle."""
        return self.lo / 2 + self.hi / 2

    @property
    def rad(self) -> Tensor:
        """Half the width."""
        return self.hi / 2 - self.lo / 2

    @property
    def mag(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    def widened(self, by: Tensor, f: torch.finfo) -> Interval:
        """Return it widened by rounding errors `by`, plus underflow wherever `by` is not 0."""
        by = by + f.tiny * (by > 0)
        return Interval(self.lo - by, self.hi + by)


def has_interval(values: Any) -> bool:
    """Whether any of the values is an interval."""
    return any(isinstance(v, Interval) for v in tree_leaves(values))


def ends(values: Any, which: str) -> Any:
    """Replace every interval by its "lo", "hi" or "mag"."""
    return tree_map(lambda v: getattr(v, which) if isinstance(v, Interval) else v, values)


def point(value: Any, like: Any = None) -> Interval:
    """Return a tensor or a number as an interval of that one value; an interval unchanged."""
    if isinstance(value, Interval):
        return value
    near = next((t for t in tree_leaves(ends([value, like], "lo")) if isinstance(t, Tensor)), None)
    device = None if near is None else near.device
    t = torch.as_tensor(value, dtype=torch.float64, device=device)
    return Interval(t, t)


def pair(x: Any, y: Any) -> tuple[Interval, Interval]:
    """Return both as intervals; a number is put on the device of the other."""
    return (point(x), point(y, x)) if isinstance(x, (Tensor, Interval)) else (point(x, y), point(y))


def plus(x: Interval, y: Interval) -> Interval:
    """Add."""
    return Interval(x.lo + y.lo, x.hi + y.hi)


def times(x: Interval, y: Interval) -> Interval:
    """Multiply number by number: the extremes are among the products of the bounds."""
    corners = torch.stack([x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi])
    return Interval(corners.amin(0), corners.amax(0))


def product(
    f: Callable[[Tensor, Tensor], Tensor],
    x: Interval,
    y: Interval,
    bias: Interval | None,
    terms: int,
    fin: torch.finfo | None,
) -> Interval:
    """Sum `terms` products each, by `f`, and add the bias: tight if x or y is a constant."""
    mid, rad = f(x.mid, y.mid), f(x.mid.abs(), y.rad) + f(x.rad, y.mag)
    out = Interval(mid - rad, mid + rad)
    out = out if bias is None else plus(out, bias)
    if fin is None:
        return out
    # the rounding error of sums in any order: Higham 2002, §3.1, with twice the unit roundoff
    size = f(x.mag, y.mag)
    size = size if bias is None else size + bias.mag
    return out.widened((terms + 2) * fin.eps * size, fin)
