"""Whether a hand moved a control, or code set it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ipywidgets as widgets

_here = threading.local()


def moved_by_hand() -> bool:
    """Tell whether what happens now in this thread was sent by the browser."""
    return bool(getattr(_here, "hand", False))


@contextmanager
def hand() -> Iterator[None]:
    """Mark what happens inside the block, in this thread, as sent by the browser."""
    before, _here.hand = moved_by_hand(), True
    try:
        yield
    finally:
        _here.hand = before


def by_hand(widget: widgets.Widget, others: Iterable[widgets.Widget] = ()) -> None:
    """Mark all that follows in the kernel when the browser changes this widget.

    What the browser has to be told of the `others` is told at the end: the picture comes first.

    Examples
    --------
    >>> box = widgets.Checkbox(False)
    >>> by_hand(box)
    >>> box.observe(lambda _: print(moved_by_hand()), "value")
    >>> box.value = True
    False
    >>> box.set_state({"value": False})
    True
    >>> box.close()
    """
    take = widget.set_state

    def set_state(sync_data: dict[str, Any]) -> None:
        with ExitStack() as last, hand():
            for other in others:
                last.enter_context(other.hold_sync())
            take(sync_data)

    widget.set_state = set_state
