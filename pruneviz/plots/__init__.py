"""Pictures: data in, `Axes` out. They never import torch and never run a model."""

from __future__ import annotations

from pruneviz.plots.bytes import plot_bytes
from pruneviz.plots.card import plot_agreement, plot_card
from pruneviz.plots.comparison import plot_damage
from pruneviz.plots.costs import plot_costs
from pruneviz.plots.crossover import plot_break_evens, plot_crossover
from pruneviz.plots.groups import plot_groups
from pruneviz.plots.images import plot_mask, plot_strip
from pruneviz.plots.inactive import plot_sleepers
from pruneviz.plots.redundant import plot_twins
from pruneviz.plots.schedule import plot_schedule
from pruneviz.plots.sensitivity import plot_sensitivity
from pruneviz.plots.tradeoff import plot_pareto, plot_tradeoff
from pruneviz.plots.weights import plot_layers, plot_weights

__all__ = [
    "plot_agreement",
    "plot_break_evens",
    "plot_bytes",
    "plot_card",
    "plot_costs",
    "plot_crossover",
    "plot_damage",
    "plot_groups",
    "plot_layers",
    "plot_mask",
    "plot_pareto",
    "plot_schedule",
    "plot_sensitivity",
    "plot_sleepers",
    "plot_strip",
    "plot_tradeoff",
    "plot_twins",
    "plot_weights",
]
