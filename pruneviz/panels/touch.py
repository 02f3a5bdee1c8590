"""A hand in the picture itself: it drags a line, or picks what is drawn."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

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
