"""Which lines of a panel's code get the batches and the groups."""

from __future__ import annotations

from typing import Any

FROM_PANEL = "  # as the panel has read them: a second time they may be others"


def batches_line(batches: Any) -> str:
    """Return the line of code that takes batches from the panel if they can be read only once.

    >>> batches_line([]), batches_line(None), batches_line(iter([]))[:23]
    ('', '', 'batches = panel.batches')
    """
    if batches is None or not read_only_once(batches):
        return ""
    return f"batches = panel.batches{FROM_PANEL}\n"


def read_only_once(batches: Any) -> bool:
    """Tell whether batches may be empty, or differ, when they are read a second time.

    >>> read_only_once([]), read_only_once(iter([]))
    (False, True)
    """
    return not hasattr(batches, "__getitem__")


def groups_line(approximate: bool) -> str:
    """Return the line of code that finds the groups.

    >>> groups_line(False)
    'groups = pv.find_groups(model, x)'
    """
    return f"groups = pv.find_groups(model, x{', approximate=True' * approximate})"
