"""Which weights does one threshold remove from each layer? Exact, and as a table for the browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.core.names import layer_name
from pruneviz.model.weights import bins_of
from pruneviz.selection.ranking import RemovalOrder
from pruneviz.selection.score import score
from pruneviz.selection.select import select

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from pruneviz.core.plan import Plan

MANY_LAYERS = 40  # beyond it the rows of single layers are further apart: 8 kB a layer


class Cut(NamedTuple):
    """What a threshold removes: `kept` by layer."""

    threshold: float
    sparsity: float
    kept: dict[str, int]


class WeightCuts:
    """A model's weights in order of size, all layers together, sorted once and asked many times.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    bins : int
        Of the histogram.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    >>> cuts = WeightCuts(layer, 4)
    >>> cuts.at("sparsity", 0.5)
    Cut(threshold=3.0, sparsity=0.5, kept={'': 2})
    >>> cuts.at("threshold", 2.0).kept
    {'': 3}
    """

    def __init__(self, model: nn.Module, bins: int) -> None:
        self.edges, self.counts = bins_of(model, bins)
        self.scores = score(model, "magnitude")
        self._order = RemovalOrder(self.scores, "global")
        if not self._order.total:
            raise ArgumentError(
                "all layers of `model` are empty: there is no weight to show. Pass a model with "
                "weights."
            )
        layers = [layer_name(n) for n in self.scores.values]
        self.layers = list(dict.fromkeys(layers))
        self._column = [self.layers.index(n) for n in layers]
        self._sizes = np.array([v.numel() for v in self.scores.values.values()])
        sizes = self._by_layer(self._sizes[None])[0]
        self.total = dict(zip(self.layers, map(int, sizes), strict=True))

    @property
    def top(self) -> float:
        """The largest |w|."""
        return float(self.edges[-1])

    @property
    def numbers(self) -> int:
        """How many weights there are."""
        return self._order.total

    def at(self, by: str, value: float) -> Cut:
        """Return what a ``"threshold"`` or a ``"sparsity"`` removes."""
        thresholds, kept = self._cuts(by, [value])
        return Cut(
            float(thresholds[0]),
            1 - int(kept.sum()) / self.numbers,
            dict(zip(self.layers, map(int, kept[0]), strict=True)),
        )

    def plan(self, by: str, value: float) -> Plan:
        """Return the plan of the same cut; for ten million weights it takes a second."""
        if by == "sparsity":
            return select(self.scores, sparsity=value, scope="global")
        return select(self.scores, threshold=value)

    def bins(self, layer: str | None) -> np.ndarray:
        """Return the number of weights in each bin, of one layer or (None) of all."""
        return np.sum([*self.counts.values()], axis=0) if layer is None else self.counts[layer]

    def frames(self, layer: str | None, kept: dict[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return what `plot_weights` and `plot_layers` draw."""
        pd = imported("pandas")  # slow to import, and not needed for dragging

        ends = {"left": self.edges[:-1], "right": self.edges[1:]}
        bins = pd.DataFrame({**ends, "count": self.bins(layer)})
        counts = {"layer": self.layers, "kept": kept.values(), "total": self.total.values()}
        return bins, pd.DataFrame(counts)

    @property
    def every(self) -> int:
        """How many steps are between two rows of single layers in the table."""
        return math.ceil(len(self.layers) / MANY_LAYERS)

    def table(self, thresholds: Sequence[float], sparsities: Sequence[float]) -> bytes:
        """Return the cuts at all steps of the two sliders, so that a browser can answer itself.

        float64, little-endian: the thresholds of the sparsities, the number of kept weights at the
        thresholds, at the sparsities. Then uint32: the kept weights of each layer at every
        `every`-th threshold and at the last, the same at the sparsities, the counts of the bins,
        layer by layer.
        """
        _, by_threshold = self._cuts("threshold", thresholds)
        found, by_sparsity = self._cuts("sparsity", sparsities)
        exact = [found, by_threshold.sum(1), by_sparsity.sum(1)]
        coarse = [kept[_rows(len(kept), self.every)] for kept in (by_threshold, by_sparsity)]
        counts = [self.counts[n] for n in self.layers]
        parts = [np.asarray(part, "<f8") for part in exact]
        parts += [np.asarray(part, "<u4") for part in (*coarse, *counts)]
        return b"".join(part.tobytes() for part in parts)

    def _cuts(self, by: str, values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Return thresholds, (values,), and the kept weights, (values, layers)."""
        if by == "sparsity":
            thresholds, removed = self._order.cuts(values)
            thresholds = np.where(np.isinf(thresholds), self.top, thresholds)
        else:
            thresholds, removed = np.asarray(values, float), self._order.all_below(values)
            removed = np.minimum(removed, np.maximum(0, self._sizes - 1))  # `select` keeps one
        return thresholds, self._by_layer(self._sizes - removed)

    def _by_layer(self, counts: np.ndarray) -> np.ndarray:
        """Add up the tensors of each layer: (n, tensors) to (n, layers)."""
        layers = np.zeros((len(counts), len(self.layers)), np.int64)
        for tensor, column in enumerate(self._column):
            layers[:, column] += counts[:, tensor]
        return layers


def _rows(n: int, every: int) -> list[int]:
    """Return each `every`-th row, and the last.

    >>> _rows(8, 3), _rows(7, 3)
    ([0, 3, 6, 7], [0, 3, 6])
    """
    return sorted({*range(0, n, every), n - 1})
