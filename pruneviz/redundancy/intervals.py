"""Interval arithmetic: numbers of which only bounds are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True, eq=False)
class Interval:
    """A tensor of which only bounds are known; both of its shape, in float64.

    >>> x = Interval(torch.tensor(-1.0), torch.tensor(3.0))
    >>> x.mid, x.rad, x.mag
    (tensor(1.), tensor(2.), tensor(3.))
    """

    lo: Tensor
    hi: Tensor

    @property
    def mid(self) -> Tensor:
        """Its middle."""
        return self.lo / 2 + self.hi / 2

    @property
    def rad(self) -> Tensor:
        """Half its width."""
        return self.hi / 2 - self.lo / 2

    @property
    def mag(self) -> Tensor:
        """Its largest absolute value."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    def wider(self, by: Tensor, f: torch.finfo) -> Interval:
        """Return it wider by rounding errors, and by what the smallest numbers lose: 0 loses nothing."""
        by = by + f.tiny * (by > 0)
        return Interval(self.lo - by, self.hi + by)


def uncertain(values: Any) -> bool:
    """Whether an interval is among some values."""
    return any(isinstance(v, Interval) for v in tree_leaves(values))


def ends(values: Any, which: str) -> Any:
    """Put the bounds "lo" or "hi", or "mag", in place of every interval."""
    return tree_map(lambda v: getattr(v, which) if isinstance(v, Interval) else v, values)


def point(value: Any, like: Any = None) -> Interval:
    """Return a tensor or a number as an interval of that one value; an interval as it is."""
    if isinstance(value, Interval):
        return value
    near = next((t for t in tree_leaves(ends([value, like], "lo")) if isinstance(t, Tensor)), None)
    device = None if near is None else near.device
    t = torch.as_tensor(value, dtype=torch.float64, device=device)
    return Interval(t, t)


def pair(x: Any, y: Any) -> tuple[Interval, Interval]:
    """Return both as intervals; a number on the device of the other."""
    return (point(x), point(y, x)) if isinstance(x, (Tensor, Interval)) else (point(x, y), point(y))


def plus(x: Interval, y: Interval) -> Interval:
    """Add."""
    return Interval(x.lo + y.lo, x.hi + y.hi)


def times(x: Interval, y: Interval) -> Interval:
    """Multiply number by number: the extremes are at the ends."""
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
    """Multiply and sum `terms` products each, then add: exact if one of the factors is a constant."""
    mid, rad = f(x.mid, y.mid), f(x.mid.abs(), y.rad) + f(x.rad, y.mag)
    out = Interval(mid - rad, mid + rad)
    out = out if bias is None else plus(out, bias)
    if fin is None:
        return out
    size = f(x.mag, y.mag)  # of sums in any order: Higham 2002, §3.1, with twice the unit
    size = size if bias is None else size + bias.mag
    return out.wider((terms + 2) * fin.eps * size, fin)
