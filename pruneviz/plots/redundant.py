"""Twins: pairs of units that do nearly the same, and the weights with which one reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.plots.style import GREY, KEPT, PRUNED, axes, bare

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


LIT = "#F0E442"  # Okabe & Ito's yellow
SOURCE = "pv.find_redundant(model, groups=groups)"
SIMILARITY = "similarity of the two"
SCALE = "scale: how much of the other one it is"


def plot_redundant(
    data: pd.DataFrame,
    *,
    threshold: float | None = None,
    picked: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw pairs of units: how similar they are, and how large the one is beside the other.

    A cross is a pair that reaches the threshold; or, with a column ``goes``, one whose smaller unit
    goes.
    Everything else is a blue dot.

    Parameters
    ----------
    data : DataFrame
        From `find_redundant`: columns ``similarity`` and ``scale``. If there is a column ``goes``
        (bool), it says of each pair whether its smaller unit goes: those are the crosses.
    threshold : float, optional
        A dashed line at this similarity.
    picked : int, optional
        Row (counted from 0) around which a yellow square is drawn.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With a collection for the dots, ``"less alike"``, and one for the crosses, ``"alike"``; with a
        column ``goes`` they are called ``"stays"`` and ``"goes"``.

    Raises
    ------
    ArgumentError
        If a column is missing, or there is no such row.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"similarity": [0.9, 0.4, 0.3], "scale": [0.8, -0.4, 0.1]})
    >>> ax = pv.plot_redundant(data, threshold=0.5)
    >>> {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    {'less alike': 2, 'alike': 1}
    """
    checks.columns(data, dict.fromkeys(("similarity", "scale"), SOURCE), "plot_redundant")
    if threshold is not None:
        threshold = checks.number(threshold, "threshold", low=-1, high=1)
    similarity, scale, goes = points(data, threshold)
    ax = axes(ax, (6.4, 3.8))
    if picked is not None:
        row = checks.count(picked, "picked")
        checks.number(row, "picked", low=0, high=len(data) - 1)
        mark: dict[str, Any] = {
            "marker": "s",
            "s": 90,
            "color": LIT,
            "edgecolors": GREY,
            "label": "picked",
        }
        ax.scatter(similarity[row], scale[row], **mark)
    labels = ("stays", "goes") if "goes" in data.columns else ("less alike", "alike")
    kinds: tuple[tuple[np.ndarray, str, dict[str, Any]], ...] = (
        (~goes, labels[0], {"color": KEPT, "marker": "o", "s": 14, "linewidths": 0}),
        (goes, labels[1], {"color": PRUNED, "marker": "x", "s": 20, "linewidths": 1.2}),
    )
    for where, label, style in kinds:
        ax.scatter(similarity[where], scale[where], label=label, **style)
    if threshold is not None:
        ax.axvline(threshold, color="0.45", linewidth=1, linestyle="--")
    ax.axhline(0, color="0.45", linewidth=0.6)
    ax.set(xlabel=SIMILARITY, ylabel=SCALE)
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    bare(ax)
    return ax


def points(
    data: pd.DataFrame, threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return similarity, scale, and which pairs are crosses; each of shape (pairs,)."""
    similarity, scale = (data[c].to_numpy(dtype=float) for c in ("similarity", "scale"))
    if "goes" in data.columns:
        goes = data["goes"].to_numpy(dtype=bool)
    else:
        goes = similarity >= (np.inf if threshold is None else threshold)
    return similarity, scale, goes


def sheet(weights: Any, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Lay the weights of one unit out as an image; NaN where there is nothing.

    Parameters
    ----------
    weights : array-like
        Shape (numbers,), or (inputs, height, width): one small image for each input, up to three in a
        row, more in nearly a square.
    shape : (int, int), optional
        Height and width of the image that the numbers are pixels of; default: nearly a square, line
        after line.

    Examples
    --------
    >>> sheet([1, 2, 3, 4, 5])
    array([[ 1.,  2.,  3.],
           [ 4.,  5., nan]])
    >>> sheet([[[1]], [[2]], [[3]]])
    array([[ 1., nan,  2., nan,  3.]])
    """
    array = np.asarray(weights, dtype=float)
    if array.ndim == 3 and len(array) > 1:
        n, height, width = array.shape
        columns = n if n <= 3 else int(np.ceil(np.sqrt(n)))
        lines = -(-n // columns)
        page = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
        for i, kernel in enumerate(array):
            y, x = i // columns * (height + 1), i % columns * (width + 1)
            page[y : y + height, x : x + width] = kernel
        return page
    if array.ndim == 3:
        return array[0]
    flat = array.ravel()
    if shape is not None and shape[0] * shape[1] == flat.size:
        return flat.reshape(shape)
    columns = int(np.ceil(np.sqrt(max(flat.size, 1))))
    page = np.full((-(-flat.size // columns), columns), np.nan)
    page.ravel()[: flat.size] = flat
    return page
