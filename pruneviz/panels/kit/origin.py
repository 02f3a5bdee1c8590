"""Whether the user moved a control in the browser, or code set it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ipywidgets as widgets

_thread_state = threading.local()


def moved_by_user() -> bool:
    """Tell whether this thread is now handling a message of the browser."""
    return bool(getattr(_thread_state, "by_user", False))


@contextmanager
def user_move() -> Iterator[None]:
    """Mark what happens inside the block, in this thread, as a move of the user in the browser."""
    before, _thread_state.by_user = moved_by_user(), True
    try:
        yield
    finally:
        _thread_state.by_user = before


def mark_user_moves(widget: widgets.Widget, others: Iterable[widgets.Widget] = ()) -> None:
    """Run all callbacks inside `user_move` when the browser changes this widget.

    Changes of the `others` are sent to the browser at the end, so that the picture is sent first.

    Examples
    --------
    >>> box = widgets.Checkbox(False)
    >>> mark_user_moves(box)
    >>> box.observe(lambda _: print(moved_by_user()), "value")
    >>> box.value = True
    False
    >>> box.set_state({"value": False})
    True
    >>> box.close()
    """
    original = widget.set_state

    # ipywidgets calls `set_state` for messages of the browser only, so replacing it separates
    # the user's moves from assignments in code
    def set_state(sync_data: dict[str, Any]) -> None:
        with ExitStack() as last, user_move():
            for other in others:
                last.enter_context(other.hold_sync())
            original(sync_data)

    widget.set_state = set_state
