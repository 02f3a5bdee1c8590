"""Which earlier states a panel can return to: undo and redo, and saved plans by name."""

from __future__ import annotations

import threading
import time
from typing import Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

SAME_MOVE = 0.5  # seconds: within this time, changes of one control by the user are one move
MAX_MOVES = 200  # states that are stored

State = dict[str, Any]


class History:
    """A list of states in order of time, and the index of the current one.

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
        self._index = 0
        self._last_move = ("", 0.0)  # control that the user moved last, and when

    def add(
        self, state: State, control: str, *, by_user: bool = False, dragging: bool = False
    ) -> None:
        """Store a state, and delete the states that had been undone. A drag is one move.

        Parameters
        ----------
        state : dict
            Values of the controls.
        control : str
            Name of the control that moved.
        by_user : bool
            Whether the user moved it, not code.
        dragging : bool
            Whether the pointer button has been down since the last state; then this is the same
            move, however long ago that was.
        """
        if state == self._states[self._index]:
            return
        now = time.monotonic()
        last_control, last_time = self._last_move
        same = by_user and last_control == control
        same = same and (dragging or now - last_time < SAME_MOVE)
        self._last_move = (control if by_user else "", now)
        del self._states[self._index + 1 :]
        if same and self._index:
            self._states[self._index] = state
        else:
            self._states.append(state)
        del self._states[:-MAX_MOVES]
        self._index = len(self._states) - 1

    def end_move(self) -> None:
        """Let the next change start a new move, however soon it comes."""
        self._last_move = ("", 0.0)

    def has(self, by: int) -> bool:
        """Tell whether there is a state `by` steps away."""
        return 0 <= self._index + by < len(self._states)

    def step(self, by: int) -> State | None:
        """Go back (-1) or forward (1) and return the state there; None if there is none."""
        if not self.has(by):
            return None
        self._index += by
        self._last_move = ("", 0.0)
        return self._states[self._index]


class WithHistory(widgets.VBox):
    """The part of `Panel` that returns to earlier states: undo, redo, save, load."""

    controls: dict[str, Any]
    saved: dict[str, State]
    memory: State
    _lock: threading.RLock
    _busy: bool
    _dragging: bool
    _history: History | None

    def state(self) -> State:
        """Return the values of all controls, and of `memory`."""
        return {**self.memory, **{name: c.value for name, c in self.controls.items()}}

    def undo(self) -> None:
        """Undo the last move, if there is one."""
        self._step(-1)

    def redo(self) -> None:
        """Redo the move that was undone last, if there is one."""
        self._step(1)

    def steps(self) -> tuple[bool, bool]:
        """Tell whether a move can be undone, and whether one can be redone."""
        history = self._history
        return (False, False) if history is None else (history.has(-1), history.has(1))

    def save(self, name: str) -> None:
        """Save the state of the controls under a name; a plan with that name is replaced."""
        advice = "Pass a name for the plan, such as 'gentle'."
        if not checks.kind(name, "name", str, advice).strip():
            raise ArgumentError(f"`name` is empty. {advice}")
        with self._lock:
            self.saved[name] = self.state()
            self._refresh()

    def load(self, name: str) -> None:
        """Set the controls to the values of a saved plan.

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
        """Set all controls and answer once; with `moved` None nothing is added to the history."""
        try:
            for _ in range(2):  # the maximum of one slider may depend on another control
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

    def _note(self, name: str | None, by_user: bool) -> None:
        """Add the state to the history, unless `name` is None."""
        if self._history is not None and name is not None:
            self._history.add(self.state(), name, by_user=by_user, dragging=self._dragging)

    def _moved(self, name: str | None) -> None:
        raise NotImplementedError

    def _refresh(self) -> None:
        raise NotImplementedError
