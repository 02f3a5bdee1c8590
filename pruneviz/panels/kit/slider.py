"""Whether the user moved a slider, or the browser only repeats a value of the kernel."""

from __future__ import annotations

from collections import deque
from typing import Any

import ipywidgets as widgets


class Slider(widgets.FloatSlider):
    """A `FloatSlider` that ignores echoes: only the user and the kernel move it.

    The browser recomputes every value that it receives and sends the result back, and its last
    digits differ: it receives 0.9 and answers 0.9000000000000001. Such an echo may come late, after
    the kernel has set another value; then it must not set the old value again.

    Examples
    --------
    >>> slider = Slider(0.9, min=0, max=1, step=0.01)
    >>> slider.value = 0.5
    >>> slider.set_state({"value": 0.9000000000000001})  # the echo of the first value
    >>> slider.value
    0.5
    >>> slider.set_state({"value": 0.9})  # a move of the user
    >>> slider.value
    0.9
    >>> slider.close()
    """

    digits = 6

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # values sent to the browser since the user last moved the slider, oldest first
        self._sent: deque[float] = deque(maxlen=100)
        self._receiving = False  # whether a message of the browser is being handled
        self.field: widgets.BoundedFloatText | None = None  # the number field beside the slider
        self._field_only = False  # whether only the field is being set, to a value between steps
        super().__init__(*args, **kwargs)
        self._sent.append(self.value)
        self.observe(self._note_sent, "value")

    @property
    def rounded(self) -> float:
        """The value without the browser's rounding error: 0.9, not 0.9000000000000001."""
        rounded = round(self.value, self.digits)
        return rounded if self._same(rounded, self.value) else float(self.value)

    def nearest(self, value: float) -> float:
        """Return the step nearest to a value.

        >>> slider = Slider(0, min=0, max=1, step=0.25)
        >>> slider.nearest(0.6), slider.nearest(7)
        (0.5, 1.0)
        >>> slider.close()
        """
        steps = round((min(max(value, self.min), self.max) - self.min) / self.step)
        return float(self.min + steps * self.step)

    def set_nearest(self, value: float) -> None:
        """Move to the nearest step; the field beside the slider shows the value itself."""
        self.value = self.nearest(value)
        if self.field is not None:
            self._field_only = True
            try:
                self.field.value = round(value, self.digits)
            finally:
                self._field_only = False

    def follow_field(self, change: dict[str, Any]) -> None:
        """Take the value of the field beside the slider."""
        if not self._field_only and change["new"] != round(self.value, self.digits):
            self.value = change["new"]

    def _note_sent(self, change: dict[str, Any]) -> None:
        if not self._receiving:
            self._sent.append(change["new"])

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the browser sent, unless it is the echo of a value sent to it."""
        if "value" in sync_data:
            value = sync_data["value"]
            echo = self._is_echo(value)
            if not echo:
                self._sent.clear()
            if echo or self._same(value, self.value):
                sync_data = {name: v for name, v in sync_data.items() if name != "value"}
                if not self._same(value, self.value):
                    self._sent.append(self.value)
                    self.send_state("value")  # the browser still shows the value of its echo
        self._receiving = True
        try:
            super().set_state(sync_data)
        finally:
            self._receiving = False

    def _same(self, value: float, other: float) -> bool:
        return bool(abs(value - other) < self.step / 100)

    def _is_echo(self, value: float) -> bool:
        """Tell whether a value is an echo; forget the values sent before it.

        Messages keep their order, so no echo of an earlier value can follow.
        """
        for i, sent in enumerate(self._sent):
            if value != sent and self._same(value, sent):
                for _ in range(i + 1):
                    self._sent.popleft()
                return True
        return False


def slider_with_field(
    label: str, value: float, low: float, high: float, step: float, digits: int
) -> tuple[widgets.BoundedFloatText, Slider, Any]:
    """Return a number field with a label, a slider, and the link that sets the field to the slider.

    Each follows the other. A screen reader finds no name at the handle of a slider, but at the
    field.
    """
    slider = Slider(value, min=low, max=high, step=step, readout=False, layout={"width": "420px"})
    slider.digits = digits
    field = widgets.BoundedFloatText(
        slider.value, min=low, max=high, step=step, description=label, layout={"width": "180px"}
    )
    # linked here and not in the browser, which would show 0.47000000000000003
    link = widgets.dlink((slider, "value"), (field, "value"), lambda v: round(v, digits))
    slider.field = field
    field.observe(slider.follow_field, "value")
    return field, slider, link
