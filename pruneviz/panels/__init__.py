"""Panels: widgets that read their controls, call the verbs, and show what came out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruneviz.panels.card import panel_card
    from pruneviz.panels.costs import panel_costs
    from pruneviz.panels.inactive import panel_sleepers
    from pruneviz.panels.kit.panel import Panel
    from pruneviz.panels.neurons import panel_neurons
    from pruneviz.panels.redundant import panel_twins
    from pruneviz.panels.schedule import panel_schedule
    from pruneviz.panels.strip import panel_strip
    from pruneviz.panels.tradeoff import panel_tradeoff
    from pruneviz.panels.weights import panel_weights
    from pruneviz.panels.whatif import panel_whatif


MOVED = {"Panel": "kit.panel", "panel_sleepers": "inactive", "panel_twins": "redundant"}


def __getattr__(name: str) -> Any:
    # each with what it needs: who asks for one panel does not wait for eleven
    if name not in __all__:
        raise AttributeError(f"module 'pruneviz.panels' has no attribute {name!r}")
    module = MOVED.get(name, name.removeprefix("panel_"))
    return getattr(import_module(f"pruneviz.panels.{module}"), name)


__all__ = [
    "Panel",
    "panel_card",
    "panel_costs",
    "panel_neurons",
    "panel_schedule",
    "panel_sleepers",
    "panel_strip",
    "panel_tradeoff",
    "panel_twins",
    "panel_weights",
    "panel_whatif",
]
