"""Curves: what is lost against what is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pruneviz import _check
from pruneviz.plots.style import MARKERS, PALETTE, axes, bare

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LABELS = {
    "sparsity": "sparsity (share of weights pruned)",
    "target_sparsity": "target sparsity (share of weights to prune)",
    "nonzero": "weights that are not 0",
    "params": "parameters",
    "bytes": "bytes",
    "macs": "multiply-accumulates an example",
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
    """Draw what is left of the metric against what was pruned: a line a criterion.

    Parameters
    ----------
    data : DataFrame
        From `sweep`. Rows with the same `hue` and target sparsity (or `x`) are seeds: the line is
        their mean, the band reaches from the lowest to the highest.
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
    import seaborn as sns

    _check.columns(data, dict.fromkeys((x, y, hue), "pv.sweep(model, …)"), "plot_tradeoff")
    ax = axes(ax, (7.6, 3.8))
    before = set(ax.lines)
    if "target_sparsity" in data and x != "target_sparsity":
        # seeds end at slightly different costs: one place on the axis for each target
        same = data.groupby([hue, "target_sparsity"], sort=False)[x]
        data = data.assign(**{x: same.transform("mean")})
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
    ax.set(xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y))
    ax.grid(alpha=0.25)
    handles, labels = ax.get_legend_handles_labels()
    for line in set(ax.lines) - before:
        if not np.size(line.get_xdata()):  # seaborn's own, for its legend
            line.remove()
    ax.legend(handles, labels, title=hue, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    bare(ax)
    return ax
