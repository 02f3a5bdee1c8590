"""What a panel remembers: moves that can be undone, and named plans."""

from __future__ import annotations

import threading
import time
from typing import Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

REST = 0.5  # seconds: a hand that moves the same control again before is still the same move
MAX_MOVES = 200  # moves that are remembered

State = dict[str, Any]


class History:
    """States in the order in which they came, and a place among them.

    Examples
    --------
    >>> history = History({"sparsity": 0.0})
    >>> for s in (0.5, 0.9):
    ...     history.add({"sparsity": s}, "sparsity")
    >>> history.step(-1), history.step(-1), history.step(-1)
    ({'sparsity': 0.5}, {'sparsity': 0.0}, None)
    >>> history.step(1)
    {'sparsity': 0.5}
    """

    def __init__(self, first: State) -> None:
        self._states = [first]
        self._at = 0
        self._last = ("", 0.0)  # whose hand moved, and when

    def add(self, state: State, moved: str, *, hand: bool = False, held: bool = False) -> None:
        """Remember a state; what had been undone is forgotten. A drag is one move.

        `held`: the hand has not let go since the last state, however long ago that was.
        """
        if state == self._states[self._at]:
            return
        now = time.monotonic()
        same = hand and self._last[0] == moved and (held or now - self._last[1] < REST)
        self._last = (moved if hand else "", now)
        del self._states[self._at + 1 :]
        if same and self._at:
            self._states[self._at] = state
        else:
            self._states.append(state)
        del self._states[:-MAX_MOVES]
        self._at = len(self._states) - 1

    def let_go(self) -> None:
        """Take what the hand does next for another move, however soon it comes."""
        self._last = ("", 0.0)

    def has(self, by: int) -> bool:
        """Tell whether there is a state so many steps away."""
        return 0 <= self._at + by < len(self._states)

    def step(self, by: int) -> State | None:
        """Go back (-1) or forth (1) and return the state there; None if there is none."""
        if not self.has(by):
            return None
        self._at += by
        self._last = ("", 0.0)
        return self._states[self._at]


class Remembering(widgets.VBox):
    """What of a `Panel` is about where its controls stood before."""

    controls: dict[str, Any]
    saved: dict[str, State]
    memory: State
    _lock: threading.RLock
    _busy: bool
    _held: bool
    _history: History | None

    def state(self) -> State:
        """Return the values of all controls, and what else belongs to a state."""
        return {**self.memory, **{name: c.value for name, c in self.controls.items()}}

    def undo(self) -> None:
        """Take the last move back; without one do nothing."""
        self._step(-1)

    def redo(self) -> None:
        """Do again what was undone; without that do nothing."""
        self._step(1)

    def steps(self) -> tuple[bool, bool]:
        """Tell whether something can be undone, and redone."""
        history = self._history
        return (False, False) if history is None else (history.has(-1), history.has(1))

    def save(self, name: str) -> None:
        """Keep where the controls stand under a name; a plan of that name is replaced."""
        tell = "A name for the plan, such as 'gentle'."
        if not checks.kind(name, "name", str, tell).strip():
            raise ArgumentError(f"`name` is empty. {tell}")
        with self._lock:
            self.saved[name] = self.state()
            self._refresh()

    def load(self, name: str) -> None:
        """Set the controls to where a saved plan had them.

        Raises
        ------
        ArgumentError
            If no plan was saved under that name.
        """
        with self._lock:
            self._set(self.saved[checks.choice(name, "name", self.saved, what="plan")], "")

    def _step(self, by: int) -> None:
        with self._lock:
            history = self._history
            state = None if history is None else history.step(by)
            if state is not None:
                self._set(state, None)

    def _set(self, state: State, moved: str | None) -> None:
        """Set all controls and answer once; `moved` None: leave no step in the history."""
        try:
            for _ in range(2):  # the end of one slider may depend on another control
                if self.state() != state:
                    before, self._busy = self._busy, True
                    try:
                        self.memory = {name: state[name] for name in self.memory}
                        for name, control in self.controls.items():
                            control.value = state[name]
                    finally:
                        self._busy = before
                    self._moved(None)
            self._note(moved, False)
        finally:
            self._refresh()

    def _note(self, name: str | None, hand: bool) -> None:
        if self._history is not None and name is not None:
            self._history.add(self.state(), name, hand=hand, held=self._held)

    def _moved(self, name: str | None) -> None:
        raise NotImplementedError

    def _refresh(self) -> None:
        raise NotImplementedError
