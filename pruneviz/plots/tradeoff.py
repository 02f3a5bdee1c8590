"""How quality depends on cost: the curves of a sweep, and the points that no other beats."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.plots.style import GREY, MARKERS, PALETTE, axes, hide_frame, plain
from pruneviz.plots.svg import FONT, open_tag, round_ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


WIDTH, HEIGHT = 720, 360
BOX = (64, 12, 500, 312)  # left, top, right, bottom of the plot in the SVG


def plot_pareto(
    points: pd.DataFrame,
    *,
    x: str = "macs",
    y: str = "metric",
    budget: float | None = None,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the curves of a sweep with their bands, and the points that no other point beats.

    Parameters
    ----------
    points : DataFrame
        From `pareto`, with the same `x` and `y`.
    x, y : str
        Columns of cost and quality.
    budget : float, optional
        A dashed line at this cost.
    log : bool
        Draw the cost on a logarithmic scale.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        A line for each curve, the front as a grey staircase, a band from ``low`` to ``high``.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": ["a", "a"], "target_sparsity": [0.5, 0.9],
    ...                      "macs": [50, 10], "metric": [0.9, 0.7]})
    >>> ax = pv.plot_pareto(pv.pareto(data))
    >>> ax.lines[0].get_xdata().tolist(), ax.get_xlabel()
    ([50.0, 10.0], 'multiply-accumulates an example')
    """
    needed = ("curve", x, y, "low", "high", "pareto")
    checks.columns(points, dict.fromkeys(needed, "pv.pareto(data)"), "plot_pareto")
    ax = axes(ax, (7.6, 3.8))
    for i, (name, part) in enumerate(points.groupby("curve", sort=False)):
        colour = PALETTE[i % len(PALETTE)]
        ax.plot(part[x], part[y], color=colour, marker=MARKERS[i % len(MARKERS)], label=plain(name))
        ax.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.18, lw=0)
    front = points[points["pareto"]].sort_values(x)
    ax.step(front[x], front[y], where="post", color=GREY, lw=4, alpha=0.45, zorder=1,
            label="not beaten")  # fmt: skip
    if budget is not None:
        ax.axvline(budget, color=GREY, ls="--", lw=1.2, label="budget")
    if log:
        ax.set_xscale("log")
    ax.set(xlabel=LABELS.get(x, plain(x)), ylabel=LABELS.get(y, plain(y)))
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    hide_frame(ax)
    return ax


def ring(ax: Axes, x: float, y: float) -> None:
    """Draw a ring around a point."""
    ax.plot([x], [y], "o", ms=14, mfc="none", mec=GREY, mew=2.2)


def svg(
    points: pd.DataFrame, *, x: str, y: str, budget: float, log: bool, chosen: Any, label: str
) -> str:
    """Return the picture of `plot_pareto` as SVG text, with a ring around the chosen point.

    Parameters
    ----------
    points : DataFrame
        From `pareto`.
    budget : float
        Cost at the dashed line.
    chosen : Series or None
        The row to mark.
    label : str
        Text of the picture for a screen reader.
    """
    x0, y0, x1, y1 = BOX
    left, right = _span(points[x], log)
    low, high = _span(points[["low", "high"]].to_numpy(), False)

    def px(v: Any) -> Any:
        if log:
            return x0 + np.log(np.asarray(v) / left) / np.log(right / left) * (x1 - x0)
        return x0 + (np.asarray(v) - left) / (right - left) * (x1 - x0)

    def py(v: Any) -> Any:
        return y1 - (np.asarray(v) - low) / (high - low) * (y1 - y0)

    parts, key = [], []
    for i, (name, part) in enumerate(points.groupby("curve", sort=False)):
        colour = PALETTE[i % len(PALETTE)]
        xs, ys = px(part[x]), py(part[y])
        band = [*zip(xs, py(part["high"]), strict=True)]
        band += [*zip(xs[::-1], py(part["low"])[::-1], strict=True)]
        parts.append(
            f'<polygon points="{points_text(band)}" fill="{colour}" fill-opacity="0.18"/>'
            f'<polyline points="{points_text(zip(xs, ys, strict=True))}" fill="none" '
            f'stroke="{colour}" stroke-width="2"/>'
            + "".join(svg_marker(i, a, b, colour) for a, b in zip(xs, ys, strict=True))
        )
        short = str(name) if len(str(name)) <= 27 else f"{str(name)[:26]}…"
        at = y0 + 8 + 20 * i
        key.append(svg_marker(i, x1 + 20, at, colour))
        key.append(f'<text x="{x1 + 32}" y="{at + 4}">{escape(short)}</text>')
    front = points[points["pareto"]].sort_values(x)
    stairs: list[tuple[float, float]] = []
    for a, b in zip(px(front[x]), py(front[y]), strict=True):
        stairs += [(a, stairs[-1][1]), (a, b)] if stairs else [(a, b)]
    at = y0 + 8 + 20 * points["curve"].nunique()
    key.append(f'<path d="M{x1 + 12} {at}h16" stroke="{GREY}" stroke-width="5" opacity="0.8"/>'
               f'<text x="{x1 + 32}" y="{at + 4}">not beaten</text>'
               f'<path d="M{x1 + 20} {at + 12}v16" stroke="currentColor" stroke-dasharray="5 4"/>'
               f'<text x="{x1 + 32}" y="{at + 24}">budget</text>')  # fmt: skip
    line = float(px(min(max(budget, left), right)))
    ring = "" if chosen is None else (
        f'<circle cx="{float(px(chosen[x])):.1f}" cy="{float(py(chosen[y])):.1f}" r="9" '
        'fill="none" stroke="currentColor" stroke-width="2.5"/>'
    )  # fmt: skip
    return (
        f"{open_tag(WIDTH, HEIGHT, label, 'drag')}"
        f'<polyline points="{points_text(stairs)}" fill="none" stroke="{GREY}" stroke-width="5" '
        f'opacity="0.8"/>{"".join(parts)}{ring}'
        f'<path d="M{line:.1f} {y0}V{y1}" stroke="currentColor" stroke-dasharray="5 4"/>'
        f'<path d="M{x0} {y0}V{y1}H{x1}" fill="none" stroke="currentColor"/>'
        f"<g {FONT}>{_ticks(left, right, low, high, log, px, py)}{''.join(key)}"
        f'<text x="{(x0 + x1) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(LABELS.get(x, x))}</text>"
        f'<text transform="translate(14 {(y0 + y1) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(LABELS.get(y, y))}</text></g></svg>"
    )


def in_plot(x: float, y: float) -> bool:
    """Tell whether a position is inside the axes.

    >>> in_plot(BOX[0] + 5, 100), in_plot(BOX[2] + 50, 100)
    (True, False)
    """
    x0, y0, x1, y1 = BOX
    return x0 <= x <= x1 and y0 <= y <= y1


def cost_at(points: pd.DataFrame, at: float, *, x: str, log: bool) -> float:
    """Return the cost at a position, in pixels from the left.

    >>> import pandas as pd
    >>> points = pd.DataFrame({"macs": [10.0, 1000.0]})
    >>> middle = (BOX[0] + BOX[2]) / 2
    >>> [round(cost_at(points, middle, x="macs", log=log)) for log in (False, True)]
    [505, 100]
    """
    left, right = _span(points[x], log)
    share = (at - BOX[0]) / (BOX[2] - BOX[0])
    return float(left * (right / left) ** share if log else left + share * (right - left))


def _span(values: Any, log: bool) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    if log:
        return (low / 1.15, high * 1.15) if high > low else (low / 2, high * 2)
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _ticks(left: float, right: float, low: float, high: float, log: bool, px: Any, py: Any) -> str:
    x0, _, _, y1 = BOX
    across = log_ticks(left, right) if log else round_ticks(left, right, 4)
    return "".join(
        f'<text x="{float(px(v)):.1f}" y="{y1 + 17}" text-anchor="middle">{_number_text(v)}</text>'
        for v in across
    ) + "".join(
        f'<text x="{x0 - 7}" y="{float(py(v)) + 4:.1f}" text-anchor="end">{_number_text(v)}</text>'
        for v in round_ticks(low, high, 5)
    )


def log_ticks(left: float, right: float) -> list[float]:
    """Return ticks of a logarithmic axis: 1, 2 and 5 times powers of ten."""
    first, last = int(np.floor(np.log10(left))), int(np.ceil(np.log10(right)))
    values = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    return [v for v in values if left <= v <= right]


def _number_text(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{sign}"
    return f"{value:.4g}"


def points_text(pairs: Any) -> str:
    """Return points as the text of a polyline's attribute ``points``."""
    return " ".join(f"{float(a):.1f},{float(b):.1f}" for a, b in pairs)


def svg_marker(i: int, x: Any, y: Any, colour: str) -> str:
    """Return marker number `i` of `MARKERS` as SVG, so that curves differ not only in colour."""
    x, y = float(x), float(y)
    kind, r = MARKERS[i % len(MARKERS)], 4.0
    if kind == "o":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{colour}"/>'
    shapes: dict[str, list[tuple[float, float]]] = {
        "s": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "^": [(0, -r - 1), (r + 1, r), (-r - 1, r)],
        "D": [(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)],
        "v": [(0, r + 1), (r + 1, -r), (-r - 1, -r)],
        "P": [(-2, -5), (2, -5), (2, -2), (5, -2), (5, 2), (2, 2), (2, 5), (-2, 5), (-2, 2),
              (-5, 2), (-5, -2), (-2, -2)],
        "X": [(-5, -3), (-3, -5), (0, -2), (3, -5), (5, -3), (2, 0), (5, 3), (3, 5), (0, 2),
              (-3, 5), (-5, 3), (-2, 0)],
    }  # fmt: skip
    corners = [(x + a, y + b) for a, b in shapes[kind]]
    return f'<polygon points="{points_text(corners)}" fill="{colour}"/>'


RUNGS = {
    "none": "nothing",
    "fold": "fold the mean",
    "merge": "merge into a twin",
    "lstsq": "least squares",
    "distil": "distillation",
}
LABELS = {
    "sparsity": "sparsity (share of weights pruned)",
    "target_sparsity": "target sparsity (share of weights to prune)",
    "nonzero": "weights that are not 0",
    "params": "parameters",
    "bytes": "bytes",
    "macs": "multiply-accumulates an example",
    "share": "share of the multiply-accumulates that is kept",
    "latency_ms": "milliseconds a forward, on the machine that measured",
    "metric": "metric",
}


def plot_tradeoff(
    data: pd.DataFrame,
    *,
    x: str = "sparsity",
    y: str = "metric",
    hue: str = "criterion",
    ax: Axes | None = None,
) -> Axes:
    """Draw the metric over the sparsity: one line for each criterion.

    Parameters
    ----------
    data : DataFrame
        From `sweep`. Rows with the same `hue` and target sparsity (or `x`) are seeds: the line is
        their mean, the band goes from the lowest to the highest.
    x, y, hue : str
        Columns.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one line for each value of `hue`.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": ["a", "a"], "sparsity": [0.0, 0.9], "metric": [0.9, 0.5]})
    >>> ax = pv.plot_tradeoff(data)
    >>> ax.get_xlabel(), ax.lines[0].get_ydata().tolist()
    ('sparsity (share of weights pruned)', [0.9, 0.5])
    """
    sns = imported("seaborn")

    checks.columns(data, dict.fromkeys((x, y, hue), "pv.sweep(model, …)"), "plot_tradeoff")
    ax = axes(ax, (7.6, 3.8))
    before = set(ax.lines)
    if "target_sparsity" in data and x != "target_sparsity":
        # seeds end at slightly different costs: draw them at their mean
        same = data.groupby([hue, "target_sparsity"], sort=False)[x]
        data = data.assign(**{x: same.transform("mean")})
    if data[hue].map(lambda v: isinstance(v, str)).all():
        data = data.assign(**{hue: data[hue].map(plain)})
    values = list(dict.fromkeys(data[hue]))
    sns.lineplot(
        data,
        x=x,
        y=y,
        hue=hue,
        style=hue,
        hue_order=values,
        style_order=values,
        palette=[PALETTE[i % len(PALETTE)] for i in range(len(values))],
        markers=[MARKERS[i % len(MARKERS)] for i in range(len(values))],
        dashes=False,
        errorbar=("pi", 100),
        ax=ax,
    )
    ax.set(xlabel=LABELS.get(x, plain(x)), ylabel=LABELS.get(y, plain(y)))
    ax.grid(alpha=0.25)
    handles, labels = ax.get_legend_handles_labels()
    for line in set(ax.lines) - before:
        if not np.size(line.get_xdata()):  # an empty line that seaborn adds for its legend
            line.remove()
    ax.legend(
        handles, labels, title=plain(hue), frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
    )
    hide_frame(ax)
    return ax


def plot_ladder(
    data: pd.DataFrame, *, macs: int | None = None, y: str = "metric", ax: Axes | None = None
) -> Axes:
    """Draw what each repair makes of the same choice of units: one line a rung, over the MACs.

    Parameters
    ----------
    data : DataFrame
        From `sweep` with several repairs and one criterion.
    macs : int, optional
        Multiply-accumulates of the whole model. Default: those of the row of sparsity 0.
    y : str
        Column of the metric.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        One line for each repair, from the lowest rung to the highest; the line is the mean of the
        seeds, the band goes from the lowest to the highest.

    Raises
    ------
    ArgumentError
        If a column is missing, the table has several criteria, or the MACs of the whole model are
        not known.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": "obs", "repair": ["lstsq", "none", "lstsq", "none"],
    ...     "target_sparsity": [0.0, 0.0, 0.5, 0.5], "macs": [80, 80, 20, 20],
    ...     "metric": [0.9, 0.9, 0.8, 0.4]})
    >>> ax = pv.plot_ladder(data)
    >>> ax.get_xlabel(), [t.get_text() for t in ax.get_legend().get_texts()]
    ('share of the multiply-accumulates that is kept', ['nothing', 'least squares'])
    """
    source = "pv.sweep(model, …, repair=['none', 'lstsq', 'distil'])"
    columns = dict.fromkeys(("criterion", "repair", "target_sparsity", "macs", y), source)
    checks.columns(data, columns, "plot_ladder")
    if len(criteria := data["criterion"].unique()) > 1:
        raise ArgumentError(
            f"`plot_ladder` draws the repairs of one criterion, but the table has {len(criteria)}. Pass "
            f"one of them: data[data['criterion'] == {criteria[0]!r}]."
        )
    if macs is None:
        whole = data.loc[data["target_sparsity"] == 0, "macs"]
        if whole.empty:
            raise ArgumentError(
                "`plot_ladder` needs the MACs of the whole model, but the table has no row of sparsity 0. "
                "Pass macs=pv.measure(model, x).macs."
            )
        macs = int(whole.iloc[0])
    rungs = [*(r for r in RUNGS if (data["repair"] == r).any())]
    order = data["repair"].map({r: i for i, r in enumerate(rungs)})
    data = data.assign(
        share=data["macs"] / checks.count(macs, "macs", low=1), repair=data["repair"].map(RUNGS)
    )
    data = data.iloc[order.argsort(kind="stable")]
    return plot_tradeoff(data, x="share", y=y, hue="repair", ax=ax)
