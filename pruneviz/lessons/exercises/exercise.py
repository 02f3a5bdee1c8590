"""How exercises are checked; hints come one by one, the solution when asked for twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

NOTHING = "Not answered yet. Fill in the cell above, run it, then run this one."
ANSWERS_OFF = "PRUNEVIZ_ANSWERS"  # environment variable; "off" hides the solutions in a classroom


class Right(str):
    """A remark of a check on a right answer."""


@dataclass
class Exercise:
    """One exercise of a lesson.

    Parameters
    ----------
    name : str
        Number of the lesson and a word, such as ``"00-cliff"``.
    check : callable
        ``check(answer)``: the empty string if the answer is right (or `Right`, a remark on it),
        else one sentence that says what is wrong without giving the answer away.
    hints : tuple of str
        Shown one at a time.
    solution : str
        Python code that defines the answer; tests put it into the cell of the exercise.
    """

    name: str
    check: Callable[[Any], str]
    hints: tuple[str, ...]
    solution: str
    asked: dict[str, int] = field(default_factory=lambda: {"hint": 0, "solution": 0})


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, *, hints: tuple[str, ...], solution: str) -> Callable[[Any], Any]:
    """Return a decorator that registers a check as an exercise."""

    def add(check: Callable[[Any], str]) -> Callable[[Any], str]:
        EXERCISES[name] = Exercise(name, check, hints, solution)
        return check

    return add


PARTS = ("weight", "bias", "next_weight")


def wrong_shapes(got: Any, small: nn.Module) -> str:
    """Say what is wrong with the (weight, bias, next_weight) of one neuron less, but for numbers."""
    if not isinstance(got, (tuple, list)) or len(got) != 3:
        return f"It must return three tensors: ({', '.join(PARTS)})."
    for name, a, b in zip(PARTS, got, small.parameters(), strict=False):
        if not isinstance(a, Tensor) or a.shape != b.shape:
            shape = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
            return f"Without one of 6 neurons {name} has the shape {tuple(b.shape)}, not {shape}."
    return ""


def check(name: str, answer: Any) -> None:
    """Check an answer and print that it is right, or what is wrong; never raise its errors.

    Parameters
    ----------
    name : str
        Name of the exercise, such as ``"00-cliff"``.
    answer : object
        The answer, such as a number or a function. None: not answered yet.

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
        message = task.check(_answering(answer))
    except _NotAnswered:
        message = NOTHING
    except Exception as e:  # a learner's code may raise anything
        message = (
            f"Your answer raised {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        )
    if message == NOTHING:
        print(message)
    elif not message or isinstance(message, Right):
        print(f"✓ Right. {message}".rstrip())
    else:
        print(f"✗ Not yet. {message}\nNeed a hint? lessons.hint({name!r})")


def hint(name: str) -> None:
    """Show the next hint of an exercise.

    Examples
    --------
    >>> hint("00-cliff")
    Hint 1 of 2: try sparsities in steps of 0.01 and keep the first whose accuracy is below 0.50.
    """
    task = _find(name)
    index = min(task.asked["hint"], len(task.hints) - 1)
    task.asked["hint"] += 1
    print(f"Hint {index + 1} of {len(task.hints)}: {task.hints[index]}")


def solution(name: str) -> None:
    """Show the solution, but only when asked a second time.

    Examples
    --------
    >>> solution("02-magnitude")
    Sure? Try a hint first: lessons.hint('02-magnitude'). Ask again to see the solution.
    """
    task = _find(name)
    if _answers_are_off():
        print("The solutions are switched off here. Ask your teacher.")
        return
    task.asked["solution"] += 1
    if task.asked["solution"] < 2:
        first = "" if task.asked["hint"] else f"Try a hint first: lessons.hint({name!r}). "
        print(f"Sure? {first}Ask again to see the solution.")
    else:
        print(task.solution)


def _answers_are_off() -> bool:
    value = os.environ.get(ANSWERS_OFF, "").strip().lower()
    if value not in ("", "on", "1", "true", "yes", "off", "0", "false", "no"):
        raise ArgumentError(
            f"the environment variable {ANSWERS_OFF} must be 'on' or 'off', but it is "
            f"{os.environ[ANSWERS_OFF]!r}. Set it to 'off' to hide the solutions."
        )
    return value in ("off", "0", "false", "no")


class _NotAnswered(Exception):
    """The function that is the answer returned nothing."""


def _answering(answer: Any) -> Any:
    """Return the answer; if it is a function, one that raises `_NotAnswered` instead of returning nothing."""
    if not callable(answer) or isinstance(answer, nn.Module):
        return answer

    def call(*args: Any) -> Any:
        got = answer(*args)
        if got is None or got is ...:
            raise _NotAnswered
        return got

    return call


LESSONS = ("00", "01", "02", "03", "04", "05", "06", "07", "08")


def _find(name: str) -> Exercise:
    for number in LESSONS:  # importing a lesson fills EXERCISES
        import_module(f"pruneviz.lessons.exercises.lesson{number}")
    return EXERCISES[checks.choice(name, "exercise", EXERCISES, what="exercise")]
