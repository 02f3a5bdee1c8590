"""What the heat map of activations shows: which units, which examples, in which order and shade."""

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


MAX_ROWS = 40  # rows; how many more units there are is said
EACH = 8  # rows at least for each kind of sleeper, if there are as many
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
        Number and kind of each unit drawn, from above.
    shades : ndarray of uint8, shape (rows, examples, 4)
        Red, green, blue, and how opaque.
    blocks : list of (name, first, last + 1, picked)
        Runs of examples of one class.
    counts : dict of str to int
        Of all units, by kind; ``""`` are those awake.
    negative : bool
        Whether some of what is drawn is below 0.
    """

    units: list[int]
    kinds: list[str]
    shades: np.ndarray
    blocks: list[tuple[str, int, int, bool]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    negative: bool = False

    @property
    def bottom(self) -> float:
        """Where the heat map ends, in pixels."""
        return Y0 + ROW * len(self.units)

    @property
    def height(self) -> float:
        """Of the whole picture, in pixels."""
        return self.bottom + 42

    def x(self, example: float) -> float:
        """Return where an example begins, in pixels."""
        return X0 + (X1 - X0) * example / self.shades.shape[1]

    def block_at(self, x: float, y: float) -> int | None:
        """Return which block of examples stands at a place, its name included; None if none does."""
        found = (i for i, (_, a, b, _) in enumerate(self.blocks) if self.x(a) <= x < self.x(b))
        return next(found, None) if 0 <= y <= self.bottom else None

    def rows(self) -> list[tuple[float, int, str]]:
        """Return the upper edge, the unit and the kind of each row."""
        named = zip(self.units, self.kinds, strict=True)
        return [(Y0 + ROW * i, unit, kind) for i, (unit, kind) in enumerate(named)]

    def key(self) -> list[tuple[float, str, str]]:
        """Return (x, kind, words) of the key."""
        found, x = [], float(X0)
        for kind in MARKS:
            n, drawn = self.counts.get(kind, 0), self.kinds.count(kind)
            words = f"{kind}: {n:,}" + (f" ({drawn} drawn)" if drawn < n else "")
            found.append((x, kind, words))
            x += 36 + 6.2 * len(words)
        return found

    def words(self) -> str:
        """Return what the last line says."""
        total = sum(self.counts.values())
        text = "a row: a unit; a column: an example; blank: exactly 0; the bluer, the more"
        text += "; green: below 0" * self.negative
        drawn = len(self.units)
        return f"{text}; {drawn:,} of {total:,} units drawn" if drawn < total else text


def picture(
    data: Any,
    *,
    sleepers: pd.DataFrame | None = None,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    order: str = "active",
    picked: int | None = None,
) -> Picture:
    """Choose and order the rows and the columns; `picked` is a class to stand out."""
    a = np.asarray(data, dtype=float)
    if a.ndim != 2 or not a.size or not np.isfinite(a).all():
        raise ArgumentError(
            "plot_inactive draws finite numbers of shape (units, examples), but an array of shape "
            f"{a.shape} was passed. Make it with pv.activations(model, x, groups=groups, group=...)."
        )
    checks.choice(order, "order", ORDERS)
    kinds = _kinds(sleepers, len(a))
    columns = _columns(labels, a.shape[1])
    a = a[:, columns]
    rows = _rows(a, kinds, order)
    blocks = [] if labels is None else _blocks([labels[i] for i in columns], classes, picked)
    counts = {kind: kinds.count(kind) for kind in (*MARKS, "")}
    drawn = [kinds[u] for u in rows]
    negative = bool((a[rows] < 0).any())
    return Picture(rows, drawn, _shades(a[rows], drawn), blocks, counts, negative)


def _kinds(sleepers: pd.DataFrame | None, units: int) -> list[str]:
    kinds = [""] * units
    if sleepers is None:
        return kinds
    source = "pv.find_inactive(evidence, groups=groups)"
    checks.columns(sleepers, dict.fromkeys(("unit", "kind"), source), "plot_inactive")
    for unit, kind in zip(sleepers["unit"], sleepers["kind"], strict=True):
        checks.choice(kind, "kind", MARKS, what="kind")
        if not 0 <= unit < units or kinds[unit]:
            raise ArgumentError(
                f"`sleepers` names unit {unit} {'twice' if 0 <= unit < units else ''}".rstrip()
                + f", but `data` hold {units} units, each once. Take the rows of one group: "
                "sleepers[sleepers['group'] == 'fc1']."
            )
        kinds[unit] = kind
    return kinds


def _columns(labels: Sequence[int] | None, examples: int) -> list[int]:
    """Return the examples in the order of their classes."""
    if labels is None:
        return list(range(examples))
    if len(labels) != examples:
        raise ArgumentError(
            f"`labels` must be one class an example, but there are {len(labels)} for {examples} "
            "examples."
        )
    return sorted(range(examples), key=lambda i: labels[i])


def _rows(a: np.ndarray, kinds: list[str], order: str) -> list[int]:
    """Return the units to be drawn, from above."""
    share, mean = (a != 0).mean(1), a.mean(1)
    most, rank = min(MAX_ROWS, len(a)), {kind: i for i, kind in enumerate((*MARKS, ""))}
    # of the sleepers those first that are awake on some of these examples: there is more to see
    asleep = {k: sorted(_where(kinds, k), key=lambda u: (-share[u], u)) for k in MARKS}
    awake = sorted(_where(kinds, ""), key=lambda u: (share[u], u))
    chosen = [u for units in asleep.values() for u in units[:EACH]]
    places = min(most - len(chosen), len(awake))
    if places:  # from end to end, evenly
        steps = np.linspace(0, len(awake) - 1, places).round().astype(int)
        chosen += [awake[i] for i in steps]
    rest = [u for units in asleep.values() for u in units[EACH:]]
    chosen += rest[: most - len(chosen)]
    by: dict[str, Any] = {
        "active": lambda u: (rank[kinds[u]], share[u], u),
        "mean": lambda u: (mean[u], u),
        "unit": lambda u: u,
    }
    return sorted(chosen, key=by[order])


def _where(kinds: list[str], kind: str) -> list[int]:
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


def _shades(a: np.ndarray, kinds: list[str]) -> np.ndarray:
    """Return colours: blue above 0, green below, nothing at 0, and what is not 0 can be seen."""
    size = np.abs(a)
    # one constant of a hundred would make all others pale
    others = size[[k != "constant" for k in kinds]]
    others = others[others > 0]
    top = float(np.quantile(others, 0.98)) if others.size else 1.0
    opaque = np.where(size > 0, 0.25 + 0.75 * np.minimum(size / top, 1), 0)
    above, below = (_rgb(colour) for colour in (KEPT, NEGATIVE))
    shades = np.empty((*a.shape, 4), np.uint8)
    shades[..., :3] = np.where((a < 0)[..., None], below, above)
    shades[..., 3] = np.round(255 * opaque)
    return shades


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
