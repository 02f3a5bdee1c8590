"""A panel whose picture can be taken in the hand: what is dragged or picked there moves its controls."""

from __future__ import annotations

from typing import Any

from pruneviz.panels.remembering import Remembering
from pruneviz.panels.slider import Slider


class Touched(Remembering):
    """What of a `Panel` is about a hand in the picture."""

    _result: dict[str, Any]
    _gripped: bool

    def touched(self, x: float, y: float, press: bool) -> dict[str, Any]:
        """Return what a hand at a place of the picture means: names of controls and their new values.

        Parameters
        ----------
        x, y : float
            Pixels of the SVG that has a ``data-touch``, from its upper left corner.
        press : bool
            Whether the hand has just come down there; else it drags.
        """
        return {}

    def touch(self, x: float, y: float, press: bool = True) -> None:
        """Do what a hand does that comes down on the picture, or drags there; see `touched`."""
        with self._lock:
            if not self._result:  # an error has to be mended first, and the picture is an old one
                return
            if not press and not self._gripped:
                return
            wanted, stood = self.touched(x, y, press), self.state()
            if press:
                self._gripped = bool(wanted)
                if self._history is not None:
                    self._history.let_go()
            before, self._busy = self._busy, True
            try:
                for name, value in wanted.items():
                    control = self.controls[name]
                    control.value = control.nearest(value) if isinstance(control, Slider) else value
            finally:
                self._busy = before
            if self.state() != stood:
                self._held = not press
                try:
                    self._moved(next(iter(wanted)))
                finally:
                    self._held = False
