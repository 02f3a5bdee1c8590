"""Where the controls of a panel stood: to go back, forth, and to where one wanted to return."""

from __future__ import annotations

import time
from typing import Any

REST = 0.5  # seconds: a hand that moves the same control again before is still the same move
MOST = 200  # moves that are remembered

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
        del self._states[:-MOST]
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
