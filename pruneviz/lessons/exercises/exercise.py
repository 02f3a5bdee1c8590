"""Exercises that check themselves: hints first, the solution only when asked twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pruneviz.core import checks

NOTHING = "Not answered yet. Fill in the cell above, run it, then run this one."
ANSWERS_OFF = "PRUNEVIZ_ANSWERS"  # set to "off" in a class room


class Right(str):
    """What a check says of a right answer that is worth a sentence."""


@dataclass
class Exercise:
    """One exercise of a lesson.

    Parameters
    ----------
    name : str
        The lesson and a word: ``"00-cliff"``.
    check : callable
        ``check(answer)``: the empty string if the answer is right (or `Right`, with something to say
        about it), else one sentence that says what is wrong without giving the answer away.
    hints : tuple of str
        Shown one at a time.
    solution : str
        Python that defines ``answer``; what a test puts into the stub.
    """

    name: str
    check: Callable[[Any], str]
    hints: tuple[str, ...]
    solution: str
    asked: dict[str, int] = field(default_factory=lambda: {"hint": 0, "solution": 0})


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, *, hints: tuple[str, ...], solution: str) -> Callable[[Any], Any]:
    """Register an exercise: a decorator for its check."""

    def add(check: Callable[[Any], str]) -> Callable[[Any], str]:
        EXERCISES[name] = Exercise(name, check, hints, solution)
        return check

    return add


def check(name: str, answer: Any) -> None:
    """Check an answer; say that it is right, or what is wrong with it, never with a stack trace.

    Parameters
    ----------
    name : str
        Name of the exercise, such as ``"00-cliff"``.
    answer : object
        What the exercise asks for: a number, or a function. None: not answered yet.

    Examples
    --------
    >>> check("02-magnitude", None)
    Not answered yet. Fill in the cell above, run it, then run this one.
    >>> check("02-magnitude", lambda weight: -weight.abs())
    ✗ Not yet. A weight of -3 must score higher than one of 1: its sign does not matter, its size does.
    Need a hint? lessons.hint('02-magnitude')
    """
    task = _find(name)
    if answer is None:
        print(NOTHING)
        return
    try:
        wrong = task.check(answer)
    except Exception as e:  # a learner's code may raise anything
        wrong = f"Your answer raised {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    if wrong == NOTHING:
        print(NOTHING)
    elif not wrong or isinstance(wrong, Right):
        print(f"✓ Right. {wrong}".rstrip())
    else:
        print(f"✗ Not yet. {wrong}\nNeed a hint? lessons.hint({name!r})")


def hint(name: str) -> None:
    """Show the next hint of an exercise.

    Examples
    --------
    >>> hint("00-cliff")
    Hint 1 of 2: try sparsities in steps of 0.01 and keep the first whose accuracy is below 0.50.
    """
    task = _find(name)
    i = min(task.asked["hint"], len(task.hints) - 1)
    task.asked["hint"] += 1
    print(f"Hint {i + 1} of {len(task.hints)}: {task.hints[i]}")


def solution(name: str) -> None:
    """Show the solution, but only when asked a second time.

    Examples
    --------
    >>> solution("02-magnitude")
    Sure? Try a hint first: lessons.hint('02-magnitude'). Ask again to see the solution.
    """
    task = _find(name)
    if os.environ.get(ANSWERS_OFF) == "off":
        print("The solutions are switched off here. Ask your teacher.")
        return
    task.asked["solution"] += 1
    if task.asked["solution"] < 2:
        first = "" if task.asked["hint"] else f"Try a hint first: lessons.hint({name!r}). "
        print(f"Sure? {first}Ask again to see the solution.")
    else:
        print(task.solution)


ANSWERS = ("00", "01", "02", "03", "04", "05", "06", "07", "08")


def _find(name: str) -> Exercise:
    for part in ANSWERS:  # they fill EXERCISES
        import_module(f"pruneviz.lessons.exercises.lesson{part}")

    return EXERCISES[checks.choice(name, "exercise", EXERCISES, what="exercise")]
