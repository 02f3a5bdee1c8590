"""A pointer in the picture: where it is, and what the panel does about it."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from pruneviz.panels.kit.history import Remembering
from pruneviz.panels.kit.slider import Slider

# The browser only says where in the picture the hand is; what stands there the kernel knows, which
# has drawn it. The picture is another one after every move, so the listeners belong to the window.
# `n` makes each message another one: a hand may come back to where it was.
SCRIPT = """
if (!window.pvTouch) {
  window.pvTouch = true;
  let held = null, n = 0;
  const say = (panel, e, sign) => {
    const picture = panel.querySelector('svg[data-touch]');
    const line = panel.querySelector('.pv-touch input');
    if (!picture || !line) return;
    const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(picture.getScreenCTM().inverse());
    line.value = [at.x.toFixed(2), at.y.toFixed(2), sign, ++n].join(' ');
    line.dispatchEvent(new Event('input', {bubbles: true}));
  };
  window.addEventListener('pointerdown', e => {
    const picture = e.button === 0 && e.target.closest?.('.pv-panel svg[data-touch]');
    if (!picture) return;
    e.preventDefault();
    const panel = picture.closest('.pv-panel');
    held = picture.dataset.touch === 'drag' ? panel : null;
    say(panel, e, 'press');
  }, true);
  window.addEventListener('pointermove', e => {
    if (!(e.buttons & 1)) held = null;
    if (held) say(held, e, 'drag');
  }, true);
}"""


class Touch(widgets.Text):
    """A line that nobody sees, in which the page writes where the hand is: ``"310 75.5 press 4"``.

    Examples
    --------
    >>> line = Touch(lambda x, y, press: print(x, y, press))
    >>> line.value = "310 75.5 press 1"
    310.0 75.5 True
    >>> line.value = "312 75.5 drag 2"
    312.0 75.5 False
    >>> line.close()
    """

    def __init__(self, touched: Any) -> None:
        super().__init__(layout={"display": "none"})
        self.add_class("pv-touch")
        self._touched = touched
        self.observe(self._read, "value")

    def _read(self, change: dict[str, Any]) -> None:
        x, y, sign, _ = change["new"].split()
        self._touched(float(x), float(y), sign == "press")


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
