"""Bytes, MACs and time of several ways to take the same weights away, beside the dense model's."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pruneviz import _check
from pruneviz.plots.bytes import size
from pruneviz.plots.crossover import LABELS
from pruneviz.plots.style import GREY, PALETTE, axes, bare
from pruneviz.plots.svg import FONT, opened

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WHAT = {"bytes": ("bytes", PALETTE[0], ""), "macs": ("MACs", PALETTE[2], "//"),
        "ms": ("time", PALETTE[1], "..")}  # fmt: skip


def plot_costs(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each way costs: bytes, MACs and time, as shares of the dense model's.

    Parameters
    ----------
    data : DataFrame
        From `costs`.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Three bars a way: bytes, MACs, time, each divided by what the dense model takes, on a
        logarithmic scale. A bar to the right of the line costs more than dense. The thin line on the
        time is its interval.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))
    >>> ax = pv.plot_costs(pv.costs(model, torch.randn(4, 64), sparsity=0.5, seconds=0))
    >>> [t.get_text() for t in ax.get_yticklabels()][-1]
    'dense and smaller'
    """
    needed = ("way", "bytes", "macs", "ms", "latency_speedup", "low", "high")
    _check.columns(data, dict.fromkeys(needed, "pv.costs(model, x, sparsity=0.9)"), "plot_costs")
    ax = axes(ax, (7.2, 0.9 + 0.8 * len(data)))
    y = np.arange(len(data))
    dense = data.iloc[0]
    ends = [1.0]
    for i, (column, (name, colour, hatch)) in enumerate(WHAT.items()):
        at = y + 0.27 * (i - 1)
        time = column == "ms"
        share = (1 / data["latency_speedup"] if time else data[column] / dense[column]).to_numpy(float)  # fmt: skip
        ax.barh(at, share - 1, left=1, height=0.25, color=colour, label=name, hatch=hatch,
                edgecolor="white", lw=0)  # fmt: skip
        outer = share
        if time:
            low, high = (1 / data[c].to_numpy(float) for c in ("high", "low"))
            ax.hlines(at, low, high, color=GREY, lw=1.2)
            outer = np.where(share >= 1, high, low)
        ends += list(outer)
        for value, right, end, where in zip(data[column], share >= 1, outer, at, strict=True):
            ax.annotate(_words(column, value), (end, where), (5 if right else -5, 0), va="center",
                        textcoords="offset points", ha="left" if right else "right", fontsize=8)  # fmt: skip
    ax.axvline(1, color=GREY, lw=2)
    ax.set_xscale("log")
    ax.set_xlim(min(ends) / 6, max(ends) * 2.5)
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set(yticks=y, yticklabels=[LABELS.get(w, w) for w in data["way"]],
           xlabel="share of what the dense model takes")  # fmt: skip
    ax.invert_yaxis()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    bare(ax)
    return ax


WIDTH, LEFT, RIGHT, TOP, ROW = 760, 168, 744, 30, 54  # of the SVG


def svg(data: pd.DataFrame, *, label: str, uid: str = "pv") -> str:
    """Return the same picture as SVG text; the place of a time that is not known yet stays empty.

    Parameters
    ----------
    data : DataFrame
        From `costs`; ``ms`` and what follows from it may be NaN.
    label : str
        What a screen reader says of the picture.
    uid : str
        Makes the patterns' ids unique on the page.

    Examples
    --------
    >>> import pandas as pd
    >>> data = pd.DataFrame({"way": ["dense", "smaller"], "bytes": [400, 40], "macs": [100, 10],
    ...     "ms": float("nan"), "latency_speedup": float("nan"), "low": 1.0, "high": 1.0})
    >>> text = svg(data, label="two ways")
    >>> "10 MACs" in text, " ms" in text
    (True, False)
    """
    shares = {c: (1 / data["latency_speedup"] if c == "ms" else data[c] / data[c].iloc[0]).to_numpy(float)
              for c in WHAT}  # fmt: skip
    ends = np.concatenate([*shares.values(), 1 / data["low"].to_numpy(float)])
    ends = ends[np.isfinite(ends) & (ends > 0)]
    # whole powers of ten, so that the axis seldom moves while one drags
    low = np.floor(np.log10(min(0.1, ends.min(initial=1)) / 4))
    high = np.ceil(np.log10(max(4, ends.max(initial=1)) * 2))
    bottom = TOP + ROW * len(data)

    def px(share: float) -> float:
        return float(LEFT + (np.log10(share) - low) / (high - low) * (RIGHT - LEFT))

    parts, one = [], px(1)
    for i, row in enumerate(data.to_dict("records")):
        y = TOP + ROW * i + 5
        name = escape(LABELS.get(row["way"], str(row["way"])))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 26}" text-anchor="end">{name}</text>')
        for j, (column, (what, _, _)) in enumerate(WHAT.items()):
            share, top = shares[column][i], y + 15 * j
            if not np.isfinite(share) or share <= 0:
                continue
            outer = [share]
            a, b = sorted((one, px(share)))
            parts.append(f'<rect class="{what}" x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="13" '
                         f'fill="url(#{uid}-{column})"/>')  # fmt: skip
            if column == "ms" and np.isfinite([row["low"], row["high"]]).all():
                outer = [1 / row["high"], 1 / row["low"]]
                parts.append(f'<path d="M{px(outer[0]):.1f} {top + 6.5}H{px(outer[1]):.1f}" '
                             'stroke="currentColor"/>')  # fmt: skip
            at, anchor = (
                (px(max(outer)) + 5, "start") if share >= 1 else (px(min(outer)) - 5, "end")
            )
            parts.append(f'<text x="{at:.1f}" y="{top + 10.5}" font-size="11" text-anchor="{anchor}">'
                         f"{_words(column, row[column])}</text>")  # fmt: skip
    ticks = "".join(
        f'<text x="{px(10**e):.1f}" y="{bottom + 16}" text-anchor="middle">{10**e:g}</text>'
        for e in np.arange(low, high + 1)
    )
    key = "".join(
        f'<rect x="{LEFT + 90 * i}" y="6" width="16" height="12" fill="url(#{uid}-{c})"/>'
        f'<text x="{LEFT + 22 + 90 * i}" y="16">{name}</text>'
        for i, (c, (name, _, _)) in enumerate(WHAT.items())
    )
    return (
        f"{opened(WIDTH, bottom + 40, label)}<defs>{''.join(_pattern(c, uid) for c in WHAT)}</defs>"
        f"<g {FONT}>{''.join(parts)}{ticks}{key}"
        f'<text x="{(LEFT + RIGHT) / 2}" y="{bottom + 34}" text-anchor="middle">share of what the '
        f'dense model takes</text></g><path d="M{one:.1f} {TOP}V{bottom}" stroke="{GREY}" '
        f'stroke-width="2"/><path d="M{LEFT} {TOP}V{bottom}H{RIGHT}" fill="none" '
        'stroke="currentColor"/></svg>'
    )


STROKES = {"": "", "//": "M-1 7L7-1M-1 1L1-1M5 7L7 5", "..": "M2 3h2"}


def _pattern(column: str, uid: str) -> str:
    _, colour, hatch = WHAT[column]
    return (
        f'<pattern id="{uid}-{column}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="{colour}"/><path d="{STROKES[hatch]}" stroke="white" '
        'stroke-width="1.6" stroke-opacity="0.8"/></pattern>'
    )


def _words(column: str, value: float) -> str:
    if column == "bytes":
        return size(value)
    if column == "ms":
        return f"{value:.3g} ms"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name} MACs"
    return f"{value:g} MACs"
