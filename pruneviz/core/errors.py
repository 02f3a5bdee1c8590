"""Which errors does pruneviz raise on purpose? Two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ArgumentError(ValueError):
    """A caller passed something invalid; the message says what is valid.

    Examples
    --------
    >>> import pruneviz as pv
    >>> issubclass(pv.ArgumentError, ValueError)
    True
    """

    __module__ = "pruneviz"  # tracebacks name what users import, wherever this file lies


class GraphError(ValueError):
    """A model cannot be traced, a layer is frozen, or a removal was refused.

    ``reason`` says in a few words why a group cannot be cut, if one is to blame; else it is "".

    Examples
    --------
    >>> import pruneviz as pv
    >>> issubclass(pv.GraphError, ValueError)
    True
    """

    __module__ = "pruneviz"
    reason = ""


class IncomparableError(GraphError):
    """The whole model cannot be compared with a smaller one, whatever is cut."""


@contextmanager
def calling_it(name: str) -> Iterator[None]:
    """Let errors of what the verbs call ``example_input`` name the argument that a caller passed.

    >>> with calling_it("x"):
    ...     raise ArgumentError("`example_input` must be a tensor.")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `x` must be a tensor.
    """
    try:
        yield
    except (ArgumentError, GraphError) as e:
        if "`example_input`" in str(e):
            e.args = (str(e).replace("`example_input`", f"`{name}`"),)
        raise


def first_line(e: BaseException) -> str:
    """Return the first line of an error's text; "" if it has none."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), "")


def sentence_of(e: BaseException) -> str:
    """Return the first line of an error's text, or else its type, with a full stop."""
    text = first_line(e) or type(e).__name__
    return text if text.endswith((".", "!")) else f"{text}."
