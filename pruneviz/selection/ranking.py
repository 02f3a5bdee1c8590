"""Which scores are lowest? Also for ten million numbers, ranked once and asked many times."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pruneviz.core.plan import Plan, Scores

BINS = 4096


class BinnedNumbers:
    """Arrays of non-negative numbers, counted once in fine bins, so that ranks are found quickly.

    A comparison of ten million numbers takes a few milliseconds; a sort or a partition takes a
    hundred times as long. So the bins tell where a rank lies, and only the numbers near it are
    ranked.

    Parameters
    ----------
    arrays : mapping of str to array
        One-dimensional, finite, ≥ 0. Not copied, not changed.

    Examples
    --------
    >>> ranked = BinnedNumbers({"a": np.array([1.0, 3.0]), "b": np.array([2.0, 3.0, 5.0])})
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
        """Return the lowest kept number, and how many of each array are removed; ties in order.

        Exactly ``round(sparsity * total)`` are removed, from all arrays together.
        """
        k = min(round(sparsity * self.total), self.total - 1)
        threshold = self._ranked(k)
        removed = self.below(threshold)
        left = k - sum(removed.values())
        for n, a in self._arrays.items():
            if left <= 0:
                break
            ties = min(int(np.count_nonzero(a == a.dtype.type(threshold))), left)
            removed[n], left = removed[n] + ties, left - ties
        return threshold, removed

    def _ranked(self, k: int) -> float:
        """Return the k-th smallest of all numbers, counted from 0."""
        i = int(np.searchsorted(self._up_to, k, side="right"))  # the number lies in bin i
        # rounding may have put a number next to an edge into the neighbouring bin: look there, too
        low, high = self._edges[max(i - 1, 0)], self._edges[min(i + 2, BINS)]
        inside, before = [], 0
        for a in self._arrays.values():
            bounds = (
                a.dtype.type(low),
                a.dtype.type(high),
            )  # of the array's type, so that no copy is made
            inside.append(a[(a >= bounds[0]) & (a <= bounds[1])])
            before += int(np.count_nonzero(a < bounds[0]))
        values = np.concatenate(inside)
        return float(np.partition(values, k - before)[k - before])


def lowest(values: np.ndarray, k: int) -> np.ndarray:
    """Mark the k lowest of n values, ties by index; a boolean array of shape (n,).

    >>> lowest(np.array([2.0, 1.0, 2.0, 3.0]), 2)
    array([ True,  True, False, False])
    """
    if k <= 0:
        return np.zeros(values.size, bool)
    if k >= values.size:
        return np.ones(values.size, bool)
    kth = np.partition(values, k - 1)[k - 1]  # a partition is O(n), a sort is not
    marked = values < kth
    ties = np.flatnonzero(values == kth)
    marked[ties[: k - int(marked.sum())]] = True
    return marked


class RemovalOrder:
    """The order in which single weights are removed: the plans of `select`, without a search.

    >>> scores = Scores({"w": torch.tensor([3.0, 1.0, 2.0, 1.0])}, "magnitude")
    >>> RemovalOrder(scores, "layer").plan(0.5).keep["w"]
    tensor([ True, False,  True, False])
    """

    def __init__(self, scores: Scores, scope: str) -> None:
        self.made_from = (scores, scope)
        self.shapes = {n: v.shape for n, v in scores.values.items()}
        self.devices = {n: v.device for n, v in scores.values.items()}
        flat = {n: _numbers(v) for n, v in scores.values.items()}
        sizes = [v.size for v in flat.values()]
        self.sizes = dict(zip(flat, sizes, strict=True))
        self.all, self.most = sum(sizes), sum(max(0, n - 1) for n in sizes)
        self.scope = scope
        if scope == "layer":
            self.ranks = {n: _ranks(v) for n, v in flat.items()}
            return
        # the best weight of each layer is always kept
        removable = np.concatenate([lowest(v, v.size - 1) for v in flat.values()])
        values = np.concatenate(list(flat.values()))
        ranks = np.full(self.all, self.all, np.int32)
        ranks[removable] = _ranks(values[removable])
        self.ranks = dict(zip(flat, np.split(ranks, np.cumsum(sizes)[:-1]), strict=True))

    def plan(self, sparsity: float | Mapping[str, float]) -> Plan:
        """Return the plan for one sparsity, or for a mapping of tensors to sparsities."""
        keep = {}
        for name, rank in self.ranks.items():
            if isinstance(sparsity, Mapping):
                n = min(round(sparsity.get(name, 0.0) * rank.size), rank.size - 1)
            elif self.scope == "layer":
                n = min(round(sparsity * rank.size), rank.size - 1)
            else:
                n = min(round(sparsity * self.all), self.most)
            kept = torch.from_numpy(rank >= n).view(self.shapes[name])
            keep[name] = kept.to(self.devices[name])
        return Plan(keep)


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(values.size, np.int32)
    ranks[np.argsort(values, kind="stable")] = np.arange(values.size, dtype=np.int32)
    return ranks


def _numbers(values: Tensor) -> np.ndarray:
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    array: np.ndarray = wide.detach().cpu().numpy().reshape(-1)
    return array
