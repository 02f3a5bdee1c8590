"""How a learner makes a guess before a result is shown, and how the guess compares with it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True, repr=False)
class Guess:
    """A learner's guess, to compare with the true value.

    Parameters
    ----------
    question : str
    value : number, str or None
        None: no guess yet.
    options : tuple
        The values to choose from; empty if the guess is a number.
    problem : str
        Why the value that was passed is not a valid guess; else empty.
    """

    question: str
    value: Any
    options: tuple[Any, ...] = ()
    problem: str = ""

    def __repr__(self) -> str:
        if self.problem:
            return f"{self.question}\n→ {self.problem}"
        if self.value is None:
            expected = (
                f"one of {', '.join(map(repr, self.options))}" if self.options else "a number"
            )
            return f"{self.question}\n→ Put {expected} in place of None, then run the cell again."
        return f"{self.question}\n→ Your guess: {self.value}. Noted; read on to see."

    def against(self, truth: Any, *, near: float | None = None) -> str:
        """Return a text that compares the guess with the true value.

        Parameters
        ----------
        truth : number or str
            The true value.
        near : float, optional
            A guess within this distance counts as right.

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
    """Make a guess; its repr says that it is noted, or how to make one.

    A value that is neither a number nor one of the options counts as no guess, and the repr says
    so. No error is raised, because a typing error must not stop the lesson.

    Parameters
    ----------
    question : str
    value : number, str or None
        The guess; None: no guess yet.
    options : tuple
        The values to choose from; empty: the guess is a number.
    fraction : bool
        Whether the number must be between 0 and 1; 60 is not read as 0.6.

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
    problem = "" if value is None else _problem(value, options, fraction)
    return Guess(question, None if problem else value, options, problem)


def _problem(value: Any, options: tuple[Any, ...], fraction: bool) -> str:
    """Return why a value is not a valid guess, or the empty string."""
    if options:
        if isinstance(value, (str, int, float)) and value in options:
            return ""
        *first, last = map(repr, options)
        known = f"{', '.join(first)} or {last}" if first else last
        return f"I do not know {value!r}; choose {known}, then run the cell again."
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return f"{value!r} is no number. Write one, such as 0.6, then run the cell again."
    if fraction and not 0 <= value <= 1:
        conversion = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        text = f"{value!r} does not lie between 0 and 1{conversion}."
        return f"{text} Change it, then run the cell again."
    return ""
