"""How far is a long call? One progress bar for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool, text: str, **how: Any) -> Any:
    """Return tqdm's bar over the items, or with ``total=`` one that is moved by ``update``.

    It is shown if the caller wants it, and the environment does not say ``TQDM_DISABLE=1``, as the
    project's own tests do.

    >>> list(progress_bar([1, 2], shown=False, text="count"))
    [1, 2]
    """
    from tqdm.auto import tqdm

    hidden = not shown or os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(items, desc=text, leave=False, disable=hidden, **how)
