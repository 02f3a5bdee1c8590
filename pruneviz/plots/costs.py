"""What several ways to remove the same weights cost in bytes, MACs and time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.plots.bytes import bytes_text
from pruneviz.plots.crossover import COLOURS, GREY_LINE, LABELS
from pruneviz.plots.style import GREY, axes, hide_frame, plain
from pruneviz.plots.svg import FONT, open_tag

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


MEASURES = {"bytes": ("bytes", ""), "macs": ("MACs", "//"), "ms": ("time", "..")}  # name, hatch
AXIS = (1e-3, 1e2)  # shares of dense; one range for all data, so that only the bars move


def plot_costs(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the bytes, MACs and time of each way, as shares of those of the dense model.

    Parameters
    ----------
    data : DataFrame
        From `compare_costs`.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Three bars for each way, in its colour of `plot_crossover`: bytes (plain), MACs (hatched),
        time (dotted), each divided by the value of the dense model, on a logarithmic scale. A bar
        to the right of the line costs more than dense. The thin line on the time is the interval of
        the speed-up, which is written beside it.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))
    >>> ax = pv.plot_costs(pv.compare_costs(model, torch.randn(4, 64), sparsity=0.5, seconds=0))
    >>> [t.get_text() for t in ax.get_yticklabels()][-1]
    'dense and smaller'
    """
    needed = ("way", "bytes", "macs", "ms", "latency_speedup", "low", "high")
    checks.columns(
        data, dict.fromkeys(needed, "pv.compare_costs(model, x, sparsity=0.9)"), "plot_costs"
    )
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    ax = axes(ax, (7.2, 0.9 + 0.8 * len(data)))
    y = np.arange(len(data))
    dense = data.iloc[0]
    ends = [*AXIS]
    colours = [COLOURS.get(w, GREY) for w in data["way"]]
    for i, (column, (_, hatch)) in enumerate(MEASURES.items()):
        ys = y + 0.27 * (i - 1)
        time = column == "ms"
        share = (1 / data["latency_speedup"] if time else data[column] / dense[column]).to_numpy(float)  # fmt: skip
        ax.barh(ys, share - 1, left=1, height=0.25, color=colours, hatch=hatch, edgecolor="white", lw=0)  # fmt: skip
        outer = share
        if time:
            low, high = (1 / data[c].to_numpy(float) for c in ("high", "low"))
            ax.hlines(ys, low, high, color="black", lw=1.2,
                      path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip
            outer = np.where(share >= 1, high, low)
        ends += [outer.min() / 4, outer.max() * 4]  # and room for the texts beside them
        for row, right, end, bar_y in zip(
            data.to_dict("records"), share >= 1, outer, ys, strict=True
        ):
            ax.annotate(_number_text(column, row), (end, bar_y), (5 if right else -5, 0), va="center",
                        textcoords="offset points", ha="left" if right else "right", fontsize=8)  # fmt: skip
    ax.axvline(1, color=GREY, lw=2)
    ax.set_xscale("log")
    ax.set_xlim(min(ends), max(ends))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set(yticks=y, yticklabels=[LABELS.get(w, plain(w)) for w in data["way"]],
           xlabel="share of what the dense model takes")  # fmt: skip
    ax.invert_yaxis()
    handles = [Patch(fc=GREY, hatch=hatch, ec="white", lw=0, label=name) for name, hatch in MEASURES.values()]  # fmt: skip
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    hide_frame(ax)
    return ax


WIDTH, LEFT, RIGHT, TOP, ROW = 760, 168, 744, 30, 54  # of the SVG
TEXT_WIDTH = 150  # pixels for the longest text beside a bar


def svg(data: pd.DataFrame, *, label: str, uid: str = "pv") -> str:
    """Return the picture of `plot_costs` as SVG text, without bars for times that are not measured.

    The range of the axis is the same for all data.

    Parameters
    ----------
    data : DataFrame
        From `compare_costs`; ``ms``, ``latency_speedup``, ``low`` and ``high`` may be NaN.
    label : str
        Text of the picture for a screen reader.
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
              for c in MEASURES}  # fmt: skip
    low, high = np.log10(AXIS)
    bottom = TOP + ROW * len(data)

    def px(share: float) -> float:
        """Return the position of a share; a value outside the axis is at its edge."""
        exponent = np.clip(np.log10(share), low, high)
        return float(LEFT + (exponent - low) / (high - low) * (RIGHT - LEFT))

    parts, one = [], px(1)
    for i, row in enumerate(data.to_dict("records")):
        y = TOP + ROW * i + 5
        name = escape(LABELS.get(row["way"], str(row["way"])))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 26}" text-anchor="end">{name}</text>')
        for j, (column, (what, hatch)) in enumerate(MEASURES.items()):
            share, top = shares[column][i], y + 15 * j
            if not np.isfinite(share) or share <= 0:
                continue
            ends = [px(share)]
            a, b = sorted((one, *ends))
            colour = COLOURS.get(row["way"], GREY)
            parts.append(_bar(a, top, b - a, colour, f"{uid}-{column}" * bool(hatch), what))
            if column == "ms" and np.isfinite([row["low"], row["high"]]).all():
                ends = [px(1 / row["high"]), px(1 / row["low"])]
                line = f'<path d="M{ends[0]:.1f} {top + 6.5}H{ends[1]:.1f}" stroke='
                parts.append(f'{line}"white" stroke-width="3"/>{line}"black" stroke-width="1.2"/>')
            right = share >= 1
            if not LEFT + TEXT_WIDTH < min(ends) <= max(ends) < RIGHT - TEXT_WIDTH:
                ends, right = [one], not right  # no room on this side
            text_x, anchor = (max(ends) + 5, "start") if right else (min(ends) - 5, "end")
            parts.append(f'<text x="{text_x:.1f}" y="{top + 10.5}" font-size="11" text-anchor="{anchor}">'
                         f"{_number_text(column, row)}</text>")  # fmt: skip
    ticks = "".join(
        f'<text x="{px(10**e):.1f}" y="{bottom + 16}" text-anchor="middle">{10**e:g}</text>'
        for e in np.arange(low, high + 1)
    )
    legend = "".join(
        _bar(LEFT + 90 * i, 6, 16, GREY, f"{uid}-{c}" * bool(hatch))
        + f'<text x="{LEFT + 22 + 90 * i}" y="16">{name}</text>'
        for i, (c, (name, hatch)) in enumerate(MEASURES.items())
    )
    return (
        f"{open_tag(WIDTH, bottom + 40, label)}<defs>{''.join(_pattern(c, uid) for c in STROKES)}</defs>"
        f"<g {FONT}>{''.join(parts)}{ticks}{legend}"
        f'<text x="{(LEFT + RIGHT) / 2}" y="{bottom + 34}" text-anchor="middle">share of what the '
        f'dense model takes</text></g><path d="M{one:.1f} {TOP}V{bottom}" {GREY_LINE} stroke-width="2"/>'
        f'<path d="M{LEFT} {TOP}V{bottom}H{RIGHT}" fill="none" stroke="currentColor"/></svg>'
    )


STROKES = {"macs": "M-1 7L7-1M-1 1L1-1M5 7L7 5", "ms": "M2 3h2"}


def _pattern(column: str, uid: str) -> str:
    return (
        f'<pattern id="{uid}-{column}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path d="{STROKES[column]}" stroke="white" stroke-width="1.6" stroke-opacity="0.8"/></pattern>'
    )


def _bar(x: float, y: float, width: float, fill: str, pattern: str, name: str = "key") -> str:
    box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="13"'
    over = f'<rect {box} fill="url(#{pattern})"/>' if pattern else ""
    return f'<rect class="{name}" {box} fill="{fill}"/>{over}'


def _number_text(column: str, row: Mapping[Hashable, Any]) -> str:
    if (
        column == "ms"
    ):  # a time of its own would need its own interval: the drawn one is the ratio's
        low, high = row["low"], row["high"]
        if low == high == 1:
            return ""  # dense itself
        if low <= 1.01 and high >= 0.99:  # two copies of one model differ by that much
            return f"no difference ({low:.2g}–{high:.2g})"
        return f"{row['latency_speedup']:.2g} × as fast ({low:.2g}–{high:.2g})"
    value = row[column]
    if column == "bytes":
        return bytes_text(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name} MACs"
    return f"{value:g} MACs"
