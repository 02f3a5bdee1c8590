"""What a panel is made of, and which panels a notebook's cell has shown: to close them all."""

from __future__ import annotations

from typing import Protocol

import ipywidgets as widgets


class Closes(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Close it."""


def inside(widget: widgets.Widget) -> list[widgets.Widget]:
    """Return a widget with all that belongs to it: children, layouts, styles."""
    found = [widget, getattr(widget, "layout", None), getattr(widget, "style", None)]
    for child in getattr(widget, "children", None) or ():
        found += inside(child)
    return [w for w in found if isinstance(w, widgets.Widget)]


# panels by notebook cell: running a cell again closes what its last run had shown
_by_cell: dict[str, tuple[str, list[Closes]]] = {}


def register(panel: Closes) -> None:
    """Note that the running cell made a panel; close what an earlier run of the cell had made."""
    cell, run = _cell()
    if not cell:
        return
    last, panels = _by_cell.get(cell, ("", []))
    if last != run:
        for old in panels:
            old.close()
        panels = []
    _by_cell[cell] = (run, [*panels, panel])


def _cell() -> tuple[str, str]:
    """Return the id of the running notebook cell and of this run of it; ("", "") elsewhere."""
    try:
        from IPython import get_ipython

        parent = get_ipython().get_parent()
        return parent["metadata"]["cellId"], parent["header"]["msg_id"]
    except (ImportError, AttributeError, KeyError, TypeError):
        return "", ""
