"""How a heat map of activations is drawn: one row for each unit, inactive units marked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pruneviz.plots.activation_map import MARKS, ROW, WIDTH, X0, X1, Y0, Picture, picture
from pruneviz.plots.style import GREY, axes, plain
from pruneviz.plots.svg import FONT, open_tag, uri

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def plot_inactive(
    data: Any,
    *,
    inactive: pd.DataFrame | None = None,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    order: str = "active",
    ax: Axes | None = None,
) -> Axes:
    """Draw which units are active on which examples, and mark the inactive units.

    Each row is a unit and each column an example. Nothing is drawn where the activation is exactly
    0; larger activations are bluer. Dead units have an orange cross, constant ones a yellow
    square, rarely active ones a pink triangle, and their rows are tinted. At most 40 units are
    drawn: some of each kind of inactive unit, and active units from the least to the most often
    active.

    Parameters
    ----------
    data : array-like, shape (units, examples)
        From `activations`.
    inactive : DataFrame, optional
        The inactive units: the rows of this group in the frame of `find_inactive`, with the columns
        ``unit`` and ``kind``.
    labels : sequence of int, length examples, optional
        Class of each example; examples of one class are drawn together, under its name.
    classes : sequence of str, optional
        Name of each class; default: its number.
    order : str
        From top to bottom: ``"active"``, inactive units first, then the others from the least to
        the most often active; ``"mean"``, by the mean; ``"unit"``, by the number.
    ax : Axes, optional
        Where to draw; default: a new figure of the needed size.

    Returns
    -------
    Axes
        With one image, and one collection of marks for each kind that occurs, labelled with its
        name.

    Raises
    ------
    ArgumentError
        If `data` is not a matrix of finite numbers, or `inactive` or `labels` do not match it.

    Examples
    --------
    >>> import numpy as np, pandas as pd, pruneviz as pv
    >>> a = np.array([[0.0, 0, 0], [1, 0, 2]])
    >>> ax = pv.plot_inactive(a, inactive=pd.DataFrame({"unit": [0], "kind": ["dead"]}))
    >>> ax.images[0].get_array().shape, [c.get_label() for c in ax.collections]
    ((2, 3, 4), ['dead'])
    """
    p = picture(data, inactive=inactive, labels=labels, classes=classes, order=order)
    ax = axes(ax, size(p))
    draw(p, ax)
    return ax


def svg(p: Picture, *, label: str) -> str:
    """Draw a `Picture` as SVG text; `label` is its text for a screen reader.

    >>> text = svg(picture([[0.0, 1.0]], labels=[1, 0], classes=["a", "<b>"]), label="one unit")
    >>> text.count("<image"), "&lt;b&gt;" in text
    (1, True)
    """
    tints, frames, marks, texts = [], [], [], []
    for y, unit, kind in p.rows():
        texts.append(f'<text x="{X0 - 20}" y="{y + ROW / 2 + 4:g}" text-anchor="end">{unit}</text>')
        if kind:
            tints.append(
                f'<rect x="{X0}" y="{y}" width="{X1 - X0}" height="{ROW}" '
                f'fill="{MARKS[kind][0]}" fill-opacity="0.22"/>'
            )
            marks.append(
                f'<g class="{kind}" data-unit="{unit}">{_sign(kind, X0 - 10, y + ROW / 2)}</g>'
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
    legend = "".join(
        f'{_sign(kind, x + 5, p.bottom + 14)}<text x="{x + 16:g}" y="{p.bottom + 18:g}" {FONT}>'
        f"{words}</text>"
        for x, kind, words in p.legend()
    )
    small = FONT.replace("12", "11")
    return (
        f"{open_tag(WIDTH, p.height, label, 'pick')}"
        f'{"".join(tints)}<image href="{uri(p.shades)}" x="{X0}" y="{Y0}" width="{X1 - X0}" '
        f'height="{p.bottom - Y0:g}" preserveAspectRatio="none" '
        f'style="image-rendering: pixelated"/>{"".join(frames)}{"".join(marks)}'
        f"<g {small}>{''.join(texts)}</g><g {small}>{''.join(heads)}</g>{legend}"
        f'<text x="{X0}" y="{p.bottom + 36:g}" {small}>{p.caption()}</text></svg>'
    )


def draw(p: Picture, ax: Axes) -> None:
    """Draw a `Picture` into matplotlib axes."""
    from matplotlib.patches import Rectangle

    ax.imshow(
        p.shades,
        extent=(X0, X1, p.bottom, Y0),
        aspect="auto",
        interpolation="nearest",
        zorder=2,
    )
    ys_by_kind: dict[str, list[float]] = {}
    for y, unit, kind in p.rows():
        ax.text(X0 - 20, y + ROW / 2, str(unit), ha="right", va="center", fontsize=7.5)
        if kind:
            ys_by_kind.setdefault(kind, []).append(y + ROW / 2)
            tint = Rectangle((X0, y), X1 - X0, ROW, color=MARKS[kind][0], alpha=0.22, lw=0)
            ax.add_patch(tint)
    for kind, ys in ys_by_kind.items():
        colour, sign = MARKS[kind]
        ax.scatter([X0 - 10] * len(ys), ys, marker=sign, color=colour, s=16, label=kind)
    for name, first, end, picked in p.blocks:
        x0, x1 = p.x(first), p.x(end)
        bold = "bold" if picked else "normal"
        ax.text((x0 + x1) / 2, 15, plain(name), ha="center", va="center", fontsize=7.5, weight=bold)
        frame = Rectangle((x0, Y0), x1 - x0, p.bottom - Y0, fill=False, edgecolor=GREY, zorder=3)
        frame.set_linewidth(1.8 if picked else 0.4)
        ax.add_patch(frame)
    for x, kind, words in p.legend():
        colour, sign = MARKS[kind]
        ax.plot([x + 5], [p.bottom + 14], sign, color=colour, markersize=5, label="_key")
        ax.text(x + 16, p.bottom + 14, words, va="center", fontsize=8)
    ax.text(X0, p.bottom + 32, plain(p.caption()), va="center", fontsize=7.5)
    ax.set(xlim=(0, WIDTH), ylim=(p.height, 0))
    ax.axis("off")


def size(p: Picture) -> tuple[float, float]:
    """Return width and height of a static picture in inches."""
    return WIDTH / 95, p.height / 95


def _sign(kind: str, x: float, y: float) -> str:
    colour, sign = MARKS[kind]
    if sign == "x":
        path, ink = f"M{x - 3.5:g} {y - 3.5:g}l7 7m0-7l-7 7", f'stroke="{colour}" stroke-width="2"'
    elif sign == "s":
        path, ink = f"M{x - 3.5:g} {y - 3.5:g}h7v7h-7z", f'fill="{colour}"'
    else:
        path, ink = f"M{x:g} {y - 4:g}l4.5 8h-9z", f'fill="{colour}"'
    return f'<path d="{path}" {ink}/>'
