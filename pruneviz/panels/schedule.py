"""Schedules to choose from, over runs that were recorded."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz import _check
from pruneviz.panels.base import Panel, png
from pruneviz.plots.schedule import SOURCE, plot_schedule
from pruneviz.plots.style import figure
from pruneviz.targets import cuts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def panel_schedule(data: pd.DataFrame) -> Panel:
    """Show recorded runs of iterative pruning: choose a schedule, and where it ends.

    Above: the share of weights that stay, on a logarithmic axis, where a cut is as long as the share
    of the rest that it takes. Below: the metric, straight down at each cut, then up by tuning.

    Parameters
    ----------
    data : DataFrame
        Frames of `prune_iteratively` in one, with the columns ``schedule`` (its name), ``end`` (the
        sparsity where it arrives) and, if there are several, ``seed``. Nothing is run.

    Returns
    -------
    Panel
        ``controls``: ``"schedule"``, ``"end"``. ``result``: ``schedule``, ``end``, ``sparsities`` (one a
        round), ``cuts`` (share of what was left that each round took), ``metric`` (at the end, mean
        over seeds), ``low``, ``high`` (over seeds), ``before`` (the metric before the first round).

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"schedule": "cubic", "end": 0.9, "round": [0, 1, 2],
    ...     "sparsity": [0, 0.8, 0.9], "metric_untuned": [0.9, 0.7, 0.8], "metric": [0.9, 0.9, 0.88]})
    >>> panel = pv.panel_schedule(data)
    >>> panel.result["cuts"], panel.result["metric"]
    ([0.8, 0.5], 0.88)
    >>> panel.close()
    """
    return SchedulePanel(data)


class SchedulePanel(Panel):
    """The panel behind `panel_schedule`."""

    def __init__(self, data: pd.DataFrame) -> None:
        needed = ("schedule", "end", "round", "sparsity", "metric_untuned", "metric")
        _check.columns(data, dict.fromkeys(needed, SOURCE), "panel_schedule")
        self._data = data
        super().__init__()
        kinds = list(dict.fromkeys(data["schedule"]))
        ends = [(f"{e:.3g}", float(e)) for e in sorted(set(data["end"]))]
        schedule = widgets.Dropdown(options=kinds, description="schedule")
        end = widgets.Dropdown(options=ends, value=ends[-1][1], description="sparsity")
        self.start({"what": widgets.HBox([schedule, end])}, {"schedule": schedule, "end": end})

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        kind, end = (self.controls[n].value for n in ("schedule", "end"))
        self._shown = self._data[self._data["end"] == end]
        rows = self._shown[self._shown["schedule"] == kind].groupby("round")
        if not len(rows):
            sentence = f"No run of {kind} to sparsity {end:.3g} was recorded."
            return {"schedule": kind, "end": end}, "", sentence
        sparsities, metric = rows["sparsity"].mean(), rows["metric"]
        last = sparsities.index[-1]
        result = {
            "schedule": kind,
            "end": end,
            "sparsities": sparsities.tolist()[1:],
            "cuts": cuts(sparsities.tolist()),
            "metric": float(metric.mean()[last]),
            "low": float(metric.min()[last]),
            "high": float(metric.max()[last]),
            "before": float(metric.mean().iloc[0]),
        }
        n = len(sparsities) - 1
        cut = "the only cut" if n == 1 else f"the last of {n} cuts"
        sentence = (
            f"{kind} to sparsity {end:.3g}: {cut} takes {result['cuts'][-1]:.0%} of what is left; "
            f"metric {result['before']:.3f} before, {result['metric']:.3f} in the end "
            f"({result['low']:.3f} to {result['high']:.3f})."
        )
        data = png(self.figure())
        picture = f'<img alt="{escape(sentence)}" src="data:image/png;base64,{data}">'
        return result, picture, sentence

    def figure(self) -> Figure:
        kind = self.controls["schedule"].value
        chosen = kind if kind in set(self._shown["schedule"]) else None
        with figure(7.2, 5.0, rows=(2, 3)) as (fig, axs):
            for ax, y in zip(axs, ("density", "metric"), strict=True):
                plot_schedule(self._shown, y=y, chosen=chosen, ax=ax)
            axs[1].get_legend().remove()  # the upper axes have the same one
            axs[0].set_xlabel("")
        return fig
