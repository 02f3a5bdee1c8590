"""Guess first: a learner commits before anything is shown."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    question: str
    value: Any
    options: tuple[Any, ...] = ()

    def __repr__(self) -> str:
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


def guess(question: str, value: Any = None, *, options: tuple[Any, ...] = ()) -> Guess:
    """Commit to a guess; showing it says that it was noted, or how to make one.

    A guess that is neither a number nor one of the options is taken as none, and the answer says
    so: a learner's typing error must not stop the lesson.

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
    → Put one of 'a', 'b' in place of None, then run the cell again.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    valid = value in options if options else number
    return Guess(question, value if valid else None, options)
