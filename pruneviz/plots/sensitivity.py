"""How far each layer can be pruned: one line for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import GREY, MARKERS, PALETTE, axes, hide_frame, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


MAX_NAMED = 7  # layers in the legend, if there are too many for one colour each


def plot_sensitivity(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the metric over the sparsity of one layer at a time: one line for each layer.

    Each line begins at the metric of the whole model, the dashed line. With many layers the colours
    go from dark (first layer) to light (last), and the legend names the layers that lose most.

    Parameters
    ----------
    data : DataFrame
        From `sensitivity`, with one criterion and one repair.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one line for each layer, and one for the metric of the whole model.

    Raises
    ------
    ArgumentError
        If a column is missing, there is no row, or a layer has two rows for one sparsity.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"layer": ["fc1", "fc1", "fc2"], "granularity": "weight", "dense": 0.9,
    ...                      "target_sparsity": [0.5, 0.9, 0.5], "metric": [0.9, 0.5, 0.8]})
    >>> ax = pv.plot_sensitivity(data)
    >>> [line.get_label() for line in ax.lines], ax.lines[1].get_ydata().tolist()
    (['whole model', 'fc1', 'fc2'], [0.9, 0.9, 0.5])
    """
    import matplotlib as mpl

    needed = ("layer", "granularity", "target_sparsity", "metric", "dense")
    checks.columns(data, dict.fromkeys(needed, "pv.sensitivity(model, …)"), "plot_sensitivity")
    data = checks.not_left_out(data)
    if not len(data):
        raise ArgumentError("plot_sensitivity has nothing to draw: the frame has no rows.")
    twice = data[data.duplicated(["layer", "target_sparsity"])]
    if len(twice):
        raise ArgumentError(
            f"plot_sensitivity draws one line for each layer, but layer {twice['layer'].iloc[0]!r} has two rows "
            f"for sparsity {twice['target_sparsity'].iloc[0]:g}. Take the rows of one criterion and one "
            "repair."
        )
    ax = axes(ax, (7.6, 3.8))
    layers = list(dict.fromkeys(data["layer"]))
    if len(layers) <= len(PALETTE):
        colours = list(PALETTE)
    else:  # viridis without its ends, which are invisible on a dark or a light page
        colours = list(mpl.colormaps["viridis"](np.linspace(0.25, 0.9, len(layers))))
    # one value, unless frames of several models were concatenated
    for dense in data["dense"].unique():
        ax.axhline(dense, color=GREY, linestyle="--", linewidth=1, label="whole model")
    for i, layer in enumerate(layers):
        rows = data[data["layer"] == layer].sort_values("target_sparsity")
        rows = rows[rows["target_sparsity"] > 0]
        x = [0.0, *rows["target_sparsity"]]
        y = [data["dense"].iloc[0], *rows["metric"]]
        if {"low", "high"} <= set(rows.columns) and len(layers) <= len(PALETTE):
            ax.fill_between(rows["target_sparsity"], rows["low"], rows["high"],
                            color=colours[i], alpha=0.12, linewidth=0)  # fmt: skip
        ax.plot(x, y, color=colours[i], marker=MARKERS[i % len(MARKERS)], markersize=5,
                label=plain(layer or "the model"))  # fmt: skip
    what = "weights" if (data["granularity"] == "weight").all() else "units"
    ax.set(xlabel=f"share of the {what} of one layer that are pruned", ylabel="metric")
    ax.grid(alpha=0.25)
    handles, labels = ax.get_legend_handles_labels()
    title = None
    if len(layers) > len(PALETTE):  # only the layers that lose most
        metric = -data["metric"] if checks.lower_is_better(data) else data["metric"]
        worst = metric.groupby(data["layer"], sort=False).min().nsmallest(MAX_NAMED).index
        named = {"whole model", *(plain(n or "the model") for n in worst)}
        handles = [h for h, t in zip(handles, labels, strict=True) if t in named]
        labels = [t for t in labels if t in named]
        title = f"the most sensitive of {len(layers)}"
    ax.legend(handles, labels, title=title, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    hide_frame(ax)
    return ax
