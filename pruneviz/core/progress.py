"""How far is a long call? One progress bar for all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool, text: str, **how: Any) -> Any:
    """Return tqdm's bar over the items, or with ``total=`` one that is moved by ``update``.

    It is shown if the caller wants it and somebody can see it move: on a terminal or in a notebook,
    not in a log file. ``TQDM_DISABLE=1`` in the environment hides it there, too.

    >>> list(progress_bar([1, 2], shown=False, text="count"))
    [1, 2]
    """
    from tqdm.auto import tqdm

    hidden = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    hidden = hidden or not shown or not (sys.stderr.isatty() or in_notebook())
    return tqdm(items, desc=text, leave=False, disable=hidden, **how)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; its stderr is no terminal, but it draws bars."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")
