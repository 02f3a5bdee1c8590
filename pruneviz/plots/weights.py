"""How the weights are distributed, and how many are kept in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import KEPT, PRUNED, axes, hide_frame, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LOW = 0.5  # start of a logarithmic scale of counts: below 1, so that a count of 1 has a bar


def plot_weights(
    data: pd.DataFrame,
    *,
    threshold: float | None = None,
    absolute: bool = False,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the histogram of the weights; weights below a threshold have another colour.

    Parameters
    ----------
    data : DataFrame
        From `weight_histogram`: columns ``left``, ``right``, ``count``. The layers are summed.
    threshold : float, optional
        Weights with |w| below it are drawn as pruned: orange and hatched.
    absolute : bool
        Draw |w|: the counts of the bins below 0 are added to those above.
    log : bool
        Draw the counts on a logarithmic scale.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Its patches are the bars, in the order of the bins.

    Raises
    ------
    ArgumentError
        If a column is missing or the threshold is negative.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> ax = pv.plot_weights(pv.weight_histogram(torch.nn.Linear(9, 9), bins=20), threshold=0.1)
    >>> ax.get_xlabel(), len(ax.patches)
    ('weight', 20)
    """
    source = "pv.weight_histogram(model)"
    checks.columns(data, dict.fromkeys(("left", "right", "count"), source), "plot_weights")
    if not len(data):
        raise ArgumentError(f"plot_weights got a frame without rows. Make it with {source}.")
    if threshold is not None:
        threshold = checks.number(threshold, "threshold", low=0)
    left, right, count = summed(data, absolute=absolute)
    ax = axes(ax)
    bars = ax.bar(left, count, right - left, align="edge", color=KEPT, label="kept")
    if threshold is not None:
        below = pruned_bins(left, right, threshold)
        for bar, is_pruned in zip(bars, below, strict=True):
            if is_pruned:
                bar.set(facecolor=PRUNED, hatch="///", edgecolor="white", linewidth=0)
        for x in (threshold,) if absolute else (-threshold, threshold):
            ax.axvline(x, color="0.35", linewidth=1, linestyle="--")
        _legend(ax, bars, below)
    name = "|weight|" if absolute else "weight"
    ax.set(xlabel=name, ylabel="number of weights", xlim=(left[0], right[-1]))
    if log:
        ax.set_yscale("log")
        ax.set_ylim(bottom=LOW)
    hide_frame(ax)
    return ax


def summed(
    data: pd.DataFrame, *, absolute: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left edges, right edges and counts over all layers; three arrays of shape (bins,).

    >>> import pandas as pd
    >>> data = pd.DataFrame({"left": [-1.0, 0.0], "right": [0.0, 1.0], "count": [2, 3]})
    >>> [a.tolist() for a in summed(data, absolute=True)]
    [[0.0], [1.0], [5]]
    """
    bins = data.groupby(["left", "right"], sort=True)["count"].sum().reset_index()
    left, right, count = (bins[c].to_numpy() for c in ("left", "right", "count"))
    return folded(left, right, count) if absolute else (left, right, count)


def folded(
    left: np.ndarray, right: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add the bins below 0 to those above; three arrays of half the length.

    >>> [a.tolist() for a in folded(np.array([-1.0, 0]), np.array([0.0, 1]), np.array([2, 3]))]
    [[0.0], [1.0], [5]]
    """
    half = len(count) // 2
    if len(count) % 2 or not np.allclose(left, -right[::-1]):
        raise ArgumentError(
            "|w| can only be drawn from bins that are symmetric about 0, but these are not. "
            "Make them: pv.weight_histogram(model)."
        )
    return left[half:], right[half:], count[half:] + count[:half][::-1]


def pruned_bins(left: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    """Mark the bins whose centre |w| is below the threshold; boolean, shape (bins,).

    >>> pruned_bins(np.array([-1.0, 0.0]), np.array([0.0, 1.0]), 0.7)
    array([ True,  True])
    """
    return np.abs((left + right) / 2) < threshold


def plot_layers(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw for each layer how many weights are kept and how many are removed.

    Parameters
    ----------
    data : DataFrame
        From ``plan.to_frame()``: columns ``layer``, ``total``, ``kept``.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        Two bars for each layer: kept, then removed; together they have the same length for every
        layer. The numbers are beside them.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(8, 4)
    >>> plan = pv.select(pv.score(layer, "magnitude"), sparsity=0.75)
    >>> [t.get_text() for t in pv.plot_layers(plan.to_frame()).texts]
    ['8 of 32']
    """
    checks.columns(
        data, dict.fromkeys(("layer", "total", "kept"), "plan.to_frame()"), "plot_layers"
    )
    ax = axes(ax, (6.4, 0.6 + 0.42 * max(len(data), 2)))
    names = [str(n) or "(model)" for n in data["layer"]]
    y = np.arange(len(data))
    share = (data["kept"] / data["total"]).fillna(1.0).to_numpy()  # a layer may be empty
    ax.barh(y, share, color=KEPT, label="kept", height=0.7)
    removed = ax.barh(
        y, 1 - share, left=share, color=PRUNED, label="pruned", height=0.7, hatch="//"
    )
    for bar in removed:
        bar.set(edgecolor="white", linewidth=0)
    for i, (kept, total) in enumerate(zip(data["kept"], data["total"], strict=True)):
        ax.text(1.01, i, f"{kept:,} of {total:,}", va="center", transform=ax.get_yaxis_transform())
    ax.set(
        yticks=y,
        yticklabels=map(plain, names),
        xlim=(0, 1),
        xlabel="density (share of the layer's weights)",
    )
    ax.invert_yaxis()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    hide_frame(ax)
    return ax


def _legend(ax: Axes, bars: Any, below: np.ndarray) -> None:
    handles = [
        (bars[int(np.flatnonzero(w)[0])], n)
        for w, n in ((~below, "kept"), (below, "pruned"))
        if w.any()
    ]
    ax.legend(*zip(*handles, strict=True), frameon=False)
