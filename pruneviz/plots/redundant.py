"""Which pairs of units are redundant, and what the input weights of a unit look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.plots.style import GREY, KEPT, PRUNED, axes, hide_frame

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


PICKED = "#F0E442"  # Okabe & Ito's yellow
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
    """Draw pairs of units: their similarity, and the scale of the smaller unit to the larger one.

    A cross is a pair with at least the threshold; or, with a column ``goes``, a pair whose smaller
    unit is removed. Every other pair is a blue dot.

    Parameters
    ----------
    data : DataFrame
        From `find_redundant`: columns ``similarity`` and ``scale``, and optionally ``goes`` (bool):
        whether the smaller unit of the pair is removed.
    threshold : float, optional
        A dashed line at this similarity.
    picked : int, optional
        Row (counted from 0) around which a yellow square is drawn.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With a collection for the dots, labelled ``"less alike"``, and one for the crosses, labelled
        ``"alike"``; with a column ``goes`` the labels are ``"stays"`` and ``"goes"``.

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
    similarity, scale, goes = scatter_points(data, threshold)
    ax = axes(ax, (6.4, 3.8))
    if picked is not None:
        row = checks.count(picked, "picked")
        checks.number(row, "picked", low=0, high=len(data) - 1)
        mark: dict[str, Any] = {
            "marker": "s",
            "s": 90,
            "color": PICKED,
            "edgecolors": GREY,
            "label": "picked",
        }
        ax.scatter(similarity[row], scale[row], **mark)
    labels = ("stays", "goes") if "goes" in data.columns else ("less alike", "alike")
    kinds: tuple[tuple[np.ndarray, str, dict[str, Any]], ...] = (
        (~goes, labels[0], {"color": KEPT, "marker": "o", "s": 14, "linewidths": 0}),
        (goes, labels[1], {"color": PRUNED, "marker": "x", "s": 20, "linewidths": 1.2}),
    )
    for selected, label, style in kinds:
        ax.scatter(similarity[selected], scale[selected], label=label, **style)
    if threshold is not None:
        ax.axvline(threshold, color="0.45", linewidth=1, linestyle="--")
    ax.axhline(0, color="0.45", linewidth=0.6)
    ax.set(xlabel=SIMILARITY, ylabel=SCALE)
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    hide_frame(ax)
    return ax


def scatter_points(
    data: pd.DataFrame, threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return similarity, scale, and which pairs are drawn as crosses; each of shape (pairs,)."""
    similarity, scale = (data[c].to_numpy(dtype=float) for c in ("similarity", "scale"))
    if "goes" in data.columns:
        goes = data["goes"].to_numpy(dtype=bool)
    else:
        goes = similarity >= (np.inf if threshold is None else threshold)
    return similarity, scale, goes


def weights_image(weights: Any, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Arrange the weights of one unit as an image; NaN where there is no weight.

    Parameters
    ----------
    weights : array-like
        Shape (weights,), or (inputs, height, width): one small image for each input; up to three in
        a row, more in nearly a square.
    shape : (int, int), optional
        Height and width of the image whose pixels the unit reads; default: nearly a square, row by
        row.

    Examples
    --------
    >>> weights_image([1, 2, 3, 4, 5])
    array([[ 1.,  2.,  3.],
           [ 4.,  5., nan]])
    >>> weights_image([[[1]], [[2]], [[3]]])
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
