"""Ten million numbers, ranked: how many fall below a threshold, and where to cut for a sparsity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BINS = 4096


class Ranked:
    """Numbers that are not negative, by name, counted in fine bins, so that each question is quick.

    A comparison of ten million numbers takes a few milliseconds; a sort or a partition takes a
    hundred times as long. So the bins say where a rank lies, and only what is in that bin is ranked.

    Parameters
    ----------
    arrays : mapping of str to array
        One-dimensional, finite, ≥ 0. Not copied, not changed.

    Examples
    --------
    >>> ranked = Ranked({"a": np.array([1.0, 3.0]), "b": np.array([2.0, 3.0, 5.0])})
    >>> ranked.below(3.0)
    {'a': 1, 'b': 1}
    >>> ranked.cut(0.6)
    (3.0, {'a': 2, 'b': 1})
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)
        self.total = sum(a.size for a in self._arrays.values())
        top = max((float(a.max()) for a in self._arrays.values() if a.size), default=0.0) or 1.0
        counts = (np.histogram(a, BINS, (0, top))[0] for a in self._arrays.values())
        self._up_to = np.cumsum(sum(counts, np.zeros(BINS, int)))  # (BINS,)
        self._edges = np.linspace(0, top, BINS + 1)

    def below(self, threshold: float) -> dict[str, int]:
        """Count in each array the numbers that are smaller than the threshold."""
        return {n: int(np.count_nonzero(a < threshold)) for n, a in self._arrays.items()}

    def cut(self, sparsity: float) -> tuple[float, dict[str, int]]:
        """Return the lowest number that stays, and how many of each array go; ties in order.

        Exactly ``round(sparsity * total)`` go, of all arrays together.
        """
        k = min(round(sparsity * self.total), self.total - 1)
        threshold = self._ranked(k)
        gone = self.below(threshold)
        left = k - sum(gone.values())
        for n, a in self._arrays.items():
            if left <= 0:
                break
            ties = min(int(np.count_nonzero(a == a.dtype.type(threshold))), left)
            gone[n], left = gone[n] + ties, left - ties
        return threshold, gone

    def _ranked(self, k: int) -> float:
        """Return the k-th smallest of all numbers, from 0."""
        i = int(np.searchsorted(self._up_to, k, side="right"))  # it lies in bin i
        # a number that equals an edge but for rounding may have been counted on its other side
        low, high = self._edges[max(i - 1, 0)], self._edges[min(i + 2, BINS)]
        inside, before = [], 0
        for a in self._arrays.values():
            bounds = a.dtype.type(low), a.dtype.type(high)  # of its own type: no copy is made
            inside.append(a[(a >= bounds[0]) & (a <= bounds[1])])
            before += int(np.count_nonzero(a < bounds[0]))
        values = np.concatenate(inside)
        return float(np.partition(values, k - before)[k - before])
