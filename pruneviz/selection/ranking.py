"""Which scores are lowest? Also for ten million numbers, sorted once and asked many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pruneviz.core.plan import Plan, Scores


class Ranking:
    """Arrays of numbers, sorted once, so that counts and ranks are found at once.

    Sorting ten million numbers takes about 50 ms, which is less than a histogram of them takes; an
    `argsort` takes forty times as long.

    Parameters
    ----------
    arrays : mapping of str to array
        One-dimensional. Not copied, not changed.
    min_keep : int
        How many of the highest numbers of each array `cut` never removes.

    Examples
    --------
    >>> ranked = Ranking({"a": np.array([1.0, 3.0]), "b": np.array([2.0, 3.0, 5.0])})
    >>> ranked.below(3.0)
    {'a': 1, 'b': 1}
    >>> ranked.cut(0.6)
    (3.0, {'a': 2, 'b': 1})
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], min_keep: int = 0) -> None:
        self.arrays = dict(arrays)
        self.total = sum(a.size for a in self.arrays.values())
        self.in_order = {n: np.sort(a) for n, a in self.arrays.items()}
        self._most = {n: max(0, a.size - min_keep) for n, a in self.arrays.items()}

    def below(self, threshold: float) -> dict[str, int]:
        """Count in each array the numbers that are smaller than the threshold."""
        return dict(zip(self.arrays, map(int, self.all_below([threshold])[0]), strict=True))

    def all_below(
        self, thresholds: Sequence[float] | np.ndarray, side: Literal["left", "right"] = "left"
    ) -> np.ndarray:
        """Count them for many thresholds; shape (thresholds, arrays)."""
        values = np.asarray(thresholds)
        # of the array's type, so that no copy is made
        columns = [np.searchsorted(a, values.astype(a.dtype), side) for a in self.in_order.values()]
        return np.stack(columns, axis=1)

    def cut(self, sparsity: float) -> tuple[float, dict[str, int]]:
        """Return the lowest kept number, and how many of each array are removed; ties in order.

        Exactly ``round(sparsity * total)`` are removed, from all arrays together.
        """
        thresholds, removed = self.cuts([sparsity])
        return float(thresholds[0]), dict(zip(self.arrays, map(int, removed[0]), strict=True))

    def cuts(self, sparsities: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Do what `cut` does for many sparsities; shapes (sparsities,), (sparsities, arrays).

        A threshold is infinite where all is removed that may be.
        """
        numbers, last = self._removable, min(self._removable.size, self.total - 1)
        k = np.array([min(round(s * self.total), last) for s in sparsities])
        thresholds = np.full(len(k), np.inf)
        thresholds[k < numbers.size] = numbers[k[k < numbers.size]]
        most = np.array(list(self._most.values()))
        removed = np.minimum(self.all_below(thresholds), most)
        ties = np.minimum(self.all_below(thresholds, "right"), most) - removed
        left = k - removed.sum(1)
        for column, of_array in enumerate(ties.T):
            taken = np.minimum(of_array, left)
            removed[:, column] += taken
            left = left - taken
        return thresholds, removed

    @cached_property
    def _removable(self) -> np.ndarray:
        numbers = np.concatenate([a[: self._most[n]] for n, a in self.in_order.items()])
        numbers.sort()  # in place: for ten million numbers a copy takes as long as sorting
        return numbers


def lowest(values: np.ndarray, k: int, kth: Any = None) -> np.ndarray:
    """Mark the k lowest of n values, ties by index; a boolean array of shape (n,).

    `kth`: the k-th lowest value, if it is known.

    >>> lowest(np.array([2.0, 1.0, 2.0, 3.0]), 2)
    array([ True,  True, False, False])
    """
    if k <= 0:
        return np.zeros(values.size, bool)
    if k >= values.size:
        return np.ones(values.size, bool)
    if kth is None:
        kth = np.partition(values, k - 1)[k - 1]  # a partition is O(n), a sort is not
    marked = values < kth
    ties = np.flatnonzero(values == kth)
    marked[ties[: k - np.count_nonzero(marked)]] = True
    return marked


class RemovalOrder(Ranking):
    """The order in which single weights are removed: the plans of `select`, without a search.

    >>> scores = Scores({"w": torch.tensor([3.0, 1.0, 2.0, 1.0])}, "magnitude")
    >>> RemovalOrder(scores, "layer").plan(0.5).keep["w"]
    tensor([ True, False,  True, False])
    """

    def __init__(self, scores: Scores, scope: str) -> None:
        super().__init__({n: _numbers(v) for n, v in scores.values.items()}, min_keep=1)
        self.made_from = (scores, scope)

    def plan(self, sparsity: float | Mapping[str, float]) -> Plan:
        """Return the plan for one sparsity, or for a mapping of tensors to sparsities."""
        scores, scope = self.made_from
        if scope == "global" and not isinstance(sparsity, Mapping):
            removed = self.cut(sparsity)[1]
        else:
            shares = (
                sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(self.arrays, sparsity)
            )
            counts = {n: round(shares.get(n, 0.0) * a.size) for n, a in self.arrays.items()}
            removed = {n: min(k, self._most[n]) for n, k in counts.items()}
        keep = {}
        for n, v in scores.values.items():
            dropped = lowest(self.arrays[n], removed[n], self.in_order[n][removed[n] - 1 :][:1])
            keep[n] = torch.from_numpy(~dropped).view(v.shape).to(v.device)
        return Plan(keep, left_out=scores.left_out)


def _numbers(values: Tensor) -> np.ndarray:
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    array: np.ndarray = wide.detach().cpu().numpy().reshape(-1)
    return array
