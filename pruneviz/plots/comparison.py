"""How much accuracy a pruning costs, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pruneviz.core import checks
from pruneviz.plots.style import GREY, KEPT, PRUNED, axes, hide_frame, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


COLUMNS = ("class", "before", "after", "lost", "low", "high")


def plot_damage(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much accuracy each class lost: one bar for each class, the worst at the top.

    The line across the end of a bar is its interval. Vermilion: lost; blue: gained; grey and
    hatched: the interval contains 0, so the difference may be chance. Many intervals are shown:
    with ten classes at level 0.95, about one comparison in three has a class that differs by
    chance alone.

    Parameters
    ----------
    data : DataFrame
        From ``compare_accuracy(...).to_frame()``.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one bar for each class, the lowest first.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> from pruneviz.metrics.accuracy_comparison import Comparison
    >>> said = np.array([0, 0, 1, 1])
    >>> comparison = Comparison(said, said, np.array([0, 0, 1, 0]), names=("cat", "dog"))
    >>> ax = pv.plot_damage(comparison.to_frame())
    >>> [(t.get_text(), float(b.get_width())) for t, b in zip(ax.get_yticklabels(), ax.patches)]
    [('cat', 0.0), ('dog', 0.5)]
    """
    source = "pv.compare_accuracy(before, after, batches).to_frame()"
    checks.columns(data, dict.fromkeys(COLUMNS, source), "plot_damage")
    rows = data.sort_values("lost", kind="stable").reset_index(drop=True)
    ax = axes(ax, (7.2, 0.8 + 0.3 * len(rows)))
    lost, low, high = (rows[c].to_numpy(float) for c in ("lost", "low", "high"))
    uncertain = (low <= 0) & (high >= 0)
    places = list(range(len(rows)))
    bars = ax.barh(places, lost, color=np.where(lost > 0, PRUNED, KEPT), height=0.7)
    for bar, may_be_chance in zip(bars, uncertain, strict=True):
        if may_be_chance:
            bar.set(facecolor="none", edgecolor=GREY, hatch="////", linewidth=1)
    ax.hlines(places, low, high, color=GREY, lw=1.5)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_yticks(places, [plain(c) for c in rows["class"]])
    for y, before, after in zip(places, rows["before"], rows["after"], strict=True):
        ax.text(1.01, y, f"{before:.2f} → {after:.2f}", transform=ax.get_yaxis_transform(), va="center",
                fontsize=9)  # fmt: skip
    ax.set(xlabel="accuracy lost (before − after); hatched: may be chance")
    hide_frame(ax)
    return ax
