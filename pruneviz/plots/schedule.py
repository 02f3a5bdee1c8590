"""How sparsity rises over the rounds of iterative pruning, and how the metric changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.plots.style import GREY, MARKERS, PALETTE, axes, hide_frame, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


LABELS = {
    "sparsity": "sparsity",
    "density": "share that stays",
    "metric": "metric",
}
SOURCE = "pv.prune_iteratively(model, …).frame"


def plot_schedule(
    data: pd.DataFrame | Sequence[float] | Mapping[str, Sequence[float]],
    *,
    y: str = "sparsity",
    hue: str = "schedule",
    chosen: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the sparsity, the density or the metric over the rounds of iterative pruning.

    Parameters
    ----------
    data : DataFrame, sequence of float or mapping
        The frame of `prune_iteratively`; or several such frames concatenated, with the column
        `hue`; or the sparsity of each round, as from `schedule`; or several of those by name. Rows
        with the same round and `hue` are seeds: their mean is drawn, and a bar from the lowest to
        the highest.
    y : str
        ``"sparsity"``: rises at each cut, constant while tuning; ``"density"``: the share kept, on
        a logarithmic axis, where cuts that remove the same share of the rest are equally long;
        ``"metric"``: falls from one round's ``metric`` to the next one's ``metric_untuned``
        (hollow), then rises by tuning (filled).
    hue : str
        Column that names the schedules.
    chosen : str, optional
        Name of the schedule to highlight; the others are grey.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one line for each schedule.

    Raises
    ------
    ArgumentError
        If a column is missing, or there is nothing to draw.

    Examples
    --------
    >>> import pruneviz as pv
    >>> ax = pv.plot_schedule({k: pv.schedule(k, 0.9, rounds=4) for k in ("linear", "cubic")})
    >>> ax.lines[0].get_ydata().round(3).tolist(), len(ax.lines)
    ([0.0, 0.225, 0.45, 0.675, 0.9], 2)
    """
    from matplotlib.ticker import LogLocator, NullLocator

    checks.choice(y, "y", LABELS)
    frames = _frames_by_schedule(data, y, hue)
    if chosen is not None:
        checks.choice(chosen, "chosen", frames)
    ax = axes(ax)
    for i, (name, rows) in enumerate(frames.items()):
        faint = chosen not in (None, name)
        style: dict[str, Any] = {
            "color": GREY if faint else PALETTE[i % len(PALETTE)],
            "marker": MARKERS[i % len(MARKERS)],
            "alpha": 0.7 if faint else 1,
            "lw": 1 if faint else 2,
            "ms": 3 if faint else 6,
            "zorder": 2 if faint else 3,
        }
        if y == "metric":
            _sawtooth(ax, rows, name, style, hollow=not faint)
        else:
            high = rows["sparsity"]["mean"]
            height = high if y == "sparsity" else 1 - high
            ax.plot(rows.index, height, label=plain(name), drawstyle="steps-pre", **style)
    if y == "density":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="round", ylabel=LABELS[y])
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.25)
    if list(frames) != [""]:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    hide_frame(ax)
    return ax


def _sawtooth(
    ax: Axes, rows: pd.DataFrame, name: str, style: dict[str, Any], *, hollow: bool
) -> None:
    """Draw one schedule's metric: at each round a point before tuning and one after it (filled)."""
    tuned, cut = rows["metric"]["mean"].to_numpy(), rows["metric_untuned"]["mean"].to_numpy()
    at = rows.index.to_numpy()
    x, height, marked = [at[0]], [tuned[0]], [0]
    for i in range(1, len(at)):
        x += [at[i - 1], at[i]]
        height += [cut[i], tuned[i]]
        marked.append(2 * i)
    (line,) = ax.plot(x, height, label=plain(name), markevery=marked, **style)
    low, high = rows["metric"]["min"], rows["metric"]["max"]
    ax.vlines(at, low, high, color=line.get_color(), alpha=line.get_alpha(), lw=3)
    if hollow:
        style = {"marker": style["marker"], "edgecolors": style["color"], "zorder": style["zorder"]}
        ax.scatter(at[:-1], cut[1:], facecolors="none", **style)


def _frames_by_schedule(
    data: pd.DataFrame | Sequence[float] | Mapping[str, Sequence[float]], y: str, hue: str
) -> dict[str, pd.DataFrame]:
    """Return for each schedule a frame with one row a round; columns (name, mean | min | max)."""
    pd = imported("pandas")

    if isinstance(data, pd.DataFrame):
        frame = data
    else:
        if y == "metric":
            raise ArgumentError(f"a metric is drawn from a DataFrame. Make it with {SOURCE}.")
        named = data if isinstance(data, Mapping) else {"": data}
        tables = [
            pd.DataFrame(
                {"round": range(len(sparsities) + 1), "sparsity": [0.0, *sparsities], hue: name}
            )
            for name, sparsities in named.items()
        ]
        frame = pd.concat(tables) if tables else pd.DataFrame({"round": [], "sparsity": []})
    needed = ["round", *(("metric", "metric_untuned") if y == "metric" else ("sparsity",))]
    checks.columns(frame, dict.fromkeys(needed, SOURCE), "plot_schedule")
    if not len(frame):
        raise ArgumentError("there is nothing to draw: `data` is empty.")
    frame = frame if hue in frame.columns else frame.assign(**{hue: ""})
    return {
        str(name): part.groupby("round")[needed[1:]].agg(["mean", "min", "max"])
        for name, part in frame.groupby(hue, sort=False)
    }
