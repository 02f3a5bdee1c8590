"""Pictures: data in, `Axes` out. They never import torch and never run a model."""

from __future__ import annotations

from pruneviz.plots.curves import plot_tradeoff
from pruneviz.plots.groups import plot_groups
from pruneviz.plots.images import plot_mask, plot_strip
from pruneviz.plots.sleepers import plot_sleepers
from pruneviz.plots.twins import plot_twins
from pruneviz.plots.weights import plot_layers, plot_weights

__all__ = [
    "plot_groups",
    "plot_layers",
    "plot_mask",
    "plot_sleepers",
    "plot_strip",
    "plot_tradeoff",
    "plot_twins",
    "plot_weights",
]
