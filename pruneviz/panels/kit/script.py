"""Pieces of the code that a panel shows: how batches and groups come into it."""

from __future__ import annotations

from typing import Any

AGAIN = "  # as the panel has read them: a second time they may be others"


def again(batches: Any) -> str:
    """Return the line of code that takes from the panel what cannot be read a second time.

    >>> again([]), again(None), again(iter([]))[:23]
    ('', '', 'batches = panel.batches')
    """
    return "" if batches is None or not once(batches) else f"batches = panel.batches{AGAIN}\n"


def once(batches: Any) -> bool:
    """Tell whether batches may be none, or others, when they are read a second time.

    >>> once([]), once(iter([]))
    (False, True)
    """
    return not hasattr(batches, "__getitem__")


def found(approximate: bool) -> str:
    """Return the line of code that finds the groups.

    >>> found(False)
    'groups = pv.find_groups(model, x)'
    """
    return f"groups = pv.find_groups(model, x{', approximate=True' * approximate})"
