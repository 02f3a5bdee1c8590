"""A panel that remembers: undo, redo, and named plans to come back to."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from pruneviz import _check
from pruneviz.panels.history import History, State
from pruneviz.types import ArgumentError


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
        if not _check.kind(name, "name", str, tell).strip():
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
            self._set(self.saved[_check.choice(name, "name", self.saved, what="plan")], "")

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
