"""What does a repair leave as it is, and how is that said? Once, with the layers and the reasons."""

from __future__ import annotations

import warnings


class Said:
    """Collects what is said about a repair.

    Parameters
    ----------
    rung : str
    silent : bool
        Whether nothing is said, because what follows changes these layers once more.
    """

    def __init__(self, rung: str, *, silent: bool = False) -> None:
        self.rung, self.silent = rung, silent
        self.reasons: dict[str, list[str]] = {}

    def left(self, layer: str, reason: str) -> None:
        """Note that a layer stays as it is."""
        self.reasons.setdefault(reason, []).append(layer)

    def worse(self, layer: str, rung: str) -> None:
        """Note that a layer gets a lower rung, which is better on held-out examples."""
        better = "no repair is better" if rung == "none" else f"{rung!r} is better, and is applied"
        self.left(layer, f"on held-out examples {better}")

    def before(self, text: str) -> None:
        """Say something before the repair begins, if there is anything to say."""
        if text and not self.silent:
            warnings.warn(text, stacklevel=2)

    def tell(self) -> None:
        """Say which layers stay as they are, and why; nothing if there are none."""
        parts = [f"{_named(layers)}: {reason}" for reason, layers in self.reasons.items()]
        if parts and not self.silent:
            warnings.warn(
                f"repair {self.rung!r} was not applied to some layers. {'; '.join(parts)}.",
                stacklevel=2,
            )


def _named(layers: list[str]) -> str:
    """Return the first names in quotes."""
    return ", ".join(repr(n) for n in layers[:4]) + (", …" if len(layers) > 4 else "")
