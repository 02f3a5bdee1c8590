"""Which old dimensions become which new ones in a reshape or permutation? Only shapes, no atoms."""

from __future__ import annotations

import numpy as np

from pruneviz.graph.values import Args, Shape


def segments(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Cut a reshape into its smallest parts: (old dimensions, the new dimensions they become).

    >>> segments((2, 6, 5), (2, 3, 2, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    if 0 in old:
        return []
    parts, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        olds: list[int] = []
        news: list[int] = []
        p, q = 1, 1
        while True:
            if p <= q and i < len(old) and not (olds and p == q):
                olds.append(i)
                p *= old[i]
                i += 1
            elif j < len(new) and (q < p or not news):
                news.append(j)
                q *= new[j]
                j += 1
            else:
                break
        parts.append((olds, news))
    return [(o, n) for o, n in parts if o and n]


def permutation(name: str, a: Args, n: int) -> list[int]:
    """Return, for each new place, the old dimension that stands there."""
    order = list(range(n))
    if name == "permute":
        return [d % n for d in a["dims"]]
    if name in ("movedim", "moveaxis"):
        sources, targets = ([d % n for d in np.atleast_1d(a[k])] for k in ("source", "destination"))
        rest = iter([d for d in order if d not in sources])
        moved = dict(zip(targets, sources, strict=True))
        return [moved[d] if d in moved else next(rest) for d in order]
    if name == "numpy_T":
        return order[::-1]
    if n < 2:
        return order
    i = a["dim0"] if "dim0" in a else a.get("axis0", -2)
    j = a["dim1"] if "dim1" in a else a.get("axis1", -1)
    i, j = i % n, j % n
    order[i], order[j] = order[j], order[i]
    return order
