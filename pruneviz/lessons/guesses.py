"""Guess first: a learner commits before anything is shown."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True, repr=False)
class Guess:
    """What a learner guessed, to be shown beside what happened.

    Parameters
    ----------
    question : str
    value : number, str or None
        None: not guessed yet.
    options : tuple
        What could be chosen; empty for a number.
    trouble : str
        Why what was written is no guess; empty if nothing was.
    """

    question: str
    value: Any
    options: tuple[Any, ...] = ()
    trouble: str = ""

    def __repr__(self) -> str:
        if self.trouble:
            return f"{self.question}\n→ {self.trouble}"
        if self.value is None:
            how = f"one of {', '.join(map(repr, self.options))}" if self.options else "a number"
            return f"{self.question}\n→ Put {how} in place of None, then run the cell again."
        return f"{self.question}\n→ Your guess: {self.value}. Noted; read on to see."

    def against(self, truth: Any, *, near: float | None = None) -> str:
        """Return what was guessed beside what happened.

        Parameters
        ----------
        truth : number or str
            What happened.
        near : float, optional
            A number counts as close within this distance.

        Examples
        --------
        >>> print(guess("Which sparsity?", 0.5).against(0.83, near=0.05))
        You guessed 0.5. It is 0.83: more than you thought.
        >>> print(guess("Which one?", None, options=("a", "b")).against("a"))
        You did not guess. It is a.
        """
        if self.value is None:
            return f"You did not guess. It is {truth}."
        text = f"You guessed {self.value}. It is {truth}"
        if isinstance(truth, str):
            return f"{text}: {'right' if self.value == truth else 'a surprise'}."
        if near is not None and abs(self.value - truth) <= near:
            return f"{text}: well guessed."
        return f"{text}: {'more' if truth > self.value else 'less'} than you thought."


def guess(
    question: str, value: Any = None, *, options: tuple[Any, ...] = (), fraction: bool = False
) -> Guess:
    """Commit to a guess; showing it says that it was noted, or how to make one.

    A guess that is neither a number nor one of the options is taken as none, and the answer says
    so: a learner's typing error must not stop the lesson.

    Parameters
    ----------
    question : str
    value : number, str or None
        The guess; None: not made yet.
    options : tuple
        What can be chosen; empty: a number is asked for.
    fraction : bool
        The number must lie between 0 and 1: 60 is not taken for 0.6.

    Examples
    --------
    >>> guess("At which sparsity?", None)
    At which sparsity?
    → Put a number in place of None, then run the cell again.
    >>> guess("At which sparsity?", 0.7)
    At which sparsity?
    → Your guess: 0.7. Noted; read on to see.
    >>> guess("Which one?", "c", options=("a", "b"))
    Which one?
    → I do not know 'c'; choose 'a' or 'b', then run the cell again.
    >>> guess("Which accuracy?", 60, fraction=True)
    Which accuracy?
    → 60 does not lie between 0 and 1; 60 % is 0.6. Change it, then run the cell again.
    """
    trouble = "" if value is None else _trouble(value, options, fraction)
    return Guess(question, None if trouble else value, options, trouble)


def _trouble(value: Any, options: tuple[Any, ...], fraction: bool) -> str:
    """Return why this is no guess, or the empty string."""
    if options:
        if isinstance(value, (str, int, float)) and value in options:
            return ""
        *first, last = map(repr, options)
        known = f"{', '.join(first)} or {last}" if first else last
        return f"I do not know {value!r}; choose {known}, then run the cell again."
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return f"{value!r} is no number. Write one, such as 0.6, then run the cell again."
    if fraction and not 0 <= value <= 1:
        as_share = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        return (
            f"{value!r} does not lie between 0 and 1{as_share}. Change it, then run the cell again."
        )
    return ""
