"""Which units and examples a heat map of activations shows, in which order and colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import KEPT, PALETTE, PRUNED

if TYPE_CHECKING:
    import pandas as pd


MAX_ROWS = 40  # rows that are drawn; the caption says how many units there are
MIN_ROWS = 8  # rows for each kind of inactive unit, if there are so many units
ROW = 13  # pixels
X0, X1, Y0, WIDTH = 84, 744, 28, 760
NEGATIVE = PALETTE[2]
# colour and sign
MARKS = {"dead": (PRUNED, "x"), "constant": (PALETTE[1], "s"), "rare": (PALETTE[3], "^")}
ORDERS = ("active", "mean", "unit")


@dataclass
class Picture:
    """What is drawn, row by row.

    Parameters
    ----------
    units, kinds : list
        Number and kind of each drawn unit, from top to bottom.
    shades : ndarray of uint8, shape (rows, examples, 4)
        Red, green, blue and opacity.
    blocks : list of (name, first, last + 1, picked)
        Runs of examples of one class.
    counts : dict of str to int
        Number of all units of each kind; ``""``: active units.
    negative : bool
        Whether a drawn activation is below 0.
    """

    units: list[int]
    kinds: list[str]
    shades: np.ndarray
    blocks: list[tuple[str, int, int, bool]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    negative: bool = False

    @property
    def bottom(self) -> float:
        """The lower edge of the heat map, in pixels."""
        return Y0 + ROW * len(self.units)

    @property
    def height(self) -> float:
        """The height of the whole picture, in pixels."""
        return self.bottom + 42

    def x(self, example: float) -> float:
        """Return the left edge of an example, in pixels."""
        return X0 + (X1 - X0) * example / self.shades.shape[1]

    def block_at(self, x: float, y: float) -> int | None:
        """Return the block of examples at a position, also at its name above; or None."""
        blocks = (i for i, (_, a, b, _) in enumerate(self.blocks) if self.x(a) <= x < self.x(b))
        return next(blocks, None) if 0 <= y <= self.bottom else None

    def rows(self) -> list[tuple[float, int, str]]:
        """Return the upper edge, the unit and the kind of each row."""
        named = zip(self.units, self.kinds, strict=True)
        return [(Y0 + ROW * i, unit, kind) for i, (unit, kind) in enumerate(named)]

    def legend(self) -> list[tuple[float, str, str]]:
        """Return (x, kind, text) of each entry of the legend."""
        entries, x = [], float(X0)
        for kind in MARKS:
            n, drawn = self.counts.get(kind, 0), self.kinds.count(kind)
            text = f"{kind}: {n:,}" + (f" ({drawn} drawn)" if drawn < n else "")
            entries.append((x, kind, text))
            x += 36 + 6.2 * len(text)
        return entries

    def caption(self) -> str:
        """Return the text of the last line."""
        total = sum(self.counts.values())
        text = "a row: a unit; a column: an example; blank: exactly 0; the bluer, the more"
        text += "; green: below 0" * self.negative
        drawn = len(self.units)
        return f"{text}; {drawn:,} of {total:,} units drawn" if drawn < total else text


def picture(
    data: Any,
    *,
    inactive: pd.DataFrame | None = None,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    order: str = "active",
    picked: int | None = None,
) -> Picture:
    """Choose and order the rows and the columns; `picked` is a class to highlight."""
    a = np.asarray(data, dtype=float)
    if a.ndim != 2 or not a.size or not np.isfinite(a).all():
        raise ArgumentError(
            "plot_inactive draws finite numbers of shape (units, examples), but an array of shape "
            f"{a.shape} was passed. Make it with pv.activations(model, x, groups=groups, group=...)."
        )
    checks.choice(order, "order", ORDERS)
    kinds = _kinds(inactive, len(a))
    columns = _columns(labels, a.shape[1])
    a = a[:, columns]
    rows = _rows(a, kinds, order)
    blocks = [] if labels is None else _blocks([labels[i] for i in columns], classes, picked)
    counts = {kind: kinds.count(kind) for kind in (*MARKS, "")}
    drawn = [kinds[u] for u in rows]
    negative = bool((a[rows] < 0).any())
    return Picture(rows, drawn, _pixels(a[rows], drawn), blocks, counts, negative)


def _kinds(inactive: pd.DataFrame | None, units: int) -> list[str]:
    kinds = [""] * units
    if inactive is None:
        return kinds
    source = "pv.find_inactive(evidence, groups=groups)"
    checks.columns(inactive, dict.fromkeys(("unit", "kind"), source), "plot_inactive")
    for unit, kind in zip(inactive["unit"], inactive["kind"], strict=True):
        checks.choice(kind, "kind", MARKS, what="kind")
        if not 0 <= unit < units or kinds[unit]:
            raise ArgumentError(
                f"`inactive` names unit {unit} {'twice' if 0 <= unit < units else ''}".rstrip()
                + f", but `data` hold {units} units, each once. Take the rows of one group: "
                "inactive[inactive['group'] == 'fc1']."
            )
        kinds[unit] = kind
    return kinds


def _columns(labels: Sequence[int] | None, examples: int) -> list[int]:
    """Return the examples, sorted by class."""
    if labels is None:
        return list(range(examples))
    if len(labels) != examples:
        raise ArgumentError(
            f"`labels` must be one class for each example, but there are {len(labels)} for {examples} "
            "examples."
        )
    return sorted(range(examples), key=lambda i: labels[i])


def _rows(a: np.ndarray, kinds: list[str], order: str) -> list[int]:
    """Return the units to draw, from top to bottom."""
    share, mean = (a != 0).mean(1), a.mean(1)
    limit, rank = min(MAX_ROWS, len(a)), {kind: i for i, kind in enumerate((*MARKS, ""))}
    # first the inactive units that are active on some of these examples: they show more
    inactive = {k: sorted(_units_of_kind(kinds, k), key=lambda u: (-share[u], u)) for k in MARKS}
    active = sorted(_units_of_kind(kinds, ""), key=lambda u: (share[u], u))
    chosen = [u for units in inactive.values() for u in units[:MIN_ROWS]]
    places = min(limit - len(chosen), len(active))
    if places:  # evenly spaced, with the first and the last
        steps = np.linspace(0, len(active) - 1, places).round().astype(int)
        chosen += [active[i] for i in steps]
    rest = [u for units in inactive.values() for u in units[MIN_ROWS:]]
    chosen += rest[: limit - len(chosen)]
    by: dict[str, Any] = {
        "active": lambda u: (rank[kinds[u]], share[u], u),
        "mean": lambda u: (mean[u], u),
        "unit": lambda u: u,
    }
    return sorted(chosen, key=by[order])


def _units_of_kind(kinds: list[str], kind: str) -> list[int]:
    return [u for u, k in enumerate(kinds) if k == kind]


def _blocks(
    labels: list[int], classes: Sequence[str] | None, picked: int | None
) -> list[tuple[str, int, int, bool]]:
    found = []
    for c in dict.fromkeys(labels):
        first, n = labels.index(c), labels.count(c)
        name = classes[c] if classes is not None and 0 <= c < len(classes) else str(c)
        found.append((name, first, first + n, c == picked))
    return found


def _pixels(a: np.ndarray, kinds: list[str]) -> np.ndarray:
    """Return the colours: blue above 0, green below, transparent at 0, and visible if not 0."""
    size = np.abs(a)
    # without constant units: one with the value 100 would make all others pale
    others = size[[k != "constant" for k in kinds]]
    others = others[others > 0]
    top = float(np.quantile(others, 0.98)) if others.size else 1.0
    opacity = np.where(size > 0, 0.25 + 0.75 * np.minimum(size / top, 1), 0)
    above, below = (_rgb(colour) for colour in (KEPT, NEGATIVE))
    shades = np.empty((*a.shape, 4), np.uint8)
    shades[..., :3] = np.where((a < 0)[..., None], below, above)
    shades[..., 3] = np.round(255 * opacity)
    return shades


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
