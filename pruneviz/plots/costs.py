"""Bytes, MACs and time of several ways to take the same weights away, beside the dense model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pruneviz import _check
from pruneviz.plots.bytes import size
from pruneviz.plots.crossover import LABELS
from pruneviz.plots.style import GREY, PALETTE, axes, bare

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


def _words(column: str, value: float) -> str:
    if column == "bytes":
        return size(value)
    if column == "ms":
        return f"{value:.3g} ms"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name} MACs"
    return f"{value:g} MACs"
