"""How are modules imported late? Whole, also if Ctrl-C comes meanwhile."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# packages that can be imported again from the start; torch and numpy refuse that
AGAIN = ("pandas", "pruneviz")


def imported(name: str) -> Any:
    """Return a module, imported whole: see `whole`.

    >>> imported("json").dumps([1])
    '[1]'
    """
    if name in sys.modules:  # the usual case; half of one is waited for, or completed, below
        spec = sys.modules[name].__spec__
        if not getattr(spec, "_initializing", False):
            return sys.modules[name]
    with whole():
        return importlib.import_module(name)


@contextmanager
def whole() -> Iterator[None]:
    """Let the imports inside `with` come to their end before Ctrl-C interrupts anything.

    Python keeps the finished part of an import that was interrupted. Of large packages that part
    cannot be completed: pandas, torch and numpy would have to be imported in a new process. If
    something else than Ctrl-C ends an import, the finished part is forgotten where that helps.
    """
    before = set(sys.modules)
    with _held_back():
        try:
            yield
        except BaseException:
            for name in set(sys.modules) - before:
                if name.partition(".")[0] in AGAIN:
                    sys.modules.pop(name, None)
            raise


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold back Ctrl-C until the end of `with`. Only the main thread is interrupted by it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *args: came.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[-1])
