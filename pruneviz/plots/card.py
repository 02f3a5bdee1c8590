"""How well each criterion predicts the loss without each unit, and which criteria agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import GREY, KEPT, MARKERS, PALETTE, PRUNED, axes, hide_frame, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


WHOLE = "whole network"
RANDOM = "random"
DARK, LIGHT = "#101010", "#FFFFFF"
SOURCE = "pv.criterion_card(model, batches, groups=groups).to_frame()"


def plot_card(
    data: pd.DataFrame,
    *,
    group: str = WHOLE,
    mark: str = "",
    ceiling: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the rank correlation of each criterion with the loss measured without each unit.

    The best criterion is at the top; each bar has its interval. The grey band is the interval of
    random scores. Grey and hatched: no better than random.

    Parameters
    ----------
    data : DataFrame
        From ``criterion_card(...).to_frame()``. With the column ``notices``, the text beside each
        bar says whether the criterion ranks the units of a rescaled network differently; with the
        column ``rescaled`` it gives the rank correlation of the two orders.
        ``criterion_card(...).correlation`` is the same frame without these columns.
    group : str
        Name of a group; default: the whole network.
    mark : str
        A criterion to mark with a triangle before its name.
    ceiling : float, optional
        ``criterion_card(...).ceiling``, for the whole network: drawn as a dashed line.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one bar for each criterion except "random", the worst first.

    Raises
    ------
    ArgumentError
        If a column is missing, or there is no such group.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": ["l2", "random"], "group": "fc1", "spearman": [0.6, 0.0],
    ...                      "low": [0.5, -0.1], "high": [0.7, 0.1]})
    >>> ax = pv.plot_card(data, group="fc1")
    >>> [t.get_text() for t in ax.get_yticklabels()], float(ax.patches[0].get_width())
    (['l2'], 0.6)
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import Normal, Stroke

    needed = ("criterion", "group", "spearman", "low", "high")
    checks.columns(data, dict.fromkeys(needed, SOURCE), "plot_card")
    checks.choice(group, "group", map(str, data["group"].unique()), what="group")
    rows = data[data["group"] == group]
    chance = rows[rows["criterion"] == RANDOM]
    rows = rows[rows["criterion"] != RANDOM]
    rows = rows.sort_values("spearman", kind="stable", na_position="first").reset_index(drop=True)
    ax = axes(ax, (7.4, 1.0 + 0.3 * len(rows)))
    rho = rows["spearman"].to_numpy(float)
    places = np.arange(len(rows))
    bars = ax.barh(places, np.nan_to_num(rho), color=np.where(rho < 0, PRUNED, KEPT), height=0.7)
    if len(chance):
        low, high = float(chance["low"].iloc[0]), float(chance["high"].iloc[0])
        band = "▸ random scores" if mark == RANDOM else "random scores"
        ax.axvspan(low, high, fc=(*to_rgb(GREY), 0.3), ec=GREY, lw=1, zorder=0, label=band)
        for bar, value in zip(bars, rho, strict=True):
            if low <= value <= high:
                bar.set(facecolor="none", edgecolor=GREY, hatch="////", linewidth=1)
    edge = [
        Stroke(linewidth=4, foreground=LIGHT),
        Normal(),
    ]  # visible on bars and on light and dark pages
    ax.hlines(places, rows["low"], rows["high"], color=DARK, lw=1.6, path_effects=edge)
    ax.axvline(0, color=GREY, lw=0.8)
    if ceiling is not None and np.isfinite(ceiling):
        label = "a perfect criterion (estimate)"
        ax.axvline(
            ceiling, ymin=0.3, color=GREY, ls="--", lw=1.4, label=label
        )  # not behind the legend
    names = [f"▸ {c}" if c == mark else str(c) for c in rows["criterion"]]
    ax.set_yticks(places, map(plain, names))
    if "notices" in rows:
        _write_rescaled(ax, places, rows)
    ax.set(xlabel="rank correlation with the loss measured without each unit", xlim=_limits(rows))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, loc="lower right", fontsize=9)
    hide_frame(ax)
    return ax


def plot_agreement(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the rank correlation of each pair of criteria: blue if positive, orange if negative.

    Parameters
    ----------
    data : DataFrame
        Rows and columns by name: ``criterion_card(...).agreement``.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one image and its numbers; blank where the correlation is undefined.

    Raises
    ------
    ArgumentError
        If the names of the rows and of the columns differ.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame([[1.0, 0.3], [0.3, 1.0]], index=["l1", "l2"], columns=["l1", "l2"])
    >>> ax = pv.plot_agreement(data)
    >>> [t.get_text() for t in ax.texts]
    ['1.0', '0.3', '0.3', '1.0']
    """
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    source = "pv.criterion_card(model, batches, groups=groups).agreement"
    if not hasattr(data, "columns") or list(data.index) != list(data.columns):
        raise ArgumentError(
            "plot_agreement draws a square frame with the criteria as rows and as columns. Make it with "
            f"{source}."
        )
    ax = axes(ax, (1.6 + 0.5 * len(data), 1.2 + 0.42 * len(data)))
    colours = LinearSegmentedColormap.from_list("agreement", [PRUNED, LIGHT, KEPT])
    values = data.to_numpy(float)
    ax.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if np.isfinite(value):
                text = f"{round(value, 1) + 0.0:.1f}"
                text_colour = _text_colour(colours(Normalize(-1, 1)(value)))
                ax.text(j, i, text, ha="center", va="center", fontsize=9, color=text_colour)
    names = [plain(n) for n in data.columns]
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_ranks(
    scores: Any,
    rise: Any,
    *,
    criterion: str = "",
    group: str = "",
    layers: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw the units of a network: their rank by a criterion, and the loss measured without them.

    Parameters
    ----------
    scores, rise : array-like, shape (units,)
        The score of each unit, and how much the loss rises without the unit.
    criterion, group : str
        Their names, for the axes.
    layers : sequence of str, length units
        Layer of each unit: each layer has its colour and marker, unless there are too many layers.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one collection of points, or one for each layer.

    Examples
    --------
    >>> import pruneviz as pv
    >>> ax = pv.plots.card.plot_ranks([3.0, 1.0, 2.0], [0.2, 0.0, 0.1])
    >>> ax.collections[0].get_offsets().tolist()
    [[2.0, 0.2], [0.0, 0.0], [1.0, 0.1]]
    """
    a, b = np.asarray(scores, float), np.asarray(rise, float)
    ranks = np.empty(len(a))
    ranks[np.argsort(a, kind="stable")] = np.arange(len(a))
    ax = axes(ax, (6.4, 3.4))
    names = list(dict.fromkeys(layers))
    if 1 < len(names) <= len(PALETTE):
        for name, colour, marker in zip(names, PALETTE, MARKERS, strict=False):
            in_layer = np.asarray(layers) == name
            ax.scatter(
                ranks[in_layer],
                b[in_layer],
                s=14,
                color=colour,
                marker=marker,
                lw=0,
                label=plain(name),
            )
        ax.legend(frameon=False, loc="upper left", fontsize=9)
    else:
        ax.scatter(ranks, b, s=14, color=KEPT, lw=0)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(
        xlabel=f"place by {plain(criterion) or 'the criterion'}: the least important first",
        ylabel="loss without it − loss",
        title=plain(group),
    )
    hide_frame(ax)
    return ax


def plot_choices(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the metric after one pruning, by several criteria and for several sets of images.

    Parameters
    ----------
    data : DataFrame
        One row for each pruning: ``criterion``, ``metric``, ``repair`` (``"none"`` or the repair).
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one collection of points for each repair; the criterion with the worst mean without
        repair is at the bottom.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": ["l2", "obs"], "metric": [0.8, 0.9], "repair": "none"})
    >>> ax = pv.plots.card.plot_choices(data)
    >>> [t.get_text() for t in ax.get_yticklabels()]
    ['l2', 'obs']
    """
    first = data[data["repair"] == "none"]
    names = list(first.groupby("criterion")["metric"].mean().sort_values().index)
    ax = axes(ax, (7.4, 1.0 + 0.4 * len(names)))
    rows = data["criterion"].map(names.index)
    for repair, part in data.groupby("repair", sort=False):
        unrepaired, label = repair == "none", "not repaired" if repair == "none" else "repaired"
        ax.scatter(part["metric"], rows[part.index] + (0.13 if unrepaired else -0.13), s=26, lw=1,
                   marker="o" if unrepaired else "D", fc="none" if unrepaired else KEPT,
                   ec=PRUNED if unrepaired else KEPT, label=label)  # fmt: skip
    ax.set_yticks(range(len(names)), map(plain, names))
    ax.set(xlabel="accuracy")
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    hide_frame(ax)
    return ax


def _text_colour(colour: tuple[float, float, float, float]) -> str:
    """Return black or white, whichever has the higher contrast (WCAG 2, relative luminance)."""
    c = np.array(colour[:3])
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return LIGHT if c @ (0.2126, 0.7152, 0.0722) < 0.19 else DARK


def _write_rescaled(ax: Axes, places: np.ndarray, rows: pd.DataFrame) -> None:
    right = ax.get_yaxis_transform()
    ax.text(1.02, places[-1] + 1 if len(places) else 0, "rescaled:", transform=right, fontsize=9,
            va="center")  # fmt: skip
    numbers = rows["rescaled"] if "rescaled" in rows else [np.nan] * len(rows)
    for y, order_differs, correlation in zip(places, rows["notices"], numbers, strict=True):
        text, colour = ("✗ other order", PRUNED) if order_differs else ("✓ same order", GREY)
        text += f", {correlation:.2f}" if order_differs and np.isfinite(correlation) else ""
        ax.text(1.02, y, text, transform=right, va="center", fontsize=9, color=colour)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    low = float(np.nanmin([0, *rows["spearman"], *rows["low"]]))
    return max(-1.05, low - 0.08 if low < 0 else -0.15), 1.0
