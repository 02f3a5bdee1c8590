"""The two errors that pruneviz raises on purpose."""

from __future__ import annotations


class ArgumentError(ValueError):
    """A caller passed something that cannot work; the message says what would.

    Examples
    --------
    >>> import pruneviz as pv
    >>> issubclass(pv.ArgumentError, ValueError)
    True
    """

    __module__ = "pruneviz"  # tracebacks name what users import, wherever this file lies


class GraphError(ValueError):
    """A model cannot be traced, or a layer is frozen, or a removal was refused.

    Examples
    --------
    >>> import pruneviz as pv
    >>> issubclass(pv.GraphError, ValueError)
    True
    """

    __module__ = "pruneviz"
