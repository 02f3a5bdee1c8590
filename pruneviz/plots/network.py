"""Which units each layer reads and makes: the picture of a network, one row for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from pruneviz.plots.groups import MAKES, READS
from pruneviz.plots.style import GREY, PRUNED, plain
from pruneviz.plots.svg import LARGE, open_tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_UNITS = 64  # units that are drawn of a layer; the number of the others is written beside them
UNITS_A_LINE = 32  # units in a line
CELL, STEP = 8, 10.4  # pixels from unit to unit, and from line to line
PICKED = "#F0E442"  # Okabe & Ito's yellow
READ_AT, MAKE_AT, COUNT_AT, WIDTH = 178, 496, 814, 920
SIDES = {"reads": READ_AT, "makes": MAKE_AT}


@dataclass(frozen=True)
class Side:
    """Units on one side of a layer, numbered from 0.

    Parameters
    ----------
    total : int
        Number of units.
    removed, frozen, picked : frozenset of int
        Units that are removed, that cannot be removed, and that are highlighted.
    """

    total: int
    removed: frozenset[int] = frozenset()
    frozen: frozenset[int] = frozenset()
    picked: frozenset[int] = frozenset()

    @property
    def drawn(self) -> list[int]:
        """The first `MAX_UNITS` units; a picked one replaces the last of them that is not picked."""
        first = range(min(self.total, MAX_UNITS))
        others = [u for u in first if u not in self.picked]
        room = min(UNITS_A_LINE, len(others))
        late = sorted(u for u in self.picked if u >= len(first))[:room]
        left_out = set(others[len(others) - len(late) :])
        return [*(u for u in first if u not in left_out), *late]

    @property
    def lines(self) -> int:
        """The number of lines of units, at least 1."""
        return max(1, -(-min(self.total, MAX_UNITS) // UNITS_A_LINE))


@dataclass(frozen=True)
class Row:
    """One layer: the units that it reads and those that it makes."""

    layer: str
    label: str
    reads: Side
    makes: Side


@dataclass
class Picture:
    """Positions of everything that is drawn, in pixels from the upper left corner."""

    height: float = 0
    cells: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    places: list[tuple[float, float, tuple[str, str, int]]] = field(default_factory=list)
    picked: list[tuple[float, float, str, str, int]] = field(default_factory=list)
    texts: list[tuple[float, float, str, str, bool]] = field(default_factory=list)
    legend: list[tuple[float, float, str]] = field(default_factory=list)


# colour and sign of each kind of unit: blue circles, green squares, orange crosses, grey
KINDS = {
    "makes": (MAKES, "o"),
    "reads": (READS, "s"),
    "makes, gone": (PRUNED, "x"),
    "reads, gone": (PRUNED, "x"),
    "makes, frozen": (GREY, "o"),
    "reads, frozen": (GREY, "s"),
    "lit": (PICKED, "s"),
}
_SIZES: dict[str, dict[str, Any]] = {
    "o": {"s": 13, "linewidths": 0},
    "s": {"s": 13, "linewidths": 0},
    "x": {"s": 16, "linewidths": 1.2},
    "lit": {"s": 62, "edgecolors": GREY, "linewidths": 1},
}

_WEIGHT = {False: "normal", True: "bold"}


def svg(rows: Sequence[Row], *, label: str) -> str:
    """Draw the network as SVG text.

    Parameters
    ----------
    rows : sequence of Row
    label : str
        Text of the picture for a screen reader.

    Examples
    --------
    >>> fc1 = Row("fc1", "fc1", Side(0), Side(3, removed=frozenset({0}), picked=frozenset({2})))
    >>> fc2 = Row("fc2", "fc2", Side(3, removed=frozenset({0}), picked=frozenset({2})), Side(1))
    >>> text = svg([fc1, fc2], label="two layers")
    >>> text.count('class="lit"'), "2 of 3" in text
    (2, True)
    """
    p = picture(rows)
    picked = "".join(
        f'<g class="lit" data-layer="{escape(layer)}" data-side="{side}" data-unit="{unit}">'
        f"<title>{escape(layer)} {side} unit {unit}</title>{_signs('lit', [(x, y)])}</g>"
        for x, y, layer, side, unit in p.picked
    )
    cells = "".join(_signs(kind, places) for kind, places in p.cells.items())
    legend = "".join(_signs(kind, [(x, y)]) for x, y, kind in p.legend)
    texts = "".join(
        f'<text x="{x:g}" y="{y + 4:g}" text-anchor="{anchor}" '
        f'font-weight="{_WEIGHT[bold]}">{escape(text)}</text>'
        for x, y, text, anchor, bold in p.texts
    )
    start = open_tag(WIDTH, p.height, label, "pick", _left(rows))
    return f"{start}{picked}{cells}<g {LARGE}>{texts}</g><g>{legend}</g></svg>"


def _left(rows: Sequence[Row]) -> float:
    """Return the left edge of the longest name; it may be negative."""
    return READ_AT - 24 - 8.5 * max((len(row.label) for row in rows), default=0)


def unit_at(rows: Sequence[Row], x: float, y: float) -> tuple[str, str, int] | None:
    """Return layer, side (``"reads"`` or ``"makes"``) and unit at a position; None without a unit.

    >>> fc1, fc2 = Row("fc1", "fc1", Side(0), Side(3)), Row("fc2", "fc2", Side(3), Side(1))
    >>> unit_at([fc1, fc2], MAKE_AT + 2 * CELL, 30), unit_at([fc1, fc2], 0, 0)
    (('fc1', 'makes', 2), None)
    """
    distances = [(abs(x - a) + abs(y - b), unit) for a, b, unit in picture(rows).places]
    distance, nearest = min(distances, default=(STEP, None))
    return nearest if distance < STEP else None


def draw(rows: Sequence[Row], ax: Axes) -> None:
    """Draw the network into matplotlib axes: one labelled collection for each kind of unit."""
    p = picture(rows)
    picked = [(x, y) for x, y, *_ in p.picked]
    drawn = [("lit", "lit", picked), *((kind, kind, places) for kind, places in p.cells.items())]
    for kind, label, places in [*drawn, *((kind, "", [(x, y)]) for x, y, kind in p.legend)]:
        colour, sign = KINDS[kind]
        style = {
            "marker": sign,
            "color": colour,
            "label": plain(label),
            **_SIZES.get(kind, _SIZES[sign]),
        }
        ax.scatter([x for x, _ in places], [y for _, y in places], **style)
    for x, y, text, anchor, bold in p.texts:
        where = {"start": "left", "end": "right", "middle": "center"}[anchor]
        ax.text(x, y, plain(text), ha=where, va="center", fontsize=7.5, weight=_WEIGHT[bold])
    ax.set(xlim=(min(0, _left(rows)), WIDTH), ylim=(p.height, 0))
    ax.axis("off")


def size(rows: Sequence[Row]) -> tuple[float, float]:
    """Return width and height of a static picture in inches.

    >>> size([])[0]
    9.2
    """
    return WIDTH / 100, picture(rows).height / 100


def picture(rows: Sequence[Row]) -> Picture:
    """Compute the positions of everything that is drawn."""
    p = Picture()
    heads = ((READ_AT, "reads: its columns"), (MAKE_AT, "makes: its rows"), (COUNT_AT, "stay"))
    p.texts += [(x, 10, text, "start", False) for x, text in heads]
    y = 30.0
    for row in rows:
        lines = max(row.reads.lines, row.makes.lines)
        middle = y + (lines - 1) * STEP / 2
        for name, x in SIDES.items():
            side = getattr(row, name)
            _side(p, row, name, side, x, middle - (side.lines - 1) * STEP / 2)
        bold = bool(row.reads.picked or row.makes.picked)
        p.texts.append((READ_AT - 12, middle, row.label, "end", bold))
        if not row.reads.total:
            p.texts.append((READ_AT, middle, "the input", "start", False))
        p.texts.append((COUNT_AT, middle, _count_text(row.makes), "start", False))
        y += lines * STEP + 11
    y += 4
    for x, kind, text in (
        (READ_AT, "reads", "read by it"),
        (READ_AT + 98, "makes", "made by it"),
        (READ_AT + 206, "makes, gone", "gone"),
        (READ_AT + 274, "makes, frozen", "cannot go"),
        (READ_AT + 372, "lit", "the picked one, wherever it lives"),
    ):
        p.legend.append((x + 3, y, kind))
        p.texts.append((x + 14, y, text, "start", False))
    p.height = y + 12
    return p


def _side(p: Picture, row: Row, name: str, side: Side, x0: float, y0: float) -> None:
    drawn = side.drawn
    for i, unit in enumerate(drawn):
        x, y = x0 + CELL * (i % UNITS_A_LINE) + 3, y0 + STEP * (i // UNITS_A_LINE)
        state = ", gone" * (unit in side.removed) or ", frozen" * (unit in side.frozen)
        p.cells.setdefault(name + state, []).append((x, y))
        p.places.append((x, y, (row.layer, name, unit)))
        if unit in side.picked:
            p.picked.append((x, y, row.layer, name, unit))
    if side.total > len(drawn):
        y = y0 + STEP * ((len(drawn) - 1) // UNITS_A_LINE)
        text = f"+{side.total - len(drawn):,}"
        p.texts.append((x0 + CELL * UNITS_A_LINE + 4, y, text, "start", False))


def _count_text(side: Side) -> str:
    if side.total and len(side.frozen) == side.total:
        return f"{side.total:,}, frozen"
    return f"{side.total - len(side.removed):,} of {side.total:,}"


def _signs(kind: str, places: Iterable[tuple[float, float]]) -> str:
    colour, sign = KINDS[kind]
    if kind == "lit":
        ink = f'width="13" height="13" rx="3" fill="{colour}" stroke="currentColor"'
        return "".join(f'<rect x="{x - 6.5:g}" y="{y - 6.5:g}" {ink}/>' for x, y in places)
    ink = f'fill="none" stroke-width="1.8" stroke="{colour}"' if sign == "x" else f'fill="{colour}"'
    path = "".join(_path(sign, x, y) for x, y in places)
    return f'<path class="{kind}" d="{path}" {ink}/>'


def _path(sign: str, x: float, y: float) -> str:
    if sign == "o":
        return f"M{x - 3:g} {y:g}a3 3 0 1 0 6 0a3 3 0 1 0-6 0"
    if sign == "s":
        return f"M{x - 2.7:g} {y - 2.7:g}h5.4v5.4h-5.4z"
    return f"M{x - 2.7:g} {y - 2.7:g}l5.4 5.4m0-5.4l-5.4 5.4"
