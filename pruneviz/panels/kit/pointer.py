"""Where in the picture the user presses or drags, and what the panel does then."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from pruneviz.panels.kit.history import WithHistory
from pruneviz.panels.kit.slider import Slider

# The browser only sends the position of the pointer in the picture. The kernel has drawn the
# picture and knows what is there. Every move replaces the picture, so the listeners belong to the
# window. `n` makes each message different, also when the pointer returns to an earlier position.
SCRIPT = """
if (!window.pvTouch) {
  window.pvTouch = true;
  let dragged = null, n = 0;
  const send = (panel, e, kind) => {
    const picture = panel.querySelector('svg[data-touch]');
    const line = panel.querySelector('.pv-touch input');
    if (!picture || !line) return;
    const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(picture.getScreenCTM().inverse());
    line.value = [at.x.toFixed(2), at.y.toFixed(2), kind, ++n].join(' ');
    line.dispatchEvent(new Event('input', {bubbles: true}));
  };
  window.addEventListener('pointerdown', e => {
    const picture = e.button === 0 && e.target.closest?.('.pv-panel svg[data-touch]');
    if (!picture) return;
    e.preventDefault();
    const panel = picture.closest('.pv-panel');
    dragged = picture.dataset.touch === 'drag' ? panel : null;
    send(panel, e, 'press');
  }, true);
  window.addEventListener('pointermove', e => {
    if (!(e.buttons & 1)) dragged = null;
    if (dragged) send(dragged, e, 'drag');
  }, true);
}"""


class PointerField(widgets.Text):
    """A hidden text field into which the page writes where the pointer is.

    The text has four words, such as ``"310 75.5 press 4"``: x, y, ``press`` or ``drag``, and the
    number of the message.

    Examples
    --------
    >>> line = PointerField(lambda x, y, press: print(x, y, press))
    >>> line.value = "310 75.5 press 1"
    310.0 75.5 True
    >>> line.value = "312 75.5 drag 2"
    312.0 75.5 False
    >>> line.close()
    """

    def __init__(self, on_pointer: Any) -> None:
        super().__init__(layout={"display": "none"})
        self.add_class("pv-touch")
        self._on_pointer = on_pointer
        self.observe(self._read, "value")

    def _read(self, change: dict[str, Any]) -> None:
        x, y, kind, _ = change["new"].split()
        self._on_pointer(float(x), float(y), kind == "press")


class WithPointer(WithHistory):
    """The part of `Panel` that handles the pointer in the picture."""

    _result: dict[str, Any]
    _pressed_control: bool

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        """Return which controls a pointer at this position sets: their names and new values.

        Parameters
        ----------
        x, y : float
            Position in pixels of the SVG with the attribute ``data-touch``, from its upper left
            corner.
        press : bool
            Whether the pointer button has just been pressed there; else the pointer drags.
        """
        return {}

    def touch(self, x: float, y: float, press: bool = True) -> None:
        """Do what a press or a drag of the pointer in the picture does; see `pointed`."""
        with self._lock:
            if not self._result:  # after an error the picture is out of date
                return
            if not press and not self._pressed_control:
                return
            changes, before_state = self.pointed(x, y, press), self.state()
            if press:
                self._pressed_control = bool(changes)
                if self._history is not None:
                    self._history.end_move()
            before, self._busy = self._busy, True
            try:
                for name, value in changes.items():
                    control = self.controls[name]
                    control.value = control.nearest(value) if isinstance(control, Slider) else value
            finally:
                self._busy = before
            if self.state() != before_state:
                self._dragging = not press
                try:
                    self._moved(next(iter(changes)))
                finally:
                    self._dragging = False
