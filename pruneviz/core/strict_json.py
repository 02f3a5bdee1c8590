"""How is JSON read that anybody may have written? Only what `json.dumps` writes, and not too deep."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        If it is no JSON, is nested too deeply, or holds NaN, infinity, or one key twice.

    Examples
    --------
    >>> parsed('{"a": [1, 2]}')
    {'a': [1, 2]}
    >>> parsed("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: it is nested too deeply
    """
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once_each)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def whole(value: Any, low: int = 0) -> int:
    """Return a JSON value if it is a whole number ≥ low, or raise ValueError.

    >>> whole(True)
    Traceback (most recent call last):
    ...
    ValueError: True is no whole number ≥ 0
    """
    if type(value) is not int or value < low:
        raise ValueError(f"{repr(value)[:40]} is no whole number ≥ {low}")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"it holds {name}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds {twice!r} twice")
    return found
