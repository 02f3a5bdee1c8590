"""From which sparsity on a sparse layer is faster than a dense one."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import GREY, MARKERS, PALETTE, PRUNED, axes, hide_frame, plain
from pruneviz.plots.svg import FONT, open_tag
from pruneviz.plots.tradeoff import log_ticks, points_text, svg_marker

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


LABELS = {
    "dense": "dense",
    "zeros": "dense, with zeros",
    "csr_linear": "CSR, F.linear(x, csr)",
    "csr_mm": "CSR, torch.mm(csr, x.T)",
    "smaller": "dense and smaller",
}
COLOURS = {"zeros": PALETTE[1], "csr_linear": PRUNED, "csr_mm": PALETTE[3], "smaller": PALETTE[0]}
GREY_LINE = 'stroke="currentColor" stroke-opacity="0.55"'  # a grey that is visible in both themes
SIGNS = {"zeros": "s", "csr_linear": "v", "csr_mm": "^", "smaller": "o"}


def plot_crossover(
    data: pd.DataFrame,
    *,
    width: int | None = None,
    batch: int | None = None,
    at: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the latency speedup of each way over the sparsity, and the speedup of its MACs.

    Parameters
    ----------
    data : DataFrame
        From `crossover`.
    width, batch : int, optional
        Width of the layer and size of the batch; default: the largest width, the smallest batch.
    at : float, optional
        A dashed line at this sparsity; the axis then begins at 0.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        One line for each way, with its interval; grey at 1 for dense; dotted the speedup of MACs.

    Raises
    ------
    ArgumentError
        If a column is missing, or that width or batch was not measured.

    Examples
    --------
    >>> import pruneviz as pv
    >>> data = pv.crossover(widths=[32], batches=[1], sparsities=[0.5, 0.9], seconds=0, progress=False)
    >>> ax = pv.plot_crossover(data)
    >>> ax.get_title().split(", ")[:2]
    ['32 inputs and outputs', 'batch of 1']
    """
    needed = ("width", "batch", "sparsity", "way", "speedup", "latency_speedup", "low", "high")
    checks.columns(data, dict.fromkeys(needed, "pv.crossover()"), "plot_crossover")
    width = _chosen_value(data["width"], width, "width", max)
    data = data[data["width"] == width]
    batch = _chosen_value(data["batch"], batch, "batch", min)
    data = data[data["batch"] == batch].sort_values("sparsity")
    ax = axes(ax, (7.6, 3.8))
    for way, part in data[data["way"].isin(COLOURS)].groupby("way", sort=False):
        x, colour = part["sparsity"].to_numpy(float), COLOURS[str(way)]
        ax.plot(x, part["latency_speedup"], color=colour, marker=SIGNS[str(way)], label=LABELS[str(way)])  # fmt: skip
        ax.fill_between(x, part["low"], part["high"], color=colour, alpha=0.18, lw=0)
    ax.axhline(1, color=GREY, lw=2, label="dense")
    sparse = data[data["way"] == "csr_mm"] if (data["way"] == "csr_mm").any() else data
    macs_speedup = sparse.groupby("sparsity")["speedup"].max()
    ax.plot(
        macs_speedup.index, macs_speedup, color=GREY, ls=":", lw=2, label="what the MACs promise"
    )
    if at is not None:
        ax.axvline(at, color=GREY, ls="--", lw=1.2)
    set_sparsity_scale(ax, data["sparsity"] if at is None else [0, *data["sparsity"]])
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set(xlabel="sparsity (share of weights gone)", ylabel="times as fast as dense")
    threads = f", {_threads_text(data)}" if "threads" in data else ""
    examples = f"batch of {batch}"
    ax.set_title(f"{width} inputs and outputs, {examples}{threads}", fontsize=10)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    hide_frame(ax)
    return ax


WIDTH, HEIGHT, BOX = 760, 270, (58, 26, 500, 222)  # of the SVG, and left, top, right, bottom


def svg(data: pd.DataFrame, *, width: int, batch: int, at: float, label: str) -> str:
    """Return the picture of `plot_crossover` as SVG text.

    Examples
    --------
    >>> import pruneviz as pv
    >>> data = pv.crossover(widths=[32], batches=[1], sparsities=[0.5, 0.9], seconds=0, progress=False)
    >>> svg(data, width=32, batch=1, at=0.7, label="one layer").count("<polyline")
    5
    """
    data = data[(data["width"] == width) & (data["batch"] == batch)].sort_values("sparsity")
    x0, y0, x1, y1 = BOX
    ends = _to_scale(data["sparsity"].to_numpy(float)[[0, -1]]) * (0, 1)
    # the axis begins at sparsity 0, because `at` may be below the lowest measured sparsity
    room = 0.04 * (ends[1] - ends[0]) or 0.1
    ends = ends[0] - room, ends[1] + room
    bottom, top = data["low"].min() / 1.15, max(data["speedup"].max(), data["high"].max()) * 1.15

    def px(v: Any) -> Any:
        return x0 + (_to_scale(v) - ends[0]) / (ends[1] - ends[0]) * (x1 - x0)

    def py(v: Any) -> Any:
        return y1 - np.log(np.asarray(v, float) / bottom) / np.log(top / bottom) * (y1 - y0)

    parts: list[str] = []
    legend: list[str] = []

    def add_to_legend(text: str, sign: str) -> None:
        y = y0 + 10 + 20 * len(legend)
        legend.append(f'<g transform="translate({x1 + 24} {y})">{sign}</g>'
                   f'<text x="{x1 + 42}" y="{y + 4}">{escape(text)}</text>')  # fmt: skip

    for way, part in data[data["way"].isin(COLOURS)].groupby("way", sort=False):
        colour, sign = COLOURS[str(way)], MARKERS.index(SIGNS[str(way)])
        xs, ys = px(part["sparsity"]), py(part["latency_speedup"])
        band = [*zip(xs, py(part["high"]), strict=True)]
        band += [*zip(xs, py(part["low"]), strict=True)][::-1]
        parts.append(
            f'<polygon points="{points_text(band)}" fill="{colour}" fill-opacity="0.18"/>'
            f'<polyline points="{points_text(zip(xs, ys, strict=True))}" fill="none" stroke="{colour}" '
            f'stroke-width="2"/>'
            + "".join(svg_marker(sign, *p, colour) for p in zip(xs, ys, strict=True))
        )
        add_to_legend(LABELS[str(way)], svg_marker(sign, 0, 0, colour))
    sparse = data[data["way"] == "csr_mm"] if (data["way"] == "csr_mm").any() else data
    macs_speedup = sparse.groupby("sparsity")["speedup"].max()
    dots = points_text(zip(px(macs_speedup.index), py(macs_speedup), strict=True))
    parts.append(f'<polyline points="{dots}" fill="none" {GREY_LINE} stroke-width="2" '
                 f'stroke-dasharray="2 4"/><path d="M{x0} {py(1):.1f}H{x1}" {GREY_LINE} stroke-width="2"/>')  # fmt: skip
    add_to_legend("dense", f'<path d="M-10 0h20" {GREY_LINE} stroke-width="2"/>')
    add_to_legend("what the MACs promise",
          f'<path d="M-10 0h20" {GREY_LINE} stroke-width="2" stroke-dasharray="2 4"/>')  # fmt: skip
    add_to_legend(
        "your sparsity", '<path d="M0-8v16" stroke="currentColor" stroke-dasharray="5 4"/>'
    )
    line = float(np.clip(px(at), x0, x1))
    ticks, last = [], -99.0
    for v in sorted({0.0, *data["sparsity"]}):
        if px(v) - last > 30:
            last = px(v)
            ticks.append(f'<text x="{last:.1f}" y="{y1 + 17}" text-anchor="middle">{v:g}</text>')
    ticks += [f'<text x="{x0 - 7}" y="{py(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
              for v in log_ticks(bottom, top)]  # fmt: skip
    threads = f", {_threads_text(data)}" if "threads" in data else ""
    return (
        f"{open_tag(WIDTH, HEIGHT, label)}{''.join(parts)}"
        f'<path d="M{line:.1f} {y0}V{y1}" stroke="currentColor" stroke-dasharray="5 4"/>'
        f'<path d="M{x0} {y0}V{y1}H{x1}" fill="none" stroke="currentColor"/><g {FONT}>'
        f'<text x="{(x0 + x1) / 2}" y="14" text-anchor="middle">{width} inputs and outputs, batch of '
        f'{batch}{threads}</text><text x="{(x0 + x1) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f'sparsity (share of weights gone)</text><text transform="translate(14 {(y0 + y1) / 2}) '
        f'rotate(-90)" text-anchor="middle">times as fast as dense</text>{"".join(ticks)}'
        f"{''.join(legend)}</g></svg>"
    )


def plot_speed_break_evens(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the sparsity from which CSR is faster than dense, over the width of the layer.

    Parameters
    ----------
    data : DataFrame
        From `speed_break_evens`.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        One line for each kernel and batch; the bars end at the neighbouring measured sparsities.
        Open markers at the upper edge: not faster at any measured sparsity.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"width": [64, 256], "batch": 1, "way": "csr_mm",
    ...                      "break_even": [None, 0.9], "below": [0.99, 0.8], "above": [None, 0.95]})
    >>> [t.get_text() for t in pv.plot_speed_break_evens(data).get_legend().texts]
    ['CSR, torch.mm(csr, x.T), batch of 1']
    """
    needed = ("width", "batch", "way", "break_even", "below", "above")
    checks.columns(
        data, dict.fromkeys(needed, "pv.speed_break_evens(frame)"), "plot_speed_break_evens"
    )
    ax = axes(ax, (7.6, 3.8))
    numbers = data.assign(**{c: data[c].astype(float) for c in needed[3:]})
    known = numbers[["break_even", "below", "above"]].to_numpy().ravel()
    known = known[np.isfinite(known)]
    top = 1 - (1 - known.max()) / 2 if known.size else 0.99
    batches = sorted(set(data["batch"]))
    for (way, batch), part in numbers.groupby(["way", "batch"], sort=True):
        part = part.sort_values("width")
        colour = COLOURS.get(str(way), GREY)
        mark = MARKERS[batches.index(batch) % len(MARKERS)]
        not_faster = part["break_even"].isna()
        y, x = part["break_even"].fillna(top), part["width"]
        low = np.where(not_faster, 0, y - part["below"].fillna(y))
        high = np.where(not_faster, 0, part["above"].fillna(y) - y)
        ax.errorbar(
            x,
            y,
            [low, high],
            color=colour,
            marker=mark,
            ls=("-", "--", ":", "-.")[batches.index(batch) % 4],
            lw=1.6,
            elinewidth=0.8,
            capsize=3,
            label=f"{LABELS.get(str(way), plain(way))}, batch of {batch}",
        )
        ax.plot(x[not_faster], y[not_faster], mark, ms=11, mfc="none", mec=colour, ls="")
    set_sparsity_scale(ax, [*np.round(known, 3), top], "y")
    low_end = ax.get_ylim()[0]
    ax.set_yticks(
        [s for s in (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99) if low_end <= s < top] + [top]
    )
    ax.yaxis.set_major_formatter(lambda v, _: "never" if np.isclose(v, top) else f"{v:g}")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(data["width"])))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set(xlabel="inputs and outputs of the layer", ylabel="break-even sparsity")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    hide_frame(ax)
    return ax


def set_sparsity_scale(ax: Axes, sparsities: Any, axis: str = "x") -> None:
    """Scale an axis by −log(1 − sparsity): halving the density is the same length everywhere."""
    scale = ax.set_xscale if axis == "x" else ax.set_yscale
    scale("function", functions=(_to_scale, _from_scale))
    values = sorted(set(map(float, sparsities)))
    limits = ax.set_xlim if axis == "x" else ax.set_ylim
    ends = np.array([_to_scale(values[0]), _to_scale(values[-1])])
    room = 0.04 * (ends[1] - ends[0]) or 0.1
    limits(float(_from_scale(ends[0] - room)), float(_from_scale(ends[1] + room)))
    if axis == "x":
        ax.set_xticks(values, [f"{v:g}" for v in values])


def _to_scale(s: Any) -> Any:
    return -np.log(np.maximum(1 - np.asarray(s, float), 1e-9))


def _from_scale(v: Any) -> Any:
    return 1 - np.exp(-np.asarray(v, float))


def _chosen_value(values: pd.Series[Any], wanted: int | None, name: str, default: Any) -> int:
    known = sorted(set(map(int, values)))
    if wanted is None:
        return int(default(known))
    if wanted not in known:
        raise ArgumentError(
            f"`{name}` {wanted!r} was not measured. The frame has: {', '.join(map(str, known))}."
        )
    return wanted


def _threads_text(data: pd.DataFrame) -> str:
    n = int(data["threads"].iloc[0])
    return f"{n} thread" + ("" if n == 1 else "s")
