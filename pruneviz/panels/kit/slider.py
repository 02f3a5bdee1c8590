"""A slider that knows a hand from an echo."""

from __future__ import annotations

from collections import deque
from typing import Any

import ipywidgets as widgets


class Slider(widgets.FloatSlider):
    """A `FloatSlider` that only a hand moves, and the kernel.

    The browser computes every value it is told anew and sends back what it finds, its last digit
    rounded otherwise: told 0.9 it answers 0.9000000000000001. Such an echo may come late, when the
    kernel has long set another value, and must not set the old one again.

    Examples
    --------
    >>> slider = Slider(0.9, min=0, max=1, step=0.01)
    >>> slider.value = 0.5
    >>> slider.set_state({"value": 0.9000000000000001})  # the echo of the first value
    >>> slider.value
    0.5
    >>> slider.set_state({"value": 0.9})  # a hand
    >>> slider.value
    0.9
    >>> slider.close()
    """

    digits = 6

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # what the browser was told since a hand last moved the slider, oldest first
        self._told: deque[float] = deque(maxlen=100)
        self._by_hand = False
        self.field: widgets.BoundedFloatText | None = None  # that stands beside it
        self._exact = False  # whether the field is being told what lies between two steps
        super().__init__(*args, **kwargs)
        self._told.append(self.value)
        self.observe(self._tell, "value")

    @property
    def at(self) -> float:
        """The value without the browser's last digits: 0.9, not 0.9000000000000001."""
        near = round(self.value, self.digits)
        return near if self._near(near, self.value) else float(self.value)

    def nearest(self, value: float) -> float:
        """Return the nearest of the steps.

        >>> slider = Slider(0, min=0, max=1, step=0.25)
        >>> slider.nearest(0.6), slider.nearest(7)
        (0.5, 1.0)
        >>> slider.close()
        """
        steps = round((min(max(value, self.min), self.max) - self.min) / self.step)
        return float(self.min + steps * self.step)

    def put(self, value: float) -> None:
        """Move to the nearest of the steps; the field beside it says the value itself."""
        self.value = self.nearest(value)
        if self.field is not None:
            self._exact = True
            try:
                self.field.value = round(value, self.digits)
            finally:
                self._exact = False

    def typed(self, change: dict[str, Any]) -> None:
        """Follow the field beside it."""
        if not self._exact and change["new"] != round(self.value, self.digits):
            self.value = change["new"]

    def _tell(self, change: dict[str, Any]) -> None:
        if not self._by_hand:
            self._told.append(change["new"])

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the browser sent, unless it only repeats what it was told."""
        if "value" in sync_data:
            value = sync_data["value"]
            echo = self._echoes(value)
            if not echo:
                self._told.clear()
            if echo or self._near(value, self.value):
                sync_data = {name: v for name, v in sync_data.items() if name != "value"}
                if not self._near(value, self.value):
                    self._told.append(self.value)
                    self.send_state("value")  # for the browser stands where its echo put it
        self._by_hand = True
        try:
            super().set_state(sync_data)
        finally:
            self._by_hand = False

    def _near(self, value: float, told: float) -> bool:
        return bool(abs(value - told) < self.step / 100)

    def _echoes(self, value: float) -> bool:
        """Tell an echo; forget what was told before it, for messages keep their order."""
        for i, told in enumerate(self._told):
            if value != told and self._near(value, told):
                for _ in range(i + 1):
                    self._told.popleft()
                return True
        return False


def labelled(
    label: str, value: float, low: float, high: float, step: float, digits: int
) -> tuple[widgets.BoundedFloatText, Slider, Any]:
    """Return a number field with a label, a slider that follows it and that it follows, their link.

    The handle of a slider has no name that a screen reader could say; the field has.
    """
    slider = Slider(value, min=low, max=high, step=step, readout=False, layout={"width": "420px"})
    slider.digits = digits
    field = widgets.BoundedFloatText(
        slider.value, min=low, max=high, step=step, description=label, layout={"width": "180px"}
    )
    # linked here and not in the browser, which would show 0.47000000000000003
    link = widgets.dlink((slider, "value"), (field, "value"), lambda v: round(v, digits))
    slider.field = field
    field.observe(slider.typed, "value")
    return field, slider, link
