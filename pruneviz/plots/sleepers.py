"""The heat map of activations: a row a unit, a column an example, sleepers marked."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz import _check
from pruneviz.plots.style import GREY, KEPT, PALETTE, PRUNED, axes
from pruneviz.plots.svg import FONT, opened
from pruneviz.types import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST = 40  # rows; how many more units there are is said
EACH = 8  # rows at least for each kind of sleeper, if there are as many
ROW = 11  # pixels
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


def plot_sleepers(
    data: Any,
    *,
    sleepers: pd.DataFrame | None = None,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    order: str = "active",
    ax: Axes | None = None,
) -> Axes:
    """Draw which units are active on which examples, and mark those that sleep.

    A row is a unit, a column an example; nothing is drawn where the activation is exactly 0, and the
    bluer, the larger it is. Dead units have an orange cross, constant ones a yellow square, rarely
    active ones a pink triangle, and their rows are tinted. Of many units 40 are drawn: some of each
    kind of sleeper, and others from the rarely to the often active.

    Parameters
    ----------
    data : array-like, shape (units, examples)
        From `activations`.
    sleepers : DataFrame, optional
        From `find_sleepers`: the rows of this group; columns ``unit`` and ``kind``.
    labels : sequence of int, length examples, optional
        Class of each example; examples of one class stand together, under its name.
    classes : sequence of str, optional
        Name of each class; default: its number.
    order : str
        From above: ``"active"``, sleepers and then who is active more and more often; ``"mean"``, by
        the mean; ``"unit"``, by the number.
    ax : Axes, optional
        Where to draw; default: a new figure, as large as it needs to be.

    Returns
    -------
    Axes
        With one image, and a collection of marks for each kind that is there, called by its name.

    Raises
    ------
    ArgumentError
        If the data are no matrix of finite numbers, or the sleepers or labels do not fit to it.

    Examples
    --------
    >>> import numpy as np, pandas as pd, pruneviz as pv
    >>> a = np.array([[0.0, 0, 0], [1, 0, 2]])
    >>> ax = pv.plot_sleepers(a, sleepers=pd.DataFrame({"unit": [0], "kind": ["dead"]}))
    >>> ax.images[0].get_array().shape, [c.get_label() for c in ax.collections]
    ((2, 3, 4), ['dead'])
    """
    p = picture(data, sleepers=sleepers, labels=labels, classes=classes, order=order)
    ax = axes(ax, size(p))
    draw(p, ax)
    return ax


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
            "plot_sleepers draws finite numbers of shape (units, examples), but an array of shape "
            f"{a.shape} was passed. Make it with pv.activations(model, x, groups=groups, group=...)."
        )
    _check.choice(order, "order", ORDERS)
    kinds = _kinds(sleepers, len(a))
    columns = _columns(labels, a.shape[1])
    a = a[:, columns]
    rows = _rows(a, kinds, order)
    blocks = [] if labels is None else _blocks([labels[i] for i in columns], classes, picked)
    counts = {kind: kinds.count(kind) for kind in (*MARKS, "")}
    drawn = [kinds[u] for u in rows]
    negative = bool((a[rows] < 0).any())
    return Picture(rows, drawn, _shades(a[rows], drawn), blocks, counts, negative)


def svg(p: Picture, *, label: str) -> str:
    """Draw it as SVG text; `label` is what a screen reader says.

    >>> text = svg(picture([[0.0, 1.0]], labels=[1, 0], classes=["a", "<b>"]), label="one unit")
    >>> text.count("<image"), "&lt;b&gt;" in text
    (1, True)
    """
    tints, frames, marks, texts = [], [], [], []
    for y, unit, kind in p.rows():
        texts.append(f'<text x="{X0 - 20}" y="{y + 9}" text-anchor="end">{unit}</text>')
        if kind:
            tints.append(
                f'<rect x="{X0}" y="{y}" width="{X1 - X0}" height="{ROW}" '
                f'fill="{MARKS[kind][0]}" fill-opacity="0.22"/>'
            )
            marks.append(
                f'<g class="{kind}" data-unit="{unit}">{_sign(kind, X0 - 10, y + 5.5)}</g>'
            )
    heads = []
    for name, first, end, picked in p.blocks:
        x0, x1 = p.x(first), p.x(end)
        weight = ' font-weight="bold"' if picked else ""
        heads.append(
            f'<text x="{(x0 + x1) / 2:g}" y="18" text-anchor="middle"{weight}>{escape(name)}</text>'
        )
        box = "currentColor" if picked else GREY
        frames.append(
            f'<rect x="{x0:g}" y="{Y0}" width="{x1 - x0:g}" height="{p.bottom - Y0:g}" fill="none" '
            f'stroke="{box}" stroke-width="{2.5 if picked else 0.6}"/>'
        )
    keys = "".join(
        f'{_sign(kind, x + 5, p.bottom + 14)}<text x="{x + 16:g}" y="{p.bottom + 18:g}" {FONT}>'
        f"{words}</text>"
        for x, kind, words in p.key()
    )
    small = FONT.replace('"12"', '"9.5"')
    return (
        f"{opened(WIDTH, p.height, label, 'pick')}"
        f'{"".join(tints)}<image href="{_uri(p.shades)}" x="{X0}" y="{Y0}" width="{X1 - X0}" '
        f'height="{p.bottom - Y0:g}" preserveAspectRatio="none" '
        f'style="image-rendering: pixelated"/>{"".join(frames)}{"".join(marks)}'
        f"<g {small}>{''.join(texts)}</g><g {FONT.replace('12', '11')}>{''.join(heads)}</g>{keys}"
        f'<text x="{X0}" y="{p.bottom + 36:g}" {FONT.replace("12", "11")}>{p.words()}</text></svg>'
    )


def draw(p: Picture, ax: Axes) -> None:
    """Draw the same into matplotlib axes."""
    from matplotlib.patches import Rectangle

    ax.imshow(
        p.shades,
        extent=(X0, X1, p.bottom, Y0),
        aspect="auto",
        interpolation="nearest",
        zorder=2,
    )
    places: dict[str, list[float]] = {}
    for y, unit, kind in p.rows():
        ax.text(X0 - 20, y + 5.5, str(unit), ha="right", va="center", fontsize=6)
        if kind:
            places.setdefault(kind, []).append(y + 5.5)
            tint = Rectangle((X0, y), X1 - X0, ROW, color=MARKS[kind][0], alpha=0.22, lw=0)
            ax.add_patch(tint)
    for kind, ys in places.items():
        colour, sign = MARKS[kind]
        ax.scatter([X0 - 10] * len(ys), ys, marker=sign, color=colour, s=16, label=kind)
    for name, first, end, picked in p.blocks:
        x0, x1 = p.x(first), p.x(end)
        bold = "bold" if picked else "normal"
        ax.text((x0 + x1) / 2, 15, name, ha="center", va="center", fontsize=7.5, weight=bold)
        frame = Rectangle((x0, Y0), x1 - x0, p.bottom - Y0, fill=False, edgecolor=GREY, zorder=3)
        frame.set_linewidth(1.8 if picked else 0.4)
        ax.add_patch(frame)
    for x, kind, words in p.key():
        colour, sign = MARKS[kind]
        ax.plot([x + 5], [p.bottom + 14], sign, color=colour, markersize=5, label="_key")
        ax.text(x + 16, p.bottom + 14, words, va="center", fontsize=8)
    ax.text(X0, p.bottom + 32, p.words(), va="center", fontsize=7.5)
    ax.set(xlim=(0, WIDTH), ylim=(p.height, 0))
    ax.axis("off")


def size(p: Picture) -> tuple[float, float]:
    """Return width and height of a static picture in inches."""
    return WIDTH / 95, p.height / 95


def _kinds(sleepers: pd.DataFrame | None, units: int) -> list[str]:
    kinds = [""] * units
    if sleepers is None:
        return kinds
    source = "pv.find_sleepers(evidence, groups=groups)"
    _check.columns(sleepers, dict.fromkeys(("unit", "kind"), source), "plot_sleepers")
    for unit, kind in zip(sleepers["unit"], sleepers["kind"], strict=True):
        _check.choice(kind, "kind", MARKS, what="kind")
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
    most, rank = min(MOST, len(a)), {kind: i for i, kind in enumerate((*MARKS, ""))}
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


def _uri(shades: np.ndarray) -> str:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, shades, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _sign(kind: str, x: float, y: float) -> str:
    colour, sign = MARKS[kind]
    if sign == "x":
        path, ink = f"M{x - 3.5:g} {y - 3.5:g}l7 7m0-7l-7 7", f'stroke="{colour}" stroke-width="2"'
    elif sign == "s":
        path, ink = f"M{x - 3.5:g} {y - 3.5:g}h7v7h-7z", f'fill="{colour}"'
    else:
        path, ink = f"M{x:g} {y - 4:g}l4.5 8h-9z", f'fill="{colour}"'
    return f'<path d="{path}" {ink}/>'
