"""Which widgets belong to a panel, and which panels a notebook cell has shown, to close them."""

from __future__ import annotations

from typing import Protocol

import ipywidgets as widgets


class Closable(Protocol):
    """An object with a method `close`."""

    def close(self) -> None:
        """Close it."""


def widget_tree(widget: widgets.Widget) -> list[widgets.Widget]:
    """Return a widget and all widgets that belong to it: children, layouts, styles."""
    found = [widget, getattr(widget, "layout", None), getattr(widget, "style", None)]
    for child in getattr(widget, "children", None) or ():
        found += widget_tree(child)
    return [w for w in found if isinstance(w, widgets.Widget)]


# panels by notebook cell: when a cell runs again, the panels of its last run are closed
_by_cell: dict[str, tuple[str, list[Closable]]] = {}


def register(panel: Closable) -> None:
    """Note a panel that the running cell made; close the panels of an earlier run of the cell."""
    cell, run = _cell()
    if not cell:
        return
    last_run, panels = _by_cell.get(cell, ("", []))
    if last_run != run:
        for old in panels:
            old.close()
        panels = []
    _by_cell[cell] = (run, [*panels, panel])


def _cell() -> tuple[str, str]:
    """Return the ids of the running notebook cell and of this run; ("", "") outside notebooks."""
    try:
        from IPython import get_ipython

        parent = get_ipython().get_parent()
        return parent["metadata"]["cellId"], parent["header"]["msg_id"]
    except (ImportError, AttributeError, KeyError, TypeError):
        return "", ""
