"""Which controls a panel in the browser has: in Python only their names, values and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traitlets import Any as Anything
from traitlets import Bool, Float, HasTraits, validate

from pruneviz.core import checks


class Range(HasTraits):
    """A number that the user slides, or types.

    The browser slides along the steps only; code sets any value between the ends.

    Examples
    --------
    >>> control = Range("sparsity", 0.0, 0.999, 0.001, digits=3)
    >>> control.value = 7
    >>> control.value, control.at(470)
    (0.999, 0.47)
    """

    value = Float()

    def __init__(
        self, label: str, low: float, high: float, step: float, *, digits: int, value: float = 0.0
    ) -> None:
        self.label, self.digits = label, digits
        self.min, self.max, self.step = low, high, step
        super().__init__(value=value)

    @property
    def rounded(self) -> float:
        """The value without rounding errors: 0.3, not 0.30000000000000004."""
        return _clean(self.value)

    @property
    def last(self) -> int:
        """The number of the last step."""
        return int((self.max - self.min) / self.step + 0.5)

    def at(self, step: int) -> float:
        """Return the value at a step; `valueAt` in web/state.js computes the same."""
        return min(self.max, _clean(self.min + step * self.step))

    def steps(self) -> list[float]:
        """Return the values at all steps."""
        return [self.at(i) for i in range(self.last + 1)]

    def described(self) -> dict[str, Any]:
        """Return what the browser builds it from."""
        facts = {n: getattr(self, n) for n in ("label", "min", "max", "step", "digits")}
        return {"kind": "slider", **facts}

    @validate("value")
    def _between(self, proposal: Any) -> float:
        return min(max(proposal["value"], self.min), self.max)


class Choice(HasTraits):
    """One of some values; each has a name for people.

    Examples
    --------
    >>> layer = Choice("layer", {"all layers": "*", "(model)": ""})
    >>> layer.value
    '*'
    >>> layer.value = "fc"
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `layer` 'fc' is unknown. Known: , *.
    """

    value = Anything()

    def __init__(self, label: str, options: Mapping[str, Any]) -> None:
        self.label, self.options = label, tuple(options.items())
        super().__init__(value=self.options[0][1])

    def described(self) -> dict[str, Any]:
        """Return what the browser builds it from."""
        return {"kind": "choice", "label": self.label, "options": self.options}

    @validate("value")
    def _known(self, proposal: Any) -> Any:
        return checks.choice(proposal["value"], self.label, [v for _, v in self.options])


class Check(HasTraits):
    """Yes or no.

    >>> Check("logarithmic", False).described()
    {'kind': 'check', 'label': 'logarithmic'}
    """

    value = Bool()

    def __init__(self, label: str, value: bool) -> None:
        self.label = label
        super().__init__(value=value)

    def described(self) -> dict[str, Any]:
        """Return what the browser builds it from."""
        return {"kind": "check", "label": self.label}


Control = Range | Choice | Check


def _clean(value: float) -> float:
    return float(f"{value:.12g}")
